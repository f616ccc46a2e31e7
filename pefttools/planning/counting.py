"""Running a model on fake tensors, and counting what is live meanwhile."""

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

#: a CPU build can't differentiate fake tensors on any other device
DEVICE = torch.device("cpu")


@dataclass(frozen=True)
class Traced:
    """Bytes of a step.

    Attributes:
        peak: by kind, at the moment with the largest sum.
        peak_at: the module that was running then.
        persistent: by kind, after a step, including gradients.
    """

    peak: Counter[Kind]
    peak_at: str
    persistent: Counter[Kind]


@contextmanager
def counting(model: nn.Module, mode: FakeTensorMode, device: Device, title: str) -> Iterator[StorageCounter]:
    """A counter that knows the model's weights; within it, new tensors are fake.

    Args:
        model: its tensors are fake ones of `mode`.
        mode: makes them.
        device: whose allocator is assumed.
        title: the model's title, for errors.

    Raises:
        ConfigError: what runs within can't run on fake tensors.
    """
    if device.gpu:
        run_int8_as_on_a_gpu(model)
    place = Place(model)
    counter = StorageCounter(DEVICE, where=lambda: place.now, granularity=device.granularity)
    for tensor in weights_of(model):
        counter.track(tensor, "weights")
    collecting = gc.isenabled()
    gc.disable()
    frozen = gc.get_freeze_count() > 0  # by the caller: then it stays so
    if frozen:
        gc.collect()  # cheap then; what is garbage would stay too
    gc.freeze()  # what exists already need not be scanned again and again
    counter.collect = True
    try:
        with mode, place:
            yield counter
    # Anything: code of models and methods reads values, and does not expect that there are none.
    except Exception as error:
        if isinstance(error, PeftToolsError) or is_out_of_memory(error):
            raise
        raise ConfigError(f"{title} can't be traced: {(str(error) or repr(error)).splitlines()[0]}") from error
    finally:
        if not frozen:
            gc.unfreeze()
        if collecting:
            gc.enable()


@contextmanager
def kernels(device: Device) -> Iterator[None]:
    """Within it operations keep and need as much memory as on the device."""
    if device.gpu:
        with GpuKernels(device.flash), WithoutNumbers(), GpuInt8():
            yield
    else:
        with CpuKernels(), WithoutNumbers():
            yield
