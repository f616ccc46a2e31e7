"""Which number format the computation runs in."""

from __future__ import annotations

import warnings

import torch

from pefttools.compute.processes import local_rank
from pefttools.errors import ConfigError


def resolve_precision(precision: str, device: torch.device | None = None) -> str:
    """``auto`` becomes the 16-bit format that the hardware is fast in, else float32."""
    if precision != "auto":
        return precision
    device = device or default_device()
    if _fast_bfloat16(device):
        return "bfloat16"
    return "float16" if _fast_float16(device) else "float32"


def hardware_dtype(device: torch.device | None = None) -> torch.dtype:
    """The number format that a device is fast in."""
    dtype: torch.dtype = getattr(torch, resolve_precision("auto", device))
    return dtype


def autocast_dtype(precision: str, variant: str, device: torch.device) -> torch.dtype | None:
    """dtype for autocast; None for none. Weights in bfloat16 are always computed with in bfloat16."""
    if variant == "bfloat16":
        return torch.bfloat16
    found: torch.dtype = getattr(torch, resolve_precision(precision, device))
    return None if found == torch.float32 else found


def precision_there(trained_in: str, device: torch.device) -> str:
    """The number format in which a trained model is used on a device, which may not be the one that it was trained on.

    A GPU without bfloat16 uses float16 instead; what is not a GPU uses its own format instead of float16.
    """
    slow = device.type == "cuda" and not _fast_bfloat16(device)
    if (trained_in == "float16" and device.type != "cuda") or (trained_in == "bfloat16" and slow):
        return resolve_precision("auto", device)
    return trained_in


def check_precision(precision: str, variant: str, device: torch.device) -> None:
    """Refuse a number format that a device can't train in, and warn of one that it is slow in.

    Raises:
        ConfigError: float16 without a GPU.
    """
    if precision == "float16" and device.type != "cuda":
        raise ConfigError(
            "precision=float16 needs a CUDA GPU: elsewhere its gradients can't be scaled",
            hint="Set precision=auto for the format that this machine is fast in.",
        )
    if "bfloat16" in (precision, variant) and device.type == "cuda" and not _fast_bfloat16(device):
        instead = "the variant float32 or nf4" if variant == "bfloat16" else "precision=auto, which is float16 here"
        warnings.warn(
            f"{torch.cuda.get_device_name(device)} has no native bfloat16 (compute capability below 8.0) and "
            f"emulates it in float32, which is slower than float32 itself. Better: {instead}.",
            stacklevel=3,
        )


def default_device() -> torch.device:
    """The accelerator, if there is one; of several processes on one machine each has its own."""
    if torch.cuda.is_available():
        own = local_rank()
        # A launcher may show each process only its own GPU: then that is the only one.
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


def _fast_float16(device: torch.device) -> bool:
    # Volta has the first tensor cores, only for float16.
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)
