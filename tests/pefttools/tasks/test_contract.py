"""Every task holds its contract, by the function that third parties have too."""

from __future__ import annotations

from pathlib import Path

import pytest

from pefttools.tasks import tasks
from pefttools.testing import check_task
from tests.methods import daily
from tests.pefttools.tasks.samples import SAMPLES, base_of


def test_every_built_in_task_is_checked_here() -> None:
    assert {name for name in tasks if tasks.origin(name).distribution == "pefttools"} == set(SAMPLES)


#: one of each kind of model; the others are much like one of them, and have tests of their own
EACH_KIND = (
    "sequence-classification", "token-classification", "question-answering", "causal-lm", "seq2seq-lm",
    "sentence-embedding", "image-classification", "image-text-retrieval", "speech-recognition",
)  # fmt: skip


@pytest.mark.parametrize("name", daily(EACH_KIND, SAMPLES))
def test_a_task_holds_its_contract(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    options, rows = SAMPLES[name]
    check_task({"name": name, **options}, base=base_of(name, request), rows=rows, folder=tmp_path)


OWN_HEAD = [
    name
    for name in SAMPLES
    if not (tasks.get(name).generates or tasks.get(name).self_supervised or tasks.get(name).embeds)
    and "head" in tasks.get(name).config.model_fields
]


# The others have the class of transformers that the tests of pools and merges go over.
EVERY_DAY = ("token-classification", "image-classification")


@pytest.mark.parametrize("name", daily(EVERY_DAY, OWN_HEAD))
def test_a_task_holds_its_contract_by_the_models_own_head(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    check_task({"name": name, "head": "model"}, base=base_of(name, request), rows=SAMPLES[name][1], folder=tmp_path)
