"""From a base model to a trained one, and to its predictions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pefttools.api.knowledge import columns_with, opened, with_passages
from pefttools.artifact import Manifest, load_artifact, save_artifact
from pefttools.artifact.signing import trusted
from pefttools.bases import BaseVariant, locate_base, variants
from pefttools.building import build, check_combination
from pefttools.compute.precision import check_precision, default_device
from pefttools.data import Table, read_table
from pefttools.data.reading import column_names
from pefttools.errors import ConfigError
from pefttools.knowledge import KnowledgeIndex, cited
from pefttools.methods import Method, methods
from pefttools.objectives import Objective
from pefttools.outline import check_on_outline
from pefttools.predicting import ID, OnError, table_of
from pefttools.predicting import predict as _predict
from pefttools.progress import Reporter, SilentReporter
from pefttools.recipe import (
    GivenMethod,
    GivenObjective,
    Recipe,
    choose_method,
    choose_objectives,
    choose_task,
    load_recipe,
    validate,
)
from pefttools.robustness import Condition
from pefttools.tasks import Evaluation, Task, tasks
from pefttools.tasks.cuts import cuts_of
from pefttools.tasks.lengths import fit_to_base
from pefttools.tuned import TunedModel

if TYPE_CHECKING:
    from pefttools.training.store import Stored

PathLike = str | Path


def wrap(
    base: str,
    method: GivenMethod | None = None,
    *,
    task: str | Mapping[str, Any] | None = None,
    labels: Sequence[str] = (),
    variant: str | None = None,
    objective: GivenObjective = (),
    precision: str = "auto",
    seed: int = 0,
    **options: Any,
) -> TunedModel:
    """Load a base model and wrap it, ready for a training loop of your own.

    Args:
        base: folder, ``package:`` reference or hub id.
        method: name of a method, a mapping with name and options, or a list of several; None for LoRA.
        task: name of a task, or a mapping with name and options; None for one label per text.
        labels: label names, if the task has labels.
        variant: number format of the base's weights; None for float32.
        objective: what is added to the task's loss, which ``model(**batch, targets=labels)`` gives in training mode.
        precision: ``auto``, ``float32``, ``bfloat16`` or ``float16``, for which your loop must scale the gradients.
        seed: for random initialisation.
        options: options of the method, e.g. ``r=8``.

    Returns:
        A module whose forward takes ``input_ids`` and ``attention_mask`` and gives logits.

    Raises:
        PeftToolsError: a name, an option or a combination that can't work.
    """
    if method is None or isinstance(method, str):
        method = {"name": method or methods.default()}
    if options and not isinstance(method, Mapping):
        raise ConfigError(f"{next(iter(options))}: with several methods, each takes its options in its own mapping")
    chosen, config = choose_method({**method, **options} if isinstance(method, Mapping) else method)
    chosen_task = choose_task(dict(task) if isinstance(task, Mapping) else task or tasks.default())
    variant = variant or variants.default()
    if chosen_task.has_labels and len(labels) < (2 if chosen_task.one_label else 1):
        raise ConfigError(f"the task {chosen_task.name!r} needs label names", hint="wrap(..., labels=['no', 'yes'])")
    check_combination(chosen, config, variants.get(variant)(), chosen_task)
    terms = _for_a_loop(choose_objectives(objective), chosen, variants.get(variant)(), chosen_task)
    found = locate_base(base)
    chosen_task, shortened = fit_to_base(chosen_task, found, chosen.virtual_tokens(config))
    if shortened is not None:
        warnings.warn(shortened, stacklevel=2)
    check_precision(precision, variant, default_device())
    check_on_outline(found, variant, chosen, config, chosen_task, labels)
    model = build(found, variant, chosen, config, chosen_task, labels,
                  precision=precision, seed=seed, device=default_device())  # fmt: skip
    model.objectives = terms
    _warn_of_a_loop(model)
    return model


def _for_a_loop(
    terms: tuple[Objective[Any], ...], method: Method[Any], variant: BaseVariant, task: Task[Any]
) -> tuple[Objective[Any], ...]:
    """Objectives that need nothing which only `train` can give them.

    Raises:
        ConfigError: they do, or don't go with the others.
    """
    for one in terms:
        one.check(method, variant, task)
        if one.teachers() or one.old_rows() or one.unlabelled():
            raise ConfigError(
                f"the objective {one.name!r} reads more than a batch: it needs train()", hint="Use pefttools.train."
            )
    return terms


def _warn_of_a_loop(model: TunedModel) -> None:
    """Say what a training loop must do that `train` would have done."""
    method = model.spec.method
    if method.reads_rows(model.spec.config):
        warnings.warn(
            f"with these options the method {method.name!r} is initialised from the training rows: call "
            "model.spec.method.prepare(model.transformer, model.spec.config, passes) before your loop, or use train()",
            stacklevel=3,
        )
    if model.autocast == torch.float16:
        warnings.warn(
            "this model computes in float16, where small gradients vanish: scale the loss of your loop "
            "(torch.amp.GradScaler), or wrap with precision='float32'",
            stacklevel=3,
        )


def train(
    recipe: Recipe | PathLike | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Stored | None:
    """Train one method and save its artifact.

    Args:
        recipe: a `Recipe`, the path of a YAML file, or a mapping of the same form.
        overrides: ``field.field=value`` on a YAML file.
        resume: continue from the last checkpoint of an interrupted run.
        overwrite: replace an existing artifact or existing checkpoints at the recipe's output.
        reporter: shows progress; None to show nothing.

    Returns:
        The model as it was saved, its manifest and evaluations; None if another process writes them.

    Raises:
        PeftToolsError: anything wrong with the recipe; existing output that may not be replaced; nothing to resume, or
            a checkpoint of another training run.
    """
    from pefttools.training.run import train as _train

    if isinstance(recipe, str | Path):
        recipe = load_recipe(Path(recipe), overrides)
    elif not isinstance(recipe, Recipe):
        recipe = validate(Recipe, dict(recipe), "recipe")
    return _train(recipe, reporter or SilentReporter(), resume=resume, overwrite=overwrite)


def save(model: TunedModel, folder: PathLike, *, storage: str = "float32") -> Manifest:
    """Save the adapter and head of a tuned model as an artifact."""
    return save_artifact(model, Path(folder), storage=storage)


def load(
    folder: PathLike, *, base: str | None = None, variant: str | None = None, signed_by: Sequence[PathLike] = ()
) -> TunedModel:
    """Load an artifact on its base, verified.

    Args:
        folder: the artifact.
        base: path of the base model, if it has moved.
        variant: number format of the base, if not the one that the adapter was trained on.
        signed_by: public keys, one of which must have signed it; if empty, a signature is not required.

    Raises:
        ArtifactError: the artifact is damaged, or not signed.
        BaseModelError: the base is a different one.
    """
    return load_artifact(Path(folder), base=base, variant=variant, signers=trusted(signed_by))


def predict(
    model: TunedModel | PathLike,
    inputs: Sequence[str | bytes | Mapping[str, Any]] | Table | None = None,
    *,
    data: str | None = None,
    columns: Mapping[str, str] | None = None,
    id_column: str | None = None,
    delimiter: str | None = None,
    batch_size: int = 64,
    on_error: OnError = "stop",
    all_scores: bool = False,
    knowledge: KnowledgeIndex | PathLike | None = None,
    reporter: Reporter | None = None,
) -> list[dict[str, Any]]:
    """Predictions, one per input: ``{"prediction": ...}``, with a ``score`` if the task gives one.

    Args:
        model: a tuned model or the folder of an artifact.
        inputs: texts (or a file's bytes, if the task reads images or audio), mappings by column role
            (``{"text": ..., "pair": ...}``; ``id`` is passed through), or a table.
        data: instead of inputs, a source as `read_table` takes it.
        columns: with data: role -> column name, if different from the training data's.
        id_column: with data: column whose values are passed through as ``id``.
        delimiter: with data: delimiter of a csv file; None to detect it.
        batch_size: inputs at a time.
        on_error: ``stop`` at an invalid row, or ``skip`` it: its entry has ``error`` instead of ``prediction``.
        all_scores: include ``scores``, the probability of every label.
        knowledge: an index of passages that are looked up for each input; see `pefttools.index`.
        reporter: shows progress.

    Returns:
        One entry per input, in order. If a row was truncated to ``max_length``, ``cut_from`` is its length in tokens.
        With ``knowledge`` its ``sources`` are the passages that were read, by id and score.

    Raises:
        ConfigError: the model was trained with passages, and there is no index to find them in.
        DataError: a row that the model can't take.
    """
    if (inputs is None) == (data is None):
        raise ConfigError("predict takes either inputs or data")
    tuned = model if isinstance(model, TunedModel) else load(model)
    task = tuned.spec.task
    knowledge = None if knowledge is None else opened(knowledge)
    if data is not None:
        wanted = columns_with(tuned, knowledge, labelled=False)
        table = _read(tuned, data, wanted, columns, id_column, delimiter)
    elif isinstance(inputs, Table):
        table = inputs
    else:
        assert inputs is not None
        table = table_of(inputs, task)
    if not len(table):
        return []
    reporter = reporter or SilentReporter()
    table, hits = with_passages(tuned, table, knowledge, reporter, strict=on_error == "stop")
    found = _predict(tuned, table, batch_size=batch_size, on_error=on_error, all_scores=all_scores, reporter=reporter)
    if hits is None:
        return found
    return [{**one, **cited(sources)} for one, sources in zip(found, hits, strict=True)]


def evaluate(
    model: TunedModel | PathLike,
    data: str | Table,
    *,
    columns: Mapping[str, str] | None = None,
    delimiter: str | None = None,
    batch_size: int = 64,
    knowledge: KnowledgeIndex | PathLike | None = None,
    typos: float | None = None,
    attack: str | Mapping[str, Any] | None = None,
    seed: int | None = None,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Metrics and predictions of a tuned model on labelled rows, as they are or made harder.

    Args:
        model: a tuned model or the folder of an artifact.
        data: a table, or a source as `read_table` takes it.
        columns: role -> column name, if different from the training data's, which an artifact remembers.
        delimiter: delimiter of a csv file; None to detect it.
        batch_size: rows at a time.
        knowledge: an index of passages that are looked up for each row; see `pefttools.index`.
        typos: share of the words of four letters or more that get a typo; before passages are looked up.
        attack: moves what the model reads of each row against its own label: ``fgm``, ``pgd``, or a mapping with name
            and options.
        seed: which words get which typos; 0 if there are any.
        reporter: shows progress.

    Raises:
        ConfigError: the model was trained with passages, and there is no index to find them in; or its task can't be
            measured under an attack or with typos.
        DataError: a row that the model can't take.
    """
    condition = _condition(typos, attack, seed)
    tuned = model if isinstance(model, TunedModel) else load(model)
    task, reporter = tuned.spec.task, reporter or SilentReporter()
    knowledge = None if knowledge is None else opened(knowledge)
    if not isinstance(data, Table):
        data = _read(tuned, data, columns_with(tuned, knowledge), columns, delimiter=delimiter)
    if condition is not None:
        condition.check(task, data)
        if (misspelt := condition.misspelt(data, task)) is not None:
            reporter.event(misspelt.said())
            data = misspelt.table
    data, _ = with_passages(tuned, data, knowledge, reporter)
    task.check_roles(data.columns, tuned.spec.columns)
    task.check(data, tuned.labels)
    examples = task.encode(data, tuned.processor, tuned.labels)
    for note in data.notes:
        reporter.event(note)
    with reporter.step("evaluating" if condition is None else f"evaluating under {condition.title}", "rows") as advance:
        evaluate_by = task.evaluate if condition is None else condition.evaluate
        evaluation = evaluate_by(tuned, examples, batch_size=batch_size, progress=advance)
    cuts = cuts_of(examples, task)
    if cuts.cut:
        reporter.event(cuts.line(data.source))
    return evaluation


def _condition(typos: float | None, attack: str | Mapping[str, Any] | None, seed: int | None) -> Condition | None:
    """What is done to the rows; None if nothing.

    Raises:
        ConfigError: a share out of range, an unknown attack or option; a seed without typos.
    """
    if typos is None and attack is None and seed is None:
        return None
    given = {"typos": typos, "attack": dict(attack) if isinstance(attack, Mapping) else attack}
    given |= {} if seed is None else {"seed": seed}
    condition = validate(Condition, given, "evaluate")
    condition.chosen_attack()
    return condition


def _read(
    model: TunedModel,
    source: str,
    roles: dict[str, bool],
    columns: Mapping[str, str] | None,
    id_column: str | None = None,
    delimiter: str | None = None,
) -> Table:
    """Rows of a source, with the columns of the training data if the source has them."""
    present = column_names(source, delimiter)
    remembered = {role: name for role, name in model.spec.columns.items() if name in present and role in roles}
    chosen = {**remembered, **(columns or {})}
    if id_column is not None:
        roles, chosen = {**roles, ID: True}, {**chosen, ID: id_column}
    files_in = model.spec.task.files_in()
    return read_table(source, roles, chosen, split="test", delimiter=delimiter, files_in=files_in)
