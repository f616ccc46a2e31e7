"""One forward pass of the base, plain or compiled."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn
from torch._dynamo import maybe_mark_dynamic
from torch._dynamo.utils import counters

from pefttools.deltas.kind import Family
from pefttools.errors import ConfigError
from pefttools.pool.base import ServedBase
from pefttools.pool.weight_slots import WeightSlots

#: states ``[rows, tokens, hidden]``, logits ``[rows, tokens, vocabulary]`` of a language head, and the base's own
#: pooling of its states ``[rows, hidden]``
Result = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]

#: new kinds or padded sizes of adapters that are allowed before torch.compile gives up, with an error
_COMPILATIONS = 64


class Forward:
    """Hidden states and, if requested, the language head's logits.

    Args:
        served: the base.
        weight_slots: the adapters' weights.
        lock: held while weights are written and removed.
        compile: run with torch.compile.
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
        self.weight_slots = weight_slots
        self.lock = lock
        self.compiled = compile
        #: compile nothing more: what has no graph runs uncompiled
        self.sealed = False
        #: calls that ran without a graph since then
        self.plain = 0
        self._states: torch.Tensor | None = None
        if served.causal:
            served.backbone.register_forward_hook(self._keep)
        if compile:
            # fullgraph: an error rather than a part that silently runs uncompiled
            options: dict[str, Any] = {"recompile_limit": _COMPILATIONS, "isolate_recompiles": True}
            self._bound = torch.compile(self._bind_and_run, fullgraph=True, **options)

    def __call__(self, given: dict[str, Any], language: bool) -> Result:
        """Run the model; the rows' adapters must be routed.

        Args:
            given: arguments of its forward.
            language: whether the language head runs.

        Returns:
            See `Result`.
        """
        # What is not stacked is looked up row by row, which no single graph can do.
        if not self.compiled or self.weight_slots.routing.rows:
            return self._run(given, language)
        # Slots and stacks are passed as arguments, so that their number may change without a new compilation: tensors
        # that are reached through a module would be treated as fixed in shape. Nothing may be written meanwhile, since
        # the stacks are bound to what was passed.
        with self.lock:
            slots, stacks = dict(self.weight_slots.routing.slots), self.weight_slots.tensors()
            for tensor in given.values():
                if isinstance(tensor, torch.Tensor):
                    maybe_mark_dynamic(tensor, [0, 1])
            for tensor in (*slots.values(), *stacks):
                maybe_mark_dynamic(tensor, 0)
            for keys, values in _cached(given.get("past_key_values")):
                maybe_mark_dynamic(keys, [0, 2])
                maybe_mark_dynamic(values, [0, 2])
            with torch.compiler.set_stance("eager_on_recompile" if self.sealed else "default"):
                result: Result = self._bound(slots, stacks, given, language)
        return result

    def _bind_and_run(
        self, slots: dict[Family, torch.Tensor], stacks: list[torch.Tensor], given: dict[str, Any], language: bool
    ) -> Result:
        if not torch.compiler.is_compiling():
            self.plain += 1
        self.weight_slots.routing.slots = slots
        self.weight_slots.bind(stacks)
        return self._run(given, language)

    def _run(self, given: dict[str, Any], language: bool) -> Result:
        if not self.served.causal:
            outputs = self.served.backbone(**given)
            pooled = None if self.served.modality == "text" else outputs.get("pooler_output")
            return outputs.last_hidden_state, None, pooled
        logits = None
        if language:
            logits = self.served.model(**given, use_cache=False).logits
        else:
            self.served.backbone(**given, use_cache=False)
        states, self._states = self._states, None
        if states is None:
            raise ConfigError(
                f"a pool can't serve the base {self.served.base.id!r}: a {type(self.served.model).__name__} does not "
                f"run its {type(self.served.backbone).__name__} as a whole, so its hidden states can't be read"
            )
        return states, logits, None

    def graphs(self) -> int:
        """Number of graphs that were compiled in this process."""
        return int(counters["stats"]["unique_graphs"])

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        self._states = output.last_hidden_state


def _cached(cache: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [] if cache is None else [(layer.keys, layer.values) for layer in cache.layers]
