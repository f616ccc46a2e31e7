"""Plugins are found by entry points, and problems with them are told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pefttools.bases import BaseVariant, variants
from pefttools.errors import ConfigError, UnknownNameError
from pefttools.methods import Method, methods
from pefttools.registry import Registry
from pefttools.tasks import tasks

BASE = "pefttools.bases.base:BaseVariant"
PLUGIN = Path(__file__).parents[2] / "examples" / "plugin"


def test_unknown_name_suggests_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="lorra") as caught:
        methods.get("lorra")
    assert "'lora'" in str(caught.value.hint)
    assert "bottleneck" in str(caught.value.hint)


def test_built_ins_are_plain_entry_points() -> None:
    assert {"full", "head", "lora", "ia3", "prefix", "prompt", "bottleneck", "bitfit"} <= set(methods.names())
    assert methods.origin("lora").distribution == "pefttools"
    assert repr(methods).startswith("<pefttools.methods: ") and ", lora, " in repr(methods)


def test_two_distributions_of_one_name_are_both_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("alpha", "beta"):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[pefttools.methods]\ntwin = {name}_module:Twin\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry: Registry[Method] = Registry("pefttools.methods", "method", base="pefttools.methods:Method")  # type: ignore[type-arg]
    with pytest.raises(ConfigError, match=r"two distributions: alpha \(.*and beta \("):
        registry.get("twin")


def test_a_plugin_that_is_no_method_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "gamma-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gamma\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pefttools.methods]\nwrong = json:JSONDecoder\ngone = no_such_module:X\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry: Registry[Method] = Registry("pefttools.methods", "method", base="pefttools.methods:Method")  # type: ignore[type-arg]
    with pytest.raises(ConfigError, match=r"not a subclass of pefttools\.methods\.Method"):
        registry.get("wrong")
    with pytest.raises(ConfigError, match=r"gamma 1\.0 can't be imported"):
        registry.get("gone")


def test_decorator_registers_for_this_process_only() -> None:
    from pefttools.adapters.head import HeadOnly

    class Mine(HeadOnly):
        name = "mine"

    try:
        methods.register("mine")(Mine)
        assert methods.get("mine") is Mine
        with pytest.raises(ConfigError, match="exists already"):
            methods.register("lora")(Mine)
    finally:
        methods.unregister("mine")
    assert "mine" not in methods


@pytest.mark.slow
def test_a_third_partys_distribution_is_installed_and_trains(
    tmp_path: Path, tiny_bert: str, intents: dict[str, str]
) -> None:
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(PLUGIN)],
        check=True,
    )
    program = f"""
import sys
sys.path.insert(0, {str(site)!r})
import pefttools
stored = pefttools.train({{
    "base": {tiny_bert!r}, "method": {{"name": "norm", "biases": False}},
    "task": {{"name": "sequence-classification", "head": "mean"}},
    "data": {{"train": {intents["train"]!r}, "validation": {intents["validation"]!r}}},
    "training": {{"epochs": 1}}, "output": {str(tmp_path / "artifact")!r}}})
assert stored.manifest.method.distribution == "pefttools-norm", stored.manifest.method
print(stored.manifest.parameters["trainable"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # five norms of width 64, and a head of four classes
    assert int(done.stdout.split()[-1]) == 5 * 64 + 64 * 4 + 4


def test_a_group_of_a_former_name_is_still_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "delta-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: delta\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pefttools.bases]\nodd = pefttools.bases.builtin:Float32\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    fresh: Registry[BaseVariant] = Registry(variants.group, variants.kind, BASE, former=variants.former)
    with pytest.warns(UserWarning, match=r"delta declares the variant 'odd' in the entry-point group 'pefttools\."):
        assert fresh.get("odd").name == "float32"


def test_what_is_meant_where_none_is_named() -> None:
    assert (methods.default(), variants.default(), tasks.default()) == ("lora", "float32", "sequence-classification")
    assert methods.default("plain-lora") == "lora"
