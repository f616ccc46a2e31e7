"""How certain a comparison of methods can be: intervals, tests and verdicts from per-row numbers of several seeds.

A method's models are trained with several seeds and tested on the same rows, so rows and seeds are crossed. A mean over
both varies with the rows and with the seeds that were drawn: `models` separates the two, `intervals` and
`comparison` combine them, `multiple` corrects for several comparisons in one report.
"""

from .comparison import ALPHA, Comparison, Verdict, compare, compare_all
from .intervals import LEVEL, Interval, seeds_interval, share_interval, value_interval
from .models import Common, Models, common_variance
from .multiple import holm

__all__ = [
    "ALPHA",
    "LEVEL",
    "Common",
    "Comparison",
    "Interval",
    "Models",
    "Verdict",
    "common_variance",
    "compare",
    "compare_all",
    "holm",
    "seeds_interval",
    "share_interval",
    "value_interval",
]
