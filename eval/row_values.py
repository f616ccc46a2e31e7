"""What each test row contributes to a run's metrics: the numbers from which intervals and verdicts are computed."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pefttools.errors import DataError
from pefttools.files import write_bytes_atomic

from .records import PREDICTIONS, read_predictions

ROW_VALUES = "row_values.npz"


def write_row_values(folder: Path, metric: str, values: NDArray[np.float64]) -> None:
    """One number per test row, for the comparison's primary metric; see `pefttools.metrics.Metric.row_values`."""
    stream = io.BytesIO()
    np.savez_compressed(stream, metric=np.array(metric), values=values)
    write_bytes_atomic(folder / ROW_VALUES, stream.getvalue())


def read_row_values(folder: Path, metric: str) -> NDArray[np.float64] | None:
    """What each test row contributes to a metric, ``[rows]``; None if the run has no such numbers.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / ROW_VALUES
    if not path.is_file():
        return _right_rows(folder, metric)
    try:
        with np.load(path) as found:  # refuses pickles
            return np.asarray(found["values"], dtype=np.float64) if str(found["metric"]) == metric else None
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(path, error) from error


def _right_rows(folder: Path, metric: str) -> NDArray[np.float64] | None:
    """The same for records of earlier versions, which record which rows were right."""
    if metric not in ("accuracy", "exact_match"):
        return None
    try:
        rows = [float(entry["correct"]) for entry in read_predictions(folder)]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(folder / PREDICTIONS, error) from error
    return np.array(rows) if rows else None


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is damaged: {error!r}", hint="Remove its folder, and run bench again.")
