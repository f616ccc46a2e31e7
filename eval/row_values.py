"""What each test row contributes to a run's metrics: the numbers from which intervals and verdicts are computed."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pefttools.errors import DataError
from pefttools.files import write_bytes_atomic

from .records import PREDICTIONS, read_predictions

ROW_VALUES = "row_values.npz"
#: in that file: the titles of conditions, and the numbers under each, ``[conditions, rows]``
_TITLES, _UNDER = "conditions", "under"


def write_row_values(
    folder: Path,
    metric: str,
    values: NDArray[np.float64],
    under: Mapping[str, NDArray[np.float64]] | None = None,
) -> None:
    """One number per test row, for the comparison's primary metric; see `pefttools.metrics.Metric.row_values`.

    Args:
        folder: of the run.
        metric: its name.
        values: ``[rows]``.
        under: title of a condition -> the same under it.
    """
    stream = io.BytesIO()
    more: dict[str, Any] = {} if not under else {_TITLES: np.array([*under]), _UNDER: np.stack([*under.values()])}
    np.savez_compressed(stream, metric=np.array(metric), values=values, **more)
    write_bytes_atomic(folder / ROW_VALUES, stream.getvalue())


def read_row_values(folder: Path, metric: str, condition: str | None = None) -> NDArray[np.float64] | None:
    """What each test row contributes to a metric, ``[rows]``; None if the run has no such numbers.

    Args:
        folder: of the run.
        metric: its name.
        condition: title of a condition; None for the rows as they are.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / ROW_VALUES
    if not path.is_file():
        return _right_rows(folder, metric) if condition is None else None
    try:
        with np.load(path) as found:  # refuses pickles
            if str(found["metric"]) != metric:
                return None
            if condition is None:
                return np.asarray(found["values"], dtype=np.float64)
            titles = found[_TITLES].tolist() if _TITLES in found else []
            return np.asarray(found[_UNDER][titles.index(condition)], np.float64) if condition in titles else None
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
