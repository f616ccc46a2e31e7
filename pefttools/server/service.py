"""What the server does, without HTTP: names become versions, rows run together, answers come back."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import torch

from pefttools.artifact import Manifest, read_manifest
from pefttools.asking import OnError, encoded
from pefttools.data import Table
from pefttools.errors import ArtifactError, CapacityError, ConfigError, PeftToolsError, UnknownNameError
from pefttools.methods import methods
from pefttools.pool import AdapterPool
from pefttools.pool.generation import Sampling
from pefttools.server.answers import Chosen, Classified
from pefttools.server.batching import Batcher, ClosedError, Row
from pefttools.server.generating import Generation
from pefttools.server.keys import Caller, ForbiddenError, Keys
from pefttools.server.metrics import Metrics
from pefttools.server.running import CLASSIFY, GENERATE, BatchRunner
from pefttools.server.settings import Settings
from pefttools.store import Store, check_name
from pefttools.tasks.task import Example


class TooLongError(PeftToolsError):
    """A request took too long: HTTP 504."""

    exit_code = 1


_T = TypeVar("_T")
#: whether a caller has hung up
Gone = Callable[[], Awaitable[bool]]
#: seconds between two looks whether a caller has hung up
_LISTEN = 0.25
#: characters that the event loop tokenizes itself, in about a millisecond
_SHORT = 5_000


class GoneError(PeftToolsError):
    """The caller has hung up: nobody reads the answer."""


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
        self._closed = False
        self._threads = ThreadPoolExecutor(16, "pefttools-files")
        # Fast tokenizers take no second caller while they are set up: short texts are tokenized by the loop's own, long
        # ones in a thread by that thread's.
        self._tokenizing = ThreadPoolExecutor(1, "pefttools-tokenizer")
        self.tokenizer = copy.deepcopy(self.pool.tokenizer)
        self._of_thread = copy.deepcopy(self.pool.tokenizer)
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
        self._closed = True
        self._batcher.close()
        for threads in (self._threads, self._tokenizing):
            threads.shutdown(wait=False, cancel_futures=True)

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
        chosen: Chosen = await self.off_loop(self._ready, model, caller)
        return chosen

    def not_ready(self) -> str | None:
        """Why no requests are answered now; None: they are."""
        if self._closed:
            return "stopping"
        stalled = self._batcher.stalled
        return None if stalled < self.settings.stall_s else "the batches do not get on"

    async def _tokenized(self, work: Callable[[Any], _T], characters: int) -> _T:
        """What `work` gives for a tokenizer; long texts are tokenized beside the loop. Raises as `off_loop`."""
        if characters <= _SHORT:
            return work(self.tokenizer)
        found: _T = await self._in(self._tokenizing, work, self._of_thread)
        return found

    async def off_loop(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run what reads files in a thread of its own, within the time that a request may take.

        Raises:
            TooLongError: it took longer; it goes on, but nobody waits for it.
            ClosedError: the server is stopping.
        """
        return await self._in(self._threads, work, *arguments)

    async def _in(self, threads: ThreadPoolExecutor, work: Callable[..., Any], *arguments: Any) -> Any:
        if self._closed:
            raise ClosedError("the server is stopping")
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                return await asyncio.get_running_loop().run_in_executor(threads, work, *arguments)
        except TimeoutError as error:
            raise self._too_long() from error

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
        examples = await self._tokenized(
            lambda tokenizer: encoded(table, task, tokenizer, (), on_error),
            sum(len(text) for row in rows for text in row.values()),
        )
        found = [Classified.of(one) for one in examples]
        good = [one.example for one in found if one.example is not None]
        answers = iter(await self._answers(self._classified(chosen, good), gone) if good else ())
        return [one if one.error else replace(one, scores=next(answers)) for one in found]

    def _classified(self, chosen: Chosen, examples: Sequence[Example]) -> list[Row]:
        costs = [float(len(one["input_ids"])) for one in examples]
        return self._batcher.submit(CLASSIFY, chosen.name, examples, chosen.owner, costs)

    async def generate(
        self, chosen: Chosen, generations: Sequence[Generation], gone: Gone | None = None
    ) -> Sequence[Generation]:
        """Finish answers; each is filled in place. `gone` and errors as in `classify`."""
        await self._answers(self._submit(chosen, generations), gone)
        return generations

    def stream(self, chosen: Chosen, generation: Generation) -> AsyncIterator[str]:
        """Queue an answer; gives its pieces of text as they come. One that nobody reads any more is ended.

        Raises:
            QueueFullError: too many wait; raised here, before anything was answered.
        """
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        generation.on_text = lambda text: _later(loop, pieces, text)
        (row,) = self._submit(chosen, [generation])
        row.future.add_done_callback(lambda _: pieces.put_nowait(None))
        stream = self._pieces(row, pieces)
        # Also where nobody ever begins to read.
        weakref.finalize(stream, setattr, row, "cancelled", True)
        return stream

    async def _pieces(self, row: Row, pieces: asyncio.Queue[str | None]) -> AsyncIterator[str]:
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                while (piece := await pieces.get()) is not None:
                    yield piece
                await row.future
        except TimeoutError as error:
            raise self._too_long() from error
        finally:
            row.cancelled = True

    async def prompt(self, chosen: Chosen, messages: Sequence[dict[str, Any]]) -> list[int]:
        """Tokens of a chat, written as the adapter saw chats in training and never cut."""
        task = chosen.task() or self.pool.base_task
        return await self._tokenized(
            lambda tokenizer: task.prompt_ids({"messages": list(messages)}, tokenizer),
            sum(len(one["content"]) for one in messages),
        )

    async def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of texts."""
        return await self._tokenized(
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

    async def _answers(self, rows: Sequence[Row], gone: Gone | None) -> list[Any]:
        waiting: set[asyncio.Future[Any]] = {row.future for row in rows}
        for future in waiting:
            future.add_done_callback(_seen)
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                while waiting:
                    # Asked now and then only: a task that listens beside every request would slow all of them.
                    done, waiting = await asyncio.wait(waiting, timeout=_LISTEN, return_when=asyncio.FIRST_EXCEPTION)
                    for one in done:
                        one.result()  # raises
                    if waiting and gone is not None and await gone():
                        raise GoneError("the caller has gone")
                return [row.future.result() for row in rows]
        except TimeoutError as error:
            raise self._too_long() from error
        finally:
            for row in rows:
                row.cancelled = True

    def _too_long(self) -> PeftToolsError:
        return TooLongError(f"the request took longer than {self.settings.timeout_s:g} s")


def sampling(temperature: float, top_p: float, top_k: int, seed: int | None) -> Sampling | None:
    """OpenAI's options: temperature 0 takes the most likely token."""
    if temperature == 0:
        return None
    drawn = int(torch.randint(2**31, ()).item()) if seed is None else seed
    return Sampling(drawn, temperature, max(top_k, 0), top_p)


def _seen(future: asyncio.Future[Any]) -> None:
    """Of several rows that fail one is told of; asyncio would complain of each of the others."""
    if not future.cancelled():
        future.exception()


def _later(loop: asyncio.AbstractEventLoop, pieces: asyncio.Queue[str | None], text: str) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(pieces.put_nowait, text)
