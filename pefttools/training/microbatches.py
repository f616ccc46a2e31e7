"""How many parts a batch is computed in, if the recipe leaves that to us."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from pefttools.compute.optimizers import make_optimizer
from pefttools.compute.processes import world_size
from pefttools.errors import ConfigError, WontFitError, is_out_of_memory
from pefttools.planning.device import this_device
from pefttools.progress import Reporter
from pefttools.tasks.task import Example
from pefttools.training.predicted import training_bytes
from pefttools.training.prepare import Prepared, build_model
from pefttools.training.sampler import largest_batch
from pefttools.training.step import optimizer_step

#: On a CPU freed memory is not returned at once: processes grow to 1.7 times what is allocated in them.
_SHARE_OF_CPU = 0.6


def settle_microbatches(prepared: Prepared, reporter: Reporter) -> Prepared:
    """Replace ``gradient_accumulation: auto`` by the fewest parts that fit into this device's memory.

    For each number that divides a batch, from 1 on, memory is predicted for the largest batch of an epoch. On a GPU the
    first that is predicted to fit is tried with two steps, and the next one if memory runs out. Processes that train
    together only predict, so that all of them arrive at the same number.

    Raises:
        WontFitError: not even one row at a time fits.
        ConfigError: the method can't be planned.
    """
    if prepared.recipe.training.gradient_accumulation != "auto":
        return prepared
    trying = torch.cuda.is_available() and world_size() == 1

    def fits(parts: int) -> bool:
        chosen = with_microbatches(prepared, parts)
        train = prepared.examples.train
        sizes = prepared.task.sizes(train)
        batch = largest_batch(train, sizes, chosen.recipe.training.batch_size, chosen.passes * world_size())
        return _predicted(chosen, batch) and (not trying or _runs(chosen, batch))

    parts = fewest(prepared.recipe.training.batch_size // world_size(), fits)
    reporter.event(f"gradient_accumulation: {parts}, the fewest parts of a batch that fit into memory")
    return with_microbatches(prepared, parts)


def fewest(rows: int, fits: Callable[[int], bool]) -> int:
    """The smallest divisor of a number of rows that fits.

    Raises:
        WontFitError: none does.
    """
    for parts in range(1, rows + 1):
        if rows % parts == 0 and fits(parts):
            return parts
    raise WontFitError(
        "not even one row at a time fits into this device's memory",
        hint="See `pefttools plan RECIPE --gpu CARD` for what would fit.",
    )


def with_microbatches(prepared: Prepared, parts: int) -> Prepared:
    """The same training in that many parts."""
    training = prepared.recipe.training.model_copy(update={"gradient_accumulation": parts})
    return replace(prepared, recipe=prepared.recipe.model_copy(update={"training": training}))


def _predicted(prepared: Prepared, batch: Sequence[Example]) -> bool:
    device, available = this_device()
    try:
        need = training_bytes(prepared, device, batch)
    except ConfigError as error:
        raise ConfigError(
            f"gradient_accumulation: auto needs a prediction of memory, which failed: {error.message}",
            hint="Set a number.",
        ) from error
    return need <= (available if device.gpu else _SHARE_OF_CPU * available)


def _runs(prepared: Prepared, batch: Sequence[Example]) -> bool:
    """Whether two optimizer steps get through."""
    settings = prepared.recipe.training
    model = optimizer = None
    try:
        model = build_model(prepared).train()
        optimizer = make_optimizer(settings.optimizer, [p for p in model.parameters() if p.requires_grad], 1e-8)
        for _ in range(2):
            optimizer_step(model, batch, settings.microbatches, optimizer)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        del model, optimizer
        gc.collect()
        torch.cuda.empty_cache()
    return True
