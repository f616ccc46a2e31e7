"""Running training and evaluation steps on tensors without numbers, and counting what lives."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.module_tracker import ModuleTracker

from pefttools.errors import ConfigError
from pefttools.planning.counter import Kind, StorageCounter, weights_of
from pefttools.planning.fake import to_fake
from pefttools.tuned import TunedModel

#: fake tensors on another device than this can't be differentiated by a CPU build
DEVICE = torch.device("cpu")


@dataclass(frozen=True)
class Traced:
    """Bytes of a step.

    Attributes:
        peak: by kind, at the moment with the largest sum.
        peak_at: the module that ran then.
        persistent: by kind, between two steps.
    """

    peak: Counter[Kind]
    peak_at: str
    persistent: Counter[Kind]


def trace_training(model: TunedModel, rows: int, length: int, accumulation: int = 1) -> Traced:
    """A training step in the middle of a training.

    Args:
        model: built on the meta device; its tensors are replaced by fake ones.
        rows: of one forward pass.
        length: tokens of each row.
        accumulation: forward passes of one optimizer step.

    Raises:
        ConfigError: the model can't run without numbers.
    """
    with _fake(model) as counter:
        batch = _batch(model, rows, length)
        labels = batch.pop("labels")
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-3) if trained else None
        for p in trained:
            p.register_post_accumulate_grad_hook(lambda p: counter.track(p.grad, "gradients"))
        model.train()

        def step() -> None:
            for _ in range(min(accumulation, 2)):  # from the second pass on gradients stand beside the activations
                model.spec.task.loss(model(**batch), labels).backward()
            if optimizer is not None:
                nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                optimizer.zero_grad()

        if optimizer is None:
            return _traced(counter)
        with counter:
            step()  # the first one makes the optimizer's state
        for state in optimizer.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor):
                    counter.track(value, "optimizer")
        counter.reset_peak()
        persistent = counter.now.copy()
        with counter:
            step()
        return Traced(counter.peak, counter.peak_at, persistent)


def trace_evaluation(model: TunedModel, rows: int, length: int) -> Traced:
    """A forward pass without gradients."""
    with _fake(model) as counter:
        batch = _batch(model, rows, length)
        batch.pop("labels")
        model.eval()
        with counter, torch.no_grad():
            model(**batch)
        return _traced(counter)


def _traced(counter: StorageCounter) -> Traced:
    return Traced(counter.peak, counter.peak_at, counter.now.copy())


@contextmanager
def _fake(model: TunedModel) -> Iterator[StorageCounter]:
    mode = FakeTensorMode()
    to_fake(model, mode, DEVICE)
    tracker = ModuleTracker()
    counter = StorageCounter(DEVICE, where=lambda: _deepest(tracker))
    for tensor in weights_of(model):
        counter.track(tensor, "weights")
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    gc.freeze()  # what is there already need not be looked at again and again
    counter.collect = True
    try:
        with mode, tracker:
            yield counter
    # AssertionError: a tensor that no one made fake, in a place that only the method knows.
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ConfigError(
            f"the method {model.spec.method.name!r} on {model.spec.base.id!r} can't be traced: {_first(error)}"
        ) from error
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()


def _batch(model: TunedModel, rows: int, length: int) -> dict[str, torch.Tensor]:
    examples: list[dict[str, Any]] = [model.spec.task.planned_example(length)] * rows
    return {name: torch.tensor([one[name] for one in examples]) for name in examples[0]}


def _deepest(tracker: ModuleTracker) -> str:
    inside = [name for name in tracker.parents if name != "Global"]
    name = max(inside, key=len, default="")
    return name.partition(".")[2] or name


def _first(error: BaseException) -> str:
    return (str(error) or repr(error)).splitlines()[0]
