"""Versioned adapters on any file system."""

from .names import check_name
from .store import Entry, Store

__all__ = ["Entry", "Store", "check_name"]
