"""Peak memory by parts, counted at tensor level. See docs/memory.md.

A dispatch mode sees every tensor that an operation returns and follows its storage until it dies; views share a
storage and count once. Weights, gradients and optimizer state are told apart by where they hang; whatever else lives
is an activation or a temporary.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence

import torch
from torch import nn

from pefttools.planning.counter import KINDS, StorageCounter, weights_of
from pefttools.tasks.task import Example
from pefttools.training.sampler import LengthWindowSampler
from pefttools.tuned import TunedModel

from .records import Memory, Parts


def profile(model: TunedModel, batch: Sequence[Example], accumulation: int, eval_batch_size: int,
            evaluation_examples: Sequence[Example], rss: int) -> Memory:  # fmt: skip
    """Peak memory of a training step and of an evaluation step, by parts.

    Args:
        model: as it was built for training; it is changed by two steps.
        batch: of one forward pass in training, see `largest_batch`.
        accumulation: forward passes per step.
        eval_batch_size: rows of one forward pass in evaluation.
        evaluation_examples: encoded validation examples; the longest are measured.
        rss: peak resident size of the process that trained.
    """
    device = model.device
    counter = StorageCounter(device)
    for tensor in weights_of(model):
        counter.track(tensor, "weights")
    training = _training_parts(model, batch, accumulation, counter)

    longest = sorted(evaluation_examples, key=lambda example: -len(example["input_ids"]))[:eval_batch_size]
    counter.reset_peak()
    allocator = _Allocator(device)
    with counter:
        model.spec.task.evaluation_pass(model, model.spec.task.collate(longest, model.tokenizer))
    evaluation = allocator.correct(_parts(counter))
    return Memory(
        device="cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
        training=training,
        evaluation=evaluation,
        source="counted" if device.type == "cpu" else "allocator",
        batch=(len(batch), max(len(example["input_ids"]) for example in batch)),
        peak_rss=rss,
    )


def _training_parts(model: TunedModel, batch: Sequence[Example], accumulation: int, counter: StorageCounter) -> Parts:
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        return _parts(counter)
    optimizer = torch.optim.AdamW(trained, lr=1e-8, fused=True)
    hooks = [p.register_post_accumulate_grad_hook(lambda p: counter.track(p.grad, "gradients")) for p in trained]
    model.train()
    # The first step creates the optimizer's state; a step in the middle of training is the one to measure.
    _step(model, batch, accumulation, optimizer, counter)
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                counter.track(value, "optimizer")
    counter.reset_peak()
    allocator = _Allocator(model.device)
    _step(model, batch, accumulation, optimizer, counter)
    parts = allocator.correct(_parts(counter))
    for hook in hooks:
        hook.remove()
    return parts


def peak_rss() -> int:
    """Largest resident size of this process so far, in bytes."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


class _Allocator:
    """What CUDA's allocator says of a step, from its construction on; nothing on other devices."""

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


def largest_batch(examples: Sequence[Example], batch_size: int) -> list[Example]:
    """The batch of an epoch that has the most tokens, padding included."""
    lengths = [len(example["input_ids"]) for example in examples]
    order = list(LengthWindowSampler(lengths, batch_size, seed=0))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    largest = max(batches, key=lambda batch: len(batch) * max(lengths[index] for index in batch))
    return [examples[index] for index in largest]


def _step(
    model: TunedModel,
    examples: Sequence[Example],
    accumulation: int,
    optimizer: torch.optim.Optimizer,
    counter: StorageCounter,
) -> None:
    task = model.spec.task
    with counter:
        for _ in range(min(accumulation, 2)):  # from the second pass on gradients stand beside the activations
            collated = task.training_batch(model, examples)
            batch = {key: value.to(model.device) for key, value in collated.items()}
            labels = batch.pop("labels")
            model(**batch, targets=labels).backward()
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()
