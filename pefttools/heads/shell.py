"""The head of transformers' own classes around a shared base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from pefttools.deltas import AdapterDeltas, Replace
from pefttools.deltas.merge import folded
from pefttools.errors import ConfigError
from pefttools.heads.outputs import logits_of
from pefttools.heads.served import ServedHead
from pefttools.heads.states import BatchStates
from pefttools.methods import Target
from pefttools.sites import backbone_name


class ModelHead(ServedHead):
    """The head of transformers' own class, e.g. BertForSequenceClassification: logits ``[labels]``.

    The class's forward runs on one row at a time, with its backbone replaced by the states that are already there.
    """

    def __init__(self, shell: HeadShell, parameters: dict[str, torch.Tensor], labels: tuple[str, ...]) -> None:
        self.shell = shell
        self.parameters = parameters
        self.labels = labels

    def answer(self, batch: BatchStates, row: int) -> torch.Tensor:
        states = batch.tokens(row) if self.shell.per_token else batch.whole(row)
        return self.shell.run(self.parameters, states, batch.input_ids(row), batch.own_pooled(row))

    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.parameters.values())


class HeadShell:
    """A transformers class with a head around a pool's backbone.

    Args:
        model_class: e.g. BertForSequenceClassification.
        config: of the base.
        backbone: the pool's.
        missing: parameters of the backbone that the base's files do not hold.
        peft_task_type: what PEFT calls the class, e.g. ``SEQ_CLS``.
        per_token: whether the head reads each token's state on its own.
    """

    def __init__(
        self,
        model_class: type[Any],
        config: Any,
        backbone: nn.Module,
        missing: tuple[str, ...],
        *,
        peft_task_type: str,
        per_token: bool,
    ) -> None:
        with torch.device("meta"):
            #: the class around the real backbone, for the names of its modules
            self.named: nn.Module = model_class(config)
            self._shell: nn.Module = model_class(config)
        prefix = backbone_name(self.named)
        # The shell has a pooler of its own, without weights, so that running a head never touches the backbone's.
        inner = getattr(self._shell, prefix)
        pooler = getattr(inner, "pooler", None)
        if pooler is not None and next(pooler.parameters(), None) is None:
            pooler = None  # the backbone's own does the same for every adapter
        self._states = _GivenStates(pooler, getattr(inner, "pooler_activation", None))
        setattr(self.named, prefix, backbone)
        setattr(self._shell, prefix, self._states)
        self._shell.eval().requires_grad_(False)
        self.prefix = prefix
        self._reads = model_class.main_input_name
        fresh = [f"{prefix}.{name}" for name in missing if pooler is not None]
        self.per_token = per_token
        self.target = Target("", peft_task_type, own_head_modules(self.named, fresh))
        self._names = [name for name, _ in self._shell.named_parameters()]
        #: those of them that are in the base's files
        self._own = {
            name: p.detach()
            for name, p in self.named.named_parameters()
            if name in self._names and name not in fresh and p.device.type != "meta"
        }

    def head(self, deltas: AdapterDeltas, labels: tuple[str, ...]) -> tuple[ModelHead, AdapterDeltas]:
        """The head in an adapter's deltas, and the rest of them.

        Raises:
            ConfigError: something at a head module that is not a change of its parameters.
        """
        parameters = dict(self._own)
        rest = {}
        for site, delta in deltas.sites.items():
            if not self._outside(site):
                rest[site] = delta
                continue
            own = {name[len(site) + 1 :]: p for name, p in self._own.items() if name.startswith(f"{site}.")}
            replaced = delta.get(Replace)
            if replaced is None and not own:
                raise ConfigError(f"the adapter changes {site}, but has no weights for it")
            state = folded(own, delta, site) if replaced is None else replaced.parameters
            parameters |= {f"{site}.{name}": value for name, value in state.items()}
        like = next(self.named.get_submodule(self.prefix).parameters())
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        parameters = {name: value.to(like.device, dtype) for name, value in parameters.items()}
        lacking = sorted(name for name in self._names if name not in parameters)
        if lacking:
            raise ConfigError(f"the adapter has no weights for the head's {', '.join(lacking[:3])}")
        return ModelHead(self, parameters, labels), replace(deltas, sites=rest)

    def run(
        self,
        parameters: dict[str, torch.Tensor],
        states: torch.Tensor,
        input_ids: torch.Tensor | None,
        pooled: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits of one row.

        Args:
            parameters: parameters of the head.
            states: states of all that the row saw.
            input_ids: its own tokens; None if it is not text.
            pooled: what the backbone made of its states, if that needs no parameters of an adapter.
        """
        dtype = next(iter(parameters.values())).dtype
        self._states.given = states[None].to(dtype)
        self._states.pooled = None if pooled is None else pooled[None].to(dtype)
        given = {self._reads: self._states.given} if input_ids is None else self._text(input_ids, states)
        return logits_of(functional_call(self._shell, parameters, kwargs=given))[0]

    def _text(self, input_ids: torch.Tensor, states: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the class looks at in a text."""
        ids = input_ids[None]
        if len(states) != len(input_ids):
            # The class looks for padding in the ids, of which virtual tokens have none: nothing here is padding.
            pad = self._shell.config.pad_token_id  # type: ignore[union-attr]
            ids = torch.full((1, len(states)), 1 if pad != 1 else 0, dtype=torch.long, device=states.device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def _outside(self, site: str) -> bool:
        inside = f"{self.prefix}."
        return not site.startswith(inside) or f"{site}.".startswith(f"{inside}pooler.")


class _GivenStates(nn.Module):
    """Takes the backbone's place and gives the states that were computed before."""

    def __init__(self, pooler: nn.Module | None, activation: nn.Module | None) -> None:
        super().__init__()
        self.pooler = pooler
        #: for a pooler that is a bare linear layer on the first token's state, as ALBERT's
        self.pooler_activation = activation
        self.given: torch.Tensor | None = None
        #: what the backbone gave, for classes whose own pooler has no parameters
        self.pooled: torch.Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

        states = self.given
        assert states is not None
        pooled: torch.Tensor | None
        if self.pooler is None or self.pooler_activation is None:
            pooled = self.pooled if self.pooler is None else self.pooler(states)
        else:
            pooled = self.pooler_activation(self.pooler(states[:, 0]))
        given = BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=states, pooler_output=pooled)
        given.mems = None  # XLNet's class passes it on
        return given


def own_head_modules(model: nn.Module, missing: Sequence[str]) -> tuple[str, ...]:
    """Modules outside the backbone, and any others that the base's files have no weights for."""
    backbone = backbone_name(model)
    heads = [
        name
        for name, child in model.named_children()
        if name != backbone and next(child.parameters(), None) is not None
    ]
    fresh = {parameter.rpartition(".")[0] for parameter in missing}
    heads += sorted(name for name in fresh if not any(f"{name}.".startswith(f"{head}.") for head in heads))
    return tuple(heads)
