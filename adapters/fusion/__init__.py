"""AdapterFusion: a trained combination of saved bottleneck adapters."""

from .config import FusedAdapter, FusionOptions
from .method import AdapterFusion

__all__ = ["AdapterFusion", "FusedAdapter", "FusionOptions"]
