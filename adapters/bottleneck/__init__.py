"""Bottleneck adapters: small two-layer networks inside every block."""

from pefttools.adapters.bottleneck.method import BottleneckAdapters, BottleneckConfig

__all__ = ["BottleneckAdapters", "BottleneckConfig"]
