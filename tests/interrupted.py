"""Trainings that are interrupted and go on."""

from __future__ import annotations

from typing import Any

import pytest

import pefttools
from pefttools.training.trainer import TuningTrainer


def train_in_two_parts(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, *, until: int) -> None:
    """Interrupt a training before the step after `until`, and let it go on from its last checkpoint."""
    plain = TuningTrainer.training_step

    def stops(self: TuningTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == until:
            raise KeyboardInterrupt
        return plain(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(TuningTrainer, "training_step", stops)
        with pytest.raises(KeyboardInterrupt):
            pefttools.train(recipe)
    pefttools.train(recipe, resume=True)
