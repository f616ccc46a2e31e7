"""Predicted memory beside what was measured, and before a run that could not end well."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pefttools.errors import WontFitError
from pefttools.planning.device import GPU
from pefttools.planning.prepared import this_device, training_bytes
from pefttools.training.prepare import Prepared

from .records import Parts, Predicted

#: share by which prediction and measurement may differ without a word
TOLERANCE = 0.05


def check_fits(prepared: Prepared, longest: int) -> None:
    """Refuse a training that can't fit, before it begins.

    Args:
        prepared: what would be trained.
        longest: tokens of the longest training example.

    Raises:
        WontFitError: more memory is predicted than the device has. Methods that can't be planned pass.
    """
    device, available = this_device()
    settings = prepared.recipe.training
    rows = settings.batch_size // settings.parts
    need = training_bytes(prepared, device, [longest] * rows)
    if need is not None and need > available:
        raise WontFitError(
            f"a training step is predicted to take {need / 2**30:.2f} GiB of the {available / 2**30:.2f} GiB that "
            f"{device.title} has: not begun",
            hint="See `pefttools plan RECIPE --gpu CARD` for what would fit, or say memory_check: false in the spec.",
        )


def predict(prepared: Prepared, lengths: Sequence[int], measured: Parts) -> tuple[Predicted | None, str | None]:
    """What was predicted for the profiled batch, and a warning where it differs from what was measured.

    Args:
        prepared: what was trained.
        lengths: tokens of each text of the profiled batch.
        measured: its parts.
    """
    here = training_bytes(prepared, this_device()[0], lengths)
    if here is None:
        return None, None
    gpu = here if torch.cuda.is_available() else training_bytes(prepared, GPU, lengths)
    warning = None
    if abs(here - measured.peak) > TOLERANCE * measured.peak:
        warning = (
            f"predicted and measured memory differ by {100 * (here / measured.peak - 1):+.1f} %: "
            f"{here / 2**20:.0f} against {measured.peak / 2**20:.0f} MiB"
        )
    return Predicted(training_peak=here, gpu_training_peak=gpu or 0), warning
