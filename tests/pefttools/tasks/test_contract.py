"""Every task holds its contract, by the function that third parties have too."""

from __future__ import annotations

from pathlib import Path

import pytest

from pefttools.tasks import tasks
from pefttools.testing import check_task
from tests.pefttools.tasks.samples import SAMPLES


def test_every_built_in_task_is_checked_here() -> None:
    assert {name for name in tasks if tasks.origin(name).distribution == "pefttools"} == set(SAMPLES)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_task_holds_its_contract(name: str, tiny_bert: str, tiny_llama: str, tmp_path: Path) -> None:
    options, rows = SAMPLES[name]
    base = tiny_llama if tasks.get(name).generates else tiny_bert
    check_task({"name": name, **options}, base=base, rows=rows, folder=tmp_path)


OWN_HEAD = [name for name in SAMPLES if not tasks.get(name).generates]


# The others have the class of transformers that the tests of pools and merges go over.
@pytest.mark.parametrize("name", [name if tasks.get(name).per_token else pytest.param(name, marks=pytest.mark.slow)
                                  for name in OWN_HEAD])  # fmt: skip
def test_a_task_holds_its_contract_by_the_models_own_head(name: str, tiny_bert: str, tmp_path: Path) -> None:
    check_task({"name": name, "head": "model"}, base=tiny_bert, rows=SAMPLES[name][1], folder=tmp_path)
