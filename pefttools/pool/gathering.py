"""The weights of a call's rows, taken out of the stacks of all adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch._subclasses.fake_tensor import is_fake

if TYPE_CHECKING:
    from pefttools.pool.stack import Stack


class Gathered:
    """The weights of one call's rows, gathered when a site first needs them.

    Adapters stay where they are while their rows run, so that the weights are valid until the call ends. The memory is
    kept for the next call: on a CPU, fresh pages from the system cost several times as much as the copy. A card's
    allocator caches memory itself.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[int, str], torch.Tensor] = {}
        self._room: dict[tuple[int, str], torch.Tensor] = {}

    def of(self, stack: Stack, name: str, slots: torch.Tensor) -> torch.Tensor:
        """A stack's weights for rows with these slots, ``[rows, ...]``."""
        key, tensor = (id(stack), name), stack.tensors[name]
        if key not in self._found:
            if tensor.device.type == "cpu" and not is_fake(tensor):
                self._found[key] = torch.index_select(tensor, 0, slots, out=self._place(key, tensor, len(slots)))
            else:
                self._found[key] = tensor.index_select(0, slots)
        return self._found[key]

    def forget(self) -> None:
        """Discard what was gathered: other rows follow."""
        self._found = {}

    def release(self) -> None:
        """Release the memory too: stacks have been dropped."""
        self._found, self._room = {}, {}

    def _place(self, key: tuple[int, str], like: torch.Tensor, rows: int) -> torch.Tensor:
        room = self._room.get(key)
        if room is None or len(room) < rows or room.shape[1:] != like.shape[1:] or room.dtype != like.dtype:
            self._room.pop(key, None)
            room = self._room[key] = like.new_empty((rows, *like.shape[1:]))
        return room[:rows]


class Rows(NamedTuple):
    """The slots of a call's rows in one family.

    Attributes:
        slots: slot of each row, ``[rows]``.
        gathered: keeps what was gathered for them, if the same rows run again and again, token by token.
    """

    slots: torch.Tensor
    gathered: Gathered | None = None

    def of(self, stack: Stack, name: str) -> torch.Tensor:
        """Each row's weights in a stack, ``[rows, ...]``."""
        if self.gathered is None:
            return stack.tensors[name].index_select(0, self.slots)
        return self.gathered.of(stack, name, self.slots)
