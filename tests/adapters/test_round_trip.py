"""Every method, trained for twenty steps by its own learning rate: what is saved gives the same in another process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import pefttools
from pefttools.eval.probing.elsewhere import Elsewhere
from pefttools.methods import methods
from pefttools.testing.rows import encoded_rows
from pefttools.testing.steps import train_a_little
from pefttools.testing.subject import logits_of

from ..methods import AVAILABLE, choice_of, daily

ROWS = [{"text": f"text number {n} of kind {'ab'[n % 2]}", "label": "ab"[n % 2]} for n in range(6)]
TASKS: dict[str, dict[str, Any]] = {
    "bert": {"task": {"name": "sequence-classification", "head": "mean"}, "labels": ["a", "b"]},
    "llama": {"task": {"name": "causal-lm"}},
}
#: why a method can't be put on a family
NOT_ON = {
    ("adaption_prompt", "bert"): "does not support its attention",
    ("bitfit", "llama"): "no bias terms",
    ("head", "llama"): "the task has none",
}


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    process = Elsewhere()
    yield process
    process.close()


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("name", daily(("lora", "bottleneck"), AVAILABLE))
def test_the_round_trip(
    name: str, family: str, elsewhere: Elsewhere, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base, given = request.getfixturevalue(f"tiny_{family}"), TASKS[family]
    rows = ROWS if family == "bert" else None
    if (name, family) in NOT_ON:
        with pytest.raises(pefttools.PeftToolsError, match=NOT_ON[name, family]):
            pefttools.wrap(base, choice_of(name), precision="float32", **given)
        return
    model = pefttools.wrap(base, choice_of(name), precision="float32", **given)
    examples = encoded_rows(model, rows)
    before = logits_of(model, examples)
    train_a_little(model, examples, steps=20, rate=model.spec.method.default_learning_rate(10**6))
    trained = logits_of(model, examples)
    assert methods.get(name).capabilities.trains == "nothing" or not torch.allclose(before, trained, atol=1e-4)
    pefttools.save(model, tmp_path / "artifact")
    again = elsewhere.answers(tmp_path / "artifact", rows)
    torch.testing.assert_close(again, trained, atol=1e-5, rtol=1e-5)
