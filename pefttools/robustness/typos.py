"""Words that are mistyped, the same ones every time."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from pefttools.data import Table

#: letters of a US keyboard by row, and how far each row is moved to the right, in keys
_ROWS = (("qwertyuiop", 0.0), ("asdfghjkl", 0.25), ("zxcvbnm", 0.75))
_PLACES = {key: (at + moved, row) for row, (keys, moved) in enumerate(_ROWS) for at, key in enumerate(keys)}
#: key -> the keys beside it, above it and below it
NEIGHBOURS = {
    key: "".join(
        other
        for other, (there, below) in _PLACES.items()
        if other != key and abs(there - at) <= 1 and abs(below - row) <= 1
    )
    for key, (at, row) in _PLACES.items()
}
#: letters in a row, as many as a word must have to be mistyped
_WORD = re.compile(r"[^\W\d_]{4,}")


@dataclass(frozen=True)
class Misspelt:
    """Rows with typos.

    Attributes:
        table: the rows.
        changed: number of words with a typo.
        words: number of words of four letters or more.
    """

    table: Table
    changed: int
    words: int

    def said(self) -> str:
        """How many words were changed, in one line."""
        return f"typos in {self.changed:,} of {self.words:,} words of four letters or more"


def misspell(texts: Sequence[str], share: float, seed: int = 0) -> tuple[list[str], int, int]:
    """Put a typo into a share of the words of some texts that belong together.

    A typo swaps two letters, leaves one out, replaces one by a neighbour on a US keyboard (QWERTY), or adds one beside
    it. As in the work below, words of fewer than four letters and the first and last letter of a word are left alone.
    Letters that this keyboard does not have are swapped or left out. What is drawn depends on the texts and the seed
    alone. Of `n` words ``share * n`` get a typo, rounded up or down at random.

    Args:
        texts: one text, or the words of one.
        share: of the words of four letters or more.
        seed: of what is drawn.

    Returns:
        The texts, the number of words with a typo, and the number of words of four letters or more.

    References:
        Pruthi, D., Dhingra, B. and Lipton, Z. C. (2019). Combating adversarial misspellings with robust word
        recognition. ACL. https://arxiv.org/abs/1905.11268
    """
    random = Random(_number(texts, seed))
    words = [(at, found) for at, text in enumerate(texts) for found in _WORD.finditer(text)]
    wanted = share * len(words)
    count = min(int(wanted) + (random.random() < wanted % 1), len(words))
    changed = list(texts)
    # From the last to the first: places in front of a change stay as they are.
    for place in sorted(random.sample(range(len(words)), count), reverse=True):
        at, found = words[place]
        text = changed[at]
        changed[at] = text[: found.start()] + _mistyped(found[0], random) + text[found.end() :]
    return changed, count, len(words)


def misspell_rows(table: Table, roles: Collection[str], share: float, seed: int = 0) -> Misspelt:
    """Rows with typos in the texts of some roles; each row's depend on nothing but that row.

    Args:
        table: the rows.
        roles: whose cells are texts, or lists of words.
        share: see `misspell`.
        seed: see `misspell`.
    """
    rows, changed, words = [], 0, 0
    for row in table.rows:
        given = dict(row)
        for role in sorted(roles):
            texts = _texts(given.get(role))
            if texts is None:
                continue
            found, of_cell, in_cell = misspell(texts, share, seed)
            given[role] = found[0] if isinstance(given[role], str) else found
            changed, words = changed + of_cell, words + in_cell
        rows.append(given)
    return Misspelt(replace(table, rows=rows), changed, words)


def _texts(cell: Any) -> list[str] | None:
    """The texts of a cell; None if it holds none."""
    if isinstance(cell, str):
        return [cell]
    return cell if isinstance(cell, list) and all(isinstance(one, str) for one in cell) else None


def _number(texts: Sequence[str], seed: int) -> int:
    digest = hashlib.sha256(str(seed).encode())
    for text in texts:
        digest.update(b"\n" + text.encode(errors="surrogatepass"))
    return int.from_bytes(digest.digest())


def _mistyped(word: str, random: Random) -> str:
    """A word with one typo; never the same word."""
    inner = range(1, len(word) - 1)
    swaps = [at for at in inner[:-1] if word[at] != word[at + 1]]
    typed = [at for at in inner if word[at].lower() in NEIGHBOURS]
    kind = random.choice(["drop", *["swap"] * bool(swaps), *["replace", "insert"] * bool(typed)])
    if kind == "drop":
        at = random.choice(inner)
        return word[:at] + word[at + 1 :]
    if kind == "swap":
        at = random.choice(swaps)
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    at = random.choice(typed)
    near = random.choice(NEIGHBOURS[word[at].lower()])
    near = near.upper() if word[at].isupper() else near
    return word[:at] + near + word[at + (kind == "replace") :]
