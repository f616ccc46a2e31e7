"""The contract of a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

import pefttools
from pefttools.bases import locate_base, variants
from pefttools.deltas.weights import dense_weight
from pefttools.errors import BaseModelError, ConfigError, PeftToolsError
from pefttools.methods import Method
from pefttools.recipe import choose_method, choose_task
from pefttools.sites import is_linear
from pefttools.tasks import tasks
from pefttools.tasks.task import IGNORE
from pefttools.testing.rows import encoded_rows
from pefttools.tuned import TunedModel, build, check_combination

Choice = str | Mapping[str, Any]
#: of the largest logit; sums of float32 in another order stay far below, and of bfloat16 about there
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
#: share of an adapter's effect that a quantized base may differ by from its dequantized weights
_OF_BITS = 0.1
#: that a method is trained for
_STEPS = 3
_PICKLES = {".bin", ".pkl", ".pt", ".pth"}


def check_method(
    method: Choice,
    *,
    base: str,
    folder: Path,
    task: Choice | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
    labels: Sequence[str] = ("a", "b", "c"),
    variant: str | None = None,
) -> TunedModel | None:
    """Hold a method against its contract, on one base and for one task.

    It declares itself; trains nothing but its own parameters and the task's head, with an effect; is saved without
    pickles and loaded with equal logits. It is merged with equal logits, served in a pool as it answers alone, trained
    with equal gradients by gradient checkpointing, and generates alike beside padding, or each of these is refused by
    name.

    Args:
        method: its name, or a mapping with name and options.
        base: of a model that it can be put on; a tiny one will do.
        folder: an empty one, for artifacts.
        task: that it is trained for; None: the default.
        rows: by column role, of different lengths; None: short texts.
        labels: label names, where the task has labels.
        variant: of the base; None: the default.

    Returns:
        What was trained, for checks of your own; None where the method refuses the combination before loading.

    Raises:
        AssertionError: says what does not hold.
        PeftToolsError: something that a user would be told, e.g. that the method does not fit the base.
    """
    chosen_task = choose_task(dict(task) if isinstance(task, Mapping) else task or tasks.default())
    names = labels if chosen_task.has_labels else ()
    plugin, config = choose_method(dict(method) if isinstance(method, Mapping) else method)
    check_declarations(plugin)
    kind = variants.get(variant or variants.default())
    try:
        check_combination(plugin, config, kind(), chosen_task)
    except ConfigError as refusal:
        _check_refused(method, base, task, names, variant, refusal)
        return None
    model = pefttools.wrap(base, method, task=task, labels=names, variant=variant, precision="float32")
    examples = encoded_rows(model, rows)
    before = logits_of(model, examples)
    _train(model, examples)
    trained = logits_of(model, examples)
    if plugin.capabilities.trains != "nothing":
        assert not torch.allclose(before, trained, atol=1e-3), "training has no effect"
    artifact = folder / "artifact"
    pefttools.save(model, artifact)
    _check_loaded(model, artifact, trained, examples)
    _check_merged(model, artifact, folder / "merged")
    _check_pooled(model, artifact, examples)
    if chosen_task.encoder_decoder:
        _check_written(model, examples)
    elif chosen_task.generates:
        _check_generation(model, examples)
    if kind.quantized:
        _check_dequantized(model, artifact, before, trained, examples)
    else:
        _check_recomputed(model, base, examples)
    return model


def check_declarations(method: Method[Any]) -> None:
    """What a method says of itself."""
    assert method.name and method.summary and not method.summary.endswith("."), "a name and a summary, no full stop"
    can = method.capabilities
    assert method.learning_rate > 0 or can.trains == "nothing", "a learning rate where a recipe names none"
    overridden = type(method).deltas is not Method.deltas
    assert overridden or not can.deltas, "it says that it has deltas, and has no deltas()"
    assert type(method).merge is not Method.merge or not can.mergeable, "its effect is one of weights, without merge()"
    if can.effect == "virtual_tokens":
        assert type(method).virtual_tokens is not Method.virtual_tokens, "the planner must know how many tokens it puts"


def logits_of(model: TunedModel, examples: Sequence[dict[str, Any]]) -> torch.Tensor:
    """Logits without those of padding, float32 on the CPU."""
    batch = model.spec.task.collate(examples, model.processor)
    found = model.run_batch({name: value for name, value in batch.items() if name != "labels"}).float().cpu()
    if found.ndim < 3:
        return found
    if model.spec.task.encoder_decoder:
        return found[batch["labels"] != IGNORE]
    return found[batch["attention_mask"].bool()] if "attention_mask" in batch else found


def _train(model: TunedModel, examples: Sequence[dict[str, Any]]) -> None:
    """A few large steps, so that every part of the state is far from its start."""
    method = model.spec.method
    if method.capabilities.trains == "nothing":
        return
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    trained = [p for p in model.parameters() if p.requires_grad]
    if method.capabilities.trains == "head":
        assert model.count().trainable == model.count().head, "it says that it trains the head alone"
    if method.capabilities.trains != "base":
        assert {p.dtype for p in trained} <= {torch.float32, torch.float64}, "what is trained must be float32"
    batch = model.spec.task.collate(examples, model.processor)
    labels = batch.pop("labels")
    optimizer = torch.optim.AdamW(trained, lr=0.02)
    of_method = _of_method(model)
    moved = dict.fromkeys(of_method, False)
    if method.reads_rows(model.spec.config):
        method.prepare(model.transformer, model.spec.config, [lambda: model(**batch, targets=labels)])
    model.train()
    method.begin(model.transformer, model.spec.config, _STEPS)
    for step in range(1, _STEPS + 1):
        loss = model(**batch, targets=labels)
        assert torch.isfinite(loss), "the loss is not finite"
        loss.backward()
        assert all(p.grad is not None for p in trained), "a trained parameter gets no gradient"
        moved = {name: moved[name] or bool(p.grad.any()) for name, p in of_method.items() if p.grad is not None}
        optimizer.step()
        method.after_step(model.transformer, step)
        optimizer.zero_grad()
    model.eval()
    still = [name for name, value in moved.items() if not value]
    assert len(still) < max(1, len(moved)), f"only the head is trained: no gradient reaches {still[:3]}"
    now = dict(model.named_parameters())
    changed = [name for name, value in frozen.items() if not torch.equal(value, now[name])]
    assert not changed, f"frozen parameters were changed by training: {changed[:3]}"


def _of_method(model: TunedModel) -> dict[str, torch.nn.Parameter]:
    """The trained parameters that are not the task head's."""
    heads = tuple(f".{module}." for module in model.spec.target.head_modules)
    trained = {name: p for name, p in model.transformer.named_parameters() if p.requires_grad}
    return {name: p for name, p in trained.items() if not any(head in f".{name}" for head in heads)}


def _check_refused(
    method: Choice, base: str, task: Choice | None, labels: Sequence[str], variant: str | None, refusal: ConfigError
) -> None:
    try:
        pefttools.wrap(base, method, task=task, labels=labels, variant=variant)
    except ConfigError as error:
        assert str(error) == str(refusal), f"refused for another reason: {error}"
    else:
        raise AssertionError("the method refuses the combination, and was wrapped all the same")


def _check_loaded(model: TunedModel, artifact: Path, wanted: torch.Tensor, examples: Sequence[dict[str, Any]]) -> None:
    assert not [file.name for file in artifact.iterdir() if file.suffix in _PICKLES], "a pickle was written"
    loaded = pefttools.load(artifact)
    assert loaded.spec.variant.name == model.spec.variant.name
    assert_alike("a loaded artifact", logits_of(loaded, examples), wanted, model)


def _check_dequantized(
    model: TunedModel, artifact: Path, before: torch.Tensor, trained: torch.Tensor, examples: Sequence[dict[str, Any]]
) -> None:
    """What it does on a quantized base is what it does on the weights that the base's bits stand for."""
    plain = pefttools.load(artifact, variant="float32")
    plain.autocast = None
    with torch.no_grad():
        for name, module in model.transformer.named_modules():
            if hasattr(module, "base_layer") or not is_linear(module) or module.weight.is_floating_point():
                continue
            weight = dense_weight(module)
            layer: Any = plain.transformer.get_submodule(name)
            layer.weight.copy_(weight.T if isinstance(layer, Conv1D) else weight)
    # Some formats round activations too, by about as much as this. What takes packed bits for numbers is far beyond.
    limit = _OF_BITS * max(1.0, float((trained - before).abs().max()))
    off = float((logits_of(plain, examples) - trained).abs().max())
    assert off <= limit, f"on the base's dequantized weights the adapter gives other logits: off by {off:.2e}"


def _check_merged(model: TunedModel, artifact: Path, merged: Path) -> None:
    """`pefttools.merge` compares the logits itself, and refuses to write others."""
    try:
        pefttools.merge(artifact, merged)
    except PeftToolsError as error:
        assert "can't be merged" in str(error), f"refused, and not by name: {error}"
        assert not merged.exists(), "something was written all the same"
    else:
        assert (merged / "config.json").is_file()


def _check_pooled(model: TunedModel, artifact: Path, examples: Sequence[dict[str, Any]]) -> None:
    spec = model.spec
    try:
        pool = pefttools.AdapterPool(spec.base.id, variant=spec.variant.name, dtype=_dtype(model))
    except BaseModelError as error:
        assert not spec.task.servable, error
        return
    try:
        pool.load("one", artifact)
    except PeftToolsError as error:
        assert not spec.method.capabilities.deltas or "can't be served" in str(error), error
        assert repr(spec.method.name) in str(error) or spec.task.name in str(error), f"not refused by name: {error}"
        return
    pool.load("other", artifact)
    if spec.task.encoder_decoder:
        _check_pooled_writing(pool, model, examples)
        return
    asked = [{name: value for name, value in one.items() if name != "labels"} for one in examples]
    answers = _pooled(pool, asked)
    if spec.variant.quantized:
        # A pool computes in the number format that the hardware is fast in: what it gives alone is another number.
        order = list(range(len(asked)))[::-1]
        again = _pooled(pool, [asked[index] for index in order])
        limit = 1e-6 if spec.method.virtual_tokens(spec.config) else 0.0
        for index, other in zip(order, again, strict=True):
            off = float((answers[index] - other).abs().max())
            assert off <= limit, f"a row of a pool depends on its neighbours: off by {off:.2e}"
        return
    for one, answer in zip(asked, answers, strict=True):
        alone = logits_of(model, [one])
        assert_alike("a row of a pool", answer, alone if answer.ndim == 2 else alone[0], model)


def _pooled(pool: pefttools.AdapterPool, examples: Sequence[dict[str, Any]]) -> list[torch.Tensor]:
    """Logits of the adapter ``one`` for each example, among rows of the base, or of another adapter of its kind."""
    beside = None if pool.served.modality == "text" else "other"
    answers = pool.answer([one for one in examples for _ in range(2)], ["one", beside] * len(examples))[::2]
    found = [answer.logits.float().cpu() for answer in answers if answer.logits is not None]
    assert len(found) == len(examples), "a row of a pool has no logits"
    return found


def _check_pooled_writing(pool: pefttools.AdapterPool, model: TunedModel, examples: Sequence[dict[str, Any]]) -> None:
    """A row of a pool is written as the adapter alone writes it, whatever stands beside it."""
    task: Any = model.spec.task
    names: list[str | None] = ["one", None] * len(examples)
    doubled = [one for one in examples for _ in range(2)]
    mixed = pool.write_tokens(doubled, names, max_new_tokens=5, min_new_tokens=5)[::2].tolist()
    for example, row in zip(examples, mixed, strict=True):
        if model.spec.variant.quantized:
            alone = pool.write_tokens([example], ["one"], max_new_tokens=5, min_new_tokens=5)
        else:
            alone = task.written(model, [example], max_new_tokens=5, min_new_tokens=5, num_beams=task.options.beams)
        assert alone.tolist() == [row], f"a row of a pool writes {row}, alone {alone.tolist()}"


def _check_generation(model: TunedModel, examples: Sequence[dict[str, Any]]) -> None:
    prompts = [{"input_ids": one["prompt_ids"]} for one in examples]

    def answer(some: list[dict[str, Any]]) -> list[list[int]]:
        padded = model.tokenizer.pad(some, padding_side="left", return_tensors="pt")
        found: list[list[int]] = model.generate(dict(padded), max_new_tokens=5, min_new_tokens=5).tolist()
        return found

    try:
        together = answer(prompts)
    except ConfigError as error:
        assert not model.spec.method.capabilities.left_padding, error
        return
    assert model.spec.method.capabilities.left_padding, "it says that it can't generate beside padding"
    for row, prompt in zip(together, prompts, strict=True):
        assert [row] == answer([prompt]), "padding before a prompt changes what is generated"


def _check_written(model: TunedModel, examples: Sequence[dict[str, Any]]) -> None:
    """A decoder writes beside others what it writes alone: what is most likely after what it has written so far."""
    task: Any = model.spec.task
    options: dict[str, Any] = {"max_new_tokens": 5, "min_new_tokens": 5}
    together = task.written(model, examples, **options)
    for row, example in zip(together.tolist(), examples, strict=True):
        (alone,) = task.written(model, [example], **options).tolist()
        assert row == alone, "padding changes what is written"
        logits = model.run([{**example, "labels": row}])[0]
        logits[:, task.answer_ends(model.processor)] = -torch.inf  # as the least number of tokens asks for
        assert logits.argmax(-1).tolist() == row, "what is written is not what is most likely"


def _check_recomputed(model: TunedModel, base: str, examples: Sequence[dict[str, Any]]) -> None:
    """Gradients are the same where activations are computed again in the backward pass."""
    spec = model.spec
    if spec.method.capabilities.trains == "nothing":
        return
    found = []
    for checkpointing in (False, True, "selective"):
        try:
            again = build(
                locate_base(base), spec.variant.name, spec.method, spec.config, spec.task, spec.labels,
                precision="float32", seed=0, gradient_checkpointing=checkpointing, device=model.device,
            )  # fmt: skip
        except ConfigError as error:
            assert not spec.method.capabilities.gradient_checkpointing, error
            return
        found.append(_gradients(again, examples))
    plain = found[0]
    for checked in found[1:]:
        assert plain.keys() == checked.keys()
        for name, gradient in plain.items():
            torch.testing.assert_close(
                checked[name], gradient, atol=1e-6 * max(1.0, float(gradient.abs().max())), rtol=1e-4,
                msg=f"gradient checkpointing changes the gradient of {name}",
            )  # fmt: skip


def _gradients(model: TunedModel, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    model.train()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not parameter.any():
            # Zeros would hide the gradients behind them.
            generator = torch.Generator(parameter.device).manual_seed(len(name))
            torch.nn.init.normal_(parameter, std=0.02, generator=generator)
    batch = model.spec.task.collate(examples, model.processor)
    labels = batch.pop("labels")
    torch.manual_seed(0)  # dropout must fall alike where a layer is run again
    model(**batch, targets=labels).backward()
    return {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}


def assert_alike(what: str, found: torch.Tensor, wanted: torch.Tensor, model: TunedModel) -> None:
    """Logits are the same but for the rounding of the model's number format."""
    assert found.shape == wanted.shape, f"{what} gives the shape {tuple(found.shape)}, not {tuple(wanted.shape)}"
    limit = _TOLERANCE.get(_dtype(model), 1e-4) * max(1.0, float(wanted.abs().max()))
    off = float((found - wanted).abs().max())
    assert off <= limit, f"{what} is off by {off:.2e}, with logits up to {float(wanted.abs().max()):.2f}"


def _dtype(model: TunedModel) -> Any:
    """Number format of the base's hidden states; None: of a quantized base, its own."""
    return None if model.spec.variant.quantized else next(model.transformer.parameters()).dtype
