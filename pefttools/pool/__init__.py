"""Many adapters on one base model, mixed in one batch."""

from .pool import AdapterPool
from .running import Answer

__all__ = ["AdapterPool", "Answer"]
