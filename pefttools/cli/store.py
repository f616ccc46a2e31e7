"""``pefttools store ...``: versioned adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pefttools.cli.examples import add_command
from pefttools.cli.importing import LABELS, OPTION, TASK, label_names, task_choice

if TYPE_CHECKING:
    from pefttools.store import Store

STORE = typer.Option(
    ..., "--store", help="Folder, or fsspec URL such as s3://bucket/adapters.", envvar="PEFTTOOLS_STORE"
)
REFERENCE = typer.Argument(help="NAME@VERSION, NAME@TAG, or NAME for the newest version.", metavar="REFERENCE")


def store_app() -> typer.Typer:
    """The sub-commands."""
    app = typer.Typer(no_args_is_help=True, help="Keep adapters as immutable versions, with tags that can move.")
    add_command(app, list_entries, "list")
    for command in (add, show, tag, untag, history, verify, remove, gc, push, pull):
        add_command(app, command)
    return app


def add(
    artifact: str = typer.Argument(
        help="Folder of the artifact; with --base, also what `pefttools import` takes.", metavar="ARTIFACT"
    ),
    store: str = STORE,
    name: str | None = typer.Option(None, "--name", help="Name of the adapter, if not that of the folder."),
    tag: str | None = typer.Option(None, "--tag", help="Point this tag at the new version."),
    base: str | None = typer.Option(
        None, "--base", help="Import an adapter of this base that another program trained."
    ),
    probe: bool = typer.Option(
        False, "--probe", help="Load it on its base first and check that it gives finite outputs."
    ),
    max_pooled: str | None = typer.Option(
        None, "--max-pooled", help="Refuse an adapter that takes more than this of a pool's memory, e.g. 2MiB."
    ),
    labels: str | None = LABELS,
    task: str | None = TASK,
    options: list[str] = OPTION,
) -> None:
    """Copy an artifact into the store as the next version; with --base, import it first.

    Examples:
        pefttools store add artifacts/intents --store adapters --tag prod
    """
    import tempfile
    import warnings

    from pefttools import api
    from pefttools.errors import ConfigError
    from pefttools.store import Store, check_name

    limit = None if max_pooled is None else _bytes(max_pooled)
    folder = Path(artifact).expanduser().resolve().name
    if name is None and folder == "artifact":
        raise ConfigError(f"{artifact} has no usable folder name", hint="Name the adapter: --name NAME.")
    if base is None:
        if labels or task or options:
            raise ConfigError("--labels, --task and --set are for adapters to import", hint="Give --base as well.")
        print(Store(store).add(artifact, name or folder, tag=tag, probe=probe, max_pooled_bytes=limit))
        return
    check_name(name or folder)
    with tempfile.TemporaryDirectory() as spare:
        imported = Path(spare, name or folder)
        with warnings.catch_warnings():
            # The store gives this warning itself.
            warnings.filterwarnings("ignore", message=".* adapter makes to its base is zero")
            api.import_adapter(artifact, base, imported, labels=label_names(labels), task=task_choice(task, options))
        print(Store(store).add(imported, name or folder, tag=tag, probe=probe, max_pooled_bytes=limit))


def _bytes(text: str) -> int:
    """A number of bytes with a unit."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    from pefttools.errors import ConfigError

    try:
        return int(TypeAdapter(ByteSize).validate_python(text.strip()))
    except ValidationError as error:
        raise ConfigError(
            f"--max-pooled {text}: not a number of bytes", hint="Give a number such as 500000, 2MB or 1.5MiB."
        ) from error


def list_entries(store: str = STORE, as_json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """List all versions.

    Examples:
        pefttools store list --store adapters
    """
    opened = _open(store)
    entries = [opened.show(f"{name}@{version}") for name in opened.names() for version in opened.versions(name)]
    if as_json:
        rows = [
            {
                "reference": str(entry),
                "tags": entry.tags,
                "method": entry.manifest.method.name,
                "task": entry.manifest.task.name,
                "base": entry.manifest.base.id,
                "created": entry.manifest.created,
            }
            for entry in entries
        ]
        print(json.dumps(rows, indent=2))
        return
    for entry in entries:
        manifest = entry.manifest
        tags = f"  [{', '.join(entry.tags)}]" if entry.tags else ""
        print(f"{entry}{tags}  {manifest.method.name}, {manifest.task.name}, {manifest.base.id}, {manifest.created}")


def show(reference: str = REFERENCE, store: str = STORE) -> None:
    """Show one version, verified, and where its files are.

    Examples:
        pefttools store show intents@prod --store adapters
    """
    from pefttools.cli.artifacts import inspect

    opened = _open(store)
    entry = opened.show(reference)
    print(f"{entry}{'  tags: ' + ', '.join(entry.tags) if entry.tags else ''}")
    inspect(opened.get(str(entry)), as_json=False, norms=False)


def tag(
    reference: str = REFERENCE,
    tag: str = typer.Argument(help="The tag.", metavar="TAG"),
    undo: bool = typer.Option(False, "--undo", help="Undo the tag's last move; give only the adapter's name."),
    store: str = STORE,
) -> None:
    """Point a tag at a version.

    Examples:
        pefttools store tag intents@3 prod --store adapters
        pefttools store tag intents prod --undo --store adapters
    """
    opened = _open(store)
    if undo:
        back = opened.undo(reference, tag)
        print(f"{reference}@{tag} is {'no longer a tag' if back is None else f'{reference}@{back} again'}")
        return
    name, version = opened.resolve(reference)
    opened.tag(name, version, tag)
    print(f"{name}@{tag} is {name}@{version}")


def untag(reference: str = typer.Argument(help="NAME@TAG", metavar="NAME@TAG"), store: str = STORE) -> None:
    """Remove a tag; its version stays.

    Examples:
        pefttools store untag intents@prod --store adapters
    """
    from pefttools.errors import ConfigError

    name, sign, tag = reference.partition("@")
    if not sign:
        raise ConfigError(f"{reference!r} names no tag", hint=f"Write {name}@TAG.")
    _open(store).untag(name, tag)
    print(f"{name} no longer has a tag {tag}")


def history(name: str = typer.Argument(help="The adapter.", metavar="NAME"), store: str = STORE) -> None:
    """Show who moved which tag of an adapter, and when.

    Examples:
        pefttools store history intents --store adapters
    """
    for move in _open(store).history(name):
        before, after = ("none" if one is None else f"@{one}" for one in (move.before, move.version))
        print(f"{move.time}  {move.by}  {move.tag}: {before} -> {after}")


def verify(store: str = STORE) -> None:
    """Check every file of every version.

    Examples:
        pefttools store verify --store adapters
    """
    from pefttools.errors import ArtifactError

    opened = _open(store)
    problems = opened.verify()
    if problems:
        listed = "; ".join(f"{reference}: {message}" for reference, message in problems.items())
        raise ArtifactError(f"{len(problems)} damaged: {listed}")
    print(f"{sum(len(opened.versions(name)) for name in opened.names())} versions are unchanged")


def remove(reference: str = REFERENCE, store: str = STORE) -> None:
    """Remove a version that no tag points at.

    Examples:
        pefttools store remove intents@1 --store adapters
    """
    print(f"removed {_open(store).remove(reference)}")


def gc(
    store: str = STORE,
    keep: int = typer.Option(
        1, "--keep", min=0, help="Number of newest versions of each adapter to keep, tagged or not."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only print what would be removed."),
) -> None:
    """Remove versions that no tag points at, except the newest.

    Examples:
        pefttools store gc --keep 3 --dry-run --store adapters
    """
    found = _open(store).gc(keep=keep, dry_run=dry_run)
    for reference in found:
        print(f"{'would remove' if dry_run else 'removed'} {reference}")
    if not found:
        print("nothing to remove")


def push(
    reference: str = REFERENCE,
    target: str = typer.Argument(help="hub:ORG/NAME", metavar="HUB"),
    store: str = STORE,
    private: bool = typer.Option(True, "--private/--public", help="Visibility of a new repository."),
) -> None:
    """Upload a version to the Hugging Face hub.

    Examples:
        pefttools store push intents@prod hub:ORG/NAME --store adapters
    """
    from pefttools.store.hub import push as to_hub

    print(to_hub(_open(store).get(reference), target, private=private))


def pull(
    source: str = typer.Argument(help="hub:ORG/NAME, or hub:ORG/NAME@REVISION", metavar="HUB"),
    store: str = STORE,
    name: str | None = typer.Option(None, "--name", help="Name of the adapter, if not that of the repository."),
    tag: str | None = typer.Option(None, "--tag", help="Point this tag at the new version."),
) -> None:
    """Download an artifact from the Hugging Face hub as the next version.

    Examples:
        pefttools store pull hub:ORG/NAME --name intents --tag prod --store adapters
    """
    from pefttools.store import Store
    from pefttools.store.hub import pull as from_hub
    from pefttools.store.hub import repository

    folder = from_hub(source)
    print(Store(store).add(folder, name or repository(source)[0].rpartition("/")[2], tag=tag))


def _open(url: str) -> Store:
    from pefttools.store import Store

    opened = Store(url)
    opened.check_exists()
    return opened
