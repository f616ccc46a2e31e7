"""Everything that only a GPU can show, in one run of under eight minutes.

    python benchmarks/gpu.py --plan h100           # on any machine, beforehand: what the planner expects
    python benchmarks/gpu.py                       # on a machine with a GPU
    python benchmarks/gpu.py --dry-run             # on the CPU: all of it, at small sizes
    python benchmarks/gpu.py --checks steps,pools --jobs 4 --cases 'int8|nf4'

Each check is a file of benchmarks/card/ and runs in its own process, so that a GPU fault in one does not affect the
others. Each case is a row, written as soon as it is known to benchmarks/results/gpu-NAME-OF-THE-CARD.jsonl: what it
found, whether it is as it should be, or the error. Checks that measure no time may run concurrently (--jobs). A check
for which there is not enough time left is named as left out. The last lines say how many rows are as they should be.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Check:
    """A file of checks.

    Attributes:
        name: of the module.
        seconds: what it is expected to take on a card.
        alone: it measures time.
    """

    name: str
    seconds: int
    alone: bool = False


#: from small to large
CHECKS = [
    Check("steps", 60), Check("lifecycle", 60), Check("pools", 60), Check("generation", 60), Check("exhaustion", 20),
    Check("options", 40), Check("planner", 50), Check("waiting", 30), Check("loading", 50),
    Check("modalities", 90), Check("speed", 120, True), Check("packing", 60, True), Check("compiled", 60, True),
]  # fmt: skip


def run_check(name: str, rows: Path, dry: bool, cases: str) -> None:
    """The cases of a check whose titles match, in this process."""
    import torch
    from card.setting import Setting

    from pefttools.logs import quiet_libraries

    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(torch.device("cpu" if dry else "cuda"), Path(folder), small=dry)
        for title, run in importlib.import_module(f"card.{name}").cases(setting):
            if not re.search(cases, title):
                continue
            start = time.monotonic()
            try:
                found: dict[str, Any] = run()
            except Exception as error:  # the next case may still say something
                last = traceback.extract_tb(error.__traceback__)[-6:]
                found = {
                    "ok": False,
                    "error": f"{type(error).__name__}: {error}"[:1500],
                    "at": [f"{'/'.join(one.filename.split('/')[-2:])}:{one.lineno}" for one in last],
                }
            try:
                setting.clean()
            except Exception as error:  # a card that has failed once fails from then on
                write(rows, {"check": name, "case": title, **found, "ok": False, "card": str(error).splitlines()[0]})
                raise
            write(rows, {"check": name, "case": title, **found, "seconds": round(time.monotonic() - start, 2)})


def write(rows: Path, row: dict[str, Any]) -> None:
    """One line, at once."""
    line = json.dumps(row)
    with rows.open("a", encoding="utf-8") as stream:
        stream.write(f"{line}\n")
    print(line if len(line) < 600 else f"{line[:600]}...", flush=True)


def run_apart(check: Check, rows: Path, options: argparse.Namespace, seconds: float) -> None:
    """A check in its own process, which is ended if it takes too long."""
    command = [sys.executable, __file__, "--run", check.name, "--rows", str(rows), "--cases", options.cases,
               *(["--dry-run"] if options.dry_run else [])]  # fmt: skip
    try:
        done = subprocess.run(command, timeout=seconds, check=False, stderr=subprocess.PIPE, text=True)
    except subprocess.TimeoutExpired:
        write(rows, {"check": check.name, "case": "all", "ok": False, "error": f"ended after {seconds:.0f} s"})
        return
    if done.returncode:
        write(rows, {"check": check.name, "case": "all", "ok": False, "error": done.stderr.strip()[-1500:]})


def run_all(checks: list[Check], rows: Path, options: argparse.Namespace) -> None:
    """Every check for which there is enough time."""
    end = time.monotonic() + 60 * options.minutes
    waiting = [check for check in checks if not check.alone]
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not waiting:
                    return
                check = waiting.pop(0)
            start(check)

    def start(check: Check) -> None:
        left = end - time.monotonic()
        if left < 15:
            write(rows, {"check": check.name, "case": "all", "ok": False, "error": "left out: no time"})
        else:
            run_apart(check, rows, options, left)

    threads = [threading.Thread(target=work) for _ in range(options.jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for check in checks:
        if check.alone:
            start(check)


def summary(rows: Path) -> str:
    """The number of rows, and those that are not as they should be."""
    found = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    bad = [row for row in found if row.get("ok") is False]
    lines = [f"{row['check']}: {row['case']}: {row.get('error') or 'out of bounds'}"[:300] for row in bad]
    return "\n".join([*lines, f"{len(found)} rows, {len(found) - len(bad)} as they should be: {rows}"])


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="file for the rows; default: in benchmarks/results/")
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit for everything")
    parser.add_argument("--jobs", type=int, default=1, help="concurrent checks, as far as they measure no time")
    parser.add_argument("--checks", help="comma-separated names; default: all")
    parser.add_argument("--cases", default="", help="only cases whose titles match this regular expression")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, at small sizes")
    parser.add_argument("--plan", metavar="GPU", help="only write what the planner expects on a GPU (h100, ...)")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run_check(options.run, options.rows, options.dry_run, options.cases)
        return
    import torch

    if options.plan:
        from card import modalities, planner
        from card.setting import Setting

        with tempfile.TemporaryDirectory() as folder:
            setting = Setting(torch.device("cpu"), Path(folder))
            planner.write_plans(setting, options.plan)
            modalities.write_plans(setting, options.plan)
        return
    if not options.dry_run and not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py needs a CUDA device, and torch finds none here. --dry-run goes through it anyway.")
    name = "dry-run" if options.dry_run else torch.cuda.get_device_name(0).lower().replace(" ", "-")
    rows = options.output or HERE / "results" / f"gpu-{name}.jsonl"
    rows.parent.mkdir(exist_ok=True)
    rows.unlink(missing_ok=True)
    wanted = options.checks.split(",") if options.checks else [check.name for check in CHECKS]
    checks = [check for check in CHECKS if check.name in wanted]
    together = sum(check.seconds for check in checks if not check.alone) / options.jobs
    print(f"about {together + sum(check.seconds for check in checks if check.alone):.0f} s on a GPU", flush=True)
    write(rows, {"check": "machine", "case": name, "torch": torch.__version__, "cuda": torch.version.cuda})
    run_all(checks, rows, options)
    print(summary(rows))


if __name__ == "__main__":
    main()
