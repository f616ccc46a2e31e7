"""Memory of a pool of adapters: the pool's own code, run on fake tensors."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pefttools.artifact.manifest import TaskEntry
from pefttools.artifact.save import write_weights
from pefttools.bases import variants
from pefttools.bases.quiet import quiet
from pefttools.errors import ConfigError
from pefttools.planning.counting import DEVICE, counting, kernels
from pefttools.planning.decoding import read_and_continue
from pefttools.planning.fake import to_fake
from pefttools.planning.plan import Planned, Shape
from pefttools.pool.adapter_cache import Resident, Source
from pefttools.pool.base import load_served_base
from pefttools.pool.prepare import PreparedAdapter, Preparer
from pefttools.pool.running import Runner
from pefttools.pool.weight_slots import WeightSlots
from pefttools.pool.writing import decoder_prefixed
from pefttools.tuned import TunedModel


@dataclass(frozen=True)
class Serving:
    """Memory of a pool whose residents are all alike; sizes in bytes.

    Attributes:
        method: the adapters' method.
        variant: number format of the base's weights.
        device: whose kernels and allocator are assumed.
        residents: number of adapters held.
        weights_bytes: the base's weights.
        adapters_bytes: all adapters, with free slots and heads.
        answer_bytes: peak while a mixed batch is answered; 0 if the base only writes texts.
        generation_bytes: peak while a mixed batch of prompts is read and answered; 0 if nothing is generated.
        beside_bytes: what the device takes besides the tensors.
    """

    method: str
    variant: str
    device: str
    residents: int
    weights_bytes: int
    adapters_bytes: int
    answer_bytes: int
    generation_bytes: int
    beside_bytes: int

    @property
    def total_bytes(self) -> int:
        """Total memory that the device must have."""
        return max(self.answer_bytes, self.generation_bytes) + self.beside_bytes

    def as_dict(self) -> dict[str, Any]:
        """Field -> value."""
        return {**asdict(self), "total_bytes": self.total_bytes}


def plan_serving(planned: Planned, shape: Shape, residents: int) -> Serving:
    """Predict the memory of a pool.

    Args:
        planned: method of the adapters, and their base.
        shape: ``eval_batch_size`` rows of ``length`` tokens, each with a different adapter as far as there are enough.
        residents: number of adapters held.

    Raises:
        ConfigError: fewer than one resident, or a method that can't be served in a pool.
    """
    if residents < 1:
        raise ConfigError(f"residents must be at least 1, not {residents}")
    method, _ = planned.chosen_method()
    method.check_deltas()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with torch.device("meta"), quiet():
        served = load_served_base(planned.base, planned.variant, None, None, causal=planned.chosen_task().generates)
    variants.get(planned.variant)().compute_in(served.model, getattr(torch, planned.precision(shape)))
    to_fake(served.model, mode, DEVICE)
    prepared, read, new_tokens = _adapter(planned, shape, Preparer(served))
    title = f"a pool of {method.name!r} on {planned.base.id!r}"
    with counting(served.model, mode, planned.device, title) as counter, torch.no_grad():
        weights = counter.now.total()
        weight_slots = WeightSlots(served.model, residents + 1)
        with counter:
            held = [
                Resident("", Source(Path(), ""), prepared, weight_slots.allocate(prepared.deltas))
                for _ in range(residents)
            ]
            batch = {name: torch.ones_like(tensor, device=DEVICE) for name, tensor in read.items()}
        own = sum(resident.bytes() for resident in held)
        runner = Runner(served, weight_slots, contextlib.nullcontext(), compile=False)
        rows = [held[index % residents] for index in range(shape.eval_batch_size)]
        answer = generation = 0
        if not prepared.task.encoder_decoder:
            counter.reset_peak()
            with counter, kernels(planned.device):
                runner.answer(rows, batch)
            answer = counter.peak.total()
        if new_tokens:
            counter.reset_peak()
            with counter, kernels(planned.device):
                _generated(runner, rows, batch, new_tokens)
            generation = counter.peak.total() + own
    return Serving(
        method=planned.title,
        variant=planned.variant,
        device=planned.device.name,
        residents=residents,
        weights_bytes=weights,
        adapters_bytes=weight_slots.bytes() + own,
        answer_bytes=answer + own if answer else 0,
        generation_bytes=generation,
        beside_bytes=planned.device.overhead(max(answer, generation) + own),
    )


def _generated(runner: Runner, rows: Sequence[Resident], batch: dict[str, torch.Tensor], new_tokens: int) -> None:
    """Read prompts and continue them, or encode texts and write."""
    model: Any = runner.served.model
    if not runner.served.encoder_decoder:
        with runner.reading(rows):
            read_and_continue(model, model, batch, new_tokens)
        return
    seen = runner.encoded(rows, batch)
    begun = torch.ones(len(rows), 1, dtype=torch.long)
    given = {"attention_mask": seen.mask, "decoder_input_ids": begun}
    with decoder_prefixed(runner.served, seen.virtual):
        read_and_continue(partial(model, encoder_outputs=(seen.states,)), model, given, new_tokens)


def _adapter(
    planned: Planned, shape: Shape, preparer: Preparer
) -> tuple[PreparedAdapter, dict[str, torch.Tensor], int]:
    """An adapter of zeros, prepared for the pool, a batch for it, and how many tokens its task generates."""
    # Its size does not depend on the base's number format, and from a quantized base nothing could be read.
    model = replace(planned, variant="float32").build(shape)
    _fill(model)
    spec = model.spec
    entry = TaskEntry(
        name=spec.task.name, config=spec.task.options.model_dump(mode="json"), labels=list(spec.labels),
        head=spec.head_kind,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        write_weights(model, Path(folder))
        prepared = preparer.to_deltas(Path(folder), entry, spec.method, spec.config)
    new_tokens = int(getattr(spec.task.options, "max_new_tokens", 0)) if spec.task.generates else 0
    return prepared, _batch(model, shape), new_tokens


def _batch(model: TunedModel, shape: Shape) -> dict[str, torch.Tensor]:
    """What a pool reads at a time."""
    task = model.spec.task
    if task.modality == "text":
        ids = torch.ones(shape.eval_batch_size, shape.length, dtype=torch.long)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    batch = task.planned_batch(model, [shape.length] * shape.eval_batch_size)
    return {name: tensor for name, tensor in batch.items() if name not in ("labels", "decoder_input_ids")}


def _fill(model: nn.Module) -> None:
    """Fill with zeros all that is not a weight of the base: what is trained, and what methods keep along with it."""

    def filled(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.device.type == "meta":
            zeros = torch.zeros_like(value, device=DEVICE)
            return nn.Parameter(zeros) if isinstance(value, nn.Parameter) else zeros
        return {key: filled(one) for key, one in value.items()} if type(value) is dict else value

    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.requires_grad:
                module._parameters[name] = filled(parameter)
        module._buffers.update({name: filled(buffer) for name, buffer in module._buffers.items()})
        for name, value in list(vars(module).items()):
            if name not in ("_parameters", "_buffers", "_modules"):
                module.__dict__[name] = filled(value)
