"""Rows of binary tables: parquet, Arrow and Feather, and worksheets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pefttools.data.hub import named
from pefttools.data.readers.delimited import check_names
from pefttools.errors import DataError


def read_parquet(
    path: Path, source: str, delimiter: str | None = None, notes: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Rows of a parquet file, a batch at a time."""
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        check_names(file.schema_arrow.names, source)
        for batch in file.iter_batches():
            yield from _rows(batch, file.schema_arrow)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{source} is not a readable parquet file: {error}") from error


def read_arrow(
    path: Path, source: str, delimiter: str | None = None, notes: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Rows of an Arrow file or stream; Feather is the same format."""
    import pyarrow

    try:
        mapped = pyarrow.memory_map(str(path))
        try:
            reader = pyarrow.ipc.open_file(mapped)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        except pyarrow.ArrowInvalid:
            mapped.seek(0)
            reader = batches = pyarrow.ipc.open_stream(mapped)
        check_names(reader.schema.names, source)
        for batch in batches:
            yield from _rows(batch, reader.schema)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{source} is not a readable Arrow file: {error}") from error


def read_xlsx(
    path: Path, source: str, delimiter: str | None = None, notes: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Rows of a workbook's first worksheet; the first row that is not empty names the columns."""
    try:
        import openpyxl
    except ImportError as error:
        raise DataError(f"reading {source} needs the package openpyxl", hint="pip install openpyxl") from error
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except Exception as error:  # openpyxl raises what zipfile, its XML parser and it itself raise
        raise DataError(f"{source} is not a readable workbook: {error}") from error
    rows = (row for row in book.worksheets[0].iter_rows(values_only=True) if any(cell is not None for cell in row))
    header = [None if name is None else str(name) for name in next(rows, ())]
    check_names((name for name in header if name is not None), source)
    for row in rows:
        yield {name: cell for name, cell in zip(header, row, strict=False) if name is not None}


def _rows(batch: Any, schema: Any) -> list[dict[str, Any]]:
    """Rows of a batch; if `datasets` wrote the file, with names in place of its class numbers."""
    rows: list[dict[str, Any]] = batch.to_pylist()
    if b"huggingface" not in (schema.metadata or {}):
        return rows
    from datasets import Features

    features = Features.from_arrow_schema(schema)
    return [named(row, features) for row in rows]
