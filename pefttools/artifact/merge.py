"""Merging an adapter into its base: a folder that other libraries open on their own, with the same answers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pefttools.artifact.load import find_base, load_verified
from pefttools.artifact.merge_card import merged_card
from pefttools.artifact.onnx_model import FLOAT32, INT8, Batch, check_onnx, logits_of_graph, replace_by_onnx
from pefttools.artifact.reading import Held, hold_weights
from pefttools.artifact.save import HEAD
from pefttools.bases import variants
from pefttools.bases.loading import load_transformer
from pefttools.bases.quiet import quiet
from pefttools.errors import ConfigError, PeftToolsError, UnknownNameError
from pefttools.files import check_replaceable, folder_atomic
from pefttools.recipe import stored_method
from pefttools.tasks.head import HeadTask
from pefttools.tasks.task import IGNORE
from pefttools.tasks.text.padding import reads_the_last_position
from pefttools.tuned import TunedModel

#: relative to the largest logit; float32 sums in a different order stay far below
_TOLERANCE = 1e-3
#: a file that every folder of a model has
_KIND = "config.json"
FORMATS = ("transformers", "sentence-transformers", FLOAT32, INT8)


class MergeError(PeftToolsError):
    """A merged model whose answers differ from the adapter's."""

    exit_code = 1


def merge_artifact(
    folder: Path, output: Path, *, base: str | None = None, format: str = "transformers", overwrite: bool = False
) -> Path:
    """Write a plain model that gives the adapter's answers, in float32; see `pefttools.merge`.

    Raises:
        ConfigError: the method can't be merged, the format does not fit the head, or the output can't be replaced.
        MergeError: the written model gives different answers.
    """
    if format not in FORMATS:
        raise UnknownNameError("format", format, FORMATS)
    check_replaceable(output, _KIND, overwrite)
    with hold_weights(folder) as held:
        return _merge(held, folder, output, base, format)


def _merge(held: Held, folder: Path, output: Path, base: str | None, format: str) -> Path:
    manifest = held.manifest
    if output.resolve() == find_base(manifest, base).folder.resolve():
        raise ConfigError(f"{output} is the base model itself", hint="Choose another folder.")
    entry = manifest.method
    method, _ = stored_method(entry.name, entry.config, manifest.schema_version, str(folder))
    method.check_mergeable()
    if format == "sentence-transformers" and manifest.task.head == "model":
        raise ConfigError(
            "the task head is the model's own, which sentence-transformers can't load",
            hint="Merge without --format: transformers.pipeline('text-classification', FOLDER) can load it.",
        )
    if (why := manifest.task.stored("the manifest's task").why_not_merged(manifest.task.head, format)) is not None:
        raise ConfigError(f"the adapter can't be merged: {why}", hint="Use the artifact as it is.")
    if (passages := manifest.passages()) is not None:
        warnings.warn(f"the adapter was {passages}: the merged model looks nothing up", stacklevel=4)
    graph = format in (FLOAT32, INT8)
    tuned = load_verified(held.folder, manifest, find_base(manifest, base), variant="float32")
    if graph:
        check_onnx(tuned)
    if tuned.head is None and tuned.labels and reads_the_last_position(tuned.transformer):
        raise ConfigError(
            f"transformers' own class for {manifest.base.model_type} answers from the last position, even if it is "
            "padding: the merged model would give different answers for rows that are padded on the right",
            hint="Use the artifact as it is, or train with task.head=mean, which can be merged.",
        )
    tuned.autocast = None
    wanted = [_logits(tuned, batch) for batch in _probes(tuned)]
    with _untied(tuned.transformer):
        plain: Any = method.merge(tuned.transformer)
    _describe(plain, tuned)
    with folder_atomic(output, over=_KIND) as temporary:
        with quiet():
            _with_pooler(plain, tuned).save_pretrained(temporary)
        tuned.tokenizer.padding_side = "left" if tuned.spec.task.generates else "right"
        tuned.tokenizer.save_pretrained(temporary)
        state = {} if tuned.head is None else tuned.head.state_dict()
        if state:
            state = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
            save_file(state, temporary / HEAD, metadata={"format": "pt"})
        written = _check(temporary, tuned, type(plain), wanted)
        if format == "sentence-transformers":
            _as_sentence_transformer(temporary, written)
        if graph:
            replace_by_onnx(temporary, written, format, _probes(tuned))
            _check_graph(temporary, _probes(tuned), wanted, exact=format == FLOAT32)
        (temporary / "README.md").write_text(merged_card(manifest, tuned, format), encoding="utf-8")
    return output


def _logits(tuned: TunedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logits = tuned.run_batch(batch).float()
    per_token = logits.ndim == 3 and "decoder_input_ids" not in batch
    return logits[batch["attention_mask"].bool()] if per_token else logits


def _probes(tuned: TunedModel) -> list[dict[str, torch.Tensor]]:
    """Two batches of tokens from all over the vocabulary: rows of one length, and rows that are padded.

    Each row ends with an end-of-text token, and has none elsewhere: BART's own head looks for it.
    """
    size = len(tuned.tokenizer)
    config: Any = tuned.transformer.config
    end = getattr(config, "eos_token_id", None)
    found = []
    for lengths in ((9, 9), (12, 5, 3)):
        ids = torch.full((len(lengths), max(lengths)), int(tuned.tokenizer.pad_token_id))
        mask = torch.zeros_like(ids)
        for row, length in enumerate(lengths):
            tokens = [(7919 * (row + 1) * (at + 1) + 101) % size for at in range(length)]
            if isinstance(end, int):
                tokens = [(token + 1) % size if token == end else token for token in tokens[:-1]] + [end]
            ids[row, :length] = torch.tensor(tokens)
            mask[row, :length] = 1
        batch = {"input_ids": ids, "attention_mask": mask}
        if tuned.spec.task.encoder_decoder:
            batch["decoder_input_ids"] = torch.cat(
                [torch.full_like(ids[:, :1], IGNORE), ids[:, :1], ids[:, 1:2]], dim=1
            )
        found.append(batch)
    return found


@contextmanager
def _untied(model: nn.Module) -> Iterator[None]:
    """Within it the language head has weights of its own, which it keeps if they have changed.

    A change of tied weights would also change the embeddings, which the adapter never did.
    """
    from pefttools.sites import transformers_models

    inner = transformers_models(model)[0]
    head, embeddings = inner.get_output_embeddings(), inner.get_input_embeddings()
    head = _wrapped(head)
    tied = head is not None and getattr(head, "weight", None) is embeddings.weight
    if tied:
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    yield
    if not tied:
        return
    same = torch.equal(head.weight, embeddings.weight)
    if same:
        head.weight = embeddings.weight
    for config in (inner.config, inner.config.get_text_config()):
        config.tie_word_embeddings = same  # PEFT may have changed it


def _wrapped(module: Any) -> Any:
    """The base's own module inside of one that a method put around it."""
    return getattr(module, "base_layer", module)


def _describe(plain: Any, tuned: TunedModel) -> None:
    """Label names, and the tokens that end an answer, where other libraries look for them."""
    from pefttools.tasks.language.generation import end_tokens

    task = tuned.spec.task
    if tuned.labels and not (isinstance(task, HeadTask) and task.outputs(tuned.labels) != len(tuned.labels)):
        plain.config.id2label = dict(enumerate(tuned.labels))
        plain.config.label2id = {label: index for index, label in enumerate(tuned.labels)}
    ends = sorted({*task.answer_ends(tuned.tokenizer), *end_tokens(plain)})
    if ends:
        plain.generation_config.eos_token_id = ends


def _with_pooler(plain: nn.Module, tuned: TunedModel) -> Any:
    """The model with the base's own pooler, which a pooling head does not read and so was never loaded."""
    from transformers import AutoModel

    if tuned.head is None:
        return plain
    whole, missing = load_transformer(AutoModel, tuned.spec.base, variants.get("float32")(), pooler=True)
    if missing or whole.state_dict().keys() == plain.state_dict().keys():
        return plain
    whole.load_state_dict(plain.state_dict(), strict=False)
    whole.config = plain.config
    return whole


def _check(folder: Path, tuned: TunedModel, kind: Any, wanted: list[torch.Tensor]) -> TunedModel:
    """Load what was written with transformers alone and compare its answers; returns the loaded model.

    Raises:
        MergeError: they differ.
    """
    with quiet():
        written = kind.from_pretrained(folder, dtype=torch.float32).to(tuned.device).eval()
    head: nn.Module | None = None
    if tuned.head is not None:
        if (folder / HEAD).is_file():
            tuned.head.load_state_dict(load_file(folder / HEAD))
        head = tuned.head
    again = TunedModel(written, head, tuned.spec, tuned.tokenizer, None).eval()
    for batch, expected in zip(_probes(tuned), wanted, strict=True):
        _compare("logits", _logits(again, batch), expected)
    return again


def _check_graph(folder: Path, probes: list[Batch], wanted: list[torch.Tensor], *, exact: bool) -> None:
    """Compare the answers of a written graph; in 8 bits they differ, and by how much is said.

    Raises:
        MergeError: they differ, and should not.
    """
    found = [logits_of_graph(folder, batch) for batch in probes]
    if exact:
        for one, expected in zip(found, wanted, strict=True):
            _compare("logits of the graph", one, expected.cpu())
        return
    lost = max(
        float((one - expected.cpu()).abs().max() / expected.abs().max())
        for one, expected in zip(found, wanted, strict=True)
    )
    warnings.warn(
        f"with weights in 8 bits the logits differ by up to {lost:.1%} of the largest, on rows of random tokens: "
        "measure the model on rows of your own",
        stacklevel=6,
    )


def _compare(what: str, found: torch.Tensor, expected: torch.Tensor) -> None:
    differ = f"shapes are {tuple(found.shape)} and {tuple(expected.shape)}"
    if found.shape == expected.shape:
        lost = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
        if lost <= _TOLERANCE:
            return
        differ = f"{what} differ by {lost:.1%} of the largest"
    raise MergeError(
        f"the merged model's answers differ from the adapter's: {differ}. Nothing was written",
        hint="Use the artifact as it is, and report this.",
    )


def _as_sentence_transformer(folder: Path, tuned: TunedModel) -> None:
    """Add what sentence-transformers reads: pooling, the linear layer if there is one, and what follows it.

    Raises:
        MergeError: it gives different probabilities, or different embeddings.
    """
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
    except ImportError as error:
        raise ConfigError(
            "--format sentence-transformers needs the package sentence-transformers",
            hint="pip install 'sentence-transformers>=6'",
        ) from error
    head: Any = tuned.head
    layer = head.layer()
    mode = {"last": "lasttoken"}.get(tuned.spec.head_kind, tuned.spec.head_kind)
    with quiet():
        transformer = Transformer(str(folder), max_seq_length=tuned.spec.task.options.max_length)
        modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling_mode=mode)]
        if layer is not None:
            activation = nn.Softmax() if tuned.labels else nn.Identity()
            outputs, inputs = layer["weight"].shape
            dense = Dense(inputs, outputs, bias="bias" in layer, activation_function=activation)
            dense.linear.load_state_dict(layer)
            modules.append(dense)
        if tuned.spec.task.embeds:
            modules.append(Normalize())
        SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
        opened = SentenceTransformer(str(folder), device="cpu")
    texts = [
        tuned.tokenizer.decode(row, skip_special_tokens=True) for batch in _probes(tuned) for row in batch["input_ids"]
    ]
    length = tuned.spec.task.options.max_length
    batch = tuned.tokenizer(
        texts, truncation=True, max_length=length, padding=True, padding_side="right", return_tensors="pt"
    )
    batch.pop("token_type_ids", None)
    found = opened.encode(texts, convert_to_tensor=True, show_progress_bar=False)
    given = _logits(tuned, dict(batch)).to(found.device)
    if tuned.labels:
        _compare("probabilities", found, given.softmax(-1))
    else:
        _compare("embeddings", found, given)
