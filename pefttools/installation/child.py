"""A program that loads what is installed, step by step, and writes a line of JSON before and after each.

It runs as a process of its own: a library that was built for another processor or driver may end its process.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from importlib.metadata import entry_points
from typing import Any

from pefttools.installation.finding import shown

#: group of entry points -> the registry that checks its plugins
REGISTRIES = {
    "pefttools.importers": "pefttools.importers.importer:importers",
    "pefttools.methods": "pefttools.methods:methods",
    "pefttools.objectives": "pefttools.objectives:objectives",
    "pefttools.starters": "pefttools.tasks.starters:starters",
    "pefttools.tasks": "pefttools.tasks:tasks",
    "pefttools.variants": "pefttools.bases:variants",
}


def main() -> None:
    """Do the steps that the arguments name: ``KIND WHAT`` each."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # what libraries print must not get between the lines
    os.dup2(2, 1)

    def write(**found: Any) -> None:
        lines.write(json.dumps(found) + "\n")
        lines.flush()

    # As the command line does; if even that is broken, the steps say so.
    with contextlib.suppress(Exception):
        from pefttools.logs import quiet_libraries

        quiet_libraries()
    for step in sys.argv[1:]:
        write(begin=step)
        kind, _, what = step.partition(" ")
        try:
            found = _STEPS[kind](what)
        except Exception as error:
            write(step=step, error=shown(error))
        else:
            write(step=step, found=found)


def _load(module: str) -> None:
    importlib.import_module(module)


def _load_plugin(what: str) -> None:
    group, _, name = what.partition(" ")
    for point in entry_points(group=group, name=name):
        point.load()
    if group in REGISTRIES:
        module, _, attribute = REGISTRIES[group].partition(":")
        getattr(importlib.import_module(module), attribute).get(name)


def _devices(_: str) -> list[dict[str, Any]]:
    """Each device with its memory, and whether it multiplies."""
    import torch

    found: list[dict[str, Any]] = [{"name": "cpu", "title": f"{torch.get_num_threads()} threads"}]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        title = torch.cuda.get_device_name(index)
        try:
            free, total = torch.cuda.mem_get_info(index)
            found.append({"name": f"cuda:{index}", "title": title, "free_bytes": free, "total_bytes": total})
        except RuntimeError as error:
            found.append({"name": f"cuda:{index}", "title": title, "error": shown(error)})
    for one in found:
        try:
            # on a device whose kernels are not in this build of torch, only running one tells
            torch.ones(8, 8, device=one["name"]).mm(torch.ones(8, 8, device=one["name"])).sum().item()
        except RuntimeError as error:
            one["error"] = shown(error)
    if torch.version.cuda is not None and len(found) == 1:
        found[0]["note"] = f"torch is built for CUDA {torch.version.cuda}, and finds no GPU"
    return found


_STEPS = {"load": _load, "plugin": _load_plugin, "devices": _devices}


if __name__ == "__main__":
    main()
