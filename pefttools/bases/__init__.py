"""Base models: finding them, telling them apart, loading them in a variant."""

from pefttools.bases.base import BaseVariant, variants
from pefttools.bases.locate import Base, locate_base

__all__ = ["Base", "BaseVariant", "locate_base", "variants"]
