"""``gradient_accumulation: auto``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pefttools.errors import ConfigError, WontFitError
from pefttools.planning.device import CPU
from pefttools.progress import SilentReporter
from pefttools.recipe import Recipe, validate
from pefttools.training import microbatches
from pefttools.training.microbatches import fewest, settle_microbatches, with_microbatches
from pefttools.training.prepare import Prepared, prepare
from pefttools.training.run import train


@given(st.integers(1, 200), st.integers(1, 200))
def test_the_fewest_parts_that_fit(rows: int, most: int) -> None:
    found = fewest(rows, lambda parts: rows // parts <= most)
    assert rows % found == 0
    assert rows // found <= most
    assert all(rows // parts > most for parts in range(1, found) if rows % parts == 0)


def test_not_even_one_row() -> None:
    with pytest.raises(WontFitError, match="not even one row"):
        fewest(8, lambda parts: False)


def _prepared(base: str, intents: dict[str, str], output: Path, **method: Any) -> Prepared:
    return prepare(_recipe(base, intents, output, **method))


def _recipe(base: str, intents: dict[str, str], output: Path, **method: Any) -> Recipe:
    training = {"batch_size": 32, "gradient_accumulation": "auto", "max_steps": 2, "epochs": 1, "precision": "float32"}
    return validate(
        Recipe,
        {
            "base": base,
            "method": {"name": "lora", **method},
            "data": dict(intents),
            "training": training,
            "output": output,
        },
        "test",
    )


def test_a_batch_is_cut_until_it_fits(
    tiny_bert: str, intents: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = _prepared(tiny_bert, intents, tmp_path / "a")
    # Room for a batch in four parts, of the longest rows that there are, and for no larger ones.
    needs: dict[Any, Any] = {}
    monkeypatch.setattr(
        microbatches, "_predicted", lambda chosen, batch: bool(needs.setdefault(len(batch), batch)) and False
    )
    with pytest.raises(WontFitError):
        settle_microbatches(prepared, SilentReporter())
    monkeypatch.undo()
    assert list(needs) == [32, 16, 8, 4, 2, 1]
    room = microbatches.training_bytes(with_microbatches(prepared, 4), CPU, needs[8])
    monkeypatch.setattr(microbatches, "this_device", lambda: (CPU, int(room / 0.6) + 1))
    settled = settle_microbatches(prepared, SilentReporter())
    assert settled.recipe.training.microbatches == settled.recipe.training.gradient_accumulation == 4
    assert settle_microbatches(settled, SilentReporter()) is settled


def test_what_was_settled_is_recorded(tiny_bert: str, intents: dict[str, str], tmp_path: Path) -> None:
    stored = train(_recipe(tiny_bert, intents, tmp_path / "adapter"), SilentReporter())
    assert stored is not None
    assert stored.manifest.training["settings"]["gradient_accumulation"] == 1


def test_what_can_not_be_planned(tiny_bert: str, intents: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a prediction"):
        settle_microbatches(_prepared(tiny_bert, intents, tmp_path / "a", name="adamss"), SilentReporter())
