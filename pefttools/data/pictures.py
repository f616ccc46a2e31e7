"""Pictures in cells: a path, or the bytes of a file; decoded only when a batch is made."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from pefttools.errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL.Image import Image

#: what is decoded: only formats of pictures, and none that runs another program
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
#: divisor that turns values of 16 bits into 8
_SIXTEEN_BITS = 256


def check_picture(cell: Any) -> None:
    """Check that a file is a whole picture, as far as its format shows without decoding it.

    Raises:
        ValueError: says what is wrong with it.
    """
    with _opened(cell) as file:
        try:
            file.verify()
        except Exception as error:  # Pillow's decoders may raise anything for a damaged file
            raise ValueError(f"the picture can't be decoded: {error}") from error


def read_picture(cell: Any, where: str, mode: str = "RGB") -> Image:
    """Decode a picture: turned as its EXIF data says, transparency on white, 16 bits as 8.

    Args:
        cell: the path of a file, or its bytes.
        where: file, row and column, for messages.
        mode: ``RGB``, or ``L`` for grey.

    Raises:
        DataError: it can't be decoded; names file, row and column.
        ConfigError: pillow is not installed.
    """
    try:
        opened = _opened(cell)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    from PIL import Image, ImageOps

    with opened as file:
        try:
            found = ImageOps.exif_transpose(file)
            found.load()
        except Exception as error:  # as in `check_picture`
            raise DataError(f"{where}: the picture can't be decoded: {error}") from error
    if found.mode.startswith("I"):
        found = found.convert("I").point(lambda value: value / _SIXTEEN_BITS).convert("L")
    if found.has_transparency_data:
        found = found.convert("RGBA")
        behind = Image.new("RGBA", found.size, "white")
        found = Image.alpha_composite(behind, found)
    return found.convert(mode)


def _opened(cell: Any) -> Image:
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError as error:
        raise ConfigError(
            "reading pictures needs the package pillow", hint='pip install "pefttools[images]"'
        ) from error

    if cell == b"":
        raise ValueError("the file is empty")
    if not cell or not isinstance(cell, str | bytes):
        raise ValueError("the picture is missing" if cell is None else f"not a picture: {cell!r}")
    try:
        file = Image.open(io.BytesIO(cell) if isinstance(cell, bytes) else cell, formats=FORMATS)
    except FileNotFoundError:
        raise ValueError(f"there is no file {str(cell)!r}") from None
    except UnidentifiedImageError:
        named = "the bytes are" if isinstance(cell, bytes) else f"{str(cell)!r} is"
        raise ValueError(f"{named} not a picture in a known format") from None
    except Exception as error:
        raise ValueError(f"the picture can't be opened: {error}") from error
    # Pillow warns from here on, and refuses twice as many: a small file can hold gigabytes of pixels.
    if Image.MAX_IMAGE_PIXELS is not None and file.width * file.height > Image.MAX_IMAGE_PIXELS:
        file.close()
        raise ValueError(
            f"the picture has {file.width:,} x {file.height:,} pixels; at most {Image.MAX_IMAGE_PIXELS:,} are allowed"
        )
    return file
