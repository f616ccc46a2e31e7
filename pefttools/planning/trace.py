"""Training, evaluation and generation steps of a tuned model, run on fake tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pefttools.planning.counter import Kind, StorageCounter
from pefttools.planning.counting import DEVICE, Traced, counting, kernels
from pefttools.planning.decoding import read_and_continue
from pefttools.planning.device import Device
from pefttools.planning.fake import SharedGradients, WithoutNumbers, to_fake
from pefttools.planning.optimizers import planned_optimizer
from pefttools.planning.sharding import Sharding
from pefttools.sites import transformers_models
from pefttools.tasks.task import Batch
from pefttools.tuned import TunedModel


class Trace:
    """A model whose steps are run on fake tensors.

    Args:
        model: built on the meta device; its tensors are replaced by fake ones.
        device: whose kernels and allocator are assumed.
        devices: number of devices that train together.
        sharded: whether parameters, gradients and optimizer state are sharded over them; otherwise each has all.

    Raises:
        ConfigError: in `training` and `evaluation`: the model can't run on fake tensors.
    """

    def __init__(self, model: TunedModel, device: Device, devices: int = 1, sharded: bool = False) -> None:
        self.model = model
        self.device = device
        self.devices = devices
        self.sharded = sharded and devices > 1
        self._mode = FakeTensorMode()
        to_fake(model, self._mode, DEVICE)

    def training(
        self,
        lengths: Sequence[int],
        accumulation: int = 1,
        optimizer: str = "adamw",
        like: Batch | None = None,
        *,
        averaged: bool = False,
    ) -> Traced:
        """A training step in the middle of a training run.

        Args:
            lengths: tokens of each text of one forward pass.
            accumulation: forward passes of one optimizer step.
            optimizer: see `TrainingConfig`.
            like: a batch of the same sizes, if the lengths do not fully determine them.
            averaged: a moving average of the trained weights is kept.
        """
        model = self.model.train()
        trained = [p for p in model.parameters() if p.requires_grad]
        if not trained:
            return self.evaluation(len(lengths), max(lengths))
        chosen = self._begun(optimizer, trained)
        with self._counting() as (counter, sharding):
            batch = self._counted(self._training_batch(lengths) if like is None else _alike(like), counter)
            labels = batch.pop("labels")

            def seen(p: torch.Tensor) -> None:
                if sharding is not None:
                    sharding.gradient(p)
                elif p.grad is not None:
                    counter.track(p.grad, "gradients")

            hooks = [p.register_post_accumulate_grad_hook(seen) for p in trained]
            state = [v for of in chosen.state.values() for v in of.values() if isinstance(v, torch.Tensor)]
            average = [torch.empty_like(p) for p in trained] if averaged else []
            for tensor in (*state, *average):
                counter.track(tensor, "optimizer", shares=self.devices if self.sharded else 1)
            buckets = self._buckets(trained)
            for bucket in buckets:
                counter.track(bucket, "gradients")
            counter.reset_peak()
            with counter, kernels(self.device):
                passes = 1 if model.spec.task.loss_over_batch else min(accumulation, 2)
                for _ in range(passes):  # from the second pass on, gradients are held along with the activations
                    loss = model(**batch, targets=labels)
                    with SharedGradients(p.shape for p in trained):
                        _backward(loss)
                    del loss
                    if sharding is not None:
                        sharding.end()
                nn.utils.clip_grad_norm_(trained, 1.0)
                unused = [p for p in trained if p.grad is None]
                chosen.step()
                persistent = counter.now.copy()
                chosen.zero_grad()
            for hook in hooks:
                hook.remove()
        self._spare(chosen, unused, persistent, counter.peak)
        return Traced(counter.peak, counter.peak_at, persistent)

    def _begun(self, optimizer: str, trained: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """An optimizer after its first step, which creates its state."""
        with self._mode:
            chosen = planned_optimizer(optimizer, list(trained), self.device)
            for p in trained:
                p.grad = torch.zeros_like(p)
            chosen.step()
            chosen.zero_grad()
        return chosen

    def _spare(self, chosen: torch.optim.Optimizer, unused: Sequence[nn.Parameter], *counts: Counter[Kind]) -> None:
        """Take the state of what gets no gradient out of what was counted: there is none."""
        for p in unused:
            spared = sum(v.untyped_storage().nbytes() for v in chosen.state[p].values() if isinstance(v, torch.Tensor))
            for count in counts:
                count["optimizer"] -= spared

    def evaluation(self, rows: int, length: int) -> Traced:
        """A forward pass as in the task's evaluation."""
        with self._counting() as (counter, _):
            batch = self._counted(self.model.spec.task.planned_parts(self.model, [length] * rows), counter)
            self.model.eval()
            with counter, kernels(self.device):
                self.model.spec.task.evaluation_pass(self.model, batch)
            return Traced(counter.peak, counter.peak_at, counter.now.copy())

    def outputs(self, rows: int, length: int) -> int:
        """Bytes of the model's own outputs for a batch in training: logits, and its cache of keys and values."""
        with self._counting() as (counter, _):
            batch = self._batch(rows, length)
            batch.pop("labels", None)
            batch = self.model.spec.task.model_inputs(batch)
            self.model.train()
            counter.reset_peak()
            before = counter.now.total()
            with torch.no_grad(), counter, kernels(self.device), self.model.precision():
                outputs = self.model.transformer(**batch)
            counter.reset_peak()  # what it has freed is collected
            size = counter.now.total() - before
            del outputs
            return size

    def generation(self, rows: int, length: int, new_tokens: int) -> Traced:
        """Reading prompts into a cache, and answering."""
        with self._counting() as (counter, _):
            batch = self._batch(rows, length)
            batch.pop("labels")
            batch = self.model.spec.task.model_inputs(batch)
            with counter, kernels(self.device), self.model.inference_mode(), self.model.precision():
                # Once the prompt is read, virtual tokens are in the cache, and the model itself continues.
                inner = transformers_models(self.model)[0]
                read_and_continue(self.model.transformer, inner, batch, new_tokens)
            return Traced(counter.peak, counter.peak_at, counter.now.copy())

    @contextmanager
    def _counting(self) -> Iterator[tuple[StorageCounter, Sharding | None]]:
        spec = self.model.spec
        title = f"the method {spec.method.name!r} on {spec.base.id!r}"
        with counting(self.model, self._mode, self.device, title) as counter:
            if not self.sharded:
                yield counter, None
                return
            with Sharding(self.model, self.devices, counter) as sharding:
                yield counter, sharding

    def _buckets(self, trained: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Buffers in which devices that each have all gradients average them (DistributedDataParallel)."""
        return [torch.empty_like(p) for p in trained] if self.devices > 1 and not self.sharded else []

    def _training_batch(self, lengths: Sequence[int]) -> dict[str, torch.Tensor]:
        task = self.model.spec.task
        if len(set(lengths)) == 1 or not task.packs(self.model):
            return self._batch(len(lengths), max(lengths))
        with WithoutNumbers():
            return task.training_batch(
                self.model, [task.planned_example(length, self.model.labels) for length in lengths]
            )

    def _counted(self, batch: dict[str, torch.Tensor], counter: StorageCounter) -> dict[str, torch.Tensor]:
        """The batch, which takes memory of its own: a good deal for pixels."""
        for tensor in batch.values():
            counter.track(tensor, "other")
        return batch

    def _batch(self, rows: int, length: int) -> dict[str, torch.Tensor]:
        return self.model.spec.task.planned_batch(self.model, [length] * rows)


def _alike(batch: Batch) -> Batch:
    """A batch of the same sizes, whose values are never read."""
    return {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in batch.items()}


def _backward(loss: torch.Tensor) -> None:
    """Like ``loss.backward()``, within which a function mode would not see layers that are recomputed."""
    graph: Any = torch.autograd.graph
    graph._engine_run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )
