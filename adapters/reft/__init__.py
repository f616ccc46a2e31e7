"""Representation fine-tuning: the states between blocks are edited within a small subspace."""

from .method import Reft, ReftOptions

__all__ = ["Reft", "ReftOptions"]
