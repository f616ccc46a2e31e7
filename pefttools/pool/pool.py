"""The pool: one base model, many adapters, each row of a batch with its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pefttools.artifact.signing import trusted
from pefttools.bases import locate_base
from pefttools.compute.precision import default_device
from pefttools.errors import ConfigError
from pefttools.pool.adapter_cache import AdapterCache, Resident
from pefttools.pool.base import load_served_base
from pefttools.pool.generation import Sampling, token_ids
from pefttools.pool.inputs import Inputs, Tensors, are_rows
from pefttools.pool.introduced import introduced
from pefttools.pool.parts import answers_of, predictions
from pefttools.pool.prepare import Preparer
from pefttools.pool.running import Answer, Runner
from pefttools.pool.texts import OptionsOf, Texts
from pefttools.pool.warming import WarmUp
from pefttools.pool.weight_slots import WeightSlots
from pefttools.tasks import Task
from pefttools.tasks.language.generation import answer_text
from pefttools.tasks.task import Example
from pefttools.tasks.text.padding import padded_on_the_right
from pefttools.tasks.unadapted import base_task


class AdapterPool:
    """Many adapters on one base, mixed in one batch.

    Adapters of different methods, ranks, lengths and label sets can be mixed; a row gets the result that its adapter
    alone would give. Safe to use from several threads; calls run one after the other.

    Args:
        base: folder, ``package:`` reference or hub id of the base model.
        variant: number format of the base's weights.
        max_resident: maximum number of adapters held in memory; the least recently used are evicted first.
        max_bytes: maximum bytes of adapter weights; None for no limit.
        dtype: number format to compute in, if not the variant's own.
        device: device of the model; None for the accelerator, if there is one.
        signed_by: public keys, one of which must have signed each adapter; if empty, signatures are not required.
        compile: run the base with torch.compile; see `warm_up`. Generation is not compiled.

    Raises:
        BaseModelError: the base can't be loaded.
        ConfigError: options that can't be combined.
    """

    def __init__(
        self,
        base: str,
        *,
        variant: str = "float32",
        max_resident: int = 64,
        max_bytes: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        signed_by: Sequence[str | Path] = (),
        compile: bool = False,
    ) -> None:
        if max_resident < 1:
            raise ConfigError(f"max_resident must be at least 1, not {max_resident}")
        where = default_device() if device is None else torch.device(device)
        self.served = load_served_base(locate_base(base), variant, dtype, where)
        if compile and self.served.modality != "text":
            raise ConfigError(f"compile=True is for bases that read texts, not {self.served.modality}")
        self._weight_slots = WeightSlots(self.served.model, max_resident + 1)
        preparer = Preparer(self.served, trusted(signed_by))
        self._cache = AdapterCache(self._weight_slots, preparer.prepare, max_resident, max_bytes)
        #: encodes rows without an adapter, such as chats
        self.base_task: Task[Any] = base_task(
            self.served.modality, encoder_decoder=self.served.encoder_decoder, base=self.served.base
        )
        self._runner = Runner(self.served, self._weight_slots, self._cache.lock, compile=compile)
        self._running = threading.Lock()
        #: adapters that the last call had to fetch itself: they had been evicted since they were requested
        self._fetched: list[str] = []
        self._tensors = Tensors(self.served, self.base_task, preparer.processor)
        self._texts = Texts(self.served, self._runner, self._tensors)

    @property
    def tokenizer(self) -> Any:
        """The base's tokenizer."""
        return self.served.tokenizer

    @property
    def known(self) -> list[str]:
        """Names of all adapters that rows may ask for."""
        return self._cache.known()

    @property
    def resident(self) -> list[str]:
        """Names of the adapters whose weights are held, least recently used first."""
        return self._cache.names()

    def bytes(self) -> int:
        """Bytes of the adapter weights held, free slots included."""
        return self._cache.bytes()

    @property
    def evictions(self) -> int:
        """How many adapters have been evicted to make room for others."""
        return self._cache.evictions

    def register(self, name: str, artifact: str | Path, *, digest: str | None = None) -> None:
        """Make an adapter known, to be read when a row first asks for it; a resident one of its name is dropped.

        Args:
            name: name by which rows ask for it.
            artifact: its folder; if it holds a different artifact when the weights are read, that is refused.
            digest: digest of the manifest that the caller has read; None for the one that is there now.

        Raises:
            ArtifactError: there is no artifact in the folder.
        """
        self._cache.register(name, Path(artifact), digest or introduced(Path(artifact)))

    def load(self, name: str, artifact: str | Path) -> None:
        """Make an adapter known and resident; one of the same name is replaced, between two calls.

        Raises:
            ArtifactError: the artifact is damaged.
            BaseModelError: it belongs to a different base.
            ConfigError: its method or task can't be served here.
            CapacityError: it does not fit.
        """
        self._cache.load(name, Path(artifact))

    def ensure(self, name: str, *, wait: bool = True) -> bool:
        """Make a known adapter resident; False if it is already.

        Args:
            name: name of the adapter.
            wait: wait for running calls to end if only their adapters could be evicted.

        Raises:
            UnknownNameError: not known. Otherwise as `load`.
        """
        return self._cache.ensure(name, wait=wait)

    def take_fetched(self) -> list[str]:
        """Adapters that the last call had to fetch itself and that have not been reported yet."""
        found, self._fetched = self._fetched, []
        return found

    def virtual_length(self, name: str) -> int:
        """Number of virtual tokens that an adapter puts before a text; 0 if it is not resident."""
        resident = self._cache.get(name)
        return 0 if resident is None else sum(resident.allocation.lengths.values())

    def evict(self, name: str) -> bool:
        """Drop an adapter's weights; it stays known. False if it was not resident."""
        return self._cache.evict(name)

    def warm_up(self, *, rows: Sequence[int] = (1, 2), tokens: int = 16, pairs: bool | None = None) -> WarmUp:
        """Compile now for all batches that the resident adapters can form, and for nothing else later.

        Without it a call compiles when it first sees a kind of batch, for half a minute or so each. After it, what has
        no graph runs uncompiled: adapters of a new kind or padded size, until the next `warm_up`.

        Args:
            rows: batch sizes to try; a single row has its own graphs, all other sizes share theirs.
            tokens: their length, on which the graphs do not depend.
            pairs: also for pairs of texts, if the tokenizer marks them; None: only if an adapter was trained on them.

        Raises:
            ConfigError: the pool does not compile.
        """
        names = self.resident
        with torch.no_grad(), self._holding(names) as held:
            return self._runner.warm_up([one for one in held if one is not None], rows, tokens, pairs)

    def unload(self, name: str) -> None:
        """Forget an adapter; a running call that uses it ends first.

        Raises:
            UnknownNameError: there is none with this name.
        """
        self._cache.forget(name)

    @torch.no_grad()
    def __call__(self, inputs: Inputs, adapters: Sequence[str | None]) -> list[Answer]:
        """One answer per row.

        Args:
            inputs: texts, or tensors ``[rows, tokens]`` from the tokenizer, padded on either side.
            adapters: name of each row's adapter; None for the base.

        Raises:
            UnknownNameError: an adapter that is not known.
            ConfigError: rows that can't be served.
            CapacityError: more different adapters than the pool may hold.
        """
        batch = self._tensors.of(inputs, adapters, "right")
        if self.served.modality == "text":
            batch = padded_on_the_right(batch)
        with self._holding(adapters) as rows:
            if not isinstance(inputs, Mapping):
                for row in rows:
                    if row is not None:
                        task = row.prepared.task
                        task.check_roles({task.main_role()}, row.prepared.roles)
            return self._runner.answer(rows, batch)

    @torch.no_grad()
    def answer(self, examples: Sequence[Example], adapters: Sequence[str | None]) -> list[Answer]:
        """One answer per row that is already encoded, as by `Task.encode`."""
        with self._holding(adapters) as rows:
            return answers_of(self._runner, self._tensors, examples, rows)

    def predict(
        self,
        inputs: Sequence[str | Mapping[str, Any]],
        adapters: Sequence[str],
        *,
        all_scores: bool = False,
        batch_size: int = 64,
    ) -> list[dict[str, Any]]:
        """What `pefttools.predict` gives for each row, by the row's own adapter, whatever their tasks.

        Args:
            inputs: texts, or paths or bytes of files if the base reads images or audio; or mappings by column role.
                Each is encoded by its adapter's task.
            adapters: name of each row's adapter.
            all_scores: see `pefttools.predict`.
            batch_size: model rows at a time, of similar sizes: a row may have several, such as windows of a long text.

        Raises:
            DataError: a row that its adapter can't take.
            ConfigError: an adapter that continues texts: see `generate`.
        """
        if len(inputs) != len(adapters):
            raise ConfigError(f"{len(inputs)} rows, but {len(adapters)} adapters: one is needed for each row")
        with torch.no_grad(), self._holding(adapters) as held:
            found = predictions(self._runner, self._tensors, self._texts, inputs, held, batch_size)
            return [one.as_dict(all_scores=all_scores) for one in found]

    @torch.no_grad()
    def generate(
        self,
        inputs: Inputs,
        adapters: Sequence[str | None],
        *,
        max_new_tokens: int | Sequence[int] | None = None,
        num_beams: int | None = None,
        sampling: Sampling | Sequence[Sampling | None] | None = None,
        **options: Any,
    ) -> list[str]:
        """Continue each row with its own adapter, or write an encoder-decoder model's output; returns the new texts.

        Texts are continued exactly as they are. Rows, as `pefttools.predict` takes them, are formatted as in the
        training of the row's adapter: with the tokenizer's chat template and the adapter's system message.

        Args:
            inputs: texts, rows (``{"prompt": ...}`` or ``{"messages": [...]}``), or left-padded ``[rows, tokens]``.
            adapters: name of each row's adapter; None for the base.
            max_new_tokens: maximum number of new tokens, one for all rows or per row; None for 32, or with an
                encoder-decoder base for what the row's adapter was evaluated with.
            num_beams: beams per row; None for 1, or with an encoder-decoder base as for `max_new_tokens`.
            sampling: draw tokens, one setting for all rows or per row, each row with its own generator; None to take
                the most likely.
            options: of transformers' ``generate``; ``eos_token_id`` ends answers as those of base and tasks do.

        Raises:
            ConfigError: the base or an adapter is not a causal language model.
        """
        tokens, ends = self._generate(inputs, adapters, max_new_tokens, num_beams, sampling, options)
        texts = [answer_text(row, self.tokenizer, own) for row, own in zip(tokens.tolist(), ends, strict=True)]
        stripped = are_rows(inputs) or self.served.encoder_decoder
        return [text.strip() for text in texts] if stripped else texts

    @torch.no_grad()
    def generate_tokens(
        self,
        inputs: Inputs,
        adapters: Sequence[str | None],
        *,
        max_new_tokens: int | Sequence[int] | None = None,
        num_beams: int | None = None,
        sampling: Sampling | Sequence[Sampling | None] | None = None,
        written: Sequence[int] = (),
        **options: Any,
    ) -> torch.Tensor:
        """As `generate`, but the new tokens, ``[rows, new]``; as many as `written` of a prompt's are of its answer."""
        return self._generate(inputs, adapters, max_new_tokens, num_beams, sampling, options, written)[0]

    def _generate(
        self, inputs: Inputs, adapters: Sequence[str | None], max_new_tokens: Any, num_beams: int | None, sampling: Any,
        options: dict[str, Any], own: Sequence[int] = (),
    ) -> tuple[torch.Tensor, list[list[int]]]:  # fmt: skip
        """New tokens, and per row the tokens that end it."""
        if (why := self.served.why_not_generated()) is not None:
            raise ConfigError(why)
        given = token_ids(options.pop("eos_token_id", None))
        with self._holding(adapters) as rows:
            if self.served.encoder_decoder:
                examples = self._texts.encoded(rows, inputs)
                return self._texts.written(
                    rows, examples, max_new_tokens, num_beams, sampling, given, lambda own: options
                )
            return self._texts.continued(
                rows, adapters, inputs, max_new_tokens, num_beams, sampling, given, options, own
            )

    @torch.no_grad()
    def write_tokens(
        self,
        examples: Sequence[Example],
        adapters: Sequence[str | None],
        *,
        max_new_tokens: int | Sequence[int] | None = None,
        num_beams: int | None = None,
        sampling: Sampling | Sequence[Sampling | None] | None = None,
        begun: Sequence[Sequence[int]] = (),
        options_of: OptionsOf | None = None,
        **options: Any,
    ) -> torch.Tensor:
        """New tokens ``[rows, new]`` of an encoder-decoder model, for rows that are already encoded.

        Args:
            examples: rows from `Task.encode`.
            adapters: see `generate`, also for all that are not listed here.
            begun: tokens of each row that were written before; empty for a new answer.
            options_of: options of ``generate`` for some of the rows, given their indices: not all run together.
        """
        given = token_ids(options.pop("eos_token_id", None))
        with self._holding(adapters) as rows:
            return self._texts.written(
                rows, examples, max_new_tokens, num_beams, sampling, given, options_of or (lambda own: options), begun
            )[0]

    def answer_ends(self, task: Task[Any] | None) -> list[int]:
        """Tokens that end an answer of a task on this base; without a task, of the base itself."""
        return self._texts.ends(task)

    @contextmanager
    def _holding(self, adapters: Sequence[str | None]) -> Iterator[list[Resident | None]]:
        """Exclusive use of the model, each row with its adapter, which stays resident within the block."""
        names = [name for name in adapters if name is not None]
        with self._running:
            self._fetched = []
            with self._cache.hold(names, self._fetched) as held:
                yield [None if name is None else held[name] for name in adapters]
