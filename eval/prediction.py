"""Predicted memory, compared with what was measured, and before a run that would not fit."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pefttools.errors import ConfigError, WontFitError
from pefttools.planning.device import GPU, this_device
from pefttools.progress import Reporter
from pefttools.tasks.task import Example
from pefttools.training.predicted import training_bytes
from pefttools.training.prepare import Prepared

from .records import TOLERANCE, Parts, Predicted


def check_fits(prepared: Prepared, reporter: Reporter) -> None:
    """Refuse a training that can't fit, before it starts.

    A training whose memory can't be predicted is not refused; the reporter shows why.

    Args:
        prepared: what would be trained.
        reporter: shows why memory can't be predicted.

    Raises:
        WontFitError: more memory is predicted than the device has.
    """
    device, available = this_device()
    settings = prepared.recipe.training
    rows = settings.batch_size // prepared.passes
    train = prepared.examples.train
    sizes = prepared.task.sizes(train)
    longest = train[max(range(len(sizes)), key=sizes.__getitem__)]
    try:
        need = training_bytes(prepared, device, [longest] * rows)
    except ConfigError as error:
        reporter.event(f"it is not known whether there is enough memory: {error.message}")
        return
    if need > available:
        raise WontFitError(
            f"a training step needs {need / 2**30:.2f} GiB (predicted); only {available / 2**30:.2f} GiB are available "
            f"on {device.title}. Run skipped",
            hint="See `pefttools plan RECIPE --gpu NAME` for what would fit, or set memory_check: false in the spec.",
        )


def predict(prepared: Prepared, batch: Sequence[Example], measured: Parts) -> tuple[Predicted | None, str | None]:
    """What was predicted for the profiled batch, and a warning if it differs from what was measured or failed.

    Args:
        prepared: what was trained.
        batch: examples of the profiled forward pass.
        measured: its parts.
    """
    try:
        here = training_bytes(prepared, this_device()[0], batch)
        gpu = here if torch.cuda.is_available() else training_bytes(prepared, GPU, batch)
    except ConfigError as error:
        return None, f"memory is not predicted: {error.message}"
    warning = None
    if abs(here - measured.peak) > TOLERANCE * measured.peak:
        warning = (
            f"predicted and measured memory differ by {100 * (here / measured.peak - 1):+.1f} %: "
            f"{here / 2**20:.0f} against {measured.peak / 2**20:.0f} MiB"
        )
    return Predicted(training_peak=here, gpu_training_peak=gpu), warning
