"""Base models: finding them, identifying them, loading them in a variant."""

from pefttools.bases.base import BaseVariant, variants
from pefttools.bases.locate import Base, locate_base

__all__ = ["Base", "BaseVariant", "locate_base", "variants"]
