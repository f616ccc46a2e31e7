"""What makes a cell a text that a tokenizer takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pefttools.data import Table
from pefttools.data.arrow_rows import is_whole

_HALF = "half of a character (a lone surrogate)"


def check_text(table: Table, index: int, role: str, row: Mapping[str, Any]) -> None:
    """Refuse a row whose cell is not text, or is empty.

    Args:
        table: the table of the row.
        index: index of the row.
        role: role of the cell.
        row: the row itself.

    Raises:
        DataError: names file, row and column.
    """
    value = row.get(role)
    if not (isinstance(value, str) and value.strip()):
        raise table.error(index, role, f"expected text, got {value!r}", hint="Fill it or drop the row.")
    check_whole(table, index, role, value)


def uncut(tokens: int, limit: int, tokenizer: Any, text: str, pair: str | None = None) -> int:
    """Tokens of a text, or of a pair, before anything was cut: only what is as long as the limit is tokenized again.

    Args:
        tokens: number of tokens that are left.
        limit: that longer texts are cut to.
        tokenizer: the base's tokenizer.
        text: the text.
        pair: the text after it.
    """
    return tokens if tokens < limit else len(tokenizer(text, pair, verbose=False)["input_ids"])


def check_whole(table: Table, index: int, role: str, value: Any) -> None:
    """Refuse a cell with half of a character in it, which JSON may hold and no encoding knows.

    Raises:
        DataError: names file, row and column.
    """
    if not is_whole(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)):
        raise table.error(index, role, f"it contains {_HALF}", hint="Fix or drop the row.")
