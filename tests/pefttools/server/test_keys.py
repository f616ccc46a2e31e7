"""API keys: taken back without a restart, expired, doubled; and who may see figures and documentation."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pefttools.errors import ConfigError
from pefttools.server.keys import Keys, UnauthorizedError, digest

from .conftest import Server

Serve = Callable[..., Server]
Artifacts = Callable[[int], Path]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pefttools.server.keys._LOOK", 0.0)


def _write(file: Path, *entries: dict[str, Any]) -> Path:
    new = file.with_suffix(".new")
    new.write_text(json.dumps(list(entries)))  # JSON is YAML
    return new.replace(file)


def _entry(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "sha256": digest(f"key of {name}"), "adapters": ["*"], **more}


def test_a_key_that_is_taken_out_is_refused_from_then_on(
    serve: Serve, tiny_bert: str, classifiers: Artifacts, tmp_path: Path
) -> None:
    file = _write(tmp_path / "keys.yaml", _entry("acme"), _entry("globex"))
    server = serve(tiny_bert, {"acme": [classifiers(1)]}, keys=file)

    def status(name: str) -> int:
        headers = {"authorization": f"Bearer key of {name}"}
        return server.http.get("/v1/models", headers=headers).status_code

    assert (status("acme"), status("globex"), status("new")) == (200, 200, 401)
    _write(file, _entry("globex"), _entry("new"))
    assert (status("acme"), status("globex"), status("new")) == (401, 200, 200)
    # What can't be read changes nothing: neither locked out nor let in.
    file.write_text("- {id: ")
    assert (status("acme"), status("globex")) == (401, 200)
    file.unlink()
    assert (status("acme"), status("globex")) == (401, 200)
    _write(file)
    assert (status("acme"), status("globex")) == (401, 401)


def test_a_file_that_is_edited_in_place_with_its_time_kept_is_read_again(tmp_path: Path) -> None:
    file = _write(tmp_path / "keys.yaml", _entry("acme"))
    keys, before = Keys(file), file.stat()
    file.write_text(file.read_text().replace(digest("key of acme"), digest("key of else")))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UnauthorizedError):
        keys.caller("Bearer key of acme")
    assert keys.caller("Bearer key of else").id == "acme"


def test_keys_expire(tmp_path: Path) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    past = datetime.now(UTC) - timedelta(seconds=1)
    times = {"valid": soon.isoformat(), "over": past.isoformat(), "day": "2020-01-01",
             "without-zone": past.replace(tzinfo=None).isoformat()}  # fmt: skip
    file = _write(tmp_path / "keys.yaml", *(_entry(name, expires=time) for name, time in times.items()))
    keys = Keys(file)
    assert keys.caller("Bearer key of valid").id == "valid"
    for name in ("over", "without-zone", "day"):
        with pytest.raises(UnauthorizedError, match="has expired"):
            keys.caller(f"Bearer key of {name}")


def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two entries with the id 'acme'"):
        Keys(_write(tmp_path / "a.yaml", _entry("acme"), _entry("acme", sha256="0" * 64)))
    with pytest.raises(ConfigError, match="two entries with the sha256"):
        Keys(_write(tmp_path / "b.yaml", _entry("acme"), {**_entry("acme"), "id": "other"}))


@pytest.mark.parametrize(("who", "statuses"), [
    ("open", (200, 200, 200)), ("managers", (401, 403, 200)), ("off", (403, 403, 403)),
])  # fmt: skip
def test_figures_and_documentation_can_be_closed(
    who: str, statuses: tuple[int, ...], serve: Serve, tiny_bert: str, classifiers: Artifacts, tmp_path: Path
) -> None:
    file = _write(tmp_path / "keys.yaml", _entry("acme"), _entry("admin", manage=["*"]))
    server = serve(tiny_bert, {"acme": [classifiers(1)]}, keys=file, metrics=who, docs=who == "open")
    keys = [{}, *({"authorization": f"Bearer key of {name}"} for name in ("acme", "admin"))]
    found = [server.http.get("/metrics", headers=headers).status_code for headers in keys]
    assert tuple(found) == statuses
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert server.http.get(path).status_code == (200 if who == "open" else 404)
