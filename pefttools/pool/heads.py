"""What makes an answer of a row's hidden states: each adapter brings its own head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import is_fake
from torch.func import functional_call

from pefttools.deltas import AdapterDeltas
from pefttools.deltas.merge import folded
from pefttools.errors import ConfigError
from pefttools.methods import Target
from pefttools.pool.virtual import VirtualTokens
from pefttools.tasks.heads import pool
from pefttools.tasks.sequence_classification import own_head_modules


class BatchStates:
    """What the base gave for a batch.

    Args:
        states: hidden states ``[rows, prompt + tokens, hidden]``.
        logits: of the language head, ``[rows, prompt + tokens, vocabulary]``, where the call asked for them.
        input_ids: ``[rows, tokens]``.
        mask: which tokens are no padding, ``[rows, tokens]``.
        virtual: the rows' virtual tokens.
    """

    def __init__(
        self,
        states: torch.Tensor,
        logits: torch.Tensor | None,
        input_ids: torch.Tensor,
        mask: torch.Tensor,
        virtual: VirtualTokens | None,
    ) -> None:
        self.prompt = 0 if virtual is None else virtual.prompt_length
        self._prompt_mask = None if virtual is None else virtual.mask[:, virtual.prefix_length :].bool()
        self._states = states
        self._logits = logits
        self._ids = input_ids
        self._mask = mask
        self._pooled: dict[str, torch.Tensor] = {}

    @cached_property
    def _real(self) -> list[slice | torch.Tensor]:
        """Per row, where its tokens stand: one behind the other, as a rule. Looked up for all rows at once."""
        if is_fake(self._mask):  # without numbers: as many as there can be
            return [slice(None)] * len(self._mask)
        real = self._mask.bool()
        places = torch.arange(real.shape[1], device=real.device)
        begins = real.int().argmax(1)
        ends = begins + real.sum(1)
        closed = (real == ((places >= begins[:, None]) & (places < ends[:, None]))).all(1)
        found = torch.stack([begins, ends, closed.long()], dim=1).tolist()
        return [slice(a, b) if whole else real[row] for row, (a, b, whole) in enumerate(found)]

    @cached_property
    def _prompts(self) -> list[int]:
        """Per row, the number of its prompt's virtual tokens, which stand last of all that there is room for."""
        assert self._prompt_mask is not None
        if is_fake(self._prompt_mask):
            return [self.prompt] * len(self._prompt_mask)
        lengths: list[int] = self._prompt_mask.sum(1).tolist()
        return lengths

    def tokens(self, row: int) -> torch.Tensor:
        """Hidden states of a row's tokens, ``[tokens, hidden]``."""
        return self._states[row, self.prompt :][self._real[row]]

    def whole(self, row: int) -> torch.Tensor:
        """The same, with those of a prompt's virtual tokens before them."""
        if self._prompt_mask is None or not self.prompt:
            return self.tokens(row)
        return torch.cat([self._states[row, self.prompt - self._prompts[row] : self.prompt], self.tokens(row)])

    def input_ids(self, row: int) -> torch.Tensor:
        """A row's tokens."""
        return self._ids[row][self._real[row]]

    def language(self, row: int) -> torch.Tensor:
        """The language head's logits of a row's tokens, ``[tokens, vocabulary]``."""
        assert self._logits is not None
        return self._logits[row, self.prompt :][self._real[row]]

    def pooled(self, kind: str, dtype: torch.dtype) -> torch.Tensor:
        """All rows' states pooled to one vector each, ``[rows, hidden]``."""
        if kind not in self._pooled:
            self._pooled[kind] = pool(self._states[:, self.prompt :].to(dtype), self._mask, kind)
        return self._pooled[kind]


class ServedHead(ABC):
    """One adapter's head.

    Attributes:
        labels: names of its outputs.
        language: it reads the logits of the base's own language head.
    """

    labels: tuple[str, ...] = ()
    language = False

    @abstractmethod
    def answer(self, batch: BatchStates, row: int) -> torch.Tensor:
        """A row's logits."""

    def bytes(self) -> int:
        """Size of its parameters."""
        return 0


class LanguageHead(ServedHead):
    """The base's own language head: logits per token, ``[tokens, vocabulary]``."""

    language = True

    def answer(self, batch: BatchStates, row: int) -> torch.Tensor:
        return batch.language(row)


class PooledHead(ServedHead):
    """Pooling and one linear layer: logits ``[labels]``."""

    def __init__(self, kind: str, state: dict[str, torch.Tensor], labels: tuple[str, ...], like: torch.Tensor) -> None:
        self.kind = kind
        self.labels = labels
        self.dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        self.weight = state["linear.weight"].to(like.device, self.dtype)
        self.bias = state["linear.bias"].to(like.device, self.dtype)

    def answer(self, batch: BatchStates, row: int) -> torch.Tensor:
        # Row by row: a row's logits must not depend on its neighbours, not even in the last bit.
        return nn.functional.linear(batch.pooled(self.kind, self.dtype)[row], self.weight, self.bias)

    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.weight, self.bias))


class ModelHead(ServedHead):
    """The head of transformers' own class, e.g. BertForSequenceClassification: logits ``[labels]``.

    The class's forward runs on one row at a time, with its backbone replaced by the states that are already there.
    """

    def __init__(self, frame: Frame, parameters: dict[str, torch.Tensor], labels: tuple[str, ...]) -> None:
        self.frame = frame
        self.parameters = parameters
        self.labels = labels

    def answer(self, batch: BatchStates, row: int) -> torch.Tensor:
        return self.frame.run(self.parameters, batch.whole(row), batch.input_ids(row))

    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.parameters.values())


class Frame:
    """A transformers class with a head around a pool's backbone.

    Args:
        model_class: e.g. BertForSequenceClassification.
        config: of the base.
        backbone: the pool's.
        missing: parameters of the backbone that the base's files do not hold.
    """

    def __init__(self, model_class: type[Any], config: Any, backbone: nn.Module, missing: tuple[str, ...]) -> None:
        prefix = model_class.base_model_prefix
        with torch.device("meta"):
            #: the class around the real backbone, for the names of its modules
            self.named: nn.Module = model_class(config)
            self._shell: nn.Module = model_class(config)
        # The shell has a pooler of its own, without weights, so that running a head never touches the backbone's.
        inner = getattr(self._shell, prefix)
        pooler = getattr(inner, "pooler", None)
        self._states = _GivenStates(pooler, getattr(inner, "pooler_activation", None))
        setattr(self.named, prefix, backbone)
        setattr(self._shell, prefix, self._states)
        self._shell.eval().requires_grad_(False)
        self.prefix = prefix
        fresh = [f"{prefix}.{name}" for name in missing if pooler is not None]
        self.target = Target("sequence-classification", "SEQ_CLS", own_head_modules(self.named, fresh))
        self._names = [name for name, _ in self._shell.named_parameters()]
        #: what the base's files hold of them
        self._own = {
            name: p.detach()
            for name, p in self.named.named_parameters()
            if name in self._names and name not in fresh and p.device.type != "meta"
        }

    def head(self, deltas: AdapterDeltas, labels: tuple[str, ...]) -> tuple[ModelHead, AdapterDeltas]:
        """The head that an adapter's deltas hold, and the rest of them.

        Raises:
            ConfigError: something at a head module that is no change of its parameters.
        """
        parameters = dict(self._own)
        rest = {}
        for site, delta in deltas.sites.items():
            if not self._outside(site):
                rest[site] = delta
                continue
            own = {name[len(site) + 1 :]: p for name, p in self._own.items() if name.startswith(f"{site}.")}
            if delta.replace is None and not own:
                raise ConfigError(f"the adapter changes {site}, of which it holds no weights")
            state = folded(own, delta, site) if delta.replace is None else delta.replace
            parameters |= {f"{site}.{name}": value for name, value in state.items()}
        like = next(self.named.get_submodule(self.prefix).parameters())
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        parameters = {name: value.to(like.device, dtype) for name, value in parameters.items()}
        lacking = sorted(name for name in self._names if name not in parameters)
        if lacking:
            raise ConfigError(f"the adapter holds no weights for the head's {', '.join(lacking[:3])}")
        return ModelHead(self, parameters, labels), replace(deltas, sites=rest)

    def run(self, parameters: dict[str, torch.Tensor], states: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits of one row, from the states of all that it saw and from its own tokens."""
        self._states.given = states[None].to(next(iter(parameters.values())).dtype)
        ids = input_ids[None]
        if len(states) != len(input_ids):
            # The class looks for padding in the ids, of which virtual tokens have none: nothing here is padding.
            pad = self._shell.config.pad_token_id  # type: ignore[union-attr]
            ids = torch.full((1, len(states)), 1 if pad != 1 else 0, dtype=torch.long, device=states.device)
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        logits: torch.Tensor = functional_call(self._shell, parameters, kwargs=given).logits[0]
        return logits

    def _outside(self, site: str) -> bool:
        inside = f"{self.prefix}."
        return not site.startswith(inside) or f"{site}.".startswith(f"{inside}pooler.")


class _GivenStates(nn.Module):
    """Stands where the backbone stood and gives the states that were computed before."""

    def __init__(self, pooler: nn.Module | None, activation: nn.Module | None) -> None:
        super().__init__()
        self.pooler = pooler
        #: of a pooler that is a bare linear layer for the first token's state, as ALBERT's
        self.pooler_activation = activation
        self.given: torch.Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

        states = self.given
        assert states is not None
        if self.pooler is None or self.pooler_activation is None:
            pooled = None if self.pooler is None else self.pooler(states)
        else:
            pooled = self.pooler_activation(self.pooler(states[:, 0]))
        given = BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=states, pooler_output=pooled)
        given.mems = None  # XLNet's class hands it on
        return given
