"""``pefttools store ...``: versioned adapters."""

from __future__ import annotations

import json
from pathlib import Path

import typer

STORE = typer.Option(
    ..., "--store", help="Folder, or fsspec URL such as s3://bucket/adapters.", envvar="PEFTTOOLS_STORE"
)
REFERENCE = typer.Argument(help="NAME@VERSION, NAME@TAG, or NAME for the newest version.", metavar="REFERENCE")


def store_app() -> typer.Typer:
    """The sub-commands."""
    app = typer.Typer(no_args_is_help=True, help="Keep adapters as immutable versions, with tags that move.")
    app.command("list")(list_entries)
    for command in (add, show, tag, untag, verify, remove, gc, push, pull):
        app.command()(command)
    return app


def add(
    artifact: Path = typer.Argument(help="Folder of the artifact.", metavar="ARTIFACT"),
    store: str = STORE,
    name: str | None = typer.Option(None, "--name", help="Name of the adapter, if not that of the folder."),
    tag: str | None = typer.Option(None, "--tag", help="Point this tag at the new version."),
) -> None:
    """Copy an artifact into the store as the next version."""
    from pefttools.store import Store

    print(Store(store).add(artifact, name or artifact.resolve().name, tag=tag))


def list_entries(store: str = STORE, as_json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """List all versions."""
    from pefttools.store import Store

    opened = Store(store)
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
    """Show one version, verified, and where its files are."""
    from pefttools.cli.artifacts import inspect
    from pefttools.store import Store

    opened = Store(store)
    entry = opened.show(reference)
    print(f"{entry}{'  tags: ' + ', '.join(entry.tags) if entry.tags else ''}")
    inspect(opened.get(str(entry)), as_json=False, norms=False)


def tag(
    reference: str = REFERENCE,
    tag: str = typer.Argument(help="The tag.", metavar="TAG"),
    store: str = STORE,
) -> None:
    """Point a tag at a version."""
    from pefttools.store import Store

    opened = Store(store)
    name, version = opened.resolve(reference)
    opened.tag(name, version, tag)
    print(f"{name}@{tag} is {name}@{version}")


def untag(
    name: str = typer.Argument(help="Name of the adapter.", metavar="NAME"),
    tag: str = typer.Argument(help="The tag.", metavar="TAG"),
    store: str = STORE,
) -> None:
    """Remove a tag; its version stays."""
    from pefttools.store import Store

    Store(store).untag(name, tag)


def verify(store: str = STORE) -> None:
    """Check every file of every version."""
    from pefttools.errors import ArtifactError
    from pefttools.store import Store

    opened = Store(store)
    problems = opened.verify()
    if problems:
        listed = "; ".join(f"{reference}: {message}" for reference, message in problems.items())
        raise ArtifactError(f"{len(problems)} versions are damaged: {listed}")
    print(f"{sum(len(opened.versions(name)) for name in opened.names())} versions are as they were written")


def remove(reference: str = REFERENCE, store: str = STORE) -> None:
    """Remove a version that no tag names."""
    from pefttools.store import Store

    print(f"removed {Store(store).remove(reference)}")


def gc(
    store: str = STORE,
    keep: int = typer.Option(1, "--keep", min=0, help="Newest versions of each adapter to keep, tagged or not."),
) -> None:
    """Remove versions that no tag names, but for the newest."""
    from pefttools.store import Store

    for reference in Store(store).gc(keep=keep):
        print(f"removed {reference}")


def push(
    reference: str = REFERENCE,
    target: str = typer.Argument(help="hub:ORG/NAME", metavar="HUB"),
    store: str = STORE,
    private: bool = typer.Option(True, "--private/--public", help="Who may see a repository that is new."),
) -> None:
    """Upload a version to the Hugging Face hub."""
    from pefttools.store import Store
    from pefttools.store.hub import push as to_hub

    print(to_hub(Store(store).get(reference), target, private=private))


def pull(
    source: str = typer.Argument(help="hub:ORG/NAME, or hub:ORG/NAME@REVISION", metavar="HUB"),
    store: str = STORE,
    name: str | None = typer.Option(None, "--name", help="Name of the adapter, if not that of the repository."),
    tag: str | None = typer.Option(None, "--tag", help="Point this tag at the new version."),
) -> None:
    """Download an artifact from the Hugging Face hub as the next version."""
    from pefttools.store import Store
    from pefttools.store.hub import pull as from_hub
    from pefttools.store.hub import repository

    folder = from_hub(source)
    print(Store(store).add(folder, name or repository(source)[0].rpartition("/")[2], tag=tag))
