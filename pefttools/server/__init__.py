"""HTTP on top of a pool and a store: ``pip install "pefttools[serve]"``."""

from .settings import Settings

__all__ = ["Settings"]
