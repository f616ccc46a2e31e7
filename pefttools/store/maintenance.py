"""Tidying a store, and looking for damage."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from pefttools.errors import ArtifactError
from pefttools.store.files import StoreFiles
from pefttools.store.names import is_name
from pefttools.store.reach import StoreError

if TYPE_CHECKING:
    from pefttools.store.store import Store


def collect(store: Store, files: StoreFiles, keep: int, dry_run: bool) -> list[str]:
    """See `Store.gc`.

    Args:
        store: the store.
        files: its files.
        keep: number of newest versions of each adapter to keep.
        dry_run: remove nothing.
    """
    removed = []
    for name in store.names():
        with files.locked(name):
            if damaged := store.damaged_tags(name):
                # Nobody knows which version they pointed at.
                message = f"nothing of {name} is removed: its tag {', '.join(damaged)} is damaged; set it again"
                warnings.warn(message, stacklevel=3)
                continue
            versions = store.versions(name)
            wanted = {*store.tags(name).values(), *versions[max(0, len(versions) - keep) :]}
            for version in versions:
                if version not in wanted:
                    if not dry_run:
                        files.remove(name, version)
                    removed.append(f"{name}@{version}")
    for name in [] if dry_run else files.ls(files.root):
        if is_name(name):
            files.sweep(name)
    return removed


def damages(store: Store) -> dict[str, str]:
    """See `Store.verify`."""
    problems = {}
    for name in store.names():
        for tag in store.damaged_tags(name):
            problems[f"{name}@{tag}"] = f"the tag {name}@{tag} is damaged"
        for version in store.versions(name):
            try:
                store.get(f"{name}@{version}")
            except (ArtifactError, StoreError, OSError) as error:
                problems[f"{name}@{version}"] = str(error)
    return problems
