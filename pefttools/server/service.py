"""What the server does, without HTTP: names become versions, rows run together, answers come back."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from pefttools.artifact import Manifest, read_manifest
from pefttools.asking import OnError, encoded
from pefttools.data import Table
from pefttools.errors import ArtifactError, CapacityError, ConfigError, UnknownNameError
from pefttools.methods import methods
from pefttools.pool import AdapterPool
from pefttools.server.answers import Chosen, Classified
from pefttools.server.batching import Batcher, Row
from pefttools.server.beside import Beside
from pefttools.server.generating import Generation
from pefttools.server.keys import Caller, ForbiddenError, Keys
from pefttools.server.metrics import Metrics
from pefttools.server.running import CLASSIFY, GENERATE, BatchRunner
from pefttools.server.settings import Settings
from pefttools.server.waiting import Gone, answers, pieces
from pefttools.store import Store, check_name
from pefttools.tasks.task import Example


class Service:
    """A pool, a store, and the queue between them and the callers.

    Args:
        settings: what is served.

    Raises:
        PeftToolsError: the base or the key file can't be read.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.keys = Keys(settings.keys)
        self.store = Store(settings.store)
        self.store.check_exists()
        if settings.name in self.store.names():
            raise ConfigError(
                f"the store has an adapter {settings.name!r}, which is what requests call the base model",
                hint="Give the base another name: --name NAME.",
            )
        self.pool = AdapterPool(
            settings.base,
            variant=settings.variant,
            max_resident=settings.max_resident,
            max_bytes=settings.max_bytes,
        )
        #: of versions that were asked for; a version never changes
        self._manifests: dict[str, Manifest] = {}
        self._registering = threading.Lock()
        self.metrics = Metrics()
        self.beside = Beside(self.pool.tokenizer, settings.timeout_s)
        self._batcher = Batcher(
            BatchRunner(self.pool, self.metrics, lambda: self._batcher.beat()),
            max_batch=settings.max_batch,
            max_adapters=min(settings.max_resident, settings.max_adapters or settings.max_resident),
            max_wait=settings.max_wait_ms / 1000,
            max_queue=settings.max_queue,
        )
        self.metrics.watch(
            lambda: self._batcher.waiting, lambda: len(self.pool.resident), self.pool.bytes, lambda: self.pool.evictions
        )

    def close(self) -> None:
        """Finish what waits and take nothing new."""
        self.beside.closed = True
        self._batcher.close()
        self.beside.close()

    def names(self, caller: Caller) -> list[str]:
        """Adapters of the store that a caller may use."""
        return [name for name in self.store.names() if caller.may_use(name)]

    async def choose(self, model: str, caller: Caller, *, manage: bool = False) -> Chosen:
        """The version that a request's model name means now, ready to be used.

        Raises:
            ForbiddenError: the caller may not.
            UnknownNameError: no such adapter, version or tag.
            ArtifactError, BaseModelError, ConfigError: it can't be served.
        """
        if model == self.settings.name and not manage:
            return Chosen(None, None, self._owner(caller, ""))
        name = model.partition("@")[0]
        check_name(name)
        self.allow(caller, name, manage=manage)
        return await self.beside.files(self._ready, model, caller)

    def not_ready(self) -> str | None:
        """Why no requests are answered now; None: they are."""
        if self.beside.closed:
            return "stopping"
        stalled = self._batcher.stalled
        return None if stalled < self.settings.stall_s else "the batches do not get on"

    def allow(self, caller: Caller, name: str, *, manage: bool = False) -> None:
        """Refuse what a caller may not do; before it is looked up, so that nobody learns what there is.

        Raises:
            ForbiddenError: not allowed.
        """
        if not (caller.may_manage(name) if manage else caller.may_use(name)):
            raise ForbiddenError(f"this key may not {'manage' if manage else 'use'} the adapter {name!r}")

    def allow_metrics(self, authorization: str | None) -> None:
        """Refuse who may not read the figures, which tell of all callers.

        Raises:
            UnauthorizedError: no known key.
            ForbiddenError: nobody may, or the key manages no adapter.
        """
        who = self.settings.metrics
        if who == "off":
            raise ForbiddenError("this server shows no figures")
        if who == "managers" and not self.keys.caller(authorization).manage:
            raise ForbiddenError("this key may not read the figures")

    async def classify(
        self, chosen: Chosen, rows: Sequence[dict[str, str]], on_error: OnError, gone: Gone | None = None
    ) -> list[Classified]:
        """Label rows of ``text`` and, where they have one, ``pair``.

        Args:
            chosen: by which adapter.
            rows: what to label.
            on_error: what becomes of a row that can't be taken.
            gone: whether the caller has hung up.

        Raises:
            GoneError: nobody waits any more.
            DataError: a row that can't be taken, where ``on_error`` is "stop".
            ConfigError: an adapter that is not a classifier, or was trained on other rows.
        """
        task = chosen.task()
        if task is None or "label" not in task.roles:
            raise ConfigError(f"the model {chosen.name or self.settings.name!r} has no classification head")
        roles = {role: role for row in rows for role in row}
        assert chosen.manifest is not None
        method = methods.get(chosen.manifest.method.name)
        if (
            "pair" in roles
            and not method.capabilities.pairs
            and "token_type_ids" in self.pool.tokenizer.model_input_names
        ):
            raise ConfigError(f"the adapter {chosen.name!r} ({method.name}) can't take pairs of texts")
        task.check_roles(roles, chosen.manifest.task.columns)
        table = Table("the request", [dict(row) for row in rows], roles, range(1, len(rows) + 1))
        examples = await self.beside.tokens(
            lambda tokenizer: encoded(table, task, tokenizer, (), on_error),
            sum(len(text) for row in rows for text in row.values()),
        )
        found = [Classified.of(one) for one in examples]
        good = [one.example for one in found if one.example is not None]
        scores = iter(await answers(self._classified(chosen, good), self.settings.timeout_s, gone) if good else ())
        return [one if one.error else replace(one, scores=next(scores)) for one in found]

    def _classified(self, chosen: Chosen, examples: Sequence[Example]) -> list[Row]:
        costs = [float(len(one["input_ids"])) for one in examples]
        return self._batcher.submit(CLASSIFY, chosen.name, examples, chosen.owner, costs)

    async def generate(
        self, chosen: Chosen, generations: Sequence[Generation], gone: Gone | None = None
    ) -> Sequence[Generation]:
        """Finish answers; each is filled in place. `gone` and errors as in `classify`."""
        await answers(self._submit(chosen, generations), self.settings.timeout_s, gone)
        return generations

    def stream(self, chosen: Chosen, generation: Generation) -> AsyncIterator[str]:
        """Queue an answer; gives its pieces of text as they come. One that nobody reads any more is ended.

        Raises:
            QueueFullError: too many wait; raised here, before anything was answered.
        """
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        generation.on_text = lambda text: _later(loop, queue, text)
        (row,) = self._submit(chosen, [generation])
        row.future.add_done_callback(lambda _: queue.put_nowait(None))
        stream = pieces(row, queue, self.settings.timeout_s)
        # Also where nobody ever begins to read.
        weakref.finalize(stream, setattr, row, "cancelled", True)
        return stream

    async def prompt(self, chosen: Chosen, messages: Sequence[dict[str, Any]]) -> list[int]:
        """Tokens of a chat, written as the adapter saw chats in training and never cut."""
        task = chosen.task() or self.pool.base_task
        return await self.beside.tokens(
            lambda tokenizer: task.prompt_ids({"messages": list(messages)}, tokenizer),
            sum(len(one["content"]) for one in messages),
        )

    async def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of texts."""
        return await self.beside.tokens(
            lambda tokenizer: [list(tokenizer(text)["input_ids"]) for text in texts], sum(map(len, texts))
        )

    def ends(self, chosen: Chosen, *, chat: bool) -> frozenset[int]:
        """Tokens that end an answer: the base's own, and those that the adapter, or a chat, ends by."""
        task = chosen.task() or (self.pool.base_task if chat else None)
        return frozenset(self.pool.answer_ends(task))

    def check_generation(self, chosen: Chosen, prompt: Sequence[int], max_tokens: int) -> None:
        """Refuse what can't be generated.

        Raises:
            ConfigError: an encoder, a classifier, a prompt that is empty or too long.
        """
        served = self.pool.served
        task = chosen.task()
        if not served.causal:
            raise ConfigError(f"the base {served.base.id!r} is an encoder: it can't generate")
        if task is not None and task.auto_class != "AutoModelForCausalLM":
            raise ConfigError(f"the adapter {chosen.name!r} is a classifier: it can't generate")
        if not prompt:
            raise ConfigError("the prompt is empty")
        virtual = 0 if chosen.name is None else self.pool.virtual_length(chosen.name)
        served.check_length(len(prompt), max_tokens, virtual)

    def load(self, reference: str, caller: Caller) -> str:
        """Make a version resident; gives its full name."""
        return str(self._ready(reference, caller).name)

    def tag(self, full: str, tag: str, caller: Caller) -> None:
        """Point a tag at a version, ``acme@3``."""
        name, _, version = full.partition("@")
        self.store.tag(name, int(version), tag, by=f"key {caller.id}")

    def unload(self, name: str, caller: Caller) -> list[str]:
        """Let the weights of all versions of an adapter go; gives their names."""
        self._resolve(name, caller)
        return [one for one in self.pool.resident if one.partition("@")[0] == name and self.pool.evict(one)]

    def _resolve(self, reference: str, caller: Caller) -> str:
        """Full name of the version that a reference means now; names that the caller may not use are not told."""
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
            manifest = self._made_ready(full)
        except ArtifactError:
            self._resolve(full, caller)  # removed meanwhile, it is unknown and not damaged
            raise
        return Chosen(full, manifest, self._owner(caller, full.partition("@")[0]))

    def _made_ready(self, full: str) -> Manifest:
        """Register and load a version; gives its manifest."""
        manifest = self._manifests.get(full)
        if manifest is None:
            folder = self.store.get(full, verified=False)  # the pool verifies what it reads
            manifest = read_manifest(folder)
            with self._registering:
                if full not in self._manifests:
                    self.pool.register(full, folder)
                    self._manifests[full] = manifest
        try:
            # Ahead of its batch, beside the one that runs. Where nothing can leave now, its batch will see to it.
            if self.pool.ensure(full, wait=False):
                self.metrics.loads.inc()
        except CapacityError:
            if not self.pool.resident:
                raise
        return manifest

    def _owner(self, caller: Caller, adapter: str) -> str:
        return caller.id if self.keys.needed else adapter

    def _submit(self, chosen: Chosen, generations: Sequence[Generation]) -> list[Row]:
        for one in generations:
            self.check_generation(chosen, one.prompt, one.max_tokens)
        costs = [float(len(one.prompt) + one.max_tokens) for one in generations]
        return self._batcher.submit(GENERATE, chosen.name, generations, chosen.owner, costs)


def _later(loop: asyncio.AbstractEventLoop, pieces: asyncio.Queue[str | None], text: str) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(pieces.put_nowait, text)
