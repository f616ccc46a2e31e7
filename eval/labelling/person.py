"""The loop in which a person labels rows at a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pefttools.data import Table, read_table
from pefttools.errors import ConfigError
from pefttools.files import check_writable
from pefttools.progress import SilentReporter
from pefttools.recipe import choose_method, choose_task, validate

from ..reporting.terminal import plain
from ..row_files import portable_rows
from .session import ANSWERS, LABELS, LabelFile, Session, choice_of
from .spec import LabellingSpec, load_spec
from .strategies import STRATEGIES
from .training import check, said_of, train_on

if TYPE_CHECKING:
    from rich.console import Console

_HELP = "A label's number, its name or its beginning. /skip, /undo, /labels, /quit (or their first letter)."
#: rows that a new model is asked about
_LOOK_AT = 5000


def label(
    spec: LabellingSpec | str | Path | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    console: Console,
    ask: Callable[[str], str] = input,
) -> Path:
    """Ask a person for labels, train after every round, and ask about what the model would learn the most from.

    Args:
        spec: a `LabellingSpec`, the path of a YAML file, or a mapping of the same form.
        overrides: ``field.field=value`` on a YAML file.
        console: where rows are shown.
        ask: gives a line that was typed; at its end of file the loop ends as with /quit.

    Returns:
        The CSV with the labelled rows. The last model is in ``model/artifact`` next to it.

    Raises:
        ConfigError: no labels, or anything wrong with the spec.
        DataError: rows that the task can't take, or a CSV of other rows.
    """
    if isinstance(spec, str | Path):
        spec = load_spec(Path(spec), overrides)
    elif not isinstance(spec, LabellingSpec):
        spec = validate(LabellingSpec, dict(spec), "spec")
    if len(spec.labels) < 2:
        raise ConfigError(
            "there are no labels to choose from", hint="List them: labels: [one, other]. --simulate needs none."
        )
    task = choose_task(spec.task)
    check(task)
    choose_method(spec.method)
    data = spec.data
    roles = {role: needed for role, needed in task.columns(labelled=False).items() if role in task.inputs()}
    columns = {role: column for role, column in data.columns.items() if role in roles}
    table = read_table(data.train, roles, columns, delimiter=data.delimiter, files_in=task.files_in())
    task.check(table, spec.labels, labelled=False)
    path = spec.output / ANSWERS
    check_writable(path)
    order = [int(one) for one in np.random.default_rng(spec.seeds[0]).permutation(len(table))]
    session = Session(LabelFile(path, table, spec.labels), len(table), order[: spec.start], spec.per_round)
    _loop(spec, session, table, console, ask)
    labels = path.with_name(LABELS)
    console.print(plain(f"{_labels_of(session)} in {labels}"))
    return labels


def _loop(spec: LabellingSpec, session: Session, table: Table, console: Console, ask: Callable[[str], str]) -> None:
    if session.labelled:
        console.print(plain(f"going on with {_labels_of(session)}"))
    _labels(spec, console)
    console.print(plain(_HELP))
    likely: dict[int, Sequence[tuple[str, float]]] = {}
    while True:
        if session.due:
            likely = _trained(spec, session, table, console)
        elif session.current is None:
            # All rows of the round were skipped, or have one label: any others.
            session.trained(session.rest[: spec.per_round])
        current = session.current
        if current is None:
            console.print(plain("nothing is left to label"))
            return
        _show(session, table, current, likely.get(current, ()), console)
        try:
            answer = ask("label> ").strip()
        except EOFError:
            return
        if answer in ("/q", "/quit"):
            return
        _answered(spec, session, answer, console)


def _answered(spec: LabellingSpec, session: Session, answer: str, console: Console) -> None:
    """Do what an answer says."""
    if answer in ("/s", "/skip"):
        session.said(None)
    elif answer in ("/u", "/undo"):
        if session.undo() is None:
            console.print(plain("there is nothing to take back"))
    elif answer in ("/l", "/labels"):
        _labels(spec, console)
    elif (chosen := choice_of(answer, spec.labels)) is not None:
        session.said(chosen)
    else:
        console.print(plain(f"{answer!r} is no label, or the beginning of several. {_HELP}"))


def _trained(
    spec: LabellingSpec, session: Session, table: Table, console: Console
) -> dict[int, Sequence[tuple[str, float]]]:
    """Train on all labels, choose the next rows; gives what the model takes them for."""
    labelled, seed = session.labelled, spec.seeds[0]
    console.print(plain(f"training on {_labels_of(session)} ..."))
    task = choose_task(spec.task)
    taken = table.take([entry.index for entry in labelled])
    rows = portable_rows(taken, task)
    known = [{**row, "label": entry.label} for row, entry in zip(rows, labelled, strict=True)]
    stored = train_on(spec, known, spec.labels, spec.output / "model", seed, SilentReporter())
    generator = np.random.default_rng([seed, len(labelled)])
    rest = session.rest
    if len(rest) > _LOOK_AT:
        rest = sorted(int(one) for one in generator.choice(rest, _LOOK_AT, replace=False))
    if not rest:
        session.trained(())
        return {}
    said = said_of(stored, table.take(rest), taken, spec.training.eval_batch_size)
    chosen = [int(one) for one in STRATEGIES[spec.strategies[0]](said, spec.per_round, generator)]
    session.trained([rest[one] for one in chosen])
    likely: dict[int, Sequence[tuple[str, float]]] = {}
    for one in chosen:
        best = np.argsort(-said.probabilities[one])[:3]
        likely[rest[one]] = [(spec.labels[int(n)], float(said.probabilities[one, n])) for n in best]
    return likely


def _show(session: Session, table: Table, index: int, likely: Sequence[tuple[str, float]], console: Console) -> None:
    console.rule(plain(f"{_labels_of(session)}, {len(session.rest):,} rows left; row {table.numbers[index]}"))
    row = table.rows[index]
    for role in table.columns:
        if row[role] is not None:
            console.print(plain(str(row[role]) if len(table.columns) == 1 else f"{role}: {row[role]}"))
    if likely:
        console.print(plain("likely: " + ", ".join(f"{name} {share:.0%}" for name, share in likely), "dim"))


def _labels_of(session: Session) -> str:
    count = len(session.labelled)
    return f"{count} label{'' if count == 1 else 's'}"


def _labels(spec: LabellingSpec, console: Console) -> None:
    names = [f"{number} {name}" for number, name in enumerate(spec.labels, start=1)]
    console.print(plain("   ".join(names)))
