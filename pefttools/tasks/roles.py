"""What the columns of a task are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: what a cell holds. ``texts``: one text, or a list of them; ``label``: one name; ``labels``: several; ``words``: a
#: sentence in words; ``tags``: one name per word; ``choices``: texts of which one is right; ``answers``: texts and
#: their places; ``chat``: messages; ``tools``: descriptions of functions
RoleKind = Literal[
    "text",
    "texts",
    "words",
    "choices",
    "answers",
    "chat",
    "tools",
    "label",
    "labels",
    "tags",
    "number",
    "image",
    "audio",
]


@dataclass(frozen=True)
class Role:
    """A column's role.

    Attributes:
        kind: what its cells hold.
        required: whether data must have it for training.
        is_input: whether predictions are made from it; if not, it is what is to be predicted.
    """

    kind: RoleKind
    required: bool = True
    is_input: bool = True
