"""A merged model as an ONNX graph: from token ids to logits, without torch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from pefttools.bases.quiet import quiet
from pefttools.errors import ConfigError, is_out_of_memory
from pefttools.tuned import TunedModel

MODEL = "model.onnx"
FLOAT32, INT8 = "onnx", "onnx-int8"
#: bytes from which the weights are a file of their own: a graph with them would be too large for its format
_LARGE = 1_800_000_000
#: what a graph takes the place of
_REPLACED = ("*.safetensors", "*.safetensors.index.json", "generation_config.json")
Batch = dict[str, torch.Tensor]


def check_onnx(tuned: TunedModel) -> None:
    """Refuse what can't be a graph with one vector of scores, or one embedding, per text.

    Raises:
        ConfigError: another kind of task, or a package that is not installed.
    """
    task = tuned.task
    if not (task.one_label or task.embeds) or task.generates or task.modality != "text":
        raise ConfigError(
            f"a model for the task {task.name!r} can't be written as ONNX: only those that give one label, or an "
            "embedding, per text",
            hint="Merge without --format onnx.",
        )
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"--format onnx needs the package {error.name}", hint='pip install "pefttools[onnx]"'
        ) from error


def replace_by_onnx(folder: Path, tuned: TunedModel, format: str, probes: Sequence[Batch]) -> None:
    """Write the graph of a merged model, and remove its weights in other formats.

    Args:
        folder: of the merged model.
        tuned: the merged model.
        format: ``onnx``, or ``onnx-int8``: weights in 8 bits, inputs quantized as they come.
        probes: batches that the graph is traced with, each with `input_ids` and `attention_mask`.
    """
    graph = _Graph(tuned).eval()
    example = max(probes, key=lambda batch: batch["input_ids"].shape[1])
    names = ["input_ids", "attention_mask"]
    inputs = [example[name] for name in names]
    if tuned.task.has_pairs(tuned.spec.columns) and "token_type_ids" in tuned.tokenizer.model_input_names:
        names.append("token_type_ids")
        inputs.append(torch.zeros_like(example["input_ids"]))
    for pattern in _REPLACED:
        for path in folder.glob(pattern):
            path.unlink()
    shape = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    size = sum(p.numel() * p.element_size() for p in graph.parameters())
    if format == INT8 and size > _LARGE:
        raise ConfigError(
            f"a model of {size / 1e9:.1f} GB is too large for --format onnx-int8", hint="Use --format onnx."
        )
    try:
        with quiet(), _without_noise():
            torch.onnx.export(
                graph, tuple(inputs), folder / MODEL, dynamo=True, input_names=names, output_names=["logits"],
                dynamic_shapes=tuple(shape for _ in names), external_data=size > _LARGE, verbose=False,
            )  # fmt: skip
    # Anything: a model's code may do what no graph can.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ConfigError(
            f"{tuned.spec.base.model_type} can't be written as ONNX by the installed torch: "
            f"{str(error).strip().splitlines()[-1][:300]}",
            hint="Merge without --format onnx.",
        ) from error
    if format == INT8:
        with _without_noise():
            _quantize(folder / MODEL)


def logits_of_graph(folder: Path, batch: Batch) -> torch.Tensor:
    """What the graph gives for a batch whose rows are padded on the right."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / MODEL, providers=["CPUExecutionProvider"])
    given = {
        one.name: batch.get(one.name, torch.zeros_like(batch["input_ids"])).numpy() for one in session.get_inputs()
    }
    return torch.from_numpy(session.run(None, given)[0])


class _Graph(nn.Module):
    """From token ids to logits."""

    def __init__(self, tuned: TunedModel) -> None:
        super().__init__()
        self.transformer = tuned.transformer.cpu()
        self.head = None if tuned.head is None else tuned.head.cpu()
        self._task = tuned.task

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, **types}
        return self._task.logits(self.transformer, self.head, batch)


def _quantize(path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = path.with_suffix(".float32")
    path.rename(whole)
    quantize_dynamic(whole, path, weight_type=QuantType.QInt8)
    whole.unlink()


@contextmanager
def _without_noise() -> Iterator[None]:
    """The exporter's and the quantizer's remarks are about their own steps."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
