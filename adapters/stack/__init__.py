"""Several methods on one base."""

from .method import StackedMethods, StackOptions

__all__ = ["StackOptions", "StackedMethods"]
