"""What belongs to a base's identity: everything that changes its answers, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pefttools
from pefttools.artifact.manifest import read_manifest, write_manifest
from pefttools.bases import locate_base
from pefttools.bases.fingerprint import weights_fingerprint
from pefttools.bases.identity import tokenizer_fingerprint
from pefttools.errors import BaseModelError, ConfigError

_TASK = {"name": "sequence-classification", "head": "mean"}
Edit = Callable[[Path], None]


def _config(**changes: Any) -> Edit:
    return lambda base: _edit(base / "config.json", lambda content: {**content, **changes})


def _edit(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def _swap_words(base: Path) -> None:
    def swapped(content: dict[str, Any]) -> dict[str, Any]:
        words = content["model"]["vocab"]
        words["good"], words["bad"] = words["bad"], words["good"]
        return content

    _edit(base / "tokenizer.json", swapped)


def _lower_case_off(base: Path) -> None:
    _edit(base / "tokenizer.json", lambda content: content | {"normalizer": None})


def _truncation(base: Path) -> None:
    """As a tokenizer is saved after it was used."""
    cut = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    _edit(base / "tokenizer.json", lambda content: content | {"truncation": cut})


@pytest.fixture(scope="module")
def saved(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base, and an adapter of it."""
    folder = tmp_path_factory.mktemp("identity")
    shutil.copytree(tiny_bert, folder / "base")
    model = pefttools.wrap(str(folder / "base"), {"name": "lora", "r": 2}, task=_TASK, labels=["a", "b"], seed=1)
    for parameter in model.parameters():
        parameter.data += 0.01 * parameter.requires_grad
    pefttools.save(model, folder / "adapter")
    return folder / "base", folder / "adapter"


@pytest.mark.parametrize(("edit", "named"), [
    (_config(hidden_act="relu"), "a different configuration: hidden_act"),
    (_config(layer_norm_eps=1e-3), "a different configuration: layer_norm_eps"),
    (_config(pad_token_id=7, hidden_act="relu"), "a different configuration: hidden_act, pad_token_id"),
    (_swap_words, "a different tokenizer"),
    (_lower_case_off, "a different tokenizer"),
])  # fmt: skip
def test_a_base_that_would_answer_otherwise_is_refused(
    edit: Edit, named: str, saved: tuple[Path, Path], tmp_path: Path
) -> None:
    base, adapter = saved
    shutil.copytree(base, tmp_path / "base")
    edit(tmp_path / "base")
    with pytest.raises(BaseModelError, match=named):
        pefttools.load(adapter, base=str(tmp_path / "base"))
    pool = pefttools.AdapterPool(str(tmp_path / "base"), device="cpu")
    with pytest.raises(BaseModelError, match=named):
        pool.load("one", adapter)
    assert locate_base(str(base)).identity != locate_base(str(tmp_path / "base")).identity


@pytest.mark.parametrize("edit", [
    _config(transformers_version="9.9", _name_or_path="elsewhere", dtype="bfloat16", architectures=["Other"]),
    _config(hidden_dropout_prob=0.5, initializer_range=1.0, id2label={"0": "x"}, use_cache=False),
    _config(is_decoder=False, type_vocab_size=2),  # the defaults, said
    _truncation,
])  # fmt: skip
def test_what_changes_no_answer_is_allowed(edit: Edit, saved: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = saved
    shutil.copytree(base, tmp_path / "base")
    edit(tmp_path / "base")
    pefttools.verify(adapter, base=str(tmp_path / "base"))


def test_vocabularies_count_where_there_is_no_tokenizer_file(saved: tuple[Path, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(saved[0], tmp_path / "base")
    (folder / "vocab.txt").write_text("a\nb\n")
    before = tokenizer_fingerprint(folder)
    (folder / "vocab.txt").write_text("b\na\n")
    assert tokenizer_fingerprint(folder) == before, "tokenizer.json is what is read"
    (folder / "tokenizer.json").unlink()
    without = tokenizer_fingerprint(folder)
    (folder / "vocab.txt").write_text("a\nb\n")
    assert len({before, without, tokenizer_fingerprint(folder)}) == 3


def test_a_weight_that_is_changed_with_size_and_time_kept_is_noticed(
    saved: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTTOOLS_CACHE", str(tmp_path / "cache"))
    base, adapter = saved
    copy = shutil.copytree(base, tmp_path / "base")
    weights = copy / "model.safetensors"
    time.sleep(2.1)  # older than what is never trusted
    assert weights_fingerprint(copy) == weights_fingerprint(base)
    assert list((tmp_path / "cache" / "digests").iterdir()), "the digest was to be kept"
    before = weights.stat()
    with weights.open("r+b") as stream:
        stream.seek(-4, os.SEEK_END)
        stream.write(b"\1\2\3\4")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(BaseModelError, match="different weights"):
        pefttools.load(adapter, base=str(copy))


def test_a_known_digest_is_read_again_on_request(
    saved: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTTOOLS_CACHE", str(tmp_path))
    base, adapter = saved
    os.utime(base / "config.json")  # the weights are older than two seconds by now or soon
    time.sleep(2.1)
    true = weights_fingerprint(base)
    (entry,) = (tmp_path / "digests").iterdir()
    entry.write_text(entry.read_text().replace(true, "0" * 64))
    with pytest.raises(BaseModelError, match="different weights, 000000000000"):
        pefttools.verify(adapter, base=str(base))
    pefttools.verify(adapter, base=str(base), rehash=True)


def test_adapters_of_earlier_and_of_this_version_are_added(saved: tuple[Path, Path], tmp_path: Path) -> None:
    _, adapter = saved
    old = shutil.copytree(adapter, tmp_path / "old")
    manifest = read_manifest(old)
    before = manifest.base.model_copy(update={"config": None, "tokenizer": None})
    write_manifest(old, manifest.model_copy(update={"base": before}))
    with pytest.warns(UserWarning, match="are not compared"):
        pefttools.compose([old, adapter], [0.5, 0.5], tmp_path / "sum")
    other = shutil.copytree(adapter, tmp_path / "other")
    config = {**(manifest.base.config or {}), "hidden_act": "relu"}
    write_manifest(other, manifest.model_copy(update={
        "base": manifest.base.model_copy(update={"config": config, "id": _edited(saved[0], tmp_path)})
    }))  # fmt: skip
    with pytest.raises(ConfigError, match="base models with a different hidden_act"):
        pefttools.compose([adapter, other], [0.5, 0.5], tmp_path / "wrong")


def _edited(base: Path, folder: Path) -> str:
    copy = shutil.copytree(base, folder / "base")
    _config(hidden_act="relu")(copy)
    return str(copy)


def test_artifacts_of_earlier_versions_load_and_say_what_is_not_compared(
    saved: tuple[Path, Path], tmp_path: Path
) -> None:
    base, adapter = saved
    old = shutil.copytree(adapter, tmp_path / "old")
    manifest = read_manifest(old)
    write_manifest(old, manifest.model_copy(update={
        "schema_version": "1.1", "base": manifest.base.model_copy(update={"config": None, "tokenizer": None}),
    }))  # fmt: skip
    with pytest.warns(UserWarning, match="schema 1.1 does not record the configuration and tokenizer"):
        pefttools.load(old, base=str(base))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pefttools.verify(adapter, base=str(base))
