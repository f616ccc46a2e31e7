"""What methods say of themselves, against what was seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pefttools.methods import Capabilities
from pefttools.methods import methods as known_methods

from .cells import TRAINED, Cell
from .table import ProbeTable

#: check -> whether a method says that it can do so
_DECLARED: dict[str, Callable[[Capabilities], bool]] = {
    "merged": lambda can: can.mergeable,
    "mixed": lambda can: can.deltas,
    "recomputed": lambda can: can.gradient_checkpointing,
    "packed": lambda can: can.packing,
}


def contradictions(table: ProbeTable) -> list[str]:
    """Everything that was seen to fail, or to be otherwise than a method declares; a line each.

    A refusal by name is none, as long as the method can do what it declares on some model on which another one can.
    """
    found = [
        f"{cell.method} on {cell.family} ({cell.variant}), {name}: {one.status}: {one.why}"
        for cell in table.cells
        for name, one in cell.checks.items()
        if one.status in ("fails", "wrong")
    ]
    able = {
        (check, cell.family, cell.variant)
        for cell in table.cells
        for check, one in cell.checks.items()
        if one.status == "works"
    }
    for method in dict.fromkeys(cell.method for cell in table.cells):
        if method in known_methods:
            found += _of_method(method, [cell for cell in table.cells if cell.method == method], able)
    return found


def _of_method(name: str, cells: list[Cell], able: set[tuple[str, str, str]]) -> Iterator[str]:
    can = known_methods.get(name).capabilities
    trained = [cell for cell in cells if cell.checks[TRAINED].status == "works"]
    if not trained:
        yield f"{name} can be trained on none of {len(cells)}: {cells[0].checks[TRAINED].why}"
    for check, declared in _DECLARED.items():
        seen = [(cell, cell.checks[check].status) for cell in trained if check in cell.checks]
        if any(status == "works" for _, status in seen) and not declared(can):
            yield f"{name} says that it can't be {check}, and was"
        fair = {status for cell, status in seen if (check, cell.family, cell.variant) in able} - {"not tried"}
        if fair == {"refused"} and declared(can):
            yield f"{name} says that it can be {check}, and was on none of the models on which others are"
    for variant in sorted(can.quantized or ()):
        on = [cell for cell in cells if cell.variant == variant]
        if on and all(cell.checks[TRAINED].status == "refused" for cell in on):
            yield f"{name} says that it stands on {variant}, and does nowhere of {len(on)}"
