"""Bottleneck adapters: small two-layer networks inside every block."""

from .method import BottleneckAdapters, BottleneckConfig

__all__ = ["BottleneckAdapters", "BottleneckConfig"]
