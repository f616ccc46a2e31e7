"""Running one batch whose adapters are resident, each row with its own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pefttools.compute.moving import moved
from pefttools.deltas import Prefix
from pefttools.errors import ConfigError
from pefttools.heads.states import BatchStates
from pefttools.pool.adapter_cache import Resident
from pefttools.pool.base import ServedBase
from pefttools.pool.forward import Forward
from pefttools.pool.generation import Sampling, generate, virtual_tokens
from pefttools.pool.seen import arguments, fitted, states_of
from pefttools.pool.virtual import BatchVirtualTokens, gather, inject
from pefttools.pool.warming import WarmUp, typical_batches
from pefttools.pool.weight_slots import WeightSlots
from pefttools.pool.writing import Encoded, encode, write


@dataclass(frozen=True)
class Answer:
    """The result of one row.

    Attributes:
        adapter: name of the row's adapter; None for the base.
        logits: ``[outputs]`` of a head, ``[tokens, outputs]`` of a token-level one, ``[tokens, vocabulary]`` of a
            language model; None if there is no head.
        states: hidden states ``[tokens, hidden]`` if there is no head.
        labels: names of the logits of a single-label classifier.
        allowed: whether each of them may be the answer; None: all may.
    """

    adapter: str | None
    logits: torch.Tensor | None
    states: torch.Tensor | None
    labels: tuple[str, ...]
    allowed: Sequence[bool] | None = None

    @property
    def label(self) -> str | None:
        """The most likely label; None if there are no labels."""
        if self.logits is None or not self.labels:
            return None
        return self.labels[int(self._scored(self.logits).argmax())]

    @property
    def score(self) -> float | None:
        """Probability of that label; None if there are no labels."""
        if self.logits is None or not self.labels:
            return None
        return float(self._scored(self.logits).softmax(-1).max())

    def _scored(self, logits: torch.Tensor) -> torch.Tensor:
        if self.allowed is None:
            return logits.double()
        return logits.double().masked_fill(~torch.tensor(self.allowed, device=logits.device), float("-inf"))


def fetched(answers: Sequence[Answer]) -> list[torch.Tensor | None]:
    """The logits of heads' answers, in float32 on the CPU, in one transfer; None for those with a value not finite."""
    logits = [answer.logits for answer in answers if answer.logits is not None]
    if len(logits) < len(answers):
        raise ValueError("an answer without logits")
    if not logits:
        return []
    numbers = torch.cat([one.flatten().float() for one in logits]).cpu().numpy()
    parts = np.split(numbers, np.cumsum([one.numel() for one in logits])[:-1])
    return [
        torch.from_numpy(part).view(one.shape) if np.isfinite(part).all() else None
        for part, one in zip(parts, logits, strict=True)
    ]


class Runner:
    """Runs batches, one at a time, which the caller ensures.

    Args:
        served: the base.
        weight_slots: the adapters' weights.
        lock: held while weights are written and removed.
        compile: run the base with torch.compile.
    """

    def __init__(
        self,
        served: ServedBase,
        weight_slots: WeightSlots,
        lock: contextlib.AbstractContextManager[Any],
        *,
        compile: bool,
    ) -> None:
        self.served = served
        self._weight_slots = weight_slots
        self._run = Forward(served, weight_slots, lock, compile=compile)

    def answer(self, rows: Sequence[Resident | None], batch: dict[str, torch.Tensor]) -> list[Answer]:
        """One answer per row.

        Args:
            rows: each row's adapter; None for the base.
            batch: tensors ``[rows, tokens]``.

        Raises:
            ConfigError: rows that can't be served.
        """
        if not self.served.gives_states:
            raise ConfigError(f"the base {self.served.base.id!r} only writes texts: use generate")
        for row in rows:
            if row is not None and row.prepared.head.language and not self.served.causal:
                raise ConfigError(f"the adapter {row.name!r} writes texts: use generate or predict")
        seen = self._read(rows, batch) if self.served.modality == "text" else self._perceived(rows, batch)
        return [self._answer(seen, index, row) for index, row in enumerate(rows)]

    def _perceived(self, rows: Sequence[Resident | None], batch: dict[str, torch.Tensor]) -> BatchStates:
        """States of images or audio."""
        self._weight_slots.route([None if row is None else row.allocation for row in rows], self._run.compiled)
        with fitted(self.served, batch):
            states, _, pooled = self._run(arguments(self.served, batch), False)
        return states_of(self.served, batch, states, pooled)

    def _read(self, rows: Sequence[Resident | None], batch: dict[str, torch.Tensor]) -> BatchStates:
        """States of texts, and the language head's logits."""
        self._check(rows, batch)
        virtual = self._route(rows)
        language = self.served.causal and any(row is None or row.prepared.head.language for row in rows)
        states, logits, _ = self._run(inject(self.served, virtual, batch), language)
        prompts = None if virtual is None else virtual.mask[:, virtual.prefix_length :].bool()
        return BatchStates(states, logits, batch["input_ids"], batch["attention_mask"], prompts)

    def generate(
        self,
        rows: Sequence[Resident | None],
        batch: dict[str, torch.Tensor],
        *,
        max_new_tokens: Sequence[int],
        num_beams: int = 1,
        sampling: Sequence[Sampling | None] = (),
        ends: Sequence[Sequence[int]] = (),
        **options: Any,
    ) -> torch.Tensor:
        """New tokens ``[rows, new]`` for left-padded prompts; see `generate`.

        Raises:
            ConfigError: rows that can't be served.
        """
        self._check_generation(rows, batch, max_new_tokens)
        virtual = self._route(rows)
        if num_beams > 1:
            self._weight_slots.route(
                [None if row is None else row.allocation for row in rows for _ in range(num_beams)]
            )
        with self._keeping():
            return generate(
                self.served,
                batch,
                virtual,
                max_new_tokens=max_new_tokens,
                num_beams=num_beams,
                sampling=sampling,
                ends=ends,
                **options,
            )

    def write(
        self,
        rows: Sequence[Resident | None],
        batch: dict[str, torch.Tensor],
        *,
        begun: Sequence[Sequence[int]],
        max_new_tokens: Sequence[int],
        num_beams: Sequence[int],
        sampling: Sequence[Sampling | None],
        ends: Sequence[Sequence[int]],
        options: Callable[[Sequence[int]], dict[str, Any]],
    ) -> torch.Tensor:
        """New tokens ``[rows, new]`` of a decoder, padded on the right.

        Rows run together if their prefixes and beginnings are equally long and they have equally many beams.

        Args:
            rows: each row's adapter; None for the base.
            batch: what the encoder reads.
            begun: tokens that the decoder starts with, per row.
            max_new_tokens: maximum number of new tokens, per row.
            num_beams: beams, per row.
            sampling: how tokens are drawn, per row; None to take the most likely.
            ends: tokens that end a row, per row.
            options: options of transformers' ``generate`` for some of the rows, given their indices.

        Raises:
            ConfigError: rows that can't be served.
        """
        alike: dict[tuple[int, int, int], list[int]] = {}
        for index, row in enumerate(rows):
            lengths = {} if row is None else row.allocation.lengths
            prefix = lengths.get(Prefix.name, 0)
            alike.setdefault((prefix, len(begun[index]), num_beams[index]), []).append(index)
            if "attention_mask" in batch:
                self.served.check_length(int(batch["attention_mask"][index].sum()), 0, sum(lengths.values()) - prefix)
            # The last token is written but never read.
            self.served.check_length(0, len(begun[index]) + max_new_tokens[index] - 1, prefix)
        found: list[torch.Tensor] = [torch.empty(0)] * len(rows)
        for (_, _, beams), own in alike.items():
            chosen = moved(torch.tensor(own), self.served.device)
            some = [rows[index] for index in own]
            seen = self.encoded(some, {name: tensor.index_select(0, chosen) for name, tensor in batch.items()})
            if beams > 1:
                self._weight_slots.route(
                    [None if row is None else row.allocation for row in some for _ in range(beams)]
                )
            with self._keeping():
                new = write(
                    self.served, seen, moved(torch.tensor([begun[index] for index in own]), seen.states.device),
                    max_new_tokens=[max_new_tokens[index] for index in own], num_beams=beams,
                    sampling=[sampling[index] for index in own], ends=[ends[index] for index in own], **options(own),
                )  # fmt: skip
            for index, tokens in zip(own, new, strict=True):
                found[index] = tokens
        pad = float(self.served.tokenizer.pad_token_id)
        return torch.nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=pad)

    def encoded(self, rows: Sequence[Resident | None], batch: dict[str, torch.Tensor]) -> Encoded:
        """The encoder's output for a batch; its rows' adapters are routed from then on."""
        return encode(self.served, batch, self._route(rows))

    def warm_up(
        self, residents: Iterable[Resident], rows: Sequence[int], tokens: int, pairs: bool | None = None
    ) -> WarmUp:
        """Compile for batches of these adapters, and for nothing else from then on; see `AdapterPool.warm_up`."""
        run = self._run
        if not run.compiled:
            raise ConfigError("only a compiled pool can be warmed up", hint="Set compile=True.")
        run.sealed = False
        begin, before = time.perf_counter(), run.graphs()
        by_name = {one.name: one for one in residents}
        if pairs is None:
            pairs = any(one.prepared.task.has_pairs(one.prepared.roles) for one in by_name.values())
        marked = pairs and "token_type_ids" in self.served.tokenizer.model_input_names
        batches = typical_batches(by_name.values(), self.served.causal, rows)
        token = self.served.tokenizer.pad_token_id or 0
        for names in batches:
            ids = torch.full((len(names), tokens), token, device=self.served.device)
            batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            chosen = [None if name is None else by_name[name] for name in names]
            self.answer(chosen, batch)
            if marked:
                self.answer(chosen, batch | {"token_type_ids": torch.zeros_like(ids)})
        run.sealed, run.plain = True, 0
        return WarmUp(run.graphs() - before, time.perf_counter() - begin)

    @contextlib.contextmanager
    def reading(self, rows: Sequence[Resident | None]) -> Iterator[None]:
        """Within it the base's forward pass runs with the rows' adapters, token by token as in `generate`."""
        with virtual_tokens(self.served, self._route(rows)), self._keeping():
            yield

    @contextlib.contextmanager
    def _keeping(self) -> Iterator[None]:
        """Within it the routed rows stay the same, and their weights are gathered once."""
        routing = self._weight_slots.routing
        routing.gathered.forget()
        routing.keeping = True
        try:
            yield
        finally:
            routing.keeping = False
            routing.gathered.forget()

    def _check(self, rows: Sequence[Resident | None], batch: dict[str, torch.Tensor]) -> None:
        types = batch.get("token_type_ids")
        if types is None or all(row is None or row.prepared.method.capabilities.all_inputs for row in rows):
            return
        for row, is_pair in zip(rows, types.any(1).tolist(), strict=True):
            if row is not None and not row.prepared.method.capabilities.all_inputs and is_pair:
                raise ConfigError(
                    f"the adapter {row.name!r} ({row.prepared.method.name}) can't take pairs of texts: "
                    "it was trained without token types"
                )

    def _check_generation(
        self, rows: Sequence[Resident | None], batch: dict[str, torch.Tensor], lengths: Sequence[int]
    ) -> None:
        prompts = batch["attention_mask"].sum(1).tolist()
        for row, prompt, new in zip(rows, prompts, lengths, strict=True):
            language = row is None or row.prepared.head.language
            if (why := self.served.why_not_generated(None if row is None else row.name, language=language)) is not None:
                raise ConfigError(why)
            virtual = 0 if row is None else sum(row.allocation.lengths.values())
            self.served.check_length(prompt, new, virtual)

    def _route(self, rows: Sequence[Resident | None]) -> BatchVirtualTokens | None:
        allocations = [None if row is None else row.allocation for row in rows]
        self._weight_slots.route(allocations, self._run.compiled)
        return gather(self._weight_slots, allocations, self.served)

    def _answer(self, seen: BatchStates, index: int, row: Resident | None) -> Answer:
        if row is not None:
            head = row.prepared.head
            allowed = row.prepared.task.allowed_answers(row.prepared.labels)
            return Answer(row.name, head.answer(seen, index), None, head.labels, allowed)
        if self.served.causal:
            return Answer(None, seen.language(index), None, ())
        return Answer(None, None, seen.tokens(index), ())
