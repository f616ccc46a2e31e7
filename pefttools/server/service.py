"""What the server does, without HTTP: resolves names to versions, batches rows and returns answers."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from pefttools.data import Table
from pefttools.errors import ConfigError, DataError
from pefttools.knowledge import Hit
from pefttools.pool import AdapterPool
from pefttools.predicting import OnError, encoded, example_of, row_by_row
from pefttools.recipe import stored_method
from pefttools.server.answers import Answered, Chosen, UnsuitedError
from pefttools.server.background import Background
from pefttools.server.batching import Batcher, WaitingRow
from pefttools.server.generating import Generation
from pefttools.server.keys import EVERYBODY, ForbiddenError, Keys
from pefttools.server.lookup import Lookup, Sources
from pefttools.server.metrics import Metrics
from pefttools.server.models import Models
from pefttools.server.running import ANSWER, GENERATE, BatchRunner
from pefttools.server.settings import Settings
from pefttools.server.suited import Suited
from pefttools.server.uploads import check_files, decoded
from pefttools.server.waiting import Gone, answers, pieces
from pefttools.store import Store
from pefttools.tasks import Task
from pefttools.tasks.language.generation import TextPrediction
from pefttools.tasks.parts import Parts
from pefttools.tasks.task import Example, Prediction


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
                hint="Give the base model another name: --name NAME.",
            )
        self.pool = AdapterPool(
            settings.base,
            variant=settings.variant,
            dtype=None if settings.dtype is None else getattr(torch, settings.dtype),
            max_resident=settings.max_resident,
            max_bytes=settings.max_bytes,
            signed_by=settings.signed_by,
        )
        self.suited = Suited(self.pool)
        self.metrics = Metrics()
        self.background = Background(self.pool.tokenizer, settings.timeout_s)
        self.models = Models(settings, self.pool, self.store, self.keys, self.metrics, self.background)
        self.lookup = Lookup(settings.knowledge, self.background)
        self._batcher = Batcher(
            BatchRunner(self.pool, self.metrics, lambda: self._batcher, self._loaded),
            max_batch=settings.max_batch,
            max_adapters=min(settings.max_resident, settings.max_adapters or settings.max_resident),
            max_wait=settings.max_wait_ms / 1000,
            max_queue=settings.max_queue,
            max_run=settings.max_run_ms / 1000,
            whole=(ANSWER,),
        )
        self.metrics.watch(
            lambda: self._batcher.waiting, lambda: len(self.pool.resident), self.pool.bytes, lambda: self.pool.evictions
        )

    def close(self, seconds: float = 5.0) -> bool:
        """Accept nothing new and finish what is waiting; returns whether all threads have ended.

        Args:
            seconds: time for what is waiting; after that it is dropped.
        """
        self.background.closed = True
        ended = self._batcher.close(seconds)
        return self.background.close() and ended

    def not_ready(self) -> str | None:
        """Why no requests are answered now; None if they are."""
        if self.background.closed:
            return "stopping"
        stalled = self._batcher.stalled
        return None if stalled < self.settings.stall_s else "the batches make no progress"

    def allow_metrics(self, authorization: str | None) -> None:
        """Refuse callers who may not read the metrics, which cover all callers.

        Raises:
            UnauthorizedError: no known key.
            ForbiddenError: nobody may, or the key manages no adapter.
        """
        who = self.settings.metrics
        if who == "off":
            raise ForbiddenError("this server does not expose metrics")
        if who == "managers" and not self.keys.caller(authorization).manage:
            raise ForbiddenError("this key may not read the metrics")

    async def predict(
        self, chosen: Chosen, rows: Sequence[Mapping[str, Any]], on_error: OnError, gone: Gone | None = None
    ) -> list[Answered]:
        """An adapter's predictions for rows.

        Args:
            chosen: the adapter.
            rows: cells by column role.
            on_error: what to do with a row that can't be used.
            gone: whether the caller has disconnected.

        Raises:
            GoneError: nobody is waiting any more.
            DataError: a row that can't be used, if ``on_error`` is "stop".
            UnsuitedError: an adapter that writes texts, or was trained on rows of another form.
        """
        task = chosen.task()
        if task is None or (task.generates and not task.encoder_decoder):
            raise UnsuitedError(f"the model {chosen.name or self.settings.name!r} has no head that makes predictions")
        assert chosen.manifest is not None
        check_files(rows, task.files_in())
        rows, sources = await self.lookup.add(chosen, rows)
        roles = {role: role for row in rows for role in row if role in task.inputs()}
        if unknown := sorted({role for row in rows for role in row} - roles.keys()):
            raise UnsuitedError(
                f"the task {task.name!r} does not read {unknown[0]!r}",
                hint=f"It reads: {', '.join(sorted(task.inputs()))}.",
            )
        entry = chosen.manifest.method
        method, _ = stored_method(
            entry.name, entry.config, chosen.manifest.schema_version, f"the adapter {chosen.name!r}"
        )
        try:
            task.check_inputs(method, roles, self.pool.tokenizer)
            task.check_roles(roles, chosen.manifest.task.columns)
        except ConfigError as error:
            raise UnsuitedError(f"the adapter {chosen.name!r}: {error.message}", hint=error.hint) from error
        except DataError as error:
            raise UnsuitedError(error.message, hint=error.hint) from error
        table = Table("the request", [dict(row) for row in rows], roles, range(1, len(rows) + 1))
        if task.files_in():  # which are decoded, and need no tokenizer
            examples = await self.background.files(_with_files, table, task, on_error)
        else:
            examples = await self.background.tokens(
                lambda tokenizer: encoded(table, task, tokenizer, (), on_error),
                sum(len(str(cell)) for row in rows for cell in row.values()),
            )
        found = await self.answered(chosen, [Answered.of(one, task) for one in examples], gone)
        return found if sources is None else [replace(one, sources=s) for one, s in zip(found, sources, strict=True)]

    async def answered(self, chosen: Chosen, found: Sequence[Answered], gone: Gone | None = None) -> list[Answered]:
        """Rows with their predictions; those with an error stay as they are. Arguments and errors as in `predict`."""
        task = chosen.task()
        assert task is not None and chosen.manifest is not None
        good = [one.example for one in found if one.example is not None]
        predictions = iter(task.finish(await self._decoded(chosen, task, good, gone)))
        return [one if one.error else replace(one, prediction=next(predictions)) for one in found]

    async def _decoded(
        self, chosen: Chosen, task: Task[Any], examples: Sequence[Example], gone: Gone | None
    ) -> list[Prediction]:
        """The model's predictions for encoded rows."""
        assert chosen.manifest is not None
        if task.encoder_decoder:
            self.suited.check_writing(chosen)
            most = min(task.options.max_new_tokens, self.settings.max_tokens)
            ends = self.ends(chosen, chat=False)
            begun = [Generation(one.get("input_ids", ()), most, ends, example=one) for one in examples]
            return [TextPrediction(one.text.strip()) for one in await self.generate(chosen, begun, gone)]
        if not examples:
            return []
        size = sum(task.sizes(examples))
        parts = await self.background.tokens(lambda _: task.in_parts(examples), size)
        if len(parts) > self.settings.max_queue:
            raise ConfigError(
                f"the model reads these rows in {len(parts):,} parts, such as windows of a long text; a "
                f"request may have at most {self.settings.max_queue:,}",
                hint="Send fewer or shorter rows at a time.",
            )
        logits = await answers(self._answered(chosen, parts), self.settings.timeout_s, gone)
        labels = chosen.manifest.task.labels
        whole = [torch.cat(one) if len(one) > 1 else one[0] for one in parts.regrouped(logits)]
        return await self.background.tokens(
            lambda _: [task.decode(one, example, labels) for one, example in zip(whole, examples, strict=True)], size
        )

    async def classify(
        self, chosen: Chosen, rows: Sequence[dict[str, str]], on_error: OnError, gone: Gone | None = None
    ) -> list[Answered]:
        """As `predict`, for an adapter that gives one label per row.

        Raises:
            UnsuitedError: it is not a classifier. Otherwise as `predict`.
        """
        task = chosen.task()
        if task is None or not task.one_label:
            raise UnsuitedError(f"the model {chosen.name or self.settings.name!r} has no classification head")
        return await self.predict(chosen, rows, on_error, gone)

    def _answered(self, chosen: Chosen, parts: Parts) -> list[WaitingRow]:
        costs = [float(size) for size in parts.sizes]
        return self._batcher.submit(ANSWER, chosen.name, parts, chosen.owner, costs)

    async def generate(
        self, chosen: Chosen, generations: Sequence[Generation], gone: Gone | None = None
    ) -> Sequence[Generation]:
        """Finish answers; each is filled in place. `gone` and errors as in `classify`."""
        await answers(self._submit(chosen, generations), self.settings.timeout_s, gone)
        return generations

    def stream(self, chosen: Chosen, generations: Sequence[Generation]) -> AsyncIterator[tuple[int, str | None]]:
        """Queue answers; yields the number of an answer with each piece of its text, and with None at its end.

        Answers that nobody reads any more are ended.

        Raises:
            QueueFullError: too many rows are waiting; raised here, before anything was answered.
        """
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[int, str | None]] = asyncio.Queue()
        for index, one in enumerate(generations):
            one.on_text = partial(_later, loop, queue, index)
        rows = self._submit(chosen, generations)
        for index, row in enumerate(rows):
            row.future.add_done_callback(partial(_ended, queue, index))
        stream = pieces(rows, queue, self.settings.timeout_s)
        for row in rows:  # even if nobody ever starts to read
            weakref.finalize(stream, setattr, row, "cancelled", True)
        return stream

    async def prompt(
        self, chosen: Chosen, messages: Sequence[dict[str, Any]]
    ) -> tuple[list[int], Sequence[Hit] | None]:
        """Tokens of a chat, formatted as in the adapter's training and never truncated; and its passages, if any.

        Raises:
            DataError: the chat can't be written.
            UnsuitedError: it needs passages, and the server has no index.
        """
        task = chosen.task() or self.pool.base_task
        (whole,), sources = await self.lookup.add_before(chosen, [list(messages)])
        try:
            ids = await self.background.tokens(
                lambda tokenizer: task.prompt_ids({"messages": whole}, tokenizer),
                sum(len(one["content"]) for one in whole),
            )
            return ids, None if sources is None else sources[0]
        except ConfigError as error:
            raise DataError(error.message, hint=error.hint) from error

    async def examples(self, chosen: Chosen, texts: Sequence[str]) -> tuple[list[Example], Sources]:
        """Texts to continue, or those that an encoder reads, encoded as in the adapter's training; their passages too.

        Raises:
            DataError: an empty text.
            UnsuitedError: they need passages, and the server has no index.
        """
        task = chosen.task() or self.pool.base_task
        whole, sources = await self.lookup.add_before(chosen, texts)

        def work(tokenizer: Any) -> list[Example]:
            if task.encoder_decoder:
                return [example_of(text, task, tokenizer, (), ()) for text in whole]
            return [{"input_ids": list(tokenizer(text)["input_ids"])} for text in whole]

        return await self.background.tokens(work, sum(map(len, whole))), sources

    def default_tokens(self, chosen: Chosen, usual: int) -> int:
        """New tokens if a request does not say how many: enough for each answer of a task that has a list of them."""
        task = chosen.task()
        return min(usual if task is None else task.new_tokens(usual), self.settings.max_tokens)

    def ends(self, chosen: Chosen, *, chat: bool) -> frozenset[int]:
        """Tokens that end an answer: the base's own, and those that end the adapter's answers or a chat's."""
        task = chosen.task() or (self.pool.base_task if chat else None)
        return frozenset(self.pool.answer_ends(task))

    def _loaded(self, row: WaitingRow) -> None:
        self.models.loaded(str(row.adapter), row.owner if self.keys.needed else EVERYBODY.id)

    def _submit(self, chosen: Chosen, generations: Sequence[Generation]) -> list[WaitingRow]:
        for one in generations:
            if self.pool.served.modality == "text":
                self.suited.check_prompt(chosen, one.prompt, one.max_tokens)
        costs = [float(len(one.prompt) + one.max_tokens) for one in generations]
        return self._batcher.submit(GENERATE, chosen.name, generations, chosen.owner, costs)


def _with_files(table: Table, task: Task[Any], on_error: OnError) -> Sequence[Example | DataError]:
    def work(part: Table) -> list[Example]:
        given = decoded(part)
        task.check(given, (), labelled=False)
        return task.encode(given, None, (), labelled=False)

    return row_by_row(work, table) if on_error == "skip" else work(table)


def _ended(queue: asyncio.Queue[tuple[int, str | None]], index: int, answer: asyncio.Future[Any]) -> None:
    queue.put_nowait((index, None))


def _later(
    loop: asyncio.AbstractEventLoop, pieces: asyncio.Queue[tuple[int, str | None]], index: int, text: str
) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(pieces.put_nowait, (index, text))
