"""What only a GPU can show. Run with ``pytest -m cuda`` on a machine that has one."""

from __future__ import annotations

from pathlib import Path

import pytest

from pefttools.eval import bench
from tests.conftest import MINILM

pytestmark = pytest.mark.cuda


def test_memory_comes_from_the_allocator(tmp_path: Path, intents: dict[str, str]) -> None:
    outcome = bench(
        {
            "base": MINILM,
            "methods": ["full", "lora", {"name": "lora", "label": "lora on nf4", "variants": ["nf4"]}],
            "data": dict(intents),
            "training": {"epochs": 2, "batch_size": 16},
            "output": str(tmp_path),
        }
    )
    records = {record.label: record for record in outcome.records.values()}
    for record in records.values():
        assert record.status == "ok", record.error
        memory = record.memory
        assert memory is not None and memory.cuda is not None and memory.source == "allocator"
        assert memory.cuda["training_reserved"] >= memory.cuda["training_allocated"] > 0
        assert memory.training.peak == pytest.approx(memory.cuda["training_allocated"], rel=0.1)
    full, lora = records["full"].memory, records["lora"].memory
    assert full is not None and lora is not None and full.training.peak > lora.training.peak
