"""Advice stands on what comparisons have shown, and says what they can't."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import pefttools
from pefttools.cli.main import build_app
from pefttools.errors import ConfigError
from pefttools.eval import choose
from pefttools.eval.choosing import choice
from pefttools.eval.choosing.evidence import Evidence, read_comparison, read_kept, write_evidence
from pefttools.eval.records import RECORD, RUNS
from pefttools.methods import methods
from pefttools.planning.device import CARDS
from pefttools.tasks import tasks
from tests.eval.sample import EVIL, write_sample

TASK = "sequence-classification"
BERT = {"model_type": "bert", "hidden_size": 768, "num_hidden_layers": 2, "num_attention_heads": 12,
        "intermediate_size": 3072, "vocab_size": 30522, "architectures": ["BertModel"]}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Nothing but the configuration of a small BERT."""
    folder = tmp_path_factory.mktemp("bert")
    (folder / "config.json").write_text(json.dumps(BERT))
    return str(folder)


def _known(label: str, difference: float | None, doubt: float = 0.01, **fields: object) -> Evidence:
    low, high = (None, None) if difference is None else (difference - doubt, difference + doubt)
    one = Evidence(
        comparison="Sample", task=TASK, metric="accuracy", unit="%", higher_is_better=True, base="small",
        base_parameters=22_000_000, rows=600, label=label, method={"name": label}, variant="float32", seeds=3,
        score=0.8 + (difference or 0), baseline="full", baseline_score=0.8, difference=difference, low=low, high=high,
        trained=1000, weights_bytes=2000, peak_bytes=10**8,
    )  # fmt: skip
    return replace(one, **fields)  # type: ignore[arg-type]


KEPT = [
    _known("full", None),
    _known("lora", -0.002),
    _known("bitfit", -0.005),
    _known("ia3", -0.09),
    _known("prompt", 0.3, task="causal-lm"),
]


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "read_kept", lambda: KEPT)


def test_the_smallest_of_those_that_are_not_told_apart_is_advised(base: str) -> None:
    advice = choose(
        base, task=TASK, gpu="t4", length=32, batch_size=8, methods=["full", "lora", "bitfit", "ia3", "prefix"]
    )
    assert [one.label for one in advice.candidates] == ["full", "lora", "bitfit", "ia3", "prefix"]
    assert {one.label for one in advice.candidates if one.near_best} == {"full", "lora", "bitfit"}
    assert advice.first is not None and advice.first.label == "bitfit"
    assert all(one.fits for one in advice.candidates)
    unknown = advice.candidates[-1]
    assert unknown.evidence is None and not unknown.near_best
    assert any("Nothing is known about prefix" in note for note in advice.notes)


@pytest.fixture
def card(base: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the card so large that of two plans the smaller one fits alone."""

    def between(methods: list[str], variants: list[str]) -> None:
        plans = pefttools.plan(
            base, task=TASK, methods=methods, variants=variants, gpu="t4", length=16, batch_size=2, eval_batch_size=2
        )
        sizes = [one.total_bytes for one in plans]
        monkeypatch.setattr(choice, "find_device", lambda _: replace(CARDS["t4"], memory=sum(sizes) // 2))

    return between


def test_what_does_not_fit_comes_last_and_is_not_advised(base: str, card: Callable[..., None]) -> None:
    card(["full", "head"], ["float32"])
    advice = choose(
        base, task=TASK, gpu="t4", length=16, batch_size=2, eval_batch_size=2, variants=["float32"],
        methods=["full", "head"],
    )  # fmt: skip
    assert [(one.label, one.fits) for one in advice.candidates] == [("head", True), ("full", False)]
    assert advice.first is None  # nothing is known of the head


def test_a_smaller_format_is_taken_where_the_first_does_not_fit(base: str, card: Callable[..., None]) -> None:
    card(["lora"], ["float32", "nf4"])
    advice = choose(base, task=TASK, gpu="t4", length=16, batch_size=2, eval_batch_size=2, methods=["lora"])
    (one,) = advice.candidates
    assert one.fits and one.plan.variant != "float32"


def test_what_the_evidence_can_not_say(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"task": TASK, "gpu": "t4", "length": 16, "batch_size": 2, "methods": ["lora"]}
    assert not any("more rows favour" in note for note in choose(base, rows=1000, **given).notes)  # type: ignore[arg-type]
    assert any("more rows favour" in note for note in choose(base, rows=60_000, **given).notes)  # type: ignore[arg-type]
    monkeypatch.setattr(choice, "read_kept", lambda: [_known("lora", -0.002, seeds=1)])
    assert any("Only one seed was run of lora" in note for note in choose(base, **given).notes)  # type: ignore[arg-type]
    monkeypatch.setattr(choice, "read_kept", list)
    advice = choose(base, **given)  # type: ignore[arg-type]
    assert advice.first is None and "No stored comparison is on the task" in advice.notes[0]


def test_a_method_that_can_not_be_used_says_why(base: str) -> None:
    advice = choose(base, task=TASK, gpu="t4", length=16, batch_size=2, methods=["adaption_prompt", "lora"])
    assert set(advice.left_out) == {"adaption_prompt"}
    with pytest.raises(ConfigError, match="no method can be planned"):
        choose(base, task=TASK, gpu="t4", length=16, batch_size=2, methods=["adaption_prompt"])


def test_evidence_of_ones_own_comparison(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "read_kept", list)
    write_sample(tmp_path, seeds=3)
    found = {one.label: one for one in read_comparison(tmp_path)}
    assert found["full"].is_baseline and found["full"].gain == 0
    assert found[EVIL].difference is not None and found[EVIL].difference < -0.1 and found[EVIL].doubt < 0.1
    assert found["lora"].seeds == 3 and found["lora"].rows == 1000
    write_evidence(found.values(), tmp_path / "kept.json")
    assert read_kept(tmp_path / "kept.json") == list(found.values())
    advice = choose(
        base, task=TASK, gpu="t4", length=16, batch_size=2, methods=["full", "lora"], comparisons=[tmp_path]
    )
    assert advice.candidates[-1].label == EVIL and not advice.candidates[-1].near_best
    # One's own comparison goes before those that come with the package, and these are named.
    monkeypatch.setattr(choice, "read_kept", lambda: [_known("full", None, seeds=9), _known("lora", 0.2, seeds=9)])
    given = {"task": TASK, "gpu": "t4", "length": 16, "batch_size": 2, "methods": ["full", "lora"]}
    mine = choose(base, comparisons=[tmp_path], **given)  # type: ignore[arg-type]
    (lora,) = [one for one in mine.candidates if one.label == "lora"]
    assert lora.evidence is not None and lora.evidence == found["lora"]
    assert any("Comparisons not used here: 'Sample'" in note for note in mine.notes)


def test_what_was_trained_with_an_objective_is_no_evidence_of_its_method(tmp_path: Path) -> None:
    write_sample(tmp_path)
    path = tmp_path / RUNS / "lora-seed0" / RECORD
    record = json.loads(path.read_text())
    record["recipe"]["objective"] = "fgm"
    path.write_text(json.dumps(record))
    assert "lora" not in {one.label for one in read_comparison(tmp_path)}


def test_what_trains_nothing_is_not_advised(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "read_kept", lambda: [*KEPT, _known("untuned", -0.001)])
    advice = choose(base, task=TASK, gpu="t4", length=16, batch_size=2, methods=["full", "lora", "untuned"])
    assert {one.label for one in advice.candidates if one.near_best} == {"full", "lora", "untuned"}
    assert advice.first is not None and advice.first.label == "lora"


@pytest.mark.slow
def test_a_large_base_and_needed_options_are_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**BERT, "num_hidden_layers": 40}))
    given = {"task": TASK, "gpu": "t4", "length": 16, "batch_size": 2, "methods": ["lora", "trainable_tokens"]}
    advice = choose(str(tmp_path), **given)  # type: ignore[arg-type]
    assert any("more than ten times as large" in note for note in advice.notes)
    assert advice.left_out == {"trainable_tokens": "it has no default for tokens"}


def test_a_metric_of_which_less_is_better() -> None:
    assert _known("lora", 0.3, higher_is_better=False).gain == -0.3


def test_what_comes_with_the_package_is_of_known_methods_and_tasks() -> None:
    kept = read_kept()
    assert kept and {one.task for one in kept} <= set(tasks)
    for one in kept:
        config = methods.get(one.method["name"]).config
        config.model_validate({name: value for name, value in one.method.items() if name != "name"})
        assert one.is_baseline or one.difference is not None, one


def test_the_command(base: str) -> None:
    given = [
        "choose",
        base,
        "--task",
        TASK,
        "--gpu",
        "t4",
        "--length",
        "16",
        "--batch-size",
        "2",
        "--methods",
        "lora,ia3",
    ]
    done = CliRunner().invoke(build_app(), given)
    assert done.exit_code == 0 and "Start with lora" in done.stdout and "-0.2 points" in done.stdout
    done = CliRunner().invoke(build_app(), [*given, "--json"])
    assert json.loads(done.stdout)["first"] == "lora"
