"""Models that requests name: versions from the store, made ready in the pool."""

from __future__ import annotations

import threading

from pefttools.artifact import Manifest
from pefttools.artifact.manifest import read_with_digest
from pefttools.artifact.signing import UnsignedError
from pefttools.errors import ArtifactError, CapacityError, UnknownNameError
from pefttools.pool import AdapterPool
from pefttools.server.answers import Chosen
from pefttools.server.audit import note
from pefttools.server.background import Background
from pefttools.server.keys import Caller, ForbiddenError, Keys
from pefttools.server.metrics import Metrics
from pefttools.server.settings import Settings
from pefttools.store import Store, check_name


class Models:
    """What callers may use, by the names that requests give.

    Args:
        settings: the server's settings.
        pool: where versions are made ready.
        store: where they come from.
        keys: the callers' keys.
        metrics: counts loads.
        background: reads the store.
    """

    def __init__(
        self, settings: Settings, pool: AdapterPool, store: Store, keys: Keys, metrics: Metrics, background: Background
    ) -> None:
        self.settings = settings
        self.pool = pool
        self.store = store
        self.keys = keys
        self.metrics = metrics
        self.background = background
        #: manifests of versions that were requested; a version never changes
        self._manifests: dict[str, Manifest] = {}
        self._registering = threading.Lock()

    def names(self, caller: Caller) -> list[str]:
        """Adapters of the store that a caller may use."""
        return [name for name in self.store.names() if caller.may_use(name)]

    async def choose(self, model: str, caller: Caller, *, manage: bool = False) -> Chosen:
        """The version that a request's model name currently means, ready to be used.

        Raises:
            ForbiddenError: the caller is not allowed to.
            UnknownNameError: no such adapter, version or tag.
            ArtifactError, BaseModelError, ConfigError: it can't be served.
        """
        if model == self.settings.name and not manage:
            return Chosen(None, None, self._owner(caller, ""))
        name = model.partition("@")[0]
        check_name(name)
        self.allow(caller, name, manage=manage)
        return await self.background.files(self._ready, model, caller)

    def allow(self, caller: Caller, name: str, *, manage: bool = False) -> None:
        """Refuse what a caller may not do, before it is looked up, so that nobody learns what exists.

        Raises:
            ForbiddenError: not allowed.
        """
        if not (caller.may_manage(name) if manage else caller.may_use(name)):
            raise ForbiddenError(f"this key may not {'manage' if manage else 'use'} the adapter {name!r}")

    def load(self, reference: str, caller: Caller) -> str:
        """Make a version resident; returns its full name.

        Raises:
            CapacityError: there is no room for it. Otherwise as `choose`.
        """
        full = str(self._ready(reference, caller).name)
        if self.pool.ensure(full):
            self.loaded(full, caller.id)
        return full

    def loaded(self, full: str, by: str) -> None:
        """Note that a version was loaded."""
        self.metrics.loads.inc()
        note("load", full, by)

    def tag(self, full: str, tag: str, caller: Caller) -> None:
        """Point a tag at a version, ``acme@3``."""
        name, _, version = full.partition("@")
        self.store.tag(name, int(version), tag, by=f"key {caller.id}")
        note("tag", full, caller.id, tag)

    def unload(self, name: str, caller: Caller) -> list[str]:
        """Unload the weights of all versions of an adapter; returns their names."""
        self._resolve(name, caller)
        gone = [one for one in self.pool.resident if one.partition("@")[0] == name and self.pool.evict(one)]
        for one in gone:
            note("unload", one, caller.id)
        return gone

    def _resolve(self, reference: str, caller: Caller) -> str:
        """Full name of the version that a reference currently means; reveals no names that the caller may not use."""
        try:
            return "@".join(map(str, self.store.resolve(reference)))
        except UnknownNameError:
            name = reference.partition("@")[0]
            names = self.names(caller)
            if name in names:
                raise
            raise UnknownNameError("adapter", name, names) from None

    def _ready(self, reference: str, caller: Caller) -> Chosen:
        full = self._resolve(reference, caller)
        try:
            manifest = self._made_ready(full, caller)
        except ArtifactError:
            self._resolve(full, caller)  # if it was removed meanwhile, it is unknown rather than damaged
            raise
        return Chosen(full, manifest, self._owner(caller, full.partition("@")[0]))

    def _made_ready(self, full: str, caller: Caller) -> Manifest:
        """Register and load a version; returns its manifest."""
        manifest = self._manifests.get(full)
        if manifest is None:
            folder = self.store.get(full, verified=False)  # the pool verifies what it reads
            manifest, digest = read_with_digest(folder)
            with self._registering:
                if full not in self._manifests:
                    self.pool.register(full, folder, digest=digest)
                    self._manifests[full] = manifest
        try:
            # Ahead of its batch, while another one runs. If nothing can be evicted now, its own batch will load it.
            if self.pool.ensure(full, wait=False):
                self.loaded(full, caller.id)
        except UnsignedError:
            self._manifests.pop(full, None)  # so that it is fetched again, once it is signed
            raise
        except CapacityError:
            if not self.pool.resident:
                raise
        return manifest

    def _owner(self, caller: Caller, adapter: str) -> str:
        return caller.id if self.keys.needed else adapter
