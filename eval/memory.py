"""Peak memory by parts, counted at tensor level. See docs/memory.md.

A dispatch mode sees every tensor that an operation returns and follows its storage until it is freed; views share a
storage and count once. Weights, gradients and optimizer state are recognized by what holds them; everything else that
is alive is an activation or a temporary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pefttools.bases.unquantized import unquantized_bytes
from pefttools.compute.config import TrainingConfig
from pefttools.compute.optimizers import make_optimizer
from pefttools.planning.counter import KINDS, StorageCounter, weights_of
from pefttools.tasks.batches import by_size
from pefttools.tasks.task import Example
from pefttools.training.step import optimizer_step
from pefttools.tuned import TunedModel

from .records import Memory, Parts


def profile(model: TunedModel, batch: Sequence[Example], settings: TrainingConfig,
            evaluation_examples: Sequence[Example], rss: int) -> Memory:  # fmt: skip
    """Peak memory of a training step and of an evaluation step, by parts.

    Args:
        model: as built for training; two steps change it.
        batch: of one forward pass in training, see `pefttools.training.sampler.largest_batch`.
        settings: of the training.
        evaluation_examples: encoded validation examples; the longest are measured.
        rss: peak resident size of the process that trained.
    """
    device = model.device
    counter = StorageCounter(device)
    for tensor in weights_of(model):
        counter.track(tensor, "weights")
    training, most = _training_parts(model, batch, settings, counter)

    parts = model.spec.task.in_parts(evaluation_examples)
    longest = [parts[index] for index in next(by_size(parts.sizes, settings.eval_batch_size))]
    counter.reset_peak()
    allocator = _Allocator(device)
    with counter:
        model.spec.task.evaluation_pass(model, model.spec.task.collate(longest, model.processor))
    evaluation = allocator.correct(_parts(counter))
    return Memory(
        device="cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
        training=training,
        training_most=most,
        unquantized=unquantized_bytes(model),
        evaluation=evaluation,
        source="counted" if device.type == "cpu" else "allocator",
        batch=(len(batch), max(model.spec.task.sizes(batch))),
        peak_rss=rss,
    )


def _training_parts(
    model: TunedModel, batch: Sequence[Example], settings: TrainingConfig, counter: StorageCounter
) -> tuple[Parts, Parts]:
    """The parts at the peak of a training step, and the maximum of each part."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        return _parts(counter), _parts(counter)
    optimizer = make_optimizer(settings.optimizer, trained, 1e-8)
    hooks = [p.register_post_accumulate_grad_hook(lambda p: counter.track(p.grad, "gradients")) for p in trained]
    model.train()
    # The first step creates the optimizer's state; a step in the middle of training is the one to measure.
    with counter:
        optimizer_step(model, batch, settings.microbatches, optimizer)
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                counter.track(value, "optimizer")
    counter.reset_peak()
    allocator = _Allocator(model.device)
    with counter:
        optimizer_step(model, batch, settings.microbatches, optimizer)
    parts, most = allocator.correct(_parts(counter)), Parts(**{kind: counter.most[kind] for kind in KINDS})
    for hook in hooks:
        hook.remove()
    return parts, most


class _Allocator:
    """What CUDA's allocator reports for a step, from its construction on; nothing on other devices."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)

    def correct(self, parts: Parts) -> Parts:
        """The parts, with everything that the allocator saw beyond them counted as `other`."""
        if self.device.type != "cuda":
            return parts
        torch.cuda.synchronize(self.device)
        beyond = torch.cuda.max_memory_allocated(self.device) - parts.peak
        return parts.model_copy(update={"other": max(0, parts.other + beyond)})


def _parts(counter: StorageCounter) -> Parts:
    """The parts at the peak."""
    return Parts(**{kind: counter.peak[kind] for kind in KINDS})
