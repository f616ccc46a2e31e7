"""What every adapter comes down to, whatever its method: delta kinds, each at a site of the base model."""

from .adapter import KINDS, AdapterDeltas, SiteDelta
from .bias import Bias
from .bottleneck import Bottleneck, NormBottleneck
from .dense import Dense
from .kind import DeltaKind
from .low_rank import LowRank
from .replace import Replace
from .rows import EmbeddingRows
from .scales import InputScale, OutputScale, WeightScale
from .virtual import Prefix, Prompt, VirtualTokens

__all__ = [
    "KINDS",
    "AdapterDeltas",
    "Bias",
    "Bottleneck",
    "DeltaKind",
    "Dense",
    "EmbeddingRows",
    "InputScale",
    "LowRank",
    "NormBottleneck",
    "OutputScale",
    "Prefix",
    "Prompt",
    "Replace",
    "SiteDelta",
    "VirtualTokens",
    "WeightScale",
]
