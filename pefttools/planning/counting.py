"""Running a model without numbers, and counting what lives meanwhile."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pefttools.errors import ConfigError, PeftToolsError, is_out_of_memory
from pefttools.planning.counter import Kind, StorageCounter, weights_of
from pefttools.planning.cpu_kernels import CpuKernels
from pefttools.planning.device import Device
from pefttools.planning.fake import WithoutNumbers
from pefttools.planning.gpu_int8 import GpuInt8, run_int8_as_on_a_gpu
from pefttools.planning.gpu_kernels import GpuKernels
from pefttools.planning.place import Place

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


@contextmanager
def counting(model: nn.Module, mode: FakeTensorMode, device: Device, title: str) -> Iterator[StorageCounter]:
    """A counter that knows the model's weights; within it, tensors are made without numbers.

    Args:
        model: its tensors are fake ones of `mode`.
        mode: makes them.
        device: whose allocator is assumed.
        title: of the model, for errors.

    Raises:
        ConfigError: what runs within can't run without numbers.
    """
    if device.gpu:
        run_int8_as_on_a_gpu(model)
    place = Place(model)
    counter = StorageCounter(DEVICE, where=lambda: place.now, granularity=device.granularity)
    for tensor in weights_of(model):
        counter.track(tensor, "weights")
    collecting = gc.isenabled()
    gc.disable()
    gc.freeze()  # what is there already need not be looked at again and again
    counter.collect = True
    try:
        with mode, place:
            yield counter
    # Anything: code of models and methods asks for numbers, and does not expect that there are none.
    except Exception as error:
        if isinstance(error, PeftToolsError) or is_out_of_memory(error):
            raise
        raise ConfigError(f"{title} can't be traced: {(str(error) or repr(error)).splitlines()[0]}") from error
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()


@contextmanager
def kernels(device: Device) -> Iterator[None]:
    """Within it operations keep and need what a device's own do."""
    if device.gpu:
        with GpuKernels(device.flash), WithoutNumbers(), GpuInt8():
            yield
    else:
        with CpuKernels(), WithoutNumbers():
            yield
