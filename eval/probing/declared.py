"""What methods declare, compared with what was seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pefttools.bases import variants as known_variants
from pefttools.methods import Capabilities, Method
from pefttools.methods import methods as known_methods

from .cells import TRAINED, Cell
from .table import ProbeTable

#: check -> whether a method declares that it can do so
_DECLARED: dict[str, Callable[[Capabilities], bool]] = {
    "merged": lambda can: can.mergeable,
    "mixed": lambda can: can.deltas,
    "recomputed": lambda can: can.gradient_checkpointing,
    "packed": lambda can: can.packing,
}


#: number of families on which a method must have been tried before it is reported to work on none
_ENOUGH = 2


def contradictions(table: ProbeTable) -> list[str]:
    """Everything that was seen to fail, or to differ from what a method declares; a line each.

    A refusal contradicts nothing, as long as the method does what it declares on some model on which another method
    does so.
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
        # What depends on options is declared by no class.
        if method in known_methods and known_methods.get(method).configured is Method.configured:
            found += _of_method(method, [cell for cell in table.cells if cell.method == method], able)
    return found


def _of_method(name: str, cells: list[Cell], able: set[tuple[str, str, str]]) -> Iterator[str]:
    can = known_methods.get(name).capabilities
    trained = [cell for cell in cells if cell.checks[TRAINED].status == "works"]
    if not trained and len({cell.family for cell in cells}) >= _ENOUGH:
        yield f"{name} can't be trained on any of {len(cells)} models: {cells[0].checks[TRAINED].why}"
    for check, declared in _DECLARED.items():
        seen = [(cell, cell.checks[check].status) for cell in trained if check in cell.checks]
        if any(status == "works" for _, status in seen) and not declared(can):
            yield f"{name} declares that it can't be {check}, but it was"
        fair = {status for cell, status in seen if (check, cell.family, cell.variant) in able} - {"not tried"}
        if fair == {"refused"} and declared(can):
            yield f"{name} declares that it can be {check}, but it was refused on every model where another method was"
    packed = {one for one in known_variants if known_variants.get(one).quantized}
    allowed = packed if can.quantized is None and can.trains != "base" else can.quantized or ()
    for variant in sorted(allowed):
        on = [cell for cell in cells if cell.variant == variant and (TRAINED, cell.family, variant) in able]
        if len(on) >= _ENOUGH and all(cell.checks[TRAINED].status == "refused" for cell in on):
            yield f"{name} declares that it works on {variant}, but it was refused on all {len(on)} models"
