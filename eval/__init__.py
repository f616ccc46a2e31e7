"""The evaluation harness: methods against full fine-tuning, on accuracy and memory."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bench import bench as bench
    from .records import RunRecord as RunRecord
    from .report import write_report as report  # noqa: F401

_HOMES = {
    "bench": ("pefttools.eval.bench", "bench"),
    "report": ("pefttools.eval.report", "write_report"),
    "RunRecord": ("pefttools.eval.records", "RunRecord"),
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pefttools.eval' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    # "report" is also the name of the folder with the report's code; the function must win wherever it was asked for.
    return getattr(importlib.import_module(module), attribute)
