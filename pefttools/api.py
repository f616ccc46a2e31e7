"""The Python functions behind ``import pefttools``. The command line does nothing that these can't."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pefttools.artifact import Manifest, load_artifact, read_manifest, save_artifact, verify_files
from pefttools.artifact.effect import warn_without_effect
from pefttools.artifact.load import find_base
from pefttools.bases import locate_base
from pefttools.data import Table, read_table
from pefttools.errors import ConfigError, UnknownNameError
from pefttools.progress import Reporter, SilentReporter
from pefttools.recipe import Recipe, choose_method, choose_task, load_recipe, validate
from pefttools.tasks import Evaluation
from pefttools.training.precision import default_device
from pefttools.training.run import train as _train
from pefttools.training.store import Stored
from pefttools.tuned import TunedModel, build

PathLike = str | Path


def wrap(
    base: str,
    method: str | Mapping[str, Any] = "lora",
    *,
    task: str | Mapping[str, Any] = "sequence-classification",
    labels: Sequence[str] = (),
    variant: str = "float32",
    precision: str = "auto",
    seed: int = 0,
    **options: Any,
) -> TunedModel:
    """Load a base model and wrap it, ready for a training loop of your own.

    Args:
        base: folder, ``package:`` reference or hub id.
        method: name of a method, or a mapping with name and options.
        task: name of a task, or a mapping with name and options.
        labels: label names, where the task has labels.
        variant: number format of the base's weights.
        precision: ``auto``, ``float32`` or ``bfloat16``.
        seed: of what is initialised at random.
        options: of the method, e.g. ``r=8``.

    Returns:
        A module whose forward takes ``input_ids`` and ``attention_mask`` and gives logits.

    Raises:
        PeftToolsError: a name, an option or a combination that can't work.
    """
    choice: dict[str, Any] = {"name": method} if isinstance(method, str) else dict(method)
    chosen, config = choose_method({**choice, **options})
    chosen_task = choose_task(task if isinstance(task, str) else dict(task))
    if chosen_task.roles.get("label") and len(labels) < 2:
        raise ConfigError(f"the task {chosen_task.name!r} needs label names", hint="wrap(..., labels=['no', 'yes'])")
    return build(
        locate_base(base), variant, chosen, config, chosen_task, labels,
        precision=precision, seed=seed, device=default_device(),
    )  # fmt: skip


def train(
    recipe: Recipe | PathLike | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    resume: bool = False,
    reporter: Reporter | None = None,
) -> Stored | None:
    """Train one method and save its artifact.

    Args:
        recipe: a `Recipe`, the path of a YAML file, or a mapping of the same form.
        overrides: ``field.field=value`` on a YAML file.
        resume: go on from the last checkpoint of an interrupted run.
        reporter: shows progress; None: nothing is shown.

    Returns:
        The model as it was saved, its manifest and evaluations; None where another process writes.
    """
    if isinstance(recipe, str | Path):
        recipe = load_recipe(Path(recipe), overrides)
    elif not isinstance(recipe, Recipe):
        recipe = validate(Recipe, dict(recipe), "recipe")
    return _train(recipe, reporter or SilentReporter(), resume=resume)


def save(model: TunedModel, folder: PathLike, *, storage: str = "float32") -> Manifest:
    """Save the adapter and head of a tuned model as an artifact."""
    return save_artifact(model, Path(folder), storage=storage)


def load(folder: PathLike, *, base: str | None = None, variant: str | None = None) -> TunedModel:
    """Load an artifact on its base, verified.

    Args:
        folder: the artifact.
        base: where the base lies, if not where the manifest says.
        variant: number format of the base, if not the one that the adapter was trained on.

    Raises:
        ArtifactError: the artifact is damaged.
        BaseModelError: the base is another one.
    """
    return load_artifact(Path(folder), base=base, variant=variant)


def predict(
    model: TunedModel | PathLike,
    inputs: Sequence[str] | Sequence[Mapping[str, Any]] | Table,
    *,
    batch_size: int = 64,
    reporter: Reporter | None = None,
) -> list[dict[str, Any]]:
    """Predictions, one per input: ``{"prediction": ...}``, with a score where the task gives one.

    Args:
        model: a tuned model or the folder of an artifact.
        inputs: texts, mappings by column role (``{"text": ..., "pair": ...}``), or a table.
        batch_size: inputs at a time.
        reporter: shows progress.
    """
    tuned = model if isinstance(model, TunedModel) else load(model)
    task = tuned.spec.task
    table = inputs if isinstance(inputs, Table) else _table(inputs, task.predict_roles())
    task.check(table, tuned.labels, labelled=False)
    visible = {role: name for role, name in table.columns.items() if role in task.inputs}
    table = Table(table.source, [{r: row[r] for r in visible} for row in table.rows], visible, table.numbers)
    examples = task.encode(table, tuned.tokenizer, tuned.labels)
    with (reporter or SilentReporter()).step("predicting", "rows") as advance:
        return task.predict(tuned, examples, batch_size=batch_size, progress=advance)


def import_adapter(
    source: PathLike,
    base: str,
    output: PathLike,
    *,
    labels: Sequence[str] = (),
    task: str | Mapping[str, Any] | None = None,
    variant: str = "float32",
    overwrite: bool = False,
) -> Manifest:
    """Make an artifact of an adapter that another program trained, e.g. of a PEFT folder.

    Args:
        source: a folder, or a hub id (``ORG/NAME`` or ``ORG/NAME@REVISION``).
        base: the base model that it was trained on; nothing in a foreign folder verifies it.
        output: folder of the artifact; nothing is written unless everything fits.
        labels: label names in the order of the head's outputs; empty: those of the source's or the base's
            configuration.
        task: name of the task, or a mapping with name and options; None: what the source says.
        variant: number format of the base's weights.
        overwrite: replace an artifact that stands there.

    Raises:
        ArtifactError: the source is damaged or does not fit the base.
        ConfigError: something in it can't be represented, or labels that don't match the head.
    """
    from pefttools.importers.importing import import_folder

    return import_folder(
        str(source), base, Path(output), labels=labels, task=task, variant=variant, overwrite=overwrite
    )


def evaluate(
    model: TunedModel | PathLike,
    data: str | Table,
    *,
    columns: Mapping[str, str] | None = None,
    batch_size: int = 64,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Metrics and predictions of a tuned model on labelled rows.

    Args:
        model: a tuned model or the folder of an artifact.
        data: a table, or a source as `read_table` takes it.
        columns: role -> column name; an artifact remembers those of its training data.
        batch_size: rows at a time.
        reporter: shows progress.
    """
    tuned = model if isinstance(model, TunedModel) else load(model)
    task = tuned.spec.task
    if not isinstance(data, Table):
        data = read_table(data, task.roles, dict(columns or {}), split="test")
    task.check(data, tuned.labels)
    examples = task.encode(data, tuned.tokenizer, tuned.labels)
    with (reporter or SilentReporter()).step("evaluating", "rows") as advance:
        return task.evaluate(tuned, examples, batch_size=batch_size, progress=advance)


def inspect(folder: PathLike) -> Manifest:
    """The manifest of an artifact; warns where it has no effect on its base."""
    manifest = read_manifest(Path(folder))
    warn_without_effect(Path(folder), manifest)
    return manifest


def verify(folder: PathLike, *, base: str | None = None, check_base: bool = True) -> Manifest:
    """Check every file of an artifact, and that its base is the one it was trained on.

    Raises:
        ArtifactError: a file is damaged or missing.
        BaseModelError: the base is another one, or can't be found.
    """
    manifest = read_manifest(Path(folder))
    verify_files(Path(folder), manifest)
    if check_base:
        find_base(manifest, base)
    return manifest


def merge(artifact: PathLike, output: PathLike, *, base: str | None = None) -> Path:
    """Fold an adapter into its base (in float32) and write a plain transformers model.

    A task head of pefttools' own is written beside it as ``head.safetensors``: transformers has no place for it.

    Raises:
        ConfigError: the method can't be merged.
    """
    from safetensors.torch import save_file

    from pefttools.artifact.save import HEAD
    from pefttools.files import folder_atomic

    manifest = read_manifest(Path(artifact))
    method, _ = choose_method({"name": manifest.method.name, **manifest.method.config})
    if not method.capabilities.mergeable:
        raise ConfigError(
            f"the method {method.name!r} can't be merged: its effect is no change of the base's weights",
            hint="Use the artifact as it is.",
        )
    tuned = load_artifact(Path(artifact), base=base, variant="float32")
    merged: Any = method.merge(tuned.transformer)
    with folder_atomic(Path(output), over="config.json") as folder:
        merged.save_pretrained(folder)
        tuned.tokenizer.save_pretrained(folder)
        if tuned.head is not None:
            save_file({k: v.cpu().contiguous() for k, v in tuned.head.state_dict().items()}, folder / HEAD)
    return Path(output)


def export(
    artifact: PathLike,
    output: PathLike,
    *,
    format: str = "peft-lora",
    rank: int | None = None,
    base: str | None = None,
) -> float:
    """Write an adapter in a format that other servers load.

    Args:
        artifact: folder of the artifact.
        output: folder to write.
        format: ``peft-lora``.
        rank: most rank of a site; needed where the adapter is no low-rank update itself.
        base: where the base lies, if not where the manifest says.

    Returns:
        The relative error: Frobenius norm of what was left out, divided by that of the whole change; 0 where exact.

    Raises:
        ConfigError: an adapter that is no change of linear layers' weights.
    """
    from pefttools.artifact.convert import export_lora

    if format != "peft-lora":
        raise UnknownNameError("format", format, ["peft-lora"])
    return export_lora(Path(artifact), Path(output), rank=rank, base=base).error


def compose(
    artifacts: Sequence[PathLike],
    weights: Sequence[float],
    output: PathLike,
    *,
    rank: int | None = None,
    base: str | None = None,
) -> float:
    """Save the weighted sum of adapters of one base and task as an artifact; gives the relative error, see `export`.

    Raises:
        ConfigError: adapters that don't go together.
    """
    from pefttools.artifact.convert import compose as composed

    return composed([Path(one) for one in artifacts], weights, Path(output), rank=rank, base=base).error


def push_to_hub(model: TunedModel | PathLike, repository: str, *, private: bool = True) -> str:
    """Upload an adapter to the Hugging Face hub in one commit; gives the commit's address.

    Args:
        model: a tuned model, or the folder of an artifact, which is verified first.
        repository: ``ORG/NAME``, or ``ORG/NAME@BRANCH``; it is created where it is new.
        private: who may see a repository that is new.

    Raises:
        ArtifactError: the artifact is damaged.
        HubError: the hub could not be reached, or said no.
    """
    import tempfile

    from pefttools.store.hub import push

    target = repository if repository.startswith("hub:") else f"hub:{repository}"
    if not isinstance(model, TunedModel):
        return push(Path(model), target, private=private)
    with tempfile.TemporaryDirectory() as spare:
        save(model, Path(spare, "artifact"))
        return push(Path(spare, "artifact"), target, private=private)


def _table(inputs: Sequence[Any], roles: dict[str, bool]) -> Table:
    main = "text" if "text" in roles else "prompt"
    rows = [{main: one} if isinstance(one, str) else dict(one) for one in inputs]
    names = {key: key for row in rows for key in row}
    return Table("the inputs", rows, names, range(1, len(rows) + 1))
