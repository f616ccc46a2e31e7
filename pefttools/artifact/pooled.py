"""Size of an adapter in a pool, from its files and, as a rule, its base's configuration alone."""

from __future__ import annotations

from collections import Counter

import torch

from pefttools.artifact.load import find_base
from pefttools.artifact.reading import Held
from pefttools.bases import variants
from pefttools.bases.quiet import quiet
from pefttools.bases.skeleton import Skeleton
from pefttools.deltas.kind import size_of, tensors_of
from pefttools.errors import ConfigError
from pefttools.recipe import stored_method


def pooled_bytes(held: Held, base: str | None = None) -> Counter[str]:
    """Bytes by kind of delta, without what many adapters in a pool share, and without the task head.

    Args:
        held: the artifact.
        base: path of the base model; None for the one in the manifest. Its weights are read only if the changes are
            computed from them.

    Raises:
        BaseModelError: the base is a different one, or can't be found.
        ConfigError: its method has no deltas, so that no pool can serve it.
    """
    manifest, entry = held.manifest, held.manifest.task
    stored = manifest.method
    method, config = stored_method(stored.name, stored.config, manifest.schema_version, str(held.folder))
    found = find_base(manifest, base)
    task, kind = entry.stored(str(held.folder)), variants.get("float32")()
    bare = Skeleton(found.id, found.folder, found.revision)
    try:
        with torch.device("meta"), quiet():
            built = task.build(bare, kind, entry.labels, entry.head)
            deltas = method.deltas(held.folder, built.transformer, config, built.target)
    except (NotImplementedError, RuntimeError):  # some changes are computed from the base's own weights
        built = task.build(found, kind, entry.labels, entry.head)
        deltas = method.deltas(held.folder, built.transformer, config, built.target)
    sizes: Counter[str] = Counter()
    for site in deltas.sites.values():
        for part in site:
            sizes[part.name] += part.bytes
    for tokens in deltas.virtual:
        sizes[tokens.name] += size_of(tensors_of(tokens))
    return sizes


def check_pooled_size(held: Held, limit: int, base: str | None = None) -> int:
    """Refuse an adapter that would take more of a pool than allowed.

    Returns:
        The bytes that it takes.

    Raises:
        BaseModelError: as `pooled_bytes`.
        ConfigError: it takes more, or no pool can serve it.
    """
    sizes = pooled_bytes(held, base)
    total = sizes.total()
    if total > limit:
        kinds = ", ".join(f"{name.replace('_', ' ')} {size:,}" for name, size in sizes.most_common())
        dense = " A dense change is as large as the weights that it changes." if "dense" in sizes else ""
        raise ConfigError(
            f"the adapter {held.folder} takes {total:,} bytes of a pool ({kinds}), but {limit:,} are allowed.{dense}",
            hint="Allow more, or train a method whose changes have a more compact form, such as a low-rank one.",
        )
    return total
