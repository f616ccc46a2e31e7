"""The first hour of a new user: the seconds of each command in the README.md of a starter.

    python benchmarks/first_hour.py
    python benchmarks/first_hour.py --kind tags --json

Runs `pefttools doctor` and `pefttools new` in a fresh folder with the installed package, then every command of the
README.md that was written, as it stands, each in a shell; only the server's port is a free one. "serve" is the time
until the server is ready; it answers on this machine only, and is ended afterwards. CPU seconds are of all processes of
a command.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

Step = dict[str, str | float]


def steps(folder: Path, port: int) -> list[str]:
    """The commands of a starter's README.md."""
    blocks = re.findall(r"```sh\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return [line.replace("8000", str(port)) for block in blocks for line in block.splitlines()]


def run(line: str, folder: Path, environment: dict[str, str]) -> Step:
    """Run one command to its end."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{line}: exit code {done.returncode}\n{done.stderr or done.stdout}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"command": line, "seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "printed": done.stdout[-300:]}


def serve(line: str, folder: Path, environment: dict[str, str], port: int) -> tuple[subprocess.Popen[bytes], Step]:
    """Start the server and wait until it is ready."""
    start = time.perf_counter()
    server = subprocess.Popen(["bash", "-c", f"exec {line}"], cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    # not through a proxy, whatever the environment says
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        if server.poll() is not None or time.perf_counter() - start > 300:
            server.kill()
            raise SystemExit(f"{line}: the server did not get ready")
        try:
            opener.open(f"http://127.0.0.1:{port}/ready", timeout=5)
            break
        except OSError:
            time.sleep(0.05)
    return server, {"command": line, "seconds": round(time.perf_counter() - start, 2), "printed": ""}


def walk(kind: str, folder: Path) -> Iterator[Step]:
    """All steps, one after the other."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", "NO_PROXY": "localhost"}
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    yield run("pefttools doctor", folder, environment)
    yield run(f"pefttools new {kind} mine", folder, environment)
    server = None
    try:
        for line in steps(folder / "mine", port):
            if line.startswith("pefttools serve"):
                server, step = serve(line, folder / "mine", environment, port)
                yield step
            else:
                yield run(line, folder / "mine", environment)
    finally:
        if server is not None:
            server.terminate()
            server.wait(60)


def main() -> None:
    """Walk and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", default="classify", help="name of a starter; see `pefttools new --help`")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    if shutil.which("bash") is None or shutil.which("curl") is None:
        raise SystemExit("bash and curl are needed")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for step in walk(given.kind, Path(folder)):
            found.append(step)
            if not given.json:
                cpu = f"{step['cpu_seconds']:8}" if "cpu_seconds" in step else 8 * " "
                print(f"{step['seconds']:8} s {cpu} s CPU  {str(step['command'])[:90]}", flush=True)
    if given.json:
        print(json.dumps(found, indent=2))
    else:
        last = str(found[-1]["printed"])
        print(f"{sum(float(step['seconds']) for step in found):8.1f} s in all; the last answer: {last}")


if __name__ == "__main__":
    main()
