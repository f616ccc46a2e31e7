"""Full fine-tuning compared with itself: how often is it called better or worse than itself with other seeds?

Trains a method with several seeds (`examples/banking77.yaml`, on fewer test rows) and compares all pairs of disjoint
groups of one, two and three seeds as a report would. A method does not differ from itself: each such call is false.

    python benchmarks/against_itself.py --seeds 6 --rows 600 --output runs/against-itself
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np

from pefttools.eval.comparison import bench
from pefttools.eval.records import RUNS, read_predictions
from pefttools.eval.spec import load_spec
from pefttools.eval.statistics import Models, compare
from pefttools.progress import default_reporter

SPEC = Path(__file__).parent.parent / "examples" / "banking77.yaml"


def main() -> None:
    """Train and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="full")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--output", type=Path, default=Path("runs/against-itself"))
    parser.add_argument("--json", action="store_true", help="print a JSON object at the end")
    arguments = parser.parse_args()
    spec = load_spec(SPEC).model_copy(
        update={"methods": [arguments.method], "baseline": arguments.method, "seeds": list(range(arguments.seeds)),
                "output": arguments.output}
    )  # fmt: skip
    spec = spec.model_copy(
        update={"data": spec.data.model_copy(update={"limit": {**spec.data.limit, "test": arguments.rows}})}
    )
    outcome = bench(spec, reporter=default_reporter())
    answers = {
        record.seed: [entry["correct"] for entry in read_predictions(outcome.folder / RUNS / record.id)]
        for record in outcome.records.values()
        if record.status == "ok"
    }
    scores = [100 * float(np.mean(answers[seed])) for seed in sorted(answers)]
    print(f"{arguments.method}: {', '.join(f'{score:.1f}' for score in scores)} %; between seeds "
          f"{np.std(scores, ddof=1):.2f} points")  # fmt: skip
    print("| seeds against others | pairs | called better or worse |")
    print("|---|---|---|")
    found = {}
    for size in range(1, arguments.seeds // 2 + 1):
        called = [_called(answers, one, other) for one, other in _pairs(sorted(answers), size)]
        found[size] = {"pairs": len(called), "called": sum(called)}
        print(f"| {size} | {len(called)} | {sum(called)} |")
    if arguments.json:
        print(json.dumps({"scores": scores, "groups": found}))


def _pairs(seeds: list[int], size: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """All pairs of groups that share no seed."""
    groups = list(itertools.combinations(seeds, size))
    return [(one, other) for one, other in itertools.combinations(groups, 2) if not set(one) & set(other)]


def _called(answers: dict[int, list[bool]], one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether a report would call the *method* of one of two groups better or worse."""
    left, right = (
        Models.of(np.array([answers[seed] for seed in group], dtype=float), (0.0, 1.0)) for group in (one, other)
    )
    verdict = compare({"one": left}, right, margin=0.01)[0]["one"]
    return verdict.about_methods and verdict.verdict in ("better", "worse")


if __name__ == "__main__":
    main()
