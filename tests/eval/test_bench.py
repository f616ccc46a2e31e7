"""The harness: plans, records, resume after kill -9, failures as rows."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pefttools.artifact.manifest import read_manifest, verify_files
from pefttools.errors import ConfigError, TrainingError, WontFitError
from pefttools.eval import memory as memory_module
from pefttools.eval import worker
from pefttools.eval.comparison import bench
from pefttools.eval.environment import this_environment
from pefttools.eval.records import RunRecord, read_predictions, read_records, write_record
from pefttools.eval.reporting import formatting, load_report
from pefttools.eval.reporting.findings import findings
from pefttools.eval.spec import BenchSpec, Search, plan
from pefttools.eval.worker import classify
from pefttools.methods import methods
from pefttools.progress import LineReporter, SilentReporter
from pefttools.training.rates import Rates
from tests.pefttools.test_resume import Told


def _spec(base: str, data: dict[str, str], output: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "base": base,
        "methods": ["full", {"name": "lora", "r": 2}],
        "task": {"name": "sequence-classification", "head": "mean"},
        "data": dict(data),
        "training": {"epochs": 1, "batch_size": 16},
        "output": str(output),
        **changes,
    }


def _stable(record: RunRecord) -> dict[str, Any]:
    """A record without times, memory and host."""
    content = record.model_dump(
        mode="json", exclude={"seconds", "busy_share", "memory", "hardware", "created", "git_revision"}
    )
    if content["artifact"]:
        del content["artifact"]["bytes"]  # the manifest's text holds times
    content["history"] = [{k: v for k, v in entry.items() if "_per_second" not in k and "runtime" not in k}
                          for entry in content["history"]]  # fmt: skip
    return content


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str, intents: dict[str, str]) -> Path:
    folder, elsewhere = tmp_path_factory.mktemp("unbroken"), tmp_path_factory.mktemp("elsewhere")
    # As in another version's checkout: runs are made by the package that was asked.
    (elsewhere / "pefttools").mkdir()
    (elsewhere / "pefttools" / "__init__.py").write_text("raise ImportError('another package of this name')")
    with contextlib.chdir(elsewhere):
        bench(_spec(tiny_bert, intents, folder))
    return folder


def test_records(unbroken: Path, intents: dict[str, str]) -> None:
    records = {record.label: record for record in read_records(unbroken)}
    assert records.keys() == {"full", "lora"}
    full, lora = records["full"], records["lora"]
    assert full.status == lora.status == "ok"
    assert full.data == lora.data and full.rows == {"train": 160, "validation": 40, "test": 80}
    assert full.samples == lora.samples == 160
    assert lora.parameters["trainable"] < full.parameters["trainable"] / 10
    assert full.memory is not None and lora.memory is not None
    assert full.memory.cuda is None and full.memory.source == "counted"
    for record in (full, lora):
        assert record.memory is not None and record.memory.predicted is not None
        predicted, measured = record.memory.predicted, record.memory.training.peak
        assert predicted.training_peak == pytest.approx(measured, rel=0.05)
        # Rounding of blocks, and no kernel that needs more: near, and never the same.
        assert predicted.gpu_training_peak != predicted.training_peak
        assert predicted.gpu_training_peak == pytest.approx(measured, rel=0.5)
    # A gradient for each trained number, though not at the moment of the peak.
    for record in (full, lora):
        assert record.memory is not None and record.memory.training_most is not None
        most, peak = record.memory.training_most, record.memory.training
        assert most.gradients >= 4 * record.parameters["trainable"] > 0
        assert all(
            getattr(most, part) >= getattr(peak, part) for part in ("weights", "gradients", "optimizer", "other")
        )
    # Adam keeps two numbers for each trained one.
    assert full.memory.training.optimizer >= 2 * 4 * full.parameters["trainable"]
    assert lora.memory.training.optimizer < full.memory.training.optimizer / 10
    assert len(read_predictions(unbroken / "runs" / lora.id)) == 80
    artifact = unbroken / "runs" / lora.id / "artifact"
    verify_files(artifact, read_manifest(artifact))
    assert lora.artifact is not None
    assert lora.artifact.bytes == sum(file.stat().st_size for file in artifact.iterdir())
    for name in ("index.html", "report.md", "report.csv", "report.json"):
        assert (unbroken / "report" / name).is_file()


def test_done_runs_are_not_done_again(unbroken: Path, tiny_bert: str, intents: dict[str, str]) -> None:
    before = {record.id: record.created for record in read_records(unbroken)}
    stamps = {path: path.stat().st_mtime_ns for path in (unbroken / "runs").glob("*/record.json")}
    bench(_spec(tiny_bert, intents, unbroken))
    assert {record.id: record.created for record in read_records(unbroken)} == before
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


@pytest.mark.slow
def test_runs_of_other_versions_or_machines_are_not_mixed_in_unseen(
    tmp_path: Path, unbroken: Path, tiny_bert: str, intents: dict[str, str]
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(unbroken, folder)
    record = next(one for one in read_records(folder) if one.label == "lora")
    old = record.model_copy(
        update={
            "packages": {**record.packages, "torch": "2.0.0"},
            "code": None,
            "method_code": "0" * 64,
            "hardware": {**record.hardware, "processor": "8086"},
        }
    )
    write_record(folder / "runs" / record.id, old)
    told = Told()
    spec = {**_spec(tiny_bert, intents, folder), "reuse": "any"}
    assert bench(spec, reporter=told).records[record.id].created == record.created
    said = next(event for event in told.events if "were made with" in event)
    assert (
        "torch 2.0.0 instead of" in said
        and "processor 8086 instead of" in said
        and "different code of pefttools" in said
    )
    assert "different code of the method" in said
    assert "they are kept" in said
    data = load_report(folder)
    row = next(row for row in data.rows if row.label == "lora")
    assert formatting.runs(row) == "1 of 1 †"
    assert any(text.startswith("† Made with different versions") and "torch 2.0.0" in text for text in findings(data))
    assert all(row.made_elsewhere == () for row in data.rows if row.label == "full")
    again = bench({**spec, "reuse": "same"}, reporter=told).records[record.id]
    assert again.packages == record.packages and again.code == record.code and again.created != record.created
    assert not any("†" in text for text in findings(load_report(folder)))


def test_methods_of_other_folders_are_of_one_environment() -> None:
    methods_ = [methods.get(name) for name in ("lora", "bottleneck")]
    one, other = map(this_environment, methods_)
    assert one.differences(other, same_method=False) == []
    assert one.differences(other, same_method=True) == ["different code of the method"]


@pytest.mark.slow
def test_killed_after_a_run_it_goes_on_with_the_next(tmp_path: Path, tiny_bert: str, intents: dict[str, str]) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(
        yaml.safe_dump(_spec(tiny_bert, intents, tmp_path / "out", methods=["head", "untuned"], baseline="head"))
    )
    program = [str(Path(sys.executable).with_name("pefttools")), "bench", str(path)]
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (done := list((tmp_path / "out" / "runs").glob("*/record.json"))):
        assert process.poll() is None, "it ended without a record"
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)  # the parent alone: its workers must end by themselves
    process.wait()
    first = done[0].read_bytes()
    again = subprocess.run(program, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert [record.label for record in read_records(tmp_path / "out")] == ["head", "untuned"]
    assert done[0].read_bytes() == first, "a run that was done was made again"


@pytest.mark.slow
def test_killed_at_random_points_it_ends_with_the_same_records(
    tmp_path: Path, unbroken: Path, tiny_bert: str, intents: dict[str, str]
) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(_spec(tiny_bert, intents, tmp_path / "out")))
    program = [str(Path(sys.executable).with_name("pefttools")), "bench", str(path)]
    generator = random.Random(2)
    killed = 0
    for _ in range(2):
        process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=generator.uniform(6, 16))
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)  # the parent alone: its workers must end by themselves
            process.wait()
            killed += 1
        for record in (tmp_path / "out" / "runs").glob("*/record.json"):
            RunRecord.model_validate_json(record.read_bytes())
    assert killed
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    broken = [_stable(record) for record in read_records(tmp_path / "out")]
    assert broken == [_stable(record) for record in read_records(unbroken)]
    for one in read_records(unbroken):
        mine, theirs = (root / "runs" / one.id / "predictions.jsonl" for root in (tmp_path / "out", unbroken))
        assert mine.read_bytes() == theirs.read_bytes()


@pytest.mark.slow
def test_a_run_that_diverges_is_a_row_and_the_suite_goes_on(
    tmp_path: Path, tiny_bert: str, intents: dict[str, str]
) -> None:
    wild = {"name": "lora", "label": "wild", "training": {"learning_rate": 1e30, "head_learning_rate": 1e30}}
    outcome = bench(_spec(tiny_bert, intents, tmp_path, methods=[wild, "head"], baseline="head"), jobs=2)
    records = {record.label: record for record in outcome.records.values()}
    assert records["head"].status == "ok"
    assert records["wild"].status == "diverged"
    assert records["wild"].error is not None and records["wild"].error.step is not None
    assert "diverged" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.slow
def test_search_gives_everyone_the_same_trials(tmp_path: Path, tiny_bert: str, intents: dict[str, str]) -> None:
    search = {"learning_rate": 3, "extend": 0}
    outcome = bench(_spec(tiny_bert, intents, tmp_path, methods=["lora"], baseline="lora", search=search))
    (record,) = outcome.records.values()
    rates = [trial.learning_rate for trial in record.trials]
    assert rates == pytest.approx([2e-3 / 3, 2e-3, 6e-3])
    (chosen,) = [trial for trial in record.trials if trial.chosen]
    assert chosen.score == max(trial.score for trial in record.trials if trial.score is not None)
    assert all(trial.loss is not None for trial in record.trials)
    assert record.learning_rate == chosen.learning_rate
    assert record.seconds["train_cpu"] > 0 and record.busy_share is not None and 0 < record.busy_share <= 1.01
    manifest = read_manifest(tmp_path / "runs" / record.id / "artifact")
    assert manifest.training["learning_rate"] == chosen.learning_rate
    assert record.validation["accuracy"] == pytest.approx(chosen.score)


def test_nothing_runs_where_one_run_could_not(tmp_path: Path, tiny_bert: str, intents: dict[str, str]) -> None:
    spec = _spec(tiny_bert, intents, tmp_path / "out", methods=["lora", {"name": "full", "variants": ["nf4"]}])
    with pytest.raises(ConfigError, match="'full' can't be used with the variant 'nf4'"):
        bench(spec)
    assert not (tmp_path / "out" / "runs").exists() or not list((tmp_path / "out" / "runs").glob("*/record.json"))


def test_a_worker_that_dies_is_a_row(
    tmp_path: Path, tiny_bert: str, intents: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nkill -9 $$\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(TrainingError, match="no run succeeded"):
        bench(_spec(tiny_bert, intents, tmp_path / "out", methods=["head"], baseline="head"))
    (record,) = read_records(tmp_path / "out")
    assert record.status == "oom" and record.error is not None and "signal 9" in record.error.message


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError("x"), "oom"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "oom"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "oom"),
        (RuntimeError("shapes differ"), "failed"),
        (WontFitError("too much"), "oom"),
    ],
)
def test_kinds_of_failure(error: Exception, status: str) -> None:
    assert classify(error)[0] == status


def test_a_run_that_cannot_fit_is_not_begun(
    tiny_bert: str, intents: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pefttools.eval import prediction
    from pefttools.planning.device import CPU
    from pefttools.training.prepare import prepare

    (run,) = plan(BenchSpec.model_validate(_spec(tiny_bert, intents, tmp_path, methods=["lora"], baseline="lora")))
    prepared = prepare(run.recipe)
    prediction.check_fits(prepared, SilentReporter())
    monkeypatch.setattr(prediction, "this_device", lambda: (CPU, 2**20))
    with pytest.raises(WontFitError, match="a training step needs"):
        prediction.check_fits(prepared, SilentReporter())


def test_what_cannot_be_predicted_says_so(
    tiny_bert: str, intents: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pefttools.eval import prediction
    from pefttools.eval.records import Parts
    from pefttools.training.prepare import prepare

    (run,) = plan(BenchSpec.model_validate(_spec(tiny_bert, intents, tmp_path, methods=["adamss"], baseline="adamss")))
    prepared = prepare(run.recipe)
    prediction.check_fits(prepared, LineReporter())
    assert (
        "it is not known whether there is enough memory: memory can't be planned for the method 'adamss'"
        in capsys.readouterr().err
    )
    predicted, warning = prediction.predict(prepared, prepared.examples.train[:1], Parts(weights=1))
    assert predicted is None and warning is not None and "the weights' values" in warning


def test_plans() -> None:
    spec = BenchSpec.model_validate(
        {
            "base": "b", "data": {"train": "t.csv"}, "seeds": [0, 1], "variants": ["float32", "nf4"],
            "methods": ["lora", {"name": "full", "variants": ["float32"], "training": {"learning_rate": 0.5}}],
        }
    )  # fmt: skip
    runs = plan(spec)
    assert [run.id for run in runs] == [
        "lora-float32-seed0", "lora-nf4-seed0", "full-float32-seed0",
        "lora-float32-seed1", "lora-nf4-seed1", "full-float32-seed1",
    ]  # fmt: skip
    assert runs[2].recipe.training.learning_rate == 0.5
    assert runs[0].hash({}) != runs[3].hash({})
    assert runs[0].hash({"base": "1"}) != runs[0].hash({"base": "2"})
    tried = Search(learning_rate=2, factor=2.0).rates(Rates(1.0, 0.1), head_only=False)
    assert tried == [Rates(0.5, 0.1), Rates(1.0, 0.1)]
    twice = spec.model_copy(update={"methods": ["lora", {"name": "lora", "r": 4}]})
    with pytest.raises(ConfigError, match="its own label"):
        plan(twice)


@pytest.mark.slow
def test_time_left_counts_runs_that_are_made_now(
    unbroken: Path, tiny_bert: str, intents: dict[str, str], tmp_path: Path
) -> None:
    """One run is done already, the other was made with another rank: the step begins at 0 of 1."""
    import shutil
    from collections.abc import Iterator

    from pefttools.progress import Advance

    shown: list[tuple[int, int]] = []

    events: list[str] = []

    class Reporter(SilentReporter):
        def event(self, text: str) -> None:
            events.append(text)

        @contextlib.contextmanager
        def step(self, name: str, unit: str) -> Iterator[Advance]:
            yield lambda done, total, note="": shown.append((done, total))

    folder = Path(shutil.copytree(unbroken, tmp_path / "copy"))
    bench(_spec(tiny_bert, intents, folder, methods=["full", {"name": "lora", "r": 3}]), reporter=Reporter())
    assert shown[0] == (0, 1) and shown[-1] == (1, 1)
    assert any(event.startswith("1 runs in") and "made with other settings or data" in event for event in events)


@pytest.mark.slow
def test_a_comparison_by_another_metric_and_of_what_did_not_learn(
    tmp_path: Path, tiny_bert: str, intents: dict[str, str]
) -> None:
    dead = {"name": "lora", "label": "dead", "training": {"learning_rate": 100.0}}
    spec = _spec(tiny_bert, intents, tmp_path, methods=[dead, "head"], baseline="head", selection={"metric": "loss"})
    records = {record.label: record for record in bench(spec).records.values()}
    assert records["dead"].status == "ok" and records["dead"].did_not_learn is not None
    for record in records.values():
        assert record.primary_metric == "loss" and not record.greater_is_better
        assert record.score == record.test["loss"]
    text = (tmp_path / "report" / "report.md").read_text()
    assert (
        "did not learn" in text and "DID NOT LEARN" in (tmp_path / "runs" / records["dead"].id / "log.txt").read_text()
    )


def test_a_run_whose_memory_can_not_be_measured_is_a_run_all_the_same(
    tiny_bert: str, intents: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measuring builds the model once more; where that is too much, the results stand."""

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(memory_module, "profile", full)
    (planned,) = plan(BenchSpec.model_validate(_spec(tiny_bert, intents, tmp_path / "b", methods=["ia3"])))
    folder = Path(planned.recipe.output).parent
    folder.mkdir(parents=True)
    record = worker.run(planned, folder)
    assert record.status == "ok" and record.memory is None
    assert record.test and record.artifact is not None
    assert any("memory could not be measured: CUDA out of memory" in note for note in record.notes)
