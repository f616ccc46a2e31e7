"""The store: versions are whole or absent, tags move, nothing that a tag names is ever lost."""

from __future__ import annotations

import getpass
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import pefttools
from pefttools.artifact import read_manifest, verify_files
from pefttools.errors import ArtifactError, ConfigError, UnknownNameError
from pefttools.store import Store


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> list[Path]:
    """Two artifacts with different weights."""
    found = []
    for seed in range(2):
        model = pefttools.wrap(
            tiny_bert, "head", task={"name": "sequence-classification", "head": "mean"}, labels=["a", "b"], seed=seed
        )
        folder = tmp_path_factory.mktemp("artifact") / "head"
        pefttools.save(model, folder)
        found.append(folder)
    return found


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path, cache: Path) -> Store:
    if request.param == "local":
        return Store(tmp_path / "store")
    return Store(f"memory://{tmp_path.name}")


def test_versions_and_tags(store: Store, artifacts: list[Path]) -> None:
    first = store.add(artifacts[0], "acme", tag="prod")
    second = store.add(artifacts[1], "acme")
    assert (str(first), first.tags, str(second), second.tags) == ("acme@1", ("prod",), "acme@2", ())
    digest = read_manifest(artifacts[1]).files["head.safetensors"].sha256
    assert read_manifest(store.get("acme")).files["head.safetensors"].sha256 == digest
    assert store.get("acme@prod") == store.get("acme@1")
    store.tag("acme", 2, "prod")
    assert store.resolve("acme@prod") == ("acme", 2)
    assert store.names() == ["acme"]


def test_numbers_are_never_given_again(store: Store, artifacts: list[Path]) -> None:
    store.add(artifacts[0], "acme")
    store.add(artifacts[1], "acme")
    store.remove("acme@2")
    assert store.versions("acme") == [1]
    assert store.add(artifacts[1], "acme").version == 3


def test_a_tagged_version_stays(store: Store, artifacts: list[Path]) -> None:
    for _ in range(4):
        store.add(artifacts[0], "acme")
    store.tag("acme", 1, "prod")
    with pytest.raises(ConfigError, match="acme@1 is tagged prod"):
        store.remove("acme@prod")
    assert store.gc() == ["acme@2", "acme@3"]
    assert store.versions("acme") == [1, 4]
    store.untag("acme", "prod")
    assert store.gc(keep=0) == ["acme@1", "acme@4"]
    assert store.names() == []


def test_gc_keeps_all_where_there_are_fewer_than_it_may_keep(store: Store, artifacts: list[Path]) -> None:
    for _ in range(3):
        store.add(artifacts[0], "acme")
    assert store.gc(keep=5) == []
    assert store.versions("acme") == [1, 2, 3]
    assert store.gc(keep=2) == ["acme@1"]


def test_unknown_names_say_what_is_near(store: Store, artifacts: list[Path]) -> None:
    store.add(artifacts[0], "acme", tag="prod")
    with pytest.raises(UnknownNameError, match="Did you mean 'acme'"):
        store.get("acne")
    with pytest.raises(UnknownNameError, match="'acme@prod'"):
        store.get("acme@pro")
    with pytest.raises(UnknownNameError, match="acme@7"):
        store.get("acme@7")
    for call in (lambda: store.tag("nobody", 1, "x"), lambda: store.untag("nobody", "x"), lambda: store.remove("no@1")):
        with pytest.raises(UnknownNameError):
            call()


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b", "x" * 129, "a@1", "ä"])
def test_names_are_never_paths(store: Store, artifacts: list[Path], name: str) -> None:
    with pytest.raises(ConfigError, match="is not an adapter name"):
        store.add(artifacts[0], name)
    with pytest.raises(UnknownNameError):
        store.get(name or "@")


def test_a_tag_is_no_number(store: Store, artifacts: list[Path]) -> None:
    with pytest.raises(ConfigError, match="is not a tag"):
        store.add(artifacts[0], "acme", tag="3")
    assert store.names() == []


def test_a_damaged_artifact_is_not_taken(store: Store, artifacts: list[Path], tmp_path: Path) -> None:
    import shutil

    bad = tmp_path / "bad"
    shutil.copytree(artifacts[0], bad)
    (bad / "head.safetensors").write_bytes(b"x" + (bad / "head.safetensors").read_bytes()[1:])
    with pytest.raises(ArtifactError, match=r"head\.safetensors"):
        store.add(bad, "acme")
    assert store.names() == []


def test_damage_is_seen_on_read(tmp_path: Path, artifacts: list[Path]) -> None:
    store = Store(tmp_path / "store")
    store.add(artifacts[0], "acme")
    store.add(artifacts[1], "acme")
    file = store.get("acme@1") / "head.safetensors"
    file.write_bytes(b"x" + file.read_bytes()[1:])
    with pytest.raises(ArtifactError):
        store.get("acme@1")
    assert list(store.verify()) == ["acme@1"]


def test_many_writers_get_different_numbers(store: Store, artifacts: list[Path]) -> None:
    with ThreadPoolExecutor(8) as threads:
        versions = list(threads.map(lambda index: store.add(artifacts[index % 2], "acme").version, range(24)))
    assert sorted(versions) == list(range(1, 25)) == store.versions("acme")
    for version, index in zip(versions, range(24), strict=True):
        found = read_manifest(store.get(f"acme@{version}")).files["head.safetensors"]
        assert found == read_manifest(artifacts[index % 2]).files["head.safetensors"]


def test_a_tag_that_moves_during_gc_is_kept(tmp_path: Path, artifacts: list[Path]) -> None:
    store = Store(tmp_path / "store")
    for _ in range(3):
        store.add(artifacts[0], "acme", tag="prod")
    stop = time.monotonic() + 2

    def move() -> int:
        moves = 0
        while time.monotonic() < stop:
            versions = store.versions("acme")
            try:
                store.tag("acme", random.choice(versions), "prod")
                moves += 1
            except UnknownNameError:
                continue
        return moves

    def add() -> None:
        while time.monotonic() < stop:
            store.add(artifacts[0], "acme")

    def collect() -> None:
        while time.monotonic() < stop:
            store.gc()

    with ThreadPoolExecutor(3) as threads:
        done = [threads.submit(task) for task in (move, add, collect)]
        assert done[0].result() > 3
        assert all(task.result() is None for task in done[1:])
    assert store.get("acme@prod").is_dir()


@pytest.mark.parametrize("times", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_writers_leave_whole_versions(tmp_path: Path, artifacts: list[Path], times: int) -> None:
    """Kill -9 a writer at random moments: every version is whole or absent."""
    random.seed(0)
    store = Store(tmp_path / "store")
    begun = time.monotonic()
    store.add(artifacts[0], "other", tag="prod")
    pace = time.monotonic() - begun  # on however busy a machine
    kills = 0
    while kills < times:
        # One process forks writers: starting an interpreter for each would take minutes.
        child = os.fork()
        if child == 0:
            try:
                while True:
                    store.add(artifacts[kills % 2], "acme", tag="prod")
                    store.gc(keep=2)
            finally:
                os._exit(1)
        time.sleep(random.uniform(0.0, 4 * pace))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
        if "acme" in store.names():
            for version in store.versions("acme"):
                folder = Path(tmp_path / "store" / "adapters" / "acme" / "versions" / str(version))
                verify_files(folder, read_manifest(folder))
    assert store.get("acme@prod").is_dir()
    assert store.resolve("acme")[1] > times / 10


def test_a_stale_leftover_is_swept(tmp_path: Path, artifacts: list[Path]) -> None:
    store = Store(tmp_path / "store")
    store.add(artifacts[0], "acme")
    left = tmp_path / "store" / "adapters" / "acme" / "versions" / ".new.left"
    left.mkdir()
    store.gc()
    assert left.is_dir()
    os.utime(left, (0, 0))
    store.gc()
    assert not left.exists()


def test_removing_needs_a_version(store: Store, artifacts: list[Path]) -> None:
    store.add(artifacts[0], "acme")
    with pytest.raises(ConfigError, match="'acme' names no version"):
        store.remove("acme")
    assert store.gc(keep=0, dry_run=True) == ["acme@1"]
    assert store.versions("acme") == [1]


def test_places_that_are_no_store(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no store at"):
        Store(tmp_path / "nowhere").check_exists()
    with pytest.raises(ConfigError, match="not a valid location for a store"):
        Store("nosuch://x/y")


def test_a_store_needs_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, pefttools.store; print('torch' in sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "False"


def test_what_is_no_version_is_none(artifacts: list[Path], tmp_path: Path) -> None:
    """An empty one is not a newest version that lets `gc` remove whole ones; nor is another spelling a second name."""
    store = Store(tmp_path)
    store.add(artifacts[0], "acme")
    versions = tmp_path / "adapters" / "acme" / "versions"
    for name in ("9", "007", "٣", "1" * 30, "12.removed.tmp"):
        (versions / name).mkdir()
    (versions / "5").write_text("no folder")
    assert store.versions("acme") == [1]
    assert store.resolve("acme") == ("acme", 1)
    assert store.gc(keep=1) == []
    assert store.versions("acme") == [1]
    for reference in ("acme@9", "acme@01", "acme@" + "9" * 5000, "acme@²"):
        with pytest.raises(UnknownNameError):
            store.resolve(reference)
    assert store.add(artifacts[0], "acme").version == 10, "a number that something lies at is not given"


def test_a_tag_file_that_says_nothing_breaks_nothing_else(artifacts: list[Path], tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(artifacts[0], "acme", tag="prod")
    store.add(artifacts[0], "acme", tag="next")
    tags = tmp_path / "adapters" / "acme" / "tags"
    for content in (b"", b"two", b"\xff\xfe", b"-1", b"9" * 5000, b"1 2"):
        (tags / "prod").write_bytes(content)
        assert store.tags("acme") == {"next": 2}
        assert store.show("acme@2").tags == ("next",)
        with pytest.raises(ArtifactError, match="the tag acme@prod is damaged"):
            store.resolve("acme@prod")
        # A version that a damaged tag may have named is not removed.
        with pytest.warns(UserWarning, match="nothing of acme is removed: its tag prod is damaged"):
            assert store.gc(keep=0) == []
        assert store.versions("acme") == [1, 2]
    assert store.verify() == {"acme@prod": "the tag acme@prod is damaged"}
    store.tag("acme", 1, "prod")
    assert store.tags("acme") == {"next": 2, "prod": 1}


def test_files_that_killed_writers_of_tags_left_are_swept(artifacts: list[Path], tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(artifacts[0], "acme", tag="prod")
    left = tmp_path / "adapters" / "acme" / "tags" / ".prod.0123456789ab"
    left.write_text("1")
    store.gc()
    assert left.exists(), "its writer may be at work"
    os.utime(left, (1, 1))
    store.gc()
    assert not left.exists()


def test_a_name_in_other_letters_is_refused(artifacts: list[Path], tmp_path: Path) -> None:
    """`ACME` beside `acme` would be one folder on a disk that knows no case."""
    store = Store(tmp_path)
    store.add(artifacts[0], "acme")
    with pytest.raises(ConfigError, match="differs from 'acme' only in upper and lower case"):
        store.add(artifacts[0], "ACME")
    store.tag("acme", 1, "prod")
    with pytest.raises(ConfigError, match="differs from 'prod' only in upper and lower case"):
        store.tag("acme", 1, "Prod")
    assert store.names() == ["acme"]


def test_a_damaged_copy_of_a_remote_version_is_fetched_again(
    artifacts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTTOOLS_CACHE", str(tmp_path))
    store = Store("memory://damaged-copy")
    store.add(artifacts[0], "acme")
    folder = store.get("acme")
    file = next(path for path in folder.iterdir() if path.suffix == ".safetensors")
    whole = file.read_bytes()
    file.write_bytes(b"\0" * len(whole))
    assert next(store.get("acme").glob(file.name)).read_bytes() == whole
    file.unlink()
    with store.hold("acme") as held:
        assert (held.folder / file.name).read_bytes() == whole


def test_moves_of_tags_are_remembered_and_taken_back(store: Store, artifacts: list[Path]) -> None:
    store.add(artifacts[0], "acme", tag="prod", by="ann")
    store.add(artifacts[1], "acme")
    store.tag("acme", 2, "prod", by="bob")
    store.tag("acme", 2, "next")
    moves = store.history("acme")
    assert [(one.by, one.tag, one.before, one.version) for one in moves[:2]] == [
        ("ann", "prod", None, 1), ("bob", "prod", 1, 2),
    ]  # fmt: skip
    assert moves[2].by == getpass.getuser() and moves[2].tag == "next"
    assert [one.time for one in moves] == sorted(one.time for one in moves)
    assert store.undo("acme", "prod", by="eve") == 1
    assert store.tags("acme") == {"next": 2, "prod": 1}
    assert store.undo("acme", "prod") == 2, "what was taken back can be taken back"
    assert store.undo("acme", "next") is None
    assert store.tags("acme") == {"prod": 2}
    store.untag("acme", "prod")
    assert store.undo("acme", "prod") == 2
    assert [one.version for one in store.history("acme") if one.tag == "prod"] == [1, 2, 1, 2, None, 2]
    with pytest.raises(UnknownNameError, match="acme@never"):
        store.undo("acme", "never")


def test_a_move_is_not_taken_back_to_what_is_gone_or_was_not_noted(artifacts: list[Path], tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(artifacts[0], "acme", tag="prod")
    store.add(artifacts[1], "acme")
    store.tag("acme", 2, "prod")
    store.remove("acme@1")
    with pytest.raises(UnknownNameError, match="acme@1"):
        store.undo("acme", "prod")
    assert store.tags("acme") == {"prod": 2}
    store.add(artifacts[0], "acme")
    (tmp_path / "adapters" / "acme" / "tags" / "prod").write_text("3")
    with pytest.raises(ConfigError, match="moved without a log entry"):
        store.undo("acme", "prod")
    (tmp_path / "adapters" / "acme" / "history" / "0.json").write_text("{")
    assert len(store.history("acme")) == 2


def test_a_version_that_a_damaged_tag_may_name_is_not_removed(artifacts: list[Path], tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(artifacts[0], "acme", tag="prod")
    (tmp_path / "adapters" / "acme" / "tags" / "prod").write_text("")
    with pytest.raises(ConfigError, match="a damaged tag of acme may point at acme@"):
        store.remove("acme@1")
    store.untag("acme", "prod")
    store.remove("acme@1")


@pytest.mark.parametrize(
    ("method", "kind"), [({"name": "lora", "r": 4}, "low_rank"), ({"name": "hira", "r": 4}, "dense")]
)
def test_what_an_adapter_takes_of_a_pool(method: dict[str, Any], kind: str, tiny_bert: str, tmp_path: Path) -> None:
    """Known from the base's configuration alone."""
    from pefttools.artifact.pooled import pooled_bytes
    from pefttools.artifact.reading import hold_weights

    model = pefttools.wrap(
        tiny_bert, method, task={"name": "sequence-classification", "head": "mean"}, labels=["a", "b"]
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    pefttools.save(model, tmp_path / "artifact")
    with hold_weights(tmp_path / "artifact") as held:
        sizes = pooled_bytes(held)
    assert set(sizes) == {kind}
    weights = 4 * 2 * (4 * 64 * 64 + 2 * 64 * 128)
    assert sizes[kind] == (weights if kind == "dense" else 4 * 4 * 2 * (4 * 128 + 2 * 192))
    store = Store(tmp_path / "store")
    with pytest.raises(
        ConfigError, match=f"takes {sizes[kind]:,} bytes of a pool .*{kind.replace('_', ' ')}"
    ) as caught:
        store.add(tmp_path / "artifact", "acme", max_pooled_bytes=sizes[kind] - 1)
    assert ("as large as the weights that it changes" in caught.value.message) == (kind == "dense")
    assert not store.names()
    assert store.add(tmp_path / "artifact", "acme", max_pooled_bytes=sizes[kind]).version == 1
    pool = pefttools.AdapterPool(tiny_bert, max_bytes=1000)
    with pytest.raises(pefttools.PeftToolsError, match=r"'one' does not fit: .* grow by [\d,]+ bytes"):
        pool.load("one", tmp_path / "artifact")


def test_bytes_are_given_with_units(tiny_bert: str, tmp_path: Path) -> None:
    from pefttools.cli.store import _bytes

    assert [_bytes(text) for text in ("500", "2MB", "1.5 MiB", "1kb")] == [500, 2_000_000, 1_572_864, 1000]
    with pytest.raises(ConfigError, match="not a number of bytes"):
        _bytes("many")


@pytest.mark.parametrize("name", ["boft", "frod", "shira"])
def test_what_is_made_of_the_bases_numbers_takes_of_a_pool(name: str, tiny_bert: str, tmp_path: Path) -> None:
    from pefttools.artifact.convert import open_artifact
    from pefttools.artifact.pooled import pooled_bytes
    from pefttools.artifact.reading import hold_weights

    model = pefttools.wrap(tiny_bert, name, task={"name": "sequence-classification", "head": "mean"}, labels=["a", "b"])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    pefttools.save(model, tmp_path / "artifact")
    with hold_weights(tmp_path / "artifact") as held:
        sizes = pooled_bytes(held)
    deltas = open_artifact(tmp_path / "artifact").deltas
    assert sizes.total() == sum(part.bytes for site in deltas.sites.values() for part in site) > 0
