"""The command line as a person meets it: one clear message, exit code 2 for wrong input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pefttools.cli.main import build_app, run


def _run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("pefttools")
    return subprocess.run(
        [str(program), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "400"},
    )


def _called(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    """As `_run`, but in this process, which spares seconds of start-up; gives the exit code."""
    monkeypatch.setattr(sys, "argv", ["pefttools", *map(str, words)])
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as ended:
        run()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def _recipe(folder: Path, base: str, intents: dict[str, str], **changes: Any) -> Path:
    recipe = {
        "base": base,
        "method": "lora",
        "task": {"name": "sequence-classification", "head": "mean"},
        "data": dict(intents),
        "training": {"epochs": 1, "batch_size": 16},
        "output": str(folder / "artifact"),
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("method=lorra", ["unknown method 'lorra'", "'lora'"]),
        ("method.rank=4", ["rank: no such field", "known fields"]),
        ("training.learning_rte=1", ["learning_rte", "did you mean learning_rate"]),
        ("training.epochs=-1", ["training.epochs", "greater than 0"]),
        ("method.targets=[qwery]", ["lora.targets", "'qwery' matches no linear layer", "query"]),
        ("method.targets=[query, nothing]", ["'nothing' matches no linear layer"]),
        ("data.columns.label=intent", ["no column 'intent'", "'label'"]),
        ("base=./no/such/base", ["base model './no/such/base' does not exist"]),
        ("variant=int9", ["unknown variant 'int9'", "int8"]),
        ("output=/proc/nothing/artifact", ["can't write"]),
        ("task=translation", ["unknown task 'translation'"]),
    ],
)
def test_wrong_input(
    tmp_path: Path,
    tiny_bert: str,
    intents: dict[str, str],
    override: str,
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = _called(monkeypatch, "train", _recipe(tmp_path, tiny_bert, intents), "--set", override)
    said = capsys.readouterr().err
    assert code == 2, said
    for part in expected:
        assert part in said
    assert said.count("─ error ─") == 1
    assert not (tmp_path / "artifact").exists()


def test_wrong_input_of_a_process_of_its_own(tmp_path: Path, tiny_bert: str, intents: dict[str, str]) -> None:
    done = _run("train", _recipe(tmp_path, tiny_bert, intents), "--set", "method=lorra")
    assert done.returncode == 2 and "unknown method 'lorra'" in done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("─ error ─") == 1


def test_a_method_and_a_variant_that_do_not_go_together(
    tmp_path: Path, tiny_bert: str, intents: dict[str, str]
) -> None:
    recipe = _recipe(tmp_path, tiny_bert, intents)
    done = _run("train", recipe, "--set", "method=full", "--set", "variant=nf4", "--set", "base=./no/such")
    assert done.returncode == 2
    # said before anything is looked for
    assert "'full' can't be used with the variant 'nf4'" in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = _run("--debug", "inspect", tmp_path)
    assert "Traceback" in done.stderr and "is not an artifact" in done.stderr


def _here(*words: str | Path) -> Any:
    """A command in this process, which spares the start of another."""
    return CliRunner().invoke(build_app(), [str(word) for word in words], catch_exceptions=False)


def test_the_whole_way(tmp_path: Path, tiny_bert: str, tiny_llama: str, intents: dict[str, str]) -> None:
    done = _run("train", _recipe(tmp_path, tiny_bert, intents))
    assert done.returncode == 0, done.stderr
    artifact = Path(done.stdout.strip())
    assert artifact == tmp_path / "artifact"
    assert "test accuracy" in done.stderr

    shown = _run("inspect", artifact)
    assert "lora" in shown.stdout and "sha256" in shown.stdout
    manifest = json.loads(_here("inspect", artifact, "--json").stdout)

    verified = _run("verify", artifact)
    assert verified.returncode == 0 and "files are unchanged" in verified.stdout
    refused = _run("verify", artifact, "--base", tiny_llama)
    assert refused.returncode == 2 and "belongs to the base" in refused.stderr

    measured = json.loads(_here("evaluate", artifact, "--data", intents["test"], "--json").stdout)
    assert measured == pytest.approx(manifest["metrics"]["test"], abs=1e-6)

    texts = _here("predict", artifact, "--text", "where is my card", "--text", "what rate do I get")
    answers = [json.loads(line) for line in texts.stdout.splitlines()]
    assert len(answers) == 2 and all(one["prediction"] in manifest["task"]["labels"] for one in answers)
    rows = _here("predict", artifact, "--data", intents["test"])
    assert len(rows.stdout.splitlines()) == 80

    merged = _here("merge", artifact, "--output", tmp_path / "merged")
    assert merged.exit_code == 0 and (tmp_path / "merged" / "model.safetensors").is_file()

    damaged = shutil.copytree(artifact, tmp_path / "damaged")
    with (damaged / "adapter_model.safetensors").open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x55")
    assert _run("predict", damaged, "--text", "x").returncode == 2


def test_listing_and_schema() -> None:
    found = {entry["name"]: entry for entry in json.loads(_run("methods", "--json").stdout)}
    assert found["full"]["variants"] == ["all that are not quantized"]
    assert {one["name"] for one in json.loads(_run("variants", "--json").stdout)} == {
        "float32",
        "bfloat16",
        "int8",
        "nf4",
        "torchao-int8",
        "hqq",
    }
    assert "sequence-classification" in _run("tasks").stdout
    schema = json.loads(_run("schema").stdout)
    assert schema["properties"]["training"]
    assert json.loads(_run("schema", "method:lora").stdout)["properties"]["r"]["default"] == 8
    assert json.loads(_here("schema", "bench").stdout)["properties"]["baseline"]["default"] == "full"
