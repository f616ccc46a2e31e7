"""From a foreign adapter folder to an artifact: located, read, checked against the base, loaded once, then written."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pefttools.artifact.effect import warn_without_effect
from pefttools.artifact.manifest import MANIFEST, ImportedEntry, Manifest
from pefttools.artifact.save import draft_manifest, finalize
from pefttools.bases import Base, locate_base, variants
from pefttools.bases.positions import text_limit
from pefttools.building import assemble, check_combination
from pefttools.compute.precision import default_device
from pefttools.errors import ArtifactError, ConfigError, PeftToolsError
from pefttools.files import check_replaceable, folder_atomic, sha256_file
from pefttools.importers.importer import Foreign, configured_labels
from pefttools.importers.locate import Source, locate_source
from pefttools.methods import Method, MethodConfig
from pefttools.recipe import choose_method, choose_task
from pefttools.tasks import Task, TaskModel, tasks
from pefttools.tasks.lengths import fit_to_base
from pefttools.tuned import TunedModel


def import_folder(
    source: str,
    base: str,
    output: Path,
    *,
    labels: Sequence[str] = (),
    task: str | Mapping[str, Any] | None = None,
    variant: str = "float32",
    overwrite: bool = False,
) -> Manifest:
    """Make an artifact from an adapter that another program trained.

    Args:
        source: a folder, or a hub id (``ORG/NAME`` or ``ORG/NAME@REVISION``).
        base: folder, ``package:`` reference or hub id of the base model.
        output: folder to write; nothing is written unless everything fits.
        labels: label names in the order of the head's outputs; if empty, those of the source or of the base.
        task: name of a task, or a mapping with name and options; None to take what the source says.
        variant: number format of the base's weights.
        overwrite: replace an existing artifact.

    Raises:
        ArtifactError: the source is damaged or does not fit the base.
        ConfigError: something in it can't be represented, or the labels don't match the head.
        BaseModelError: the base can't be found or loaded.
    """
    check_replaceable(output, MANIFEST, overwrite)
    found = locate_source(source)
    foreign = found.importer.read(found.folder)
    where = locate_base(base)
    method, config = choose_method(foreign.method, f"{source}: the method's options")
    chosen = _task(foreign, task, source)
    names = _labels(foreign, where, chosen, labels, source)
    device = default_device()
    kind = variants.get(variant)(device)
    check_combination(method, config, kind, chosen)
    built = _built(chosen, where, kind, names, foreign, source)
    foreign = found.importer.check(found.folder, foreign, built, where)
    method, config = choose_method(foreign.method, f"{source}: the method's options")
    chosen = _longest(chosen, where, built, foreign.virtual)
    with folder_atomic(output, over=MANIFEST) as temporary:
        found.importer.write(found.folder, temporary)
        wrapped = _loaded(method, built, temporary, config, found, where)
        model = assemble(built, wrapped, where, kind, method, config, chosen, names, "float32", device)
        _check_runs(model, found, where)
        manifest = finalize(
            temporary,
            draft_manifest(model),
            foreign.storage,
            parameters={"total": model.count().total, "trainable": foreign.trained, "head": foreign.in_head},
            imported=_entry(source, found, foreign),
        )
    warn_without_effect(output, manifest)
    return manifest


def _entry(source: str, found: Source, foreign: Foreign) -> ImportedEntry:
    return ImportedEntry(
        source=source,
        revision=found.revision,
        importer=found.importer.name,
        declared_base=foreign.declared_base,
        files={file.name: sha256_file(file) for file in foreign.files},
        details=foreign.details,
    )


def _task(foreign: Foreign, task: str | Mapping[str, Any] | None, source: str) -> Task[Any]:
    """The task that the source or the user names."""
    options: dict[str, Any] = {"name": task} if isinstance(task, str) else dict(task or {})
    name = options.pop("name", None) or foreign.task
    if name is None:
        raise ConfigError(
            f"{source} does not say which task it was trained for",
            hint="Set it with --task; `pefttools tasks` lists them.",
        )
    if foreign.task is not None and tasks.get(name).peft_task_type != tasks.get(foreign.task).peft_task_type:
        raise ConfigError(f"{source} was trained for the task {foreign.task!r}, not for {name!r}")
    if "head" in tasks.get(name).config.model_fields:
        options["head"] = foreign.head
    return choose_task({"name": name, **options}, f"{source}: the task")


def _longest(task: Task[Any], base: Base, built: TaskModel, virtual: int) -> Task[Any]:
    """The task with inputs as long as the base takes, if it is not known how long they were in training.

    Raises:
        ConfigError: the given ``max_length`` is more than the base takes.
    """
    if "max_length" in task.options.model_fields_set:
        return fit_to_base(task, base, virtual)[0]
    positions = text_limit(base)
    if positions is None:
        return task
    longest = min(positions, int(built.processor.model_max_length)) - virtual
    longest -= int(getattr(task.options, "max_new_tokens", 0))
    return type(task)(task.options.model_copy(update={"max_length": max(longest, 8)}))


def _labels(foreign: Foreign, base: Base, task: Task[Any], given: Sequence[str], source: str) -> tuple[str, ...]:
    """Label names: those given, those of the source, or those of the base's own configuration."""
    if not task.has_labels:
        if given:
            raise ConfigError(f"the task {task.name!r} has no labels", hint="Leave out --labels.")
        return ()
    if isinstance(given, str):
        raise ConfigError(f"labels must be a list of names, not the text {given!r}")
    outputs = foreign.outputs
    if outputs == 1:
        raise ConfigError(
            f"{source}: its head has one output: it gives a number, not labels",
            hint="Import it with a --task that predicts numbers; `pefttools tasks` lists them.",
        )
    names = tuple(given) or foreign.labels or _of_base(base, outputs)
    if not names:
        many = "" if outputs is None else f"{outputs} "
        raise ConfigError(
            f"neither {source} nor the base's configuration names the {many}labels",
            hint="Name them in the order of the head's outputs: --labels no,yes.",
        )
    if len(set(names)) != len(names) or not all(name.strip() for name in names):
        raise ConfigError(f"the labels must be different and not empty: {', '.join(map(repr, names))}")
    if outputs is not None and len(names) != outputs:
        raise ConfigError(
            f"{len(names)} labels ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''}) for a head of {outputs} "
            f"outputs in {source}",
            hint="Name one label for each output: --labels no,yes.",
        )
    return names


def _of_base(base: Base, outputs: int | None) -> tuple[str, ...]:
    """Labels in the base's own configuration, if their number is right."""
    names = configured_labels(base.folder / "config.json")
    return names if outputs is None or len(names) == outputs else ()


def _built(
    task: Task[Any], base: Base, variant: Any, labels: Sequence[str], foreign: Foreign, source: str
) -> TaskModel:
    try:
        return task.build(base, variant, labels, foreign.head)
    except RuntimeError as error:
        raise ArtifactError(
            f"{source}: the base {base.id!r} can't be prepared for the task {task.name!r}: {_first_line(error)}"
        ) from error


def _loaded(
    method: Method[Any], built: TaskModel, folder: Path, config: MethodConfig, found: Source, base: Base
) -> torch.nn.Module:
    """The base with the adapter on it, loaded as every artifact is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return method.load(built.transformer, folder, config, built.target)
    except ArtifactError as error:
        # The files are in a temporary folder now; the user knows them under another path.
        message = error.message.replace(str(folder), str(found.folder))
        raise ArtifactError(f"{message} (base {base.id!r})", hint=error.hint) from error
    except PeftToolsError:
        raise
    except Exception as error:
        raise ArtifactError(
            f"{found.folder} can't be loaded on the base {base.id!r}: {type(error).__name__}: {_first_line(error)}"
        ) from error


def _check_runs(model: TunedModel, found: Source, base: Base) -> None:
    """Run the model once: what loads but can't answer is found before anything is written."""
    task = model.spec.task
    try:
        logits = model.eval().run_batch(task.probe(model.processor))
    except Exception as error:
        raise ArtifactError(
            f"{found.folder} loads on the base {base.id!r}, but can't answer for the task {task.name!r}: "
            f"{type(error).__name__}: {_first_line(error)}"
        ) from error
    if not torch.isfinite(logits).all():
        raise ArtifactError(f"{found.folder} on the base {base.id!r} gives logits that are not finite")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] or repr(error)
