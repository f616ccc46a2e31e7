"""Signatures say who made an artifact, and nothing that is not signed gets past whoever asks for them."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import fsspec
import pytest
from typer.testing import CliRunner

import pefttools
from pefttools.artifact.manifest import SIGNATURE, unlisted
from pefttools.artifact.reading import hold_weights
from pefttools.artifact.signing import UnsignedError, new_key, sign, trusted
from pefttools.cli.main import build_app
from pefttools.errors import ConfigError
from pefttools.store import Store


def _saved(base: str, method: str, folder: Path) -> Path:
    model = pefttools.wrap(base, method, task={"name": "sequence-classification", "head": "mean"}, labels=["a", "b"])
    pefttools.save(model, folder)
    return folder


@pytest.fixture
def artifact(tiny_bert: str, tmp_path: Path) -> Path:
    return _saved(tiny_bert, "bitfit", tmp_path / "artifact")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """Private and public."""
    return tmp_path / "acme.pem", new_key(tmp_path / "acme.pem")


def test_a_signature_is_asked_for(artifact: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    other = new_key(tmp_path / "other.pem")
    with pytest.raises(UnsignedError, match="is not signed"):
        pefttools.verify(artifact, signed_by=[public])
    sign(artifact, private)
    assert pefttools.verify(artifact, signed_by=[public]) == pefttools.verify(artifact)
    assert pefttools.verify(artifact, signed_by=[other, public]) is not None
    assert pefttools.load(artifact, signed_by=[public]).labels == ("a", "b")
    assert unlisted(artifact, pefttools.verify(artifact)) == []
    for ask in (pefttools.verify, pefttools.load):
        with pytest.raises(UnsignedError, match="not signed by a trusted key"):
            ask(artifact, signed_by=[other])


def test_a_signature_is_of_these_very_files(
    artifact: Path, keys: tuple[Path, Path], tiny_bert: str, tmp_path: Path
) -> None:
    private, public = keys
    sign(artifact, private)
    # Another's artifact is whole, and has a signature that is somebody else's.
    foreign = _saved(tiny_bert, "ia3", tmp_path / "foreign")
    shutil.copy(artifact / SIGNATURE, foreign / SIGNATURE)
    with pytest.raises(UnsignedError):
        pefttools.verify(foreign, signed_by=[public])
    for content in (b"", b"x" * 64, (artifact / SIGNATURE).read_bytes() + b"x"):
        (artifact / SIGNATURE).write_bytes(content)
        with pytest.raises(UnsignedError):
            pefttools.verify(artifact, signed_by=[public])


def test_what_was_verified_is_what_is_read(artifact: Path, keys: tuple[Path, Path]) -> None:
    """Who may write into the folder, but not sign, changes an open file in its place."""
    private, public = keys
    sign(artifact, private)
    name = next(path.name for path in artifact.glob("*.safetensors"))
    before = (artifact / name).read_bytes()
    with hold_weights(artifact, trusted([public])) as held:
        with (artifact / name).open("r+b") as stream:
            stream.seek(-4, 2)
            stream.write(b"evil")
        assert (held.folder / name).read_bytes() == before


def test_what_lies_in_a_signatures_place(artifact: Path, keys: tuple[Path, Path]) -> None:
    _, public = keys
    os.mkfifo(artifact / SIGNATURE)
    pefttools.verify(artifact)
    with pytest.raises(UnsignedError):
        pefttools.verify(artifact, signed_by=[public])
    (artifact / SIGNATURE).unlink()
    (artifact / SIGNATURE).write_bytes(b"x" * 10_000)
    with hold_weights(artifact) as held:
        assert not (held.folder / SIGNATURE).exists()


def test_a_signature_may_be_another_later(artifact: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """In a store elsewhere, of which this machine keeps copies."""
    store = Store("memory://resigned-store")
    sign(artifact, keys[0])
    store.add(artifact, "acme")
    pefttools.verify(store.get("acme"), signed_by=[keys[1]])
    other = new_key(tmp_path / "other.pem")
    sign(artifact, tmp_path / "other.pem")
    fsspec.filesystem("memory").pipe_file(
        "/resigned-store/adapters/acme/versions/1/" + SIGNATURE, (artifact / SIGNATURE).read_bytes()
    )
    pefttools.verify(store.get("acme"), signed_by=[other])
    with pytest.raises(UnsignedError):
        pefttools.verify(store.get("acme"), signed_by=[keys[1]])


@pytest.mark.parametrize("where", ["local", "memory://signed-store"])
def test_a_store_keeps_signatures(
    where: str, artifact: Path, keys: tuple[Path, Path], tiny_bert: str, tmp_path: Path
) -> None:
    private, public = keys
    store = Store(str(tmp_path / "store") if where == "local" else where)
    store.add(_saved(tiny_bert, "ia3", tmp_path / "plain"), "plain")
    sign(artifact, private)
    store.add(artifact, "acme")
    pefttools.verify(store.get("acme"), signed_by=[public])
    with pytest.raises(UnsignedError):
        pefttools.verify(store.get("plain"), signed_by=[public])
    pool = pefttools.AdapterPool(tiny_bert, signed_by=[public])
    pool.load("acme", store.get("acme"))
    with pytest.raises(UnsignedError):
        pool.load("plain", store.get("plain"))


def test_keys(artifact: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    with pytest.raises(ConfigError, match="never overwritten"):
        new_key(private)
    (tmp_path / "new.pem.pub").write_text("another's")
    with pytest.raises(ConfigError, match="never overwritten"):
        new_key(tmp_path / "new.pem")
    with pytest.raises(ConfigError, match="must be a list"):
        pefttools.verify(artifact, signed_by="")
    with pytest.raises(ConfigError, match="not a private key"):
        sign(artifact, public)
    with pytest.raises(ConfigError, match="not a public key"):
        pefttools.verify(artifact, signed_by=[private])
    with pytest.raises(ConfigError, match="can't be read"):
        sign(artifact, tmp_path / "nothing.pem")


def test_from_the_command_line(artifact: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    app = build_app()
    key = tmp_path / "key.pem"
    assert f"{key}.pub" in run(app, ["signing-key", str(key)]).output
    assert SIGNATURE in run(app, ["sign", str(artifact), "--key", str(key)]).output
    told = run(app, ["verify", str(artifact), "--signed-by", f"{key}.pub"])
    assert told.exit_code == 0 and "signed by a trusted key" in told.output
