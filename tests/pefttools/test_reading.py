"""An artifact that is replaced or removed while it is read: whole, the old one or the new one, or said to be gone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from safetensors.torch import load_file

import pefttools
from pefttools.artifact.reading import hold
from pefttools.errors import ArtifactError
from pefttools.store import Store

_TASK = {"name": "sequence-classification", "head": "mean"}
#: exchanges two artifacts as fast as a writer can
_WRITER = """
import shutil, sys
from pathlib import Path
from pefttools.files import folder_atomic

folder, sources = Path(sys.argv[1]), sys.argv[2:]
print("ready", flush=True)
while True:
    for source in sources:
        with folder_atomic(folder) as new:
            shutil.copytree(source, new, dirs_exist_ok=True)
"""


@pytest.fixture(scope="module")
def two(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two adapters of one base, which differ in labels and weights."""
    folder = tmp_path_factory.mktemp("two")
    for name, scale in (("one", 1.0), ("two", 2.0)):
        model = pefttools.wrap(tiny_bert, {"name": "lora", "r": 2}, task=_TASK, labels=[name, "other"], seed=1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.fill_(scale)
        pefttools.save(model, folder / name)
    return folder / "one", folder / "two"


def _scale(folder: Path) -> float:
    return float(load_file(folder / "head.safetensors")["linear.bias"][0])


def _read(folder: Path) -> str:
    with hold(folder) as held:
        label = held.manifest.task.labels[0]
        assert _scale(held.folder) == {"one": 1.0, "two": 2.0}[label], "weights of the other artifact"
        for file in held.manifest.files:
            assert (held.folder / file).stat().st_size == held.manifest.files[file].size
        return label


@pytest.mark.parametrize("reads", [1000, pytest.param(5000, marks=pytest.mark.slow)])
def test_an_artifact_that_is_replaced_while_it_is_read_is_never_a_mixture(
    reads: int, two: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(two[0], folder)
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(folder), *map(str, two)], stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None and writer.stdout.readline()
        seen = Counter(_read(folder) for _ in range(reads))
    finally:
        writer.kill()
        writer.wait()
    assert min(seen.values()) > reads // 20 and len(seen) == 2, "the writer was as slow as no attack is"


def test_a_pool_loads_one_or_the_other(two: tuple[Path, Path], tiny_bert: str, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(two[0], folder)
    pool = pefttools.AdapterPool(tiny_bert, device="cpu")
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(folder), *map(str, two)], stdout=subprocess.PIPE)
    answers: Counter[str] = Counter()
    try:
        assert writer.stdout is not None and writer.stdout.readline()
        for _ in range(60):
            pool.load("tenant", folder)
            (answer,) = pool(["a text"], ["tenant"])
            answers[",".join(answer.labels)] += 1
    finally:
        writer.kill()
        writer.wait()
    assert set(answers) <= {"one,other", "two,other"}


def test_the_files_that_were_verified_stay_until_they_are_read(two: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(two[0], folder)
    with hold(folder) as held:
        shutil.rmtree(folder)
        shutil.copytree(two[1], folder)
        assert _scale(held.folder) == 1.0 and held.manifest.task.labels[0] == "one"
    assert not held.folder.exists()
    assert _read(folder) == "two"


@pytest.mark.parametrize("in_folders", [True, False])
def test_without_names_for_open_files_they_are_copied(
    in_folders: bool, two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS; and where no file can be opened in an open folder, as on Windows."""
    monkeypatch.setattr("pefttools.system._IN_FOLDERS", in_folders)
    monkeypatch.setattr("pefttools.system._OPEN_FILES", tmp_path / "none")
    with hold(two[1]) as held:
        assert not any(path.is_symlink() for path in held.folder.iterdir())
        assert _scale(held.folder) == 2.0
    folder = tmp_path / "damaged"
    shutil.copytree(two[0], folder)
    (folder / "head.safetensors").write_bytes(b"\0" * (folder / "head.safetensors").stat().st_size)
    with pytest.raises(ArtifactError, match=r"head\.safetensors has different content"), hold(folder):
        pass


def test_nothing_is_left_open(two: tuple[Path, Path], tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        _read(two[0])
        with pytest.raises(ArtifactError), hold(tmp_path):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_is_not_listed_is_never_read(two: tuple[Path, Path], tiny_bert: str, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(two[0], folder)
    (folder / "adapter_model.bin").write_bytes(b"code")
    with hold(folder) as held:
        assert not (held.folder / "adapter_model.bin").exists()
    store = Store(tmp_path / "store")
    added = store.get(str(store.add(folder, "acme")))
    assert not (added / "adapter_model.bin").exists()
    (folder / "adapter_config.json").rename(tmp_path / "config")
    with pytest.raises(ArtifactError, match=r"adapter_config\.json is missing"):
        pefttools.load(folder)


def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(two: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(two[0], folder)
    (folder / "head.safetensors").unlink()
    os.mkfifo(folder / "head.safetensors")
    with pytest.raises(ArtifactError, match=r"head\.safetensors is not a file"), hold(folder):
        pass


def test_errors_name_the_folder_that_the_user_knows(two: tuple[Path, Path], tiny_bert: str, tmp_path: Path) -> None:
    from pefttools.artifact.manifest import list_files, read_manifest, write_manifest

    folder = tmp_path / "artifact"
    shutil.copytree(two[0], folder)
    (folder / "head.safetensors").write_bytes(b"no safetensors")
    manifest = read_manifest(folder)
    write_manifest(folder, manifest.model_copy(update={"files": list_files(folder)}))
    with pytest.raises(ArtifactError) as raised:
        pefttools.load(folder)
    assert str(folder) in str(raised.value) and "pefttools-" not in str(raised.value)


def test_versions_are_read_or_gone_while_others_are_collected(two: tuple[Path, Path], tmp_path: Path) -> None:
    """`gc(keep=1)` beside readers of the newest version: never called damaged, no error of another kind."""
    store = Store(tmp_path / "store")
    store.add(two[0], "acme")
    stop, wrong, read = threading.Event(), [], Counter[str]()

    def reads() -> None:
        while not stop.is_set():
            try:
                with store.hold("acme") as held:
                    read[held.manifest.task.labels[0]] += 1
                store.get("acme")
                store.show("acme")
            except Exception as error:
                wrong.append(error)

    readers = [threading.Thread(target=reads) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(60):
        store.add(two[number % 2], "acme")
        store.gc(keep=1)
    stop.set()
    for reader in readers:
        reader.join()
    assert sum(read.values()) > 60
    assert not wrong, wrong[:3]


def test_a_registered_folder_that_changed_is_noticed(two: tuple[Path, Path], tiny_bert: str, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(two[0], folder)
    pool = pefttools.AdapterPool(tiny_bert, device="cpu")
    pool.register("early", folder)
    pool.load("tenant", folder)
    pool.evict("tenant")
    shutil.rmtree(folder)
    shutil.copytree(two[1], folder)
    for name in ("tenant", "early"):
        with pytest.raises(ArtifactError, match="has changed: another artifact"):
            pool(["a text"], [name])
    pool.load("tenant", folder)
    assert pool(["a text"], ["tenant"])[0].labels[0] == "two"
