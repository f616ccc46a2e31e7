"""Files as lines of text: compressed or not, in UTF-8 or UTF-16."""

from __future__ import annotations

import codecs
import contextlib
import io
import itertools
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from pefttools.errors import DataError

#: suffixes of compressed files
COMPRESSED = (".gz", ".zst", ".zip")


def kind_of(path: Path) -> str:
    """The suffix that says what a file contains: ``.csv`` for ``rows.csv.gz``."""
    name = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    if path.suffix.lower() == ".zip" and not name.suffix and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inside = _members(archive)
        name = Path(inside[0]) if len(inside) == 1 else name
    return name.suffix.lower()


def _members(archive: zipfile.ZipFile) -> list[str]:
    """Files in an archive, without folders and what some systems add."""
    return [
        name
        for name in archive.namelist()
        if not name.endswith(("/", ".DS_Store")) and not name.startswith("__MACOSX/")
    ]


@contextlib.contextmanager
def opened(path: Path, source: str) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked.

    Raises:
        DataError: it can't be unpacked.
    """
    ending = path.suffix.lower()
    with contextlib.ExitStack() as stack:
        stream: IO[bytes]
        try:
            if ending == ".gz":
                import gzip

                stream = cast("IO[bytes]", stack.enter_context(gzip.open(path)))
            elif ending == ".zst":
                import pyarrow  # the package zstandard takes a truncated file for a whole one

                packed = stack.enter_context(pyarrow.input_stream(str(path), compression="zstd"))
                stream = io.BufferedReader(packed)
            elif ending == ".zip":
                archive = stack.enter_context(zipfile.ZipFile(path))
                names = _members(archive)
                if len(names) != 1:
                    raise DataError(f"{source} contains {len(names)} files, not one", hint="Unpack it into a folder.")
                stream = stack.enter_context(archive.open(names[0]))
            else:
                stream = stack.enter_context(path.open("rb"))
            yield stream
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{source} can't be read: {error}") from error
        except RuntimeError as error:  # raised by zipfile if a password is needed
            raise DataError(f"{source} can't be unpacked: {error}") from error


def lines(path: Path, source: str) -> Iterator[str]:
    """Lines of a text file, with their ends; for one that is not UTF-8, the error says where.

    Raises:
        DataError: names line and column.
    """
    with opened(path, source) as stream:
        first = stream.readline()
        if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = io.TextIOWrapper(io.BytesIO(first + stream.read()), encoding="utf-16", newline="")
            try:
                yield from text
            except UnicodeDecodeError as error:
                raise DataError(f"{source} is not valid UTF-16: {error}") from error
            return
        for number, line in enumerate(itertools.chain([first] if first else [], stream), start=1):
            try:
                # the signature that some editors put before the first character
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                tabbed = kind_of(path) == ".tsv"
                column = line[: error.start].count(b"\t" if tabbed else b",") + 1
                where = "the header" if number == 1 and kind_of(path) in (".csv", ".tsv") else f"line {number}"
                raise DataError(
                    f"{source}, {where}, about column {column}: byte 0x{line[error.start]:02x} is not UTF-8",
                    hint="Save the file as UTF-8 (iconv -f latin1 -t utf-8 OLD > NEW).",
                ) from error
