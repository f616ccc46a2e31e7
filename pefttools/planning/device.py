"""What is assumed about a device: its allocator, its kernels, and its own overhead."""

from __future__ import annotations

from dataclasses import dataclass

from pefttools.errors import UnknownNameError

MIB = 1 << 20


@dataclass(frozen=True)
class Device:
    """A device as the planner sees it.

    Attributes:
        name: name by which users select it.
        title: full name.
        gpu: whether CUDA's kernels and allocator are assumed; otherwise the CPU's own.
        memory: total bytes that the driver reports; None for no limit.
        bfloat16: whether it is fast in bfloat16; otherwise in float16.
        flash: whether it has flash attention (compute capability 8.0 or higher); otherwise the memory-efficient kernel.
        granularity: the allocator rounds every block up to a multiple of this many bytes.
        workspace: bytes that matrix products keep for themselves, inside the allocator.
        context: bytes that the driver and the kernels take, outside the allocator.
        slack: share of the peak that fragmentation may add.
    """

    name: str
    title: str
    gpu: bool = True
    memory: int | None = None
    bfloat16: bool = True
    flash: bool = True
    granularity: int = 512
    workspace: int = 8_519_680
    context: int = 500 * MIB
    slack: float = 0.03

    @property
    def usable(self) -> int | None:
        """Bytes that are left for tensors."""
        return None if self.memory is None else int((self.memory - self.context - self.workspace) / (1 + self.slack))

    def overhead(self, tensors: int) -> int:
        """Bytes that it takes besides tensors of this many bytes."""
        return self.context + self.workspace + int(self.slack * tensors)


CPU = Device("cpu", "this machine's CPU", gpu=False, granularity=1, workspace=0, context=0, slack=0.0)
#: a GPU of unspecified size
GPU = Device("gpu", "a GPU of compute capability 8.0 or higher")


def gpu_of(name: str, title: str, memory: int, major: int) -> Device:
    """A GPU of a compute capability.

    Args:
        name: name by which users select it.
        title: full name.
        memory: total bytes that the driver reports.
        major: the first number of the compute capability.
    """
    workspace = 32 * MIB if major in (9, 10) else 8_519_680
    return Device(name, title, memory=memory, bfloat16=major >= 8, flash=major >= 8, workspace=workspace)


def _card(name: str, title: str, mebibytes: int, major: int = 8) -> Device:
    return gpu_of(name, title, mebibytes * MIB, major)


#: total memory in MiB as nvidia-smi shows it
CARDS: dict[str, Device] = {
    card.name: card
    for card in (
        _card("t4", "NVIDIA T4 16 GB", 15360, 7),
        _card("v100-16", "NVIDIA V100 16 GB", 16384, 7),
        _card("v100-32", "NVIDIA V100 32 GB", 32768, 7),
        _card("rtx3060", "NVIDIA RTX 3060 12 GB", 12288),
        _card("rtx3090", "NVIDIA RTX 3090 24 GB", 24576),
        _card("rtx4060ti-16", "NVIDIA RTX 4060 Ti 16 GB", 16380),
        _card("rtx4090", "NVIDIA RTX 4090 24 GB", 24564),
        _card("rtx5090", "NVIDIA RTX 5090 32 GB", 32607, 12),
        _card("a10", "NVIDIA A10 24 GB", 23028),
        _card("l4", "NVIDIA L4 24 GB", 23034),
        _card("a6000", "NVIDIA RTX A6000 48 GB", 49140),
        _card("l40s", "NVIDIA L40S 48 GB", 46068),
        _card("a100-40", "NVIDIA A100 40 GB", 40960),
        _card("a100-80", "NVIDIA A100 80 GB", 81920),
        _card("h100", "NVIDIA H100 80 GB", 81559, 9),
        _card("h200", "NVIDIA H200 141 GB", 143771, 9),
    )
}


def find_device(name: str) -> Device:
    """A card by name, ``cpu``, or ``gpu`` for one of unspecified size.

    Raises:
        UnknownNameError: there is none with this name.
    """
    known = {"cpu": CPU, "gpu": GPU, **CARDS}
    if name.lower() not in known:
        raise UnknownNameError("card", name.lower(), known)
    return known[name.lower()]


def this_device() -> tuple[Device, int]:
    """The device of this process, and the bytes that it has for tensors; on a GPU, those that others have left free."""
    import psutil
    import torch

    if not torch.cuda.is_available():
        return CPU, psutil.virtual_memory().total
    free, total = torch.cuda.mem_get_info()  # the context exists by now
    major, _ = torch.cuda.get_device_capability()
    device = gpu_of("gpu", torch.cuda.get_device_name(), total, major)
    return device, int((free + torch.cuda.memory_reserved() - device.workspace) / (1 + device.slack))
