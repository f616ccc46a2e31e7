"""Rows from files, packages and the hub, with errors that name file, row and column."""

from pefttools.data.config import DataConfig
from pefttools.data.reading import read_table
from pefttools.data.splits import Splits, load_splits
from pefttools.data.table import Table

__all__ = ["DataConfig", "Splits", "Table", "load_splits", "read_table"]
