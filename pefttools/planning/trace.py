"""Running training and evaluation steps on tensors without numbers, and counting what lives."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel

from pefttools.errors import ConfigError
from pefttools.planning.counter import Kind, StorageCounter, weights_of
from pefttools.planning.cpu_kernels import CpuKernels
from pefttools.planning.decoding import read_and_continue
from pefttools.planning.device import Device
from pefttools.planning.fake import SharedGradients, WithoutNumbers, to_fake
from pefttools.planning.gpu_kernels import GpuKernels
from pefttools.planning.optimizers import planned_optimizer
from pefttools.planning.place import Place
from pefttools.planning.sharding import Sharding
from pefttools.tuned import TunedModel

#: fake tensors on another device than this can't be differentiated by a CPU build
DEVICE = torch.device("cpu")


@dataclass(frozen=True)
class Traced:
    """Bytes of a step.

    Attributes:
        peak: by kind, at the moment with the largest sum.
        peak_at: the module that ran then.
        persistent: by kind, after a step, gradients among them.
    """

    peak: Counter[Kind]
    peak_at: str
    persistent: Counter[Kind]


class Trace:
    """A model whose steps are run without numbers.

    Args:
        model: built on the meta device; its tensors are replaced by fake ones.
        device: whose kernels and allocator are assumed.
        devices: number of devices that train together.
        sharded: they share parameters, gradients and optimizer state; else each has all.

    Raises:
        ConfigError: by `training` and `evaluation`: the model can't run without numbers.
    """

    def __init__(self, model: TunedModel, device: Device, devices: int = 1, sharded: bool = False) -> None:
        self.model = model
        self.device = device
        self.devices = devices
        self.sharded = sharded and devices > 1
        self._mode = FakeTensorMode()
        to_fake(model, self._mode, DEVICE)

    def training(self, lengths: Sequence[int], accumulation: int = 1, optimizer: str = "adamw") -> Traced:
        """A training step in the middle of a training.

        Args:
            lengths: tokens of each text of one forward pass.
            accumulation: forward passes of one optimizer step.
            optimizer: see `TrainingConfig`.
        """
        model = self.model.train()
        trained = [p for p in model.parameters() if p.requires_grad]
        if not trained:
            return self.evaluation(len(lengths), max(lengths))
        with self._mode:
            # The first step makes the optimizer's state.
            chosen = planned_optimizer(optimizer, trained, self.device)
            for p in trained:
                p.grad = torch.zeros_like(p)
            chosen.step()
            chosen.zero_grad()
        with self._counting() as (counter, sharding):
            batch = self._training_batch(lengths)
            labels = batch.pop("labels")

            def seen(p: torch.Tensor) -> None:
                if sharding is not None:
                    sharding.gradient(p)
                elif p.grad is not None:
                    counter.track(p.grad, "gradients")

            hooks = [p.register_post_accumulate_grad_hook(seen) for p in trained]
            for state in chosen.state.values():
                for value in state.values():
                    if isinstance(value, torch.Tensor):
                        counter.track(value, "optimizer", shares=self.devices if self.sharded else 1)
            buckets = self._buckets(trained)
            for bucket in buckets:
                counter.track(bucket, "gradients")
            counter.reset_peak()
            with counter, self._kernels():
                for _ in range(min(accumulation, 2)):  # from the second pass on gradients stand beside the activations
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
        for p in unused:
            # What gets no gradient has no state either.
            spared = sum(v.untyped_storage().nbytes() for v in chosen.state[p].values() if isinstance(v, torch.Tensor))
            persistent["optimizer"] -= spared
            counter.peak["optimizer"] -= spared
        return Traced(counter.peak, counter.peak_at, persistent)

    def evaluation(self, rows: int, length: int) -> Traced:
        """A forward pass as the task's evaluation runs it."""
        with self._counting() as (counter, _):
            batch = self._batch(rows, length)
            self.model.eval()
            with counter, self._kernels():
                self.model.spec.task.evaluation_pass(self.model, batch)
            return Traced(counter.peak, counter.peak_at, counter.now.copy())

    def generation(self, rows: int, length: int, new_tokens: int) -> Traced:
        """Reading prompts into a cache, and answering."""
        with self._counting() as (counter, _):
            batch = self._batch(rows, length)
            batch.pop("labels")
            with counter, self._kernels(), self.model.asking(), self.model.precision():
                # Once the prompt is read, virtual tokens are in the cache, and the model itself goes on.
                inner = next(module for module in self.model.modules() if isinstance(module, PreTrainedModel))
                read_and_continue(self.model.transformer, inner, batch, new_tokens)
            return Traced(counter.peak, counter.peak_at, counter.now.copy())

    @contextmanager
    def _kernels(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(GpuKernels(self.device.flash) if self.device.gpu else CpuKernels())
            stack.enter_context(WithoutNumbers())
            yield

    @contextmanager
    def _counting(self) -> Iterator[tuple[StorageCounter, Sharding | None]]:
        place = Place(self.model)
        counter = StorageCounter(DEVICE, where=lambda: place.now, granularity=self.device.granularity)
        for tensor in weights_of(self.model):
            counter.track(tensor, "weights")
        gc.collect()
        collecting = gc.isenabled()
        gc.disable()
        gc.freeze()  # what is there already need not be looked at again and again
        counter.collect = True
        try:
            with ExitStack() as stack:
                stack.enter_context(self._mode)
                sharding = None
                if self.sharded:
                    sharding = stack.enter_context(Sharding(self.model, self.devices, counter))
                stack.enter_context(place)
                yield counter, sharding
        # AssertionError: a tensor that no one made fake, in a place that only the method knows.
        except (AssertionError, NotImplementedError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            spec = self.model.spec
            raise ConfigError(
                f"the method {spec.method.name!r} on {spec.base.id!r} can't be traced: {_first(error)}"
            ) from error
        finally:
            gc.unfreeze()
            if collecting:
                gc.enable()

    def _buckets(self, trained: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Where the gradients of devices that each have all of them are averaged (DistributedDataParallel)."""
        return [torch.empty_like(p) for p in trained] if self.devices > 1 and not self.sharded else []

    def _training_batch(self, lengths: Sequence[int]) -> dict[str, torch.Tensor]:
        task = self.model.spec.task
        if len(set(lengths)) == 1 or not task.packs(self.model):
            return self._batch(len(lengths), max(lengths))
        return task.training_batch(self.model, [task.planned_example(length) for length in lengths])

    def _batch(self, rows: int, length: int) -> dict[str, torch.Tensor]:
        examples: list[dict[str, Any]] = [self.model.spec.task.planned_example(length)] * rows
        return {name: torch.tensor([one[name] for one in examples]) for name in examples[0]}


def _backward(loss: torch.Tensor) -> None:
    """As ``loss.backward()``, within which a function mode would not see layers that run again."""
    graph: Any = torch.autograd.graph
    graph._engine_run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


def _first(error: BaseException) -> str:
    return (str(error) or repr(error)).splitlines()[0]
