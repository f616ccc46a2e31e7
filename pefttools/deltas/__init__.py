"""What every adapter consists of, whatever its method: delta kinds, each at a site of the base model."""

from .adapter import KINDS, AdapterDeltas, SiteDelta
from .bias import Bias
from .bottleneck import Bottleneck, NormBottleneck
from .dense import Dense
from .fusion import FusedBottlenecks, NormFusedBottlenecks
from .kind import DeltaKind
from .low_rank import LowRank
from .replace import Replace
from .rotations import PairRotation, Rotation
from .rows import EmbeddingRows
from .scales import InputScale, OutputScale, WeightScale
from .shared_bases import SharedBases
from .shared_low_rank import SharedLowRank
from .sparse import Sparse, Spectrum
from .structured import Circulant, Kronecker
from .virtual import Prefix, Prompt, VirtualTokens
from .wavelets import Wavelets

__all__ = [
    "KINDS",
    "AdapterDeltas",
    "Bias",
    "Bottleneck",
    "Circulant",
    "DeltaKind",
    "Dense",
    "EmbeddingRows",
    "FusedBottlenecks",
    "InputScale",
    "Kronecker",
    "LowRank",
    "NormBottleneck",
    "NormFusedBottlenecks",
    "OutputScale",
    "PairRotation",
    "Prefix",
    "Prompt",
    "Replace",
    "Rotation",
    "SharedBases",
    "SharedLowRank",
    "SiteDelta",
    "Sparse",
    "Spectrum",
    "VirtualTokens",
    "Wavelets",
    "WeightScale",
]
