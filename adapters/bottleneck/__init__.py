"""Bottleneck adapters: small two-layer networks inside every block."""

from .config import BottleneckConfig
from .method import BottleneckAdapters

__all__ = ["BottleneckAdapters", "BottleneckConfig"]
