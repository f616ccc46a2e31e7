"""What is perturbed: each text by itself, padding and virtual tokens not at all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pefttools.bases import locate_base
from pefttools.building import build
from pefttools.objectives.attack import direction, shortened
from pefttools.objectives.inputs import Texts, changed_input, input_embeddings
from pefttools.objectives.step import Step
from pefttools.recipe import choose_method, choose_task
from pefttools.tasks.language.padding_free import layout
from pefttools.tuned import TunedModel
from tests.pefttools.objectives.models import TEXTS, batch_of, classifier, language_model


def _padded(lengths: list[int]) -> dict[str, torch.Tensor]:
    mask = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
    return {"input_ids": mask, "attention_mask": mask}


def _packed(lengths: list[int]) -> dict[str, torch.Tensor]:
    positions = torch.tensor([[at for length in lengths for at in range(length)]])
    return {"input_ids": positions, "position_ids": positions, "attention_mask": layout(lengths)}


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.floats(-20, 20))
def test_texts_in_rows_of_their_own_and_behind_each_other_have_the_same_norms(
    lengths: list[int], exponent: float
) -> None:
    values = 10.0**exponent * torch.randn(sum(lengths), 4)
    rows = torch.zeros(len(lengths), max(lengths), 4)
    for row, part in enumerate(values.split(lengths)):
        rows[row, : lengths[row]] = part
    padded, packed = Texts(_padded(lengths)), Texts(_packed(lengths))
    ways = direction(rows + 10.0**exponent * (rows == 0), padded), direction(values[None], packed)
    wanted = [part / part.double().norm() for part in values.split(lengths)]
    for row, part in enumerate(ways[1][0].split(lengths)):
        torch.testing.assert_close(part, wanted[row].float())
        torch.testing.assert_close(ways[0][row, : lengths[row]], wanted[row].float())
        assert not ways[0][row, lengths[row] :].any(), "padding has a direction"
    cut = shortened(5 * ways[1], torch.tensor(2.0), packed)
    assert all(abs(float(part.norm()) - 2.0) < 1e-5 for part in cut[0].split(lengths))
    torch.testing.assert_close(shortened(ways[1], torch.tensor(2.0), packed), ways[1])


@pytest.mark.parametrize("method", ["lora", "prompt", "prefix", "trainable_tokens"])
def test_tokens_are_changed_and_virtual_ones_are_not(method: str, tiny_llama: str) -> None:
    choice: Any = {"name": method, "tokens": [100]} if method == "trainable_tokens" else method
    model = language_model(tiny_llama, method=choice)
    batch = batch_of(model)
    seen: list[torch.Size] = []

    def change(read: torch.Tensor) -> torch.Tensor:
        seen.append(read.shape[:-1])
        return torch.zeros_like(read)

    given = {name: value for name, value in batch.items() if name not in ("targets", "labelled")}
    with changed_input(model.transformer, given, change) as inputs, torch.no_grad():
        changed = model.task.logits(model.transformer, None, inputs)
    assert seen == [batch["input_ids"].shape]
    # Every token reads the same now, so all that is left of a text is its length.
    other = {**given, "input_ids": given["input_ids"].flip(-1)}
    with changed_input(model.transformer, other, change) as inputs, torch.no_grad():
        torch.testing.assert_close(model.task.logits(model.transformer, None, inputs), changed)
    assert not input_embeddings(model.transformer)._forward_hooks


def test_an_encoder_is_changed_and_not_its_decoder(tiny_t5: str, tiny_bart: str) -> None:
    for base in (tiny_t5, tiny_bart):
        method, config = choose_method("lora")
        task = choose_task("seq2seq-lm")
        model = build(locate_base(base), "float32", method, config, task, [], precision="float32", seed=0)
        ids = model.processor(TEXTS[:2], padding=True, return_tensors="pt")
        batch = {**ids, "decoder_input_ids": ids["input_ids"].clone()}
        batch.pop("token_type_ids", None)
        seen = _shapes_read(model, batch)
        assert seen == [(2, ids["input_ids"].shape[1], 64)]


def _shapes_read(model: TunedModel, batch: dict[str, torch.Tensor]) -> list[tuple[int, ...]]:
    seen = []

    def change(read: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(read.shape))
        return read

    with changed_input(model.transformer, batch, change) as inputs:
        model.transformer(**inputs)
    return seen


def test_the_batch_and_padding_do_not_matter(tiny_bert: str) -> None:
    """A text is perturbed in a batch as it is alone."""
    model = classifier(tiny_bert, "fgm").eval()
    together = batch_of(model)
    found = _perturbed(model, together)
    for row, text in enumerate(TEXTS):
        (alone,) = _perturbed(model, {**batch_of(model, [text]), "targets": together["targets"][row : row + 1]})
        torch.testing.assert_close(found[row, : len(alone)], alone, atol=1e-5, rtol=1e-4)
        assert not found[row, len(alone) :].any()


def _perturbed(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """What FGM adds to the embeddings."""
    given = dict(batch)
    step = Step(model, given, given.pop("targets"), None, model.objectives)
    seen: list[torch.Tensor] = []
    original = step.run

    def run(change: Any = None, **options: Any) -> Any:
        def watched(embedded: torch.Tensor) -> torch.Tensor:
            changed: torch.Tensor = change(embedded)
            seen.append((changed - embedded).detach())
            return changed

        return original(None if change is None else watched, **options)

    step.run = run  # type: ignore[method-assign]
    model.objectives[0].term(step)
    return seen[-1]
