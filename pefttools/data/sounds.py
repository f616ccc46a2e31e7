"""Sounds in cells: a path, or the bytes of a file; decoded only when a batch is made."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttools.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from soundfile import SoundFile

    Samples = NDArray[np.float32]

#: more than any recording has: a small file can claim as many as take gigabytes when decoded
_MOST_CHANNELS, _HIGHEST_RATE = 8, 192_000
#: what libsndfile notes about a file that ends before its header says
_CUT_SHORT = re.compile(r"data\s*:\s*(\d+) \(should be (\d+)\)")
#: sizes that a header gives if its writer did not know how many bytes would follow
_NOT_KNOWN = 0x7FFF0000


def sound_seconds(cell: Any) -> float:
    """How long a sound is, from its file's header, without decoding it.

    Args:
        cell: the path of a file, or its bytes.

    Raises:
        ValueError: it is missing, empty, cut short or in an unknown format; says which.
        ConfigError: soundfile is not installed.
    """
    with _opened(cell) as file:
        seconds: float = file.frames / file.samplerate
        return seconds


def read_sound(cell: Any, where: str, rate: int | None, seconds: float | None = None) -> Samples:
    """Decode a sound: the mean of its channels, resampled; float32, where 1 is the loudest that 16 bits can hold.

    Args:
        cell: the path of a file, or its bytes.
        where: file, row and column, for messages.
        rate: samples per second; None for that of the file.
        seconds: how much is read, from the beginning; None for all of it.

    Returns:
        ``[samples]``.

    Raises:
        DataError: it can't be decoded; names file, row and column.
        ConfigError: soundfile or soxr is not installed.
    """
    from math import ceil

    try:
        with _opened(cell) as file:
            found, given = file.samplerate, file.frames
            wanted = given if seconds is None else min(given, ceil(seconds * found))
            try:
                channels = file.read(wanted, dtype="float32", always_2d=True)
            except RuntimeError as error:  # as soundfile's errors are
                raise ValueError(f"the sound can't be decoded: {_said(error)}") from error
        if len(channels) < wanted:
            raise ValueError(
                f"the sound is damaged: {len(channels) / found:.2f} of {wanted / found:.2f} seconds can be decoded"
            )
        rate = rate or found
        samples = _resampled(channels.mean(axis=1), found, rate)
        if seconds is not None:
            samples = samples[: round(seconds * rate)]
        return _finite(samples)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error


def _resampled(samples: Samples, found: int, rate: int) -> Samples:
    if found == rate:
        return samples
    try:
        import soxr
    except ModuleNotFoundError as error:
        raise _lacking("soxr") from error
    resampled: Samples = soxr.resample(samples, found, rate)
    if not len(resampled):
        raise ValueError(f"the sound has {len(samples)} samples at {found} Hz, but none at {rate} Hz")
    return resampled


def _finite(samples: Samples) -> Samples:
    import numpy as np

    if not np.isfinite(samples).all():
        raise ValueError("the sound has samples that are not numbers")
    return samples


def _opened(cell: Any) -> SoundFile:
    try:
        import soundfile
    except ModuleNotFoundError as error:
        raise _lacking("soundfile") from error

    if cell == b"":
        raise ValueError("the file is empty")
    if not cell or not isinstance(cell, str | bytes):
        raise ValueError("the sound is missing" if cell is None else f"not a sound: {cell!r}")
    if isinstance(cell, str) and not Path(cell).is_file():
        raise ValueError(f"there is no file {cell!r}")
    named = "the bytes are" if isinstance(cell, bytes) else f"{cell!r} is"
    try:
        file = soundfile.SoundFile(io.BytesIO(cell) if isinstance(cell, bytes) else cell)
    except (
        OSError,
        TypeError,
        RuntimeError,
    ) as error:  # for a raw file, whose format only its name could tell, a TypeError
        raise ValueError(f"{named} not a sound in a known format: {_said(error)}") from error
    short = _CUT_SHORT.search(file.extra_info)
    if short and int(short[2]) < int(short[1]) < _NOT_KNOWN:
        file.close()
        raise ValueError(f"the sound is cut short: {int(short[2]):,} of {int(short[1]):,} bytes are there")
    if not file.frames:
        file.close()
        raise ValueError("the sound is empty")
    if file.channels > _MOST_CHANNELS or file.samplerate > _HIGHEST_RATE:
        file.close()
        raise ValueError(
            f"the sound has {file.channels} channels at {file.samplerate:,} Hz; at most {_MOST_CHANNELS} at "
            f"{_HIGHEST_RATE:,} Hz are allowed"
        )
    return file


def _said(error: Exception) -> str:
    """libsndfile's message, without its location."""
    return str(getattr(error, "error_string", error))


def _lacking(package: str) -> ConfigError:
    return ConfigError(f"reading sounds needs the package {package}", hint='pip install "pefttools[audio]"')
