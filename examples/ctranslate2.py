"""Read the weights of a model in CTranslate2's binary format, version 6 (https://opennmt.net/CTranslate2).

Little-endian: version, name of the model's kind and its revision; the number of variables, and for each its name,
shape, number format, bytes and content; the number of aliases, and for each its name and that of the variable it refers
to.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSION = 6
#: code of a number format -> numpy's; bfloat16 (5) is not one of numpy's
FORMATS = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.content = content
        self.place = 0

    def bytes(self, count: int) -> bytes:
        found = self.content[self.place : self.place + count]
        if len(found) < count:
            raise SystemExit(f"the model file ends at byte {len(self.content):,}, where {count:,} bytes should follow")
        self.place += count
        return found

    def number(self, kind: str) -> int:
        return int(struct.unpack(f"<{kind}", self.bytes(struct.calcsize(f"<{kind}")))[0])

    def text(self) -> str:
        return self.bytes(self.number("H")).removesuffix(b"\0").decode()


def read_model(content: bytes) -> tuple[str, dict[str, NDArray[Any]]]:
    """The kind of model, and its variables by name.

    Args:
        content: of a file ``model.bin``.
    """
    reader = _Reader(content)
    if (version := reader.number("I")) != VERSION:
        raise SystemExit(f"the model file has version {version}; this reads version {VERSION}")
    kind, _ = reader.text(), reader.number("I")
    variables: dict[str, NDArray[Any]] = {}
    for _ in range(reader.number("I")):
        name = reader.text()
        shape = [reader.number("I") for _ in range(reader.number("B"))]
        code = reader.number("B")
        if code not in FORMATS:
            raise SystemExit(f"{name} has the number format {code}, which is not supported")
        values = np.frombuffer(reader.bytes(reader.number("I")), FORMATS[code])
        if len(values) != math.prod(shape):
            raise SystemExit(f"{name} has {len(values):,} values, but the shape {shape}")
        variables[name] = values.reshape(shape)
    for _ in range(reader.number("I")):
        name = reader.text()
        variables[name] = variables[reader.text()]
    if reader.place != len(content):
        raise SystemExit(f"{len(content) - reader.place:,} bytes of the model file are left over at its end")
    return kind, variables
