"""Which number format the computation runs in."""

from __future__ import annotations

from typing import Literal

import torch

from pefttools.training.processes import local_rank

Precision = Literal["auto", "float32", "bfloat16"]


def resolve_precision(precision: str, device: torch.device | None = None) -> str:
    """``auto`` becomes bfloat16 where the hardware is fast at it, else float32."""
    if precision != "auto":
        return precision
    return "bfloat16" if _fast_bfloat16(device or default_device()) else "float32"


def hardware_dtype(device: torch.device | None = None) -> torch.dtype:
    """The number format that a device is fast in."""
    return torch.bfloat16 if resolve_precision("auto", device) == "bfloat16" else torch.float32


def autocast_dtype(precision: str, variant: str, device: torch.device) -> torch.dtype | None:
    """dtype for autocast; None for none. Weights in bfloat16 are always computed with in bfloat16."""
    if variant == "bfloat16" or resolve_precision(precision, device) == "bfloat16":
        return torch.bfloat16
    return None


def default_device() -> torch.device:
    """The accelerator, where there is one; of several processes on one machine each has its own."""
    if torch.cuda.is_available():
        own = local_rank()
        # A launcher may show each process its own card alone: then that is the only one.
        if own is not None and own < torch.cuda.device_count():
            torch.cuda.set_device(own)
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    return False
