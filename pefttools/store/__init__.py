"""Versioned adapters on any file system."""

from .store import Entry, Store, check_name

__all__ = ["Entry", "Store", "check_name"]
