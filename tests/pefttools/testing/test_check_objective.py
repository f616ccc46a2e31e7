"""Every objective holds its contract, and a broken one is found out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pefttools.objectives import Objective, objectives
from pefttools.objectives.objective import WeightedConfig
from pefttools.objectives.step import Step
from pefttools.testing import check_objective
from tests.pefttools.objectives.models import UNRANKED
from tests.pefttools.tasks.samples import SAMPLES

ROWS = SAMPLES["sequence-classification"][1]


#: one of each kind: attacks, comparisons, penalties, changed inputs, features, other losses
EVERY_DAY = ("fgm", "vat", "l2-sp", "setfit")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in EVERY_DAY else pytest.mark.slow) for name in UNRANKED]
)
def test_an_objective_holds_its_contract(name: str, tiny_bert: str, tmp_path: Path) -> None:
    check_objective(name, base=tiny_bert, rows=ROWS, folder=tmp_path)


class Confidence(Objective[WeightedConfig]):
    """That of `docs/objectives.md`."""

    name = "confidence"
    summary = "answers are to be less sure"
    config = WeightedConfig
    compares = True
    keeps_graph = True

    def term(self, step: Step) -> torch.Tensor:
        logits = step.plain().logits
        assert logits is not None
        return -self.options.weight * logits.log_softmax(-1).mean()


class WithoutEffect(Confidence):
    def term(self, step: Step) -> torch.Tensor:
        return super().term(step).detach()


class Forgetful(Confidence):
    """It pulls to where it began, and does not say where that was."""

    def begin(self, model: Any, trained: dict[str, torch.Tensor]) -> None:
        self.start = {name: p.detach().clone() for name, p in trained.items()}

    def term(self, step: Step) -> torch.Tensor:
        return torch.stack([(p - self.start[n] + 1).square().sum() for n, p in step.trained.items()]).sum()


class LeavesHooks(Confidence):
    def term(self, step: Step) -> torch.Tensor:
        step.model.transformer.register_forward_hook(lambda *given: None)
        return super().term(step)


@pytest.fixture
def registered(request: pytest.FixtureRequest) -> Iterator[str]:
    objectives.register("confidence")(request.param)
    yield "confidence"
    objectives.unregister("confidence")


@pytest.mark.parametrize("registered", [Confidence], indirect=True)
def test_one_of_your_own(registered: str, tiny_bert: str, tmp_path: Path) -> None:
    check_objective({"name": registered, "weight": 0.5}, base=tiny_bert, rows=ROWS, folder=tmp_path)


@pytest.mark.parametrize(
    ("registered", "why"),
    [(WithoutEffect, "no effect"), (Forgetful, "its state does not hold all"), (LeavesHooks, "leaves hooks")],
    indirect=["registered"],
)
def test_a_broken_one_is_found_out(registered: str, why: str, tiny_bert: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=why):
        check_objective(registered, base=tiny_bert, rows=ROWS, folder=tmp_path)
