"""From a recipe to its parts, resolved and checked, before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pefttools.artifact.manifest import MANIFEST
from pefttools.bases import Base, locate_base, variants
from pefttools.building import build, check_combination
from pefttools.compute.precision import check_precision, default_device
from pefttools.compute.processes import check_launch, world_size
from pefttools.data import Splits, Table, load_splits
from pefttools.data.divide import draw
from pefttools.data.notes import duplicate_notes
from pefttools.data.reading import read_table
from pefttools.errors import ConfigError, DataError
from pefttools.files import check_replaceable, check_writable
from pefttools.methods import Method, MethodConfig
from pefttools.objectives import Objective
from pefttools.outline import check_on_outline
from pefttools.progress import Reporter
from pefttools.recipe import Recipe
from pefttools.tasks.lengths import fit_to_base
from pefttools.tasks.task import Task
from pefttools.training.examples import Examples
from pefttools.training.knowledge import Knowledge, open_knowledge
from pefttools.training.rates import Rates, default_rates
from pefttools.training.selection import Selection, check_measured, choose_selection
from pefttools.training.start import Parent, open_parent
from pefttools.training.teaching import Teacher, check_layers, open_teacher
from pefttools.tuned import TunedModel


@dataclass(frozen=True)
class Prepared:
    """A recipe whose parts have been resolved and checked; nothing heavy is loaded yet."""

    recipe: Recipe
    base: Base
    method: Method[Any]
    config: MethodConfig
    task: Task[Any]
    splits: Splits
    labels: list[str]
    examples: Examples
    selection: Selection
    #: learning rates, unless a search tries others
    rates: Rates
    parent: Parent | None = None
    #: of each objective, those whose answers it learns
    teachers: tuple[tuple[Teacher, ...], ...] = ()
    #: of each objective, the rows without labels that it reads too
    unlabelled: tuple[Table | None, ...] = ()
    #: of each objective, the rows that are not to be forgotten
    old_rows: tuple[Table | None, ...] = ()
    #: what is looked up for each row
    knowledge: Knowledge | None = None
    #: what was changed automatically, for the log
    notes: list[str] = field(default_factory=list)

    @property
    def passes(self) -> int:
        """Parts that a batch is split into; one if the task's loss is over the whole batch."""
        return 1 if self.task.loss_over_batch else self.recipe.training.microbatches

    def digests(self) -> dict[str, str]:
        """What decides the result of a training beside its recipe, by content: rows, base, teachers."""
        return {**self.splits.digests(), "base": self.base.identity, **self.other_digests()}

    def other_digests(self) -> dict[str, str]:
        """What names the weights of teachers, rows that are not to be forgotten, and passages that are looked up."""
        every = [teacher for several in self.teachers for teacher in several]
        found = {f"teacher {number}": teacher.digest for number, teacher in enumerate(every, 1)}
        if self.knowledge is not None:
            found["knowledge"] = self.knowledge.index.digest
        for name, tables in (("old rows", self.old_rows), ("unlabelled rows", self.unlabelled)):
            there = [table for table in tables if table is not None]
            found |= {f"{name} {number}": table.digest() for number, table in enumerate(there, 1)}
        return found


def prepare(recipe: Recipe, reporter: Reporter | None = None) -> Prepared:
    """Check all that can be checked before a model is loaded.

    Args:
        recipe: what is to be trained.
        reporter: shows progress where rows are looked up.

    Raises:
        PeftToolsError: anything wrong with names, options, their combination, the data or the output folder.
    """
    check_launch()
    method, config = recipe.chosen_method()
    task = recipe.chosen_task()
    selection = choose_selection(recipe.selection, task)
    objectives = recipe.chosen_objectives()
    _check_together(recipe, method, config, task, objectives)
    check_writable(recipe.output)
    check_replaceable(recipe.output, MANIFEST)
    base = locate_base(recipe.base, recipe.revision)
    task, shortened = fit_to_base(task, base, method.virtual_tokens(config))
    parent = None if recipe.parent is None else open_parent(recipe.parent, base, method, config, task)
    knowledge = None if recipe.knowledge is None else open_knowledge(recipe.knowledge, task, reporter)
    if parent is not None:
        parent.check_passages(None if knowledge is None else knowledge.placement)
    splits, labels = _rows(recipe, task, parent, knowledge)
    check_measured(selection, task, task.load_metrics(labels))
    for objective in objectives:
        objective.check_labels(labels)
    teachers = tuple(tuple(open_teacher(folder, task, labels) for folder in one.teachers()) for one in objectives)
    for objective, several in zip(objectives, teachers, strict=True):
        check_layers(objective, base, several)
    others = _Others(recipe, task, labels, knowledge)
    unlabelled = tuple(others.unlabelled(one, splits) for one in objectives)
    old_rows = tuple(others.old_rows(one, parent) for one in objectives)
    check_on_outline(base, recipe.variant, method, config, task, labels)
    task = task.settled(splits.train, labels)
    examples = Examples(task, base, splits, labels)
    task.check_with(examples.processor)
    rates = default_rates(recipe.training, method, base)
    notes = [*([shortened] if shortened else []), *splits.notes]
    notes += method.idle_options(config, variants.get(recipe.variant)())
    notes += task.idle_options(examples.processor, splits.train)
    notes += task.data_notes(splits.tables(), labels)
    notes += duplicate_notes(splits.tables(), task.identity, task.strata)
    return Prepared(
        recipe,
        base,
        method,
        config,
        task,
        splits,
        labels,
        examples,
        selection,
        rates,
        parent,
        teachers,
        unlabelled,
        old_rows,
        None if knowledge is None else knowledge.trained_on(splits),
        notes,
    )


def _check_together(
    recipe: Recipe, method: Method[Any], config: MethodConfig, task: Task[Any], objectives: Sequence[Objective[Any]]
) -> None:
    """Refuse options that don't go together.

    Raises:
        ConfigError: names them.
    """
    device = default_device()
    check_precision(recipe.training.precision, recipe.variant, device)
    variant = variants.get(recipe.variant)(device)
    check_combination(method, config, variant, task)
    for objective in objectives:
        objective.check(method, variant, task)
    if recipe.training.gradient_checkpointing:
        method.check_checkpointing()
    if recipe.training.batch_size % (recipe.training.microbatches * world_size()):
        raise ConfigError(
            f"training.batch_size={recipe.training.batch_size} is not divisible by gradient_accumulation="
            f"{recipe.training.microbatches} times {world_size()} processes"
        )
    if task.loss_over_batch and world_size() > 1:
        raise ConfigError(
            f"the loss of the task {task.name!r} compares all rows of a batch, which {world_size()} processes can't "
            "share",
            hint="Train it with one process; training.gradient_accumulation computes a batch in parts, to save memory.",
        )


def _rows(
    recipe: Recipe, task: Task[Any], parent: Parent | None, knowledge: Knowledge | None
) -> tuple[Splits, list[str]]:
    """The rows, with their passages, and the labels.

    Raises:
        DataError: see `load_splits`, `Task.check`.
    """
    columns = task.columns() if knowledge is None else knowledge.columns(task)
    splits = load_splits(recipe.data, columns, task.strata, task.files_in())
    labels = task.labels(splits.train)
    if parent is not None:
        labels = parent.labels(labels)
    if recipe.data.unknown_labels == "skip":
        splits = known_rows(splits, task, labels)
    if knowledge is not None:
        splits = knowledge.add_to_splits(splits)
    for table in splits.tables().values():
        task.check(table, labels)
    return splits, labels


@dataclass(frozen=True)
class _Others:
    """Rows that objectives read besides those of the recipe, read as those are."""

    recipe: Recipe
    task: Task[Any]
    labels: Sequence[str]
    knowledge: Knowledge | None

    def old_rows(self, objective: Objective[Any], parent: Parent | None) -> Table | None:
        """The rows that an objective is not to let be forgotten; None: it asks for none.

        Raises:
            ConfigError: training does not start from an artifact.
            DataError: see `read_table`, `Task.check`.
        """
        wanted = objective.old_rows()
        if wanted is None:
            return None
        if parent is None or not parent.same_task:
            raise ConfigError(
                f"the objective {objective.name!r} keeps what was learned before, and "
                + ("this training starts anew" if parent is None else "`from` is an artifact of another task"),
                hint="Give the artifact that was trained on the old rows: from: FOLDER.",
            )
        path, limit = wanted
        table, _ = draw(self._read(path, True), limit, self.recipe.data.seed, self.task.strata, "old rows")
        table = self._with_passages(table)
        self.task.check(table, self.labels)
        return table

    def unlabelled(self, objective: Objective[Any], splits: Splits) -> Table | None:
        """The rows without labels that an objective reads; None: it reads none.

        Raises:
            DataError: see `read_table`, `Task.check`; their parts are not those of the training rows.
        """
        path = objective.unlabelled()
        if path is None:
            return None
        table = self._with_passages(self._read(path, False))
        self.task.check(table, self.labels, labelled=False)
        self.task.check_roles(table.columns, splits.train.columns)
        return table

    def _read(self, path: Path, labelled: bool) -> Table:
        data, task = self.recipe.data, self.task
        columns = task.columns(labelled=labelled)
        if self.knowledge is not None:
            columns = self.knowledge.columns(task, labelled=labelled)
        return read_table(str(path), columns, data.columns, delimiter=data.delimiter, files_in=task.files_in())

    def _with_passages(self, table: Table) -> Table:
        return table if self.knowledge is None else self.knowledge.add_to(table)


def known_rows(splits: Splits, task: Task[Any], labels: Sequence[str]) -> Splits:
    """Splits without the rows whose label is not learned."""
    found, notes = splits.tables(), list(splits.notes)
    for split, table in splits.tables().items():
        kept = [index for index in range(len(table)) if task.is_known(table, index, labels)]
        if len(kept) < len(table):
            notes.append(f"{split}: {len(table) - len(kept):,} rows with unknown labels are left out")
            found[split] = table.take(kept)
        if not kept:
            raise DataError(f"{table.source}: no row has a known label")
    return Splits(found["train"], found["validation"], found.get("test"), tuple(notes))


def build_model(prepared: Prepared) -> TunedModel:
    """The model of a recipe, ready to be trained."""
    recipe = prepared.recipe
    model = build(
        prepared.base,
        recipe.variant,
        prepared.method,
        prepared.config,
        prepared.task,
        prepared.labels,
        precision=recipe.training.precision,
        seed=recipe.seed,
        roles=prepared.splits.train.columns,
        gradient_checkpointing=recipe.training.gradient_checkpointing,
        device=default_device(),
    )
    if prepared.task.loss_over_batch:
        model.parts = recipe.training.microbatches
    model.objectives = recipe.chosen_objectives()
    if prepared.knowledge is not None:
        model.spec = replace(model.spec, knowledge=prepared.knowledge.placement)
    return model
