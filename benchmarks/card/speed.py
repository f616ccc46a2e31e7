"""(l) The other benchmarks on the GPU, each in its own process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from card.setting import Case, Figures, Setting

RUNS: dict[str, list[str]] = {
    "decode, bfloat16": ["mixed_batch.py", "--models", "smollm2", "--adapters", "1,16", "--dtype", "bfloat16"],
    "decode": ["mixed_batch.py", "--models", "smollm2", "--adapters", "1,16"],
    "classify": ["mixed_batch.py", "--models", "minilm", "--adapters", "1,64"],
    "training, bfloat16": ["training_memory.py", "--device", "cuda", "--dtype", "bfloat16", "--repeat", "1"],
    "training, ragged": ["training_memory.py", "--device", "cuda", "--shortest", "32", "--repeat", "1"],
}


def cases(setting: Setting) -> Iterator[Case]:
    """A case per benchmark; in a dry run a single small one."""
    if not setting.on_card:
        yield "classify", partial(_run, ["mixed_batch.py", "--models", "minilm", "--adapters", "1", "--repeat", "1"])
        return
    for title, command in RUNS.items():
        yield title, partial(_run, command)


def _run(command: list[str]) -> Figures:
    script = Path(__file__).parents[1] / command[0]
    done = subprocess.run(
        [sys.executable, str(script), *command[1:], "--json"], capture_output=True, text=True, timeout=150, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-1500:])
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found
