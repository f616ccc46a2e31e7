"""The evaluation harness: methods compared with full fine-tuning, on accuracy and memory."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .choosing.choice import choose as choose
    from .comparison import bench as bench
    from .continual_learning.run import continual as continual
    from .curves.run import curve as curve
    from .labelling.person import label as label
    from .labelling.simulate import simulate as simulate
    from .probing.run import probe as probe
    from .records import RunRecord as RunRecord
    from .reporting import write_report as report

# No module may have one of these names: importing it would shadow the function.
_HOMES = {
    "bench": (".comparison", "bench"),
    "choose": (".choosing.choice", "choose"),
    "curve": (".curves.run", "curve"),
    "continual": (".continual_learning.run", "continual"),
    "label": (".labelling.person", "label"),
    "probe": (".probing.run", "probe"),
    "report": (".reporting", "write_report"),
    "RunRecord": (".records", "RunRecord"),
    "simulate": (".labelling.simulate", "simulate"),
}

__all__ = ["RunRecord", "bench", "choose", "continual", "curve", "label", "probe", "report", "simulate"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pefttools.eval' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module, __name__), attribute)
