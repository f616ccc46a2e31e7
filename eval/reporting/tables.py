"""The report as CSV and JSON: plain numbers for other programs."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from pefttools.files import canonical_json

from .data import ReportData, ResultRow
from .findings import findings
from .formatting import learning_rates, reason
from .trials import in_one_line


def flat(row: ResultRow, metric: str) -> dict[str, Any]:
    """One row of the table as names and plain values."""
    memory, against, artifact = row.memory, row.against, row.first.artifact
    predicted = memory.predicted if memory else None
    return {
        "label": row.label,
        **({} if row.plain is None else {"plain": row.plain}),
        "variant": row.variant,
        "method": row.method,
        "seeds": len(row.done),
        "runs": len(row.runs),
        "planned_runs": row.planned,
        "status": row.first.status,
        metric: row.score,
        "interval_low": row.interval.low if row.interval else None,
        "interval_high": row.interval.high if row.interval else None,
        "interval_over": row.interval_kind or None,
        "difference": against.difference if against else None,
        "difference_low": against.interval.low if against else None,
        "difference_high": against.interval.high if against else None,
        "p": against.p if against else None,
        "p_equal": against.p_equal if against else None,
        "seed_deviation": row.deviation,
        "verdict": row.verdict,
        "did_not_learn": "; ".join(f"seed {r.seed}: {r.did_not_learn}" for r in row.done if r.did_not_learn) or None,
        "trained_parameters": row.trained,
        "trained_share": row.share_trained,
        "training_peak_bytes": memory.training.peak if memory else None,
        "training_weights_bytes": memory.training.weights if memory else None,
        "training_gradients_bytes": memory.training.gradients if memory else None,
        "training_optimizer_bytes": memory.training.optimizer if memory else None,
        "training_other_bytes": memory.training.other if memory else None,
        **{
            f"training_{part}_most_bytes": getattr(memory.training_most, part)
            if memory and memory.training_most
            else None
            for part in ("weights", "gradients", "optimizer", "other")
        },
        "unquantized_bytes": memory.unquantized if memory else None,
        "evaluation_peak_bytes": memory.evaluation.peak if memory else None,
        "predicted_training_peak_bytes": predicted.training_peak if predicted else None,
        "predicted_gpu_training_peak_bytes": predicted.gpu_training_peak if predicted else None,
        "peak_rss_bytes": memory.peak_rss if memory else None,
        "memory_source": memory.source if memory else None,
        "artifact_bytes": artifact.bytes if artifact else None,
        "artifact_share_of_base": artifact.share_of_base if artifact else None,
        "storage": artifact.storage if artifact else None,
        "train_seconds": row.mean(lambda run: run.seconds.get("train")),
        "train_cpu_seconds": row.mean(lambda run: run.seconds.get("train_cpu")),
        "busy_share": row.mean(lambda run: run.busy_share),
        "samples_per_second": row.mean(lambda run: run.samples_per_second),
        "tokens_per_second": row.mean(lambda run: run.tokens_per_second),
        # one number if all seeds used the same
        "learning_rate": row.learning_rates[0] if len(row.learning_rates) == 1 else None,
        "learning_rates": learning_rates(row),
        "trials": "; ".join(f"seed {r.seed}: {in_one_line(r)}" for r in row.runs if len(r.trials) > 1) or None,
        "pareto_memory": row.pareto_memory,
        "pareto_parameters": row.pareto_parameters,
        "error": "; ".join(f"seed {run.seed}: {run.status}, {reason(run)}" for run in row.lost) or None,
        **{f"metric_{name}": value for name, value in row.metrics.items() if name != metric},
    }


def to_csv(data: ReportData) -> str:
    """One line per method and variant."""
    rows = [{**flat(row, data.metric), **_under(data, row)} for row in data.rows]
    names = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return stream.getvalue()


def _under(data: ReportData, row: ResultRow) -> dict[str, Any]:
    """Score and difference of a row under each condition."""
    keys = (data.metric, "difference", "difference_low", "difference_high", "p", "verdict")
    found: dict[str, Any] = {}
    for under in data.robustness:
        own = next((flat(one, data.metric) for one in under.rows if one.name == row.name), dict.fromkeys(keys))
        found |= {f"{under.condition}: {key}": own[key] for key in keys}
    return found


def to_json(data: ReportData) -> str:
    """The table, the findings and all records."""
    content = {
        "title": data.title,
        "baseline": data.baseline,
        "metric": data.metric,
        "split": data.split,
        "measured_rows": data.measured_rows,
        "greater_is_better": data.records[0].greater_is_better,
        "seeds": data.seeds,
        "runs_done": len(data.records),
        "runs_planned": data.planned,
        "runs_missing": list(data.missing),
        "findings": findings(data),
        "rows": [flat(row, data.metric) for row in data.rows],
        "robustness": [
            {"condition": under.condition, "rows": [flat(row, data.metric) for row in under.rows]}
            for under in data.robustness
        ],
        "runs": [record.model_dump(mode="json") for record in data.records],
    }
    return canonical_json(_finite(content))


def _cell(value: Any) -> Any:
    """Text that a spreadsheet would interpret as a formula is marked as text."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _finite(value: Any) -> Any:
    """JSON has neither NaN nor infinity."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
