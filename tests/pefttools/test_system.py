"""What is done where the system lacks what Linux has: each fallback, with that part of Linux taken away."""

from __future__ import annotations

import os
import resource
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from pefttools import files, system
from pefttools.artifact.reading import hold
from pefttools.errors import ArtifactError


@pytest.fixture
def without_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    monkeypatch.setitem(sys.modules, "resource", None)


def test_folders_are_exchanged_in_one_step(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert system.exchange(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "one" / "two").exists() and (tmp_path / "two" / "one").exists()
    assert not system.exchange(tmp_path / "one", tmp_path / "missing")


@pytest.mark.parametrize("lacking", ["linux", "renameat2"])
def test_without_an_exchange_a_folder_is_replaced_all_the_same(
    lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacking == "linux":
        monkeypatch.setattr(system.sys, "platform", "darwin")
    else:
        monkeypatch.setattr(system.ctypes, "CDLL", lambda *_, **__: SimpleNamespace())
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old").touch()
    assert not system.exchange(tmp_path / "target", tmp_path / "target")
    with files.folder_atomic(tmp_path / "target") as folder:
        (folder / "new").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["new"]


def test_folders_are_not_flushed_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(system.os, "fsync", flushed.append)
    system.sync_folder(tmp_path)
    assert len(flushed) == 1
    monkeypatch.setattr(system, "os", SimpleNamespace(name="nt"))
    system.sync_folder(tmp_path)  # would fail: this `os` opens nothing
    assert len(flushed) == 1


@pytest.mark.parametrize("in_folders", [True, False])
def test_a_file_is_read_by_an_open_folder_or_by_its_path(
    in_folders: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "_IN_FOLDERS", in_folders)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"first")
    with system.opened_folder(tmp_path / "folder") as place:
        assert isinstance(place, int) == in_folders
        (tmp_path / "folder").rename(tmp_path / "moved")
        if in_folders:  # it stays the same folder
            assert system.open_inside(place, "file").read() == b"first"
        else:
            with pytest.raises(FileNotFoundError):
                system.open_inside(place, "file")
    with pytest.raises(ArtifactError, match=r"pefttools\.json"), hold(tmp_path / "none"):
        pass


def test_an_open_file_is_named_or_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with (tmp_path / "file").open("rb") as stream:
        system.show(stream, tmp_path / "named")
        monkeypatch.setattr(system, "_OPEN_FILES", tmp_path / "none")
        system.show(stream, tmp_path / "copied")
        assert (tmp_path / "named").is_symlink() and not (tmp_path / "copied").is_symlink()
        assert (tmp_path / "named").read_bytes() == (tmp_path / "copied").read_bytes() == b"content"


def test_where_links_are_not_allowed_a_file_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(1314, "a required privilege is not held by the client")

    (tmp_path / "file").write_bytes(b"content")
    system.link_or_copy(tmp_path / "file", tmp_path / "link")
    monkeypatch.setattr(os, "symlink", refused)
    system.link_or_copy(tmp_path / "file", tmp_path / "copy")
    assert (tmp_path / "link").is_symlink() and not (tmp_path / "copy").is_symlink()
    assert (tmp_path / "copy").read_bytes() == b"content"


def test_as_many_open_files_as_are_needed() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = 1000 if before[1] == resource.RLIM_INFINITY else before[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(64, hard), before[1]))
        assert system.allow_open_files(100) is None
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (100, before[1])
        assert system.allow_open_files(80) is None  # never lowered
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 100
        if before[1] != resource.RLIM_INFINITY:
            assert system.allow_open_files(before[1] + 1) == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_without_limits_of_open_files_nothing_is_refused(without_resource: None) -> None:
    assert system.allow_open_files(10**9) is None


def test_peak_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    now = psutil.Process().memory_info().rss
    peak = system.peak_rss()
    assert now / 2 < peak < now * 100
    monkeypatch.setattr(system.sys, "platform", "darwin")  # counts bytes, Linux KiB
    assert system.peak_rss() < now


def test_peak_memory_on_windows(without_resource: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil.Process, "memory_info", lambda self: SimpleNamespace(peak_wset=5))
    assert system.peak_rss() == 5


@pytest.mark.parametrize(("name", "reused"), [("posix", True), ("nt", False)])
def test_an_address_in_use_is_never_taken(name: str, reused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "os", SimpleNamespace(name=name))
    with socket.socket() as one:
        system.allow_reuse(one)
        assert bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)) == reused


def test_the_processor_s_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Some CPU @ 2 GHz\n")
    monkeypatch.setattr(system, "_PROCESSORS", tmp_path / "cpuinfo")
    assert system.processor_name() == "Some CPU @ 2 GHz"
    monkeypatch.setattr(system.platform, "processor", lambda: "arm")
    monkeypatch.setattr(system, "_PROCESSORS", tmp_path / "none")
    assert system.processor_name() == "arm"


def test_a_container_s_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [(tmp_path / f"limit{version}", tmp_path / f"used{version}") for version in (2, 1)]
    monkeypatch.setattr(system, "_GROUPS", tuple(files))
    assert system.container_memory(1000) is None  # no such files: not Linux, or no container
    files[0][0].write_text("max\n")
    assert system.container_memory(1000) is None
    files[1][0].write_text("800\n")
    assert system.container_memory(800) is None
    assert system.container_memory(1000) == (800, 0)
    files[1][1].write_text("300\n")
    assert system.container_memory(1000) == (800, 300)
