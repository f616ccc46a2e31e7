"""Files and folders have the permissions that the umask asks for, whoever wrote them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import os, sys
from pathlib import Path
umask, base, train, output = int(sys.argv[1], 8), sys.argv[2], sys.argv[3], Path(sys.argv[4])
os.umask(umask)
os.environ["PEFTTOOLS_CACHE"] = str(output / "cache")
from pefttools.logs import quiet_libraries
quiet_libraries()
import pefttools
from pefttools.progress import SilentReporter
from pefttools.recipe import Recipe
from pefttools.training.fit import fit
from pefttools.training.prepare import prepare

for method in ("lora", "bitfit"):
    task = {"name": "sequence-classification", "head": "mean"}
    model = pefttools.wrap(base, method, task=task, labels=["no", "yes"])
    pefttools.save(model, output / method)
    pefttools.save(model, output / f"{method}-half", storage="float16")
pefttools.merge(output / "lora", output / "merged")
pefttools.export(output / "lora", output / "exported")
pefttools.compose([output / "lora", output / "lora"], [0.5, 0.5], output / "composed")
pefttools.Store(output / "store").add(output / "lora", "acme", tag="prod")
recipe = {
    "base": base, "method": "head", "task": {"name": "sequence-classification", "head": "mean"},
    "data": {"train": train}, "training": {"max_steps": 2, "batch_size": 8}, "output": str(output / "trained"),
}
pefttools.train(recipe)
fit(prepare(Recipe.model_validate(recipe)), SilentReporter(), output / "work")
from tests.eval.sample import write_sample
from pefttools.eval import report
write_sample(output / "runs", rows=20)
report(output / "runs")
"""


@pytest.mark.parametrize("umask", [0o077, pytest.param(0o022, marks=pytest.mark.slow)])
def test_everything_that_is_written_has_the_permissions_of_the_umask(
    tmp_path: Path, tiny_bert: str, intents: dict[str, str], umask: int
) -> None:
    output = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, f"{umask:o}", tiny_bert, intents["train"], str(output)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    written = list(output.rglob("*"))
    names = {path.name for path in written}
    assert {
        "adapter_model.safetensors", "head.safetensors", "pefttools.json", "README.md", "model.safetensors",
        "config.json", "record.json", "predictions.jsonl", "index.html", "report.csv", "best.safetensors",
        "trainable.safetensors", "optimizer.pt", "complete",
    } <= names, names  # fmt: skip
    wrong = {
        str(path.relative_to(output)): oct(path.stat().st_mode & 0o777)
        for path in written
        if path.stat().st_mode & 0o777 != (0o777 if path.is_dir() else 0o666) & ~umask
    }
    assert not wrong
