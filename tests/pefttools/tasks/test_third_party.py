"""A task of a third party, in a distribution of its own: nothing here knows it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[3] / "examples" / "task-plugin"
_BEGIN = """
import json
import sys
sys.path.insert(0, SITE)
from pathlib import Path
import numpy as np
from sklearn.metrics import cohen_kappa_score
import pefttools
from pefttools.testing import check_task
from pefttools_ordinal import LevelPrediction, QuadraticKappa

levels, words = ["low", "medium", "high"], "one two three four five six".split()
task = {"name": "ordinal", "levels": levels, "head": "mean"}
rows = [{"text": " ".join(words[: 1 + n % 6]), "level": levels[n % 6 // 2]} for n in range(36)]
folder = Path(FOLDER)
"""
_WAY = """
stored = check_task(task, base=BASE, rows=rows, folder=folder)
assert stored.manifest.task.labels == levels

truth, given = np.random.default_rng(0).integers(0, 3, (2, 200)).tolist()
predictions = [LevelPrediction(one, [0.0, 0.0], levels) for one in given]
assert abs(QuadraticKappa().compute(predictions, truth) - cohen_kappa_score(truth, given, weights="quadratic")) < 1e-12

from typer.testing import CliRunner
from pefttools.cli.main import build_app

def run(*arguments):
    done = CliRunner().invoke(build_app(), list(map(str, arguments)))
    assert done.exit_code == 0, (arguments, done.output, done.exception)
    return done.output

data = folder / "rows.jsonl"
assert "ordinal" in run("tasks")
said = run("predict", folder / "artifact", "--text", "one two three")
assert '"prediction": "' in said
assert "quadratic_kappa" in run("evaluate", folder / "artifact", "--data", data)
pefttools.Store(folder / "store").add(folder / "artifact", "stars")

own = pefttools.wrap(BASE, "head", task={"name": "ordinal", "levels": levels}, labels=levels)  # the model's own head
assert own(**own.processor(["one two"], return_tensors="pt")).shape == (1, 2)

(row,) = pefttools.plan(BASE, task=task, labels=3, batch_size=4, length=16)
assert row.peak_bytes > row.weights_bytes

from tests.pefttools.server.conftest import running
from pefttools.server import Settings
with running(Settings(base=BASE, store=str(folder / "store"))) as server:
    answer = server.http.post("/v1/predict", json={"model": "stars", "input": ["one", "one two"]}).json()
alone = pefttools.predict(folder / "artifact", ["one", "one two"])
assert [one["prediction"] for one in answer["data"]] == [one["prediction"] for one in alone]

"""
_COMPARED = """
data = folder / "rows.jsonl"
data.write_text("".join(f"{json.dumps(row)}\\n" for row in rows))
from pefttools.eval import bench
outcome = bench({"base": BASE, "task": task, "data": {"train": str(data), "validation": 0.25, "test": 0.25},
                 "methods": ["lora", "head"], "baseline": "head", "seeds": [1], "output": str(folder / "bench"),
                 "training": {"max_steps": 2, "batch_size": 8}})
assert {record.primary_metric for record in outcome.records.values()} == {"quadratic_kappa"}
report = (folder / "bench" / "report" / "report.md").read_text()
assert "quadratic_kappa" in report and "seeds and" not in report.splitlines()[0]
"""


def _run(program: str, tmp_path: Path, base: str) -> None:
    """Run a program in a process that has the plugin installed."""
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(PLUGIN)], check=True
    )
    folder = tmp_path / "work"
    folder.mkdir()
    given = f"SITE, FOLDER, BASE = {str(site)!r}, {str(folder)!r}, {base!r}\n"
    environment = {"PYTHONPATH": f"{site}:{Path(__file__).parents[3]}"}
    done = subprocess.run([sys.executable, "-c", f"{given}{_BEGIN}{program}print('all well')"], capture_output=True,
                          text=True, check=False, env={**os.environ, **environment})  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.split("\n")[-2] == "all well"


def test_it_is_trained_planned_and_served(tmp_path: Path, tiny_bert: str) -> None:
    _run(_WAY, tmp_path, tiny_bert)


@pytest.mark.slow
def test_it_is_compared(tmp_path: Path, tiny_bert: str) -> None:
    _run(_COMPARED, tmp_path, tiny_bert)
