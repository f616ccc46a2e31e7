"""Push to and pull from a hub: the real client against a small hub of the test's own, on loopback."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

import pefttools
from pefttools.store import Store

PROGRAM = "import sys; from pefttools.cli.main import run; sys.argv[0] = 'pefttools'; run()"


class Hub:
    """Repositories in memory, by name: file -> content."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.app = FastAPI()
        self.url = ""
        self._routes()

    def commit(self, repo: str) -> str:
        """A digest that names the content."""
        return hashlib.sha1(repr(sorted(self.repos[repo].items())).encode()).hexdigest()

    def _routes(self) -> None:
        @self.app.post("/api/repos/create")
        async def create(request: Request) -> dict[str, str]:
            asked = await request.json()
            repo = f"{asked['organization']}/{asked['name']}"
            self.repos.setdefault(repo, {})
            self.private.setdefault(repo, bool(asked.get("private")) or asked.get("visibility") == "private")
            return {"url": f"{self.url}/{repo}", "id": repo, "name": repo}

        @self.app.post("/api/validate-yaml")
        async def card() -> dict[str, list[str]]:
            return {"errors": [], "warnings": []}

        @self.app.post("/api/models/{org}/{name}/preupload/{rev}")
        async def preupload(request: Request) -> dict[str, object]:
            asked = await request.json()
            return {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                              for f in asked["files"]]}  # fmt: skip

        @self.app.post("/api/models/{org}/{name}/commit/{rev}")
        async def commit(org: str, name: str, request: Request) -> dict[str, object]:
            files = self.repos[f"{org}/{name}"]
            for line in (await request.body()).splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                elif entry["key"] == "deletedFile":
                    del files[entry["value"]["path"]]
            digest = self.commit(f"{org}/{name}")
            return {"success": True, "commitOid": digest, "commitUrl": f"{self.url}/{org}/{name}/commit/{digest}",
                    "hookOutput": ""}  # fmt: skip

        @self.app.get("/api/models/{org}/{name}/tree/{rev}")
        async def tree(org: str, name: str) -> Response:
            files = self.repos.get(f"{org}/{name}")
            if files is None:
                return _missing()
            return JSONResponse(
                [{"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                 for path, content in files.items()]
            )  # fmt: skip

        @self.app.get("/api/models/{org}/{name}")
        @self.app.get("/api/models/{org}/{name}/revision/{rev}")
        async def info(org: str, name: str) -> Response:
            repo = f"{org}/{name}"
            if repo not in self.repos:
                return _missing()
            siblings = [{"rfilename": path} for path in self.repos[repo]]
            return JSONResponse({"id": repo, "sha": self.commit(repo), "siblings": siblings, "private": False})

        @self.app.api_route("/{org}/{name}/resolve/{rev}/{path:path}", methods=["GET", "HEAD"])
        async def resolve(org: str, name: str, path: str, request: Request) -> Response:
            content = self.repos[f"{org}/{name}"][path]
            headers = {"x-repo-commit": self.commit(f"{org}/{name}"), "etag": f'"{hashlib.sha1(content).hexdigest()}"'}
            if request.method == "HEAD":
                return Response(headers={**headers, "content-length": str(len(content))})
            return Response(content, headers=headers)


def _missing() -> Response:
    return JSONResponse({"error": "Repository not found"}, 404, {"x-error-code": "RepoNotFound"})


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A running hub."""
    own = Hub()
    server = uvicorn.Server(uvicorn.Config(own.app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    own.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield own
    server.should_exit = True
    thread.join()


def _run(hub: Hub, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_test",
                   "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, "store", *arguments, "--store", str(tmp_path / "store")],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip


def test_push_and_pull(hub: Hub, tiny_bert: str, tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    pefttools.save(
        pefttools.wrap(tiny_bert, "lora", task={"name": "sequence-classification", "head": "mean"}, labels=["a", "b"]),
        artifact,
    )
    Store(tmp_path / "store").add(artifact, "acme", tag="prod")
    pushed = _run(hub, tmp_path, "push", "acme@prod", "hub:org/acme")
    assert pushed.returncode == 0, pushed.stderr
    assert "/org/acme/commit/" in pushed.stdout
    assert hub.private == {"org/acme": True}
    assert {path: content for path, content in hub.repos["org/acme"].items() if not path.startswith(".git")} == {
        path.name: path.read_bytes() for path in artifact.iterdir()
    }
    pulled = _run(hub, tmp_path, "pull", "hub:org/acme", "--name", "copy")
    assert pulled.returncode == 0, pulled.stderr
    assert pulled.stdout.strip() == "copy@1"
    assert pefttools.verify(Store(tmp_path / "store").get("copy"), check_base=False).method.name == "lora"


@pytest.mark.slow
def test_push_without_a_store(hub: Hub, tiny_bert: str, tmp_path: Path) -> None:
    """The function and the command, in one process: importing the libraries takes longest."""
    program = """
import sys, typer.testing, pefttools
from pathlib import Path
from pefttools.cli.main import build_app
base, folder = sys.argv[1:]
task = {"name": "sequence-classification", "head": "mean"}
model = pefttools.wrap(base, "lora", task=task, labels=["a", "b"])
print(pefttools.push_to_hub(model, "org/model"))
pefttools.save(model, folder)
print(pefttools.push_to_hub(folder, "hub:org/folder", private=False))
done = typer.testing.CliRunner().invoke(build_app(), ["push-to-hub", folder, "org/command", "--public"])
print(done.stdout)
Path(folder, "README.md").write_text("changed")
try:
    pefttools.push_to_hub(folder, "org/damaged")
except pefttools.PeftToolsError as error:
    print(error)
"""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_test",
                   "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", program, tiny_bert, str(tmp_path / "artifact")],
        capture_output=True, text=True, env=environment, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in ("model", "folder", "command"):
        assert f"/org/{name}/commit/" in done.stdout
    assert hub.private == {"org/model": True, "org/folder": False, "org/command": False}
    assert "README.md has" in done.stdout and "org/damaged" not in hub.repos
    for name in ("folder", "command"):
        assert (
            hub.repos[f"org/{name}"]["adapter_model.safetensors"]
            == (tmp_path / "artifact" / "adapter_model.safetensors").read_bytes()
        )


def test_what_comes_is_verified(hub: Hub, tiny_bert: str, tmp_path: Path) -> None:
    test_push_and_pull(hub, tiny_bert, tmp_path)
    files = hub.repos["org/acme"]
    files["head.safetensors"] = files["head.safetensors"][:-1] + b"\x7f"
    bad = _run(hub, tmp_path, "pull", "hub:org/acme", "--name", "bad")
    assert bad.returncode == 2
    assert "head.safetensors" in bad.stderr
    assert Store(tmp_path / "store").names() == ["acme", "copy"]


def test_errors_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    missing = _run(hub, tmp_path, "pull", "hub:org/nothing")
    assert missing.returncode == 1
    assert "the hub has no repository 'org/nothing'" in " ".join(missing.stderr.replace("│", " ").split())
    wrong = _run(hub, tmp_path, "pull", "org/nothing")
    assert wrong.returncode == 2
    assert "hub:ORG/NAME" in wrong.stderr
    hub.url = "http://127.0.0.1:9"
    away = _run(hub, tmp_path, "pull", "hub:org/nothing")
    assert away.returncode == 1
    assert "the hub request failed" in " ".join(away.stderr.replace("│", " ").split())
