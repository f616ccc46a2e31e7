"""Curves of a score over the number of labelled rows: how many labels a method saves."""

from .data import Curve, Point
from .run import curve

__all__ = ["Curve", "Point", "curve"]
