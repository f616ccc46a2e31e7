"""What already exists where a new artifact goes, and whether training may continue from it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pefttools.artifact.manifest import MANIFEST, read_manifest
from pefttools.compute.processes import world_size
from pefttools.errors import ArtifactError, ConfigError
from pefttools.progress import Reporter
from pefttools.training.checkpoints import Checkpoint, any_checkpoint, newest_whole
from pefttools.training.microbatches import with_microbatches
from pefttools.training.prepare import Prepared

#: fields of a recipe that may change when training is resumed: what is done with its result, and what is among the
#: facts by content
_FREE = {
    "base", "revision", "data", "output", "storage", "from", "knowledge.index",
    "training.eval_batch_size", "training.keep_best", "training.report_to", "training.checkpoints",
}  # fmt: skip


def work_folder(output: Path) -> Path:
    """Where the checkpoints of an artifact's training are while it runs."""
    return output.with_name(f"{output.name}.training")


def check_free(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse to lose hours of work: what exists at `output` is replaced, or continued from, only on request.

    Args:
        output: folder of the future artifact.
        resume: continue from its checkpoints.
        overwrite: replace what is there.

    Raises:
        ConfigError: an artifact or checkpoints that were not to be replaced, or nothing to continue from.
    """
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite are mutually exclusive", hint="Use only one of them.")
    checkpoint = any_checkpoint(work_folder(output))
    if resume and checkpoint is None:
        raise ConfigError(
            f"there is nothing to resume: no checkpoint in {work_folder(output)}",
            hint="The training is complete: its artifact exists. --overwrite trains it again."
            if (output / MANIFEST).is_file()
            else "Run without --resume (resume=True) to start.",
        )
    if resume or overwrite:
        return
    if checkpoint is not None:
        raise ConfigError(
            f"{checkpoint.parent} contains an interrupted run, up to step {checkpoint.name.rpartition('-')[2]}",
            hint="--resume (resume=True) continues from there; --overwrite (overwrite=True) starts over.",
        )
    if (output / MANIFEST).is_file():
        raise ConfigError(
            f"{output} already contains an artifact{_described(output)}",
            hint="--overwrite (overwrite=True) replaces it; --set output=FOLDER keeps both.",
        )


def made_from(prepared: Prepared) -> dict[str, Any]:
    """Everything that determines how training goes, by content: the location of files is left out."""
    recipe = prepared.recipe
    facts = {
        "base": prepared.base.identity,
        "rows": {name: digest for name, digest in prepared.splits.digests().items() if name != "test"},
        "labels": _digest(prepared.labels),
        "processes": world_size(),
        "parent": prepared.parent.digest if prepared.parent else None,
        **prepared.other_digests(),
    }
    chosen = dict(_flat(recipe.settings()))
    chosen |= _flat({"method": {"name": prepared.method.name, **prepared.method.describe(prepared.config)}})
    chosen |= _flat({"task": {"name": prepared.task.name, **prepared.task.options.model_dump(mode="json")}})
    names = [name for name in chosen if not {name, name.partition(".")[0]} & _FREE]
    return {**facts, "recipe": {name: chosen[name] for name in sorted(names) if name not in ("method", "task")}}


def checkpoint_to_resume(prepared: Prepared, work: Path, reporter: Reporter) -> tuple[Prepared, Checkpoint | None]:
    """The checkpoint that training continues from, and the training with its batches in as many parts as before.

    Raises:
        ArtifactError: all are damaged.
        ConfigError: it belongs to a different training run; names every difference.
    """
    found = newest_whole(work, reporter)
    if found is None:
        return prepared, None
    if found.made_from is None:
        reporter.event(f"{found.folder} has no record of its recipe and data: assumed to be those of this run")
        return prepared, found
    if prepared.recipe.training.gradient_accumulation == "auto":
        prepared = with_microbatches(prepared, int(found.made_from["recipe"]["training.gradient_accumulation"]))
    changes = list(_changes(found.made_from, made_from(prepared), _defaults(prepared)))
    if changes:
        raise ConfigError(
            f"{found.folder} belongs to a different training run: {'; '.join(changes)}",
            hint="Undo the changes to continue, or start over with --overwrite (overwrite=True).",
        )
    return prepared, found


def remove_checkpoints(work: Path) -> None:
    """Remove the checkpoints of a run; what else is there, such as files of trackers, is left."""
    for folder in work.glob("checkpoint-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _defaults(prepared: Prepared) -> dict[str, Any]:
    """The values of options of the method and the task that were not given."""
    kinds = {"method": type(prepared.config), "task": type(prepared.task.options)}
    given = {
        kind: {name: field.get_default(call_default_factory=True) for name, field in options.model_fields.items()}
        for kind, options in kinds.items()
    }
    return dict(_flat({"recipe": given}))


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[str]:
    old, new = dict(_flat(before)), dict(_flat(now))
    for name in sorted(old.keys() | new.keys()):
        # An option that did not exist then did what its default does.
        if old.get(name, defaults.get(name)) == new.get(name):
            continue
        if name.startswith("recipe."):
            yield f"{name.removeprefix('recipe.')} was {old.get(name)!r} and is now {new.get(name)!r}"
        elif name == "processes":
            yield f"it was trained with {old.get(name)} processes, now there are {new.get(name)}"
        elif name.startswith("rows."):
            yield f"the rows of {name.removeprefix('rows.')} have changed"
        else:
            known = {"base": "the base model's weights", "labels": "the labels", "parent": "the weights of `from`"}
            other = f"the weights of {name}" if name.startswith("teacher") else f"the {name}"
            yield f"{known.get(name, other)} have changed"


def _flat(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Fields of nested mappings as ``outer.inner``."""
    for name, one in value.items():
        if isinstance(one, Mapping) and one:
            yield from _flat(one, f"{before}{name}.")
        else:
            yield f"{before}{name}", one


def _described(output: Path) -> str:
    try:
        manifest = read_manifest(output)
    except ArtifactError:
        return ""
    return f" ({manifest.method.name} for {manifest.task.name}, {manifest.created})"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()
