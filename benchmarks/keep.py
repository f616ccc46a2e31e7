"""Keep comparisons: their records and what each row contributes to the score, small enough for a repository.

    python benchmarks/keep.py runs/banking77-methods
    python benchmarks/keep.py                           # only updates the evidence

Comparisons are stored in `benchmarks/results`. Then the evidence for `pefttools choose` is collected from everything
there into `eval/choosing/evidence.json`.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from pefttools.eval.choosing.evidence import read_comparison, write_evidence
from pefttools.eval.records import RECORD, RUNS, SUMMARY

RESULTS = Path(__file__).parent / "results"
#: files of a run
_KEPT = (RECORD, "row_values.npz")


def keep(folder: Path) -> Path:
    """Copy the files to keep from a comparison's output folder."""
    target = RESULTS / folder.name
    target.mkdir(parents=True, exist_ok=True)
    if folder.resolve() != target.resolve():
        shutil.copy2(folder / SUMMARY, target / SUMMARY)
        for run in sorted((folder / RUNS).iterdir()):
            if not (run / RECORD).is_file():
                continue
            (target / RUNS / run.name).mkdir(parents=True, exist_ok=True)
            for name in _KEPT:
                if (run / name).is_file():
                    shutil.copy2(run / name, target / RUNS / run.name / name)
    return target


def main() -> None:
    """Keep the named comparisons, and update the evidence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", nargs="*", type=Path, help="output folders of `pefttools bench`")
    for folder in parser.parse_args().comparisons:
        print(keep(folder))
    kept = [summary.parent for summary in sorted(RESULTS.glob(f"*/{SUMMARY}"))]
    # One method alone is compared with nothing.
    found = [methods for folder in kept if len(methods := read_comparison(folder)) > 1]
    write_evidence([one for methods in found for one in methods])
    print(f"{sum(map(len, found))} methods of {len(found)} comparisons")


if __name__ == "__main__":
    main()
