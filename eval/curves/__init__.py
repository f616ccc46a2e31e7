"""Curves of a score over the number of labelled rows: how many labels a method saves."""

from .curve import Curve, Point, curve

__all__ = ["Curve", "Point", "curve"]
