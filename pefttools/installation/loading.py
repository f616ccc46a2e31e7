"""Whether what is installed can be loaded: libraries, devices and plugins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pefttools.installation.finding import Finding, Status, size

#: importing may take long from a slow disk; longer than this is a hang
_SECONDS = 300
#: what training and prediction import, the libraries before what is built on them
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "safetensors", "tokenizers", "pefttools.api")
_OURS = "pefttools"
_DEVICES = "devices "
_REINSTALL = "Reinstall the package that the error is about."


def loads() -> Iterator[Finding]:
    """Libraries, devices and plugins, each loaded in another process."""
    points = _plugins()
    steps = [f"load {name}" for name in LIBRARIES] + [_DEVICES]
    plugins = [f"plugin {point.group} {point.name}" for point in points]
    found = _run([*steps, *plugins])
    yield from _libraries(found)
    yield from _devices(found[_DEVICES])
    yield from _of_plugins({point: found[step] for point, step in zip(points, plugins, strict=True)})


def _plugins() -> list[EntryPoint]:
    """All plugins of pefttools' groups, each once."""
    groups = sorted(one for one in entry_points().groups if one.startswith(f"{_OURS}.") and one != f"{_OURS}.defaults")
    # One distribution may be seen twice: an editable installation next to its own metadata.
    each = {(point.group, point.name): point for group in groups for point in entry_points(group=group)}
    return list(each.values())


def _libraries(found: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    working = []
    for name in LIBRARIES:
        error = found[f"load {name}"].get("error")
        if error is None:
            working.append(name)
        elif error != _not_there(name):  # the packages say that already
            yield Finding("imports", name, "problem", error, _REINSTALL, {"error": error})
    if working:
        yield Finding("imports", "libraries", "ok", f"{', '.join(working)} can be imported")


def _not_there(module: str) -> str:
    """The error of a module that is not installed."""
    return f"ModuleNotFoundError: No module named {module!r}"


def _devices(answer: dict[str, Any]) -> Iterator[Finding]:
    if answer.get("error", _not_there("torch")) != _not_there("torch"):
        yield Finding("devices", "torch", "problem", answer["error"], "Reinstall torch.")
    for one in answer.get("found", ()):
        text = one["title"]
        if "total_bytes" in one:
            text += f", {size(one['free_bytes'])} free of {size(one['total_bytes'])}"
        hint = None
        if one["name"] == "cpu" and "note" in one:
            text += f"; {one['note']}"
            hint = "If there is a GPU, check that nvidia-smi works and that its driver is recent enough."
        if "error" in one:
            text += f": {one['error']}"
            hint = "Install the build of torch for this GPU and driver, or hide the GPU: CUDA_VISIBLE_DEVICES=''."
        status: Status = "problem" if "error" in one else "note" if "note" in one else "ok"
        yield Finding("devices", one["name"], status, text, hint, one)


def _of_plugins(found: dict[EntryPoint, dict[str, Any]]) -> Iterator[Finding]:
    """A line per distribution, and one per plugin that can't be loaded."""
    working: dict[str, list[EntryPoint]] = {}
    # A missing library breaks many plugins in the same way: that is one line.
    broken: dict[tuple[str, str], list[EntryPoint]] = {}
    for point, answer in found.items():
        owner = point.dist.name if point.dist else "an unknown distribution"
        if (error := answer.get("error")) is None:
            working.setdefault(owner, []).append(point)
        else:
            broken.setdefault((owner, error), []).append(point)
    for (owner, error), points in sorted(broken.items()):
        yield _broken(owner, error, points)
    for owner, points in sorted(working.items()):
        dist = points[0].dist
        names = {group: [one.name for one in points if one.group == group] for group in {one.group for one in points}}
        text = ", ".join(
            f"{len(each)} {group.removeprefix(f'{_OURS}.')}" if owner == _OURS
            else f"{group.removeprefix(f'{_OURS}.')} {', '.join(each)}"
            for group, each in sorted(names.items())
        )  # fmt: skip
        version = dist.version if dist else ""
        yield Finding("plugins", owner, "ok", text, data={"version": version, "plugins": names})


def _broken(owner: str, error: str, points: Sequence[EntryPoint]) -> Finding:
    """Plugins of one distribution that one error keeps from being loaded."""
    point, others = points[0], len(points) - 1
    kind = point.group.removeprefix(f"{_OURS}.")
    what = f"the entry point {point.name} = {point.value} of {kind}"
    what += f" and {others} more can't be loaded" if others else " can't be loaded"
    data = {"error": error, "plugins": [{"group": one.group, "name": one.name, "target": one.value} for one in points]}
    # One of ours takes part in what everyone does; without another's everything else works.
    status: Status = "problem" if owner == _OURS else "note"
    hint = _REINSTALL if owner == _OURS else f"Reinstall or remove {owner}."
    return Finding("plugins", owner, status, f"{what}: {error}", hint, data)


def _run(steps: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What became of each step; one that ends its process is named, and the others go on in a new one."""
    found: dict[str, dict[str, Any]] = {}
    left = list(steps)
    while left:
        lines, ending = _child(left)
        done = [one for one in lines if "step" in one]
        found |= {one["step"]: one for one in done}
        left = [one for one in left if one not in found]
        if left:
            found[left[0]] = {"error": ending}
            left = left[1:]
    return found


def _child(steps: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    """The lines of one process, and how it ended."""
    # -P: what lies in the current folder must not be imported in place of what is installed. The child sees what this
    # process sees.
    command = [sys.executable, "-P", "-m", "pefttools.installation.child", *steps]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=_SECONDS, errors="replace"
        )
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
        return _parsed(output.decode(errors="replace") if isinstance(output, bytes) else output), (
            f"still not loaded after {_SECONDS} s"
        )
    if done.returncode < 0:
        return _parsed(done.stdout), f"ended its process with {signal.Signals(-done.returncode).name}"
    last = done.stderr.strip().rpartition("\n")[2]
    return _parsed(done.stdout), f"ended its process with exit code {done.returncode}" + (f": {last}" if last else "")


def _parsed(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{") and line.endswith("}")]
