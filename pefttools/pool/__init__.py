"""Many adapters on one base model, mixed in one batch."""

from .pool import AdapterPool, Answer

__all__ = ["AdapterPool", "Answer"]
