"""Folders to start from: ``pefttools new KIND FOLDER``."""

from pefttools.tasks.starters.starter import Starter, new, starters

__all__ = ["Starter", "new", "starters"]
