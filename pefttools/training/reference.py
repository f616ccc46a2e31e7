"""How likely answers are under the model that training starts from."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pefttools.bases import variants
from pefttools.compute.moving import all_moved
from pefttools.compute.precision import autocast_dtype, default_device
from pefttools.files import cache_dir, write_bytes_atomic
from pefttools.progress import Reporter
from pefttools.tasks.batches import in_order_of_size
from pefttools.tasks.task import Example
from pefttools.training.prepare import Prepared
from pefttools.tuned import TunedModel

#: version of cached likelihoods; changes when they are computed differently
_FORMAT = 1


@dataclass(frozen=True)
class _Start:
    """The model that training starts from."""

    transformer: nn.Module
    head: nn.Module | None
    processor: Any
    autocast: torch.dtype | None


def reference_of_base(prepared: Prepared, reporter: Reporter) -> torch.Tensor | None:
    """Likelihoods under the base without an adapter, whatever a method's own start does to it.

    To be called before the model is built, so that there is one base at a time.

    Args:
        prepared: what is trained.
        reporter: told of progress.

    Returns:
        As `Objective.refer` takes them; None if nobody asks for them, or training starts from an artifact.
    """
    if prepared.parent is not None or not _wanted(prepared):
        return None
    if (known := _cached(prepared)) is not None:
        return known
    device = default_device()
    variant = variants.get(prepared.recipe.variant)(device)
    built = prepared.task.build(prepared.base, variant, prepared.labels)
    transformer = built.transformer.to(device).eval()
    autocast = autocast_dtype(prepared.recipe.training.precision, variant.name, device)
    variant.compute_in(transformer, autocast or torch.float32)
    found = _asked(prepared, _Start(transformer, built.head, built.processor, autocast), "the base", reporter)
    del built, transformer
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return found


def refer(prepared: Prepared, model: TunedModel, of_base: torch.Tensor | None, reporter: Reporter) -> None:
    """Give objectives the likelihoods that they ask for.

    Args:
        prepared: what is trained.
        model: as its training starts.
        of_base: what `reference_of_base` gave; None to ask the model, which has the weights of an artifact then.
        reporter: told of progress.
    """
    if not _wanted(prepared):
        return
    found = _cached(prepared) if of_base is None else of_base
    if found is None:
        assert prepared.parent is not None
        start = _Start(model.transformer, model.head, model.processor, model.autocast)
        with model.inference_mode():
            found = _asked(prepared, start, str(prepared.parent.folder), reporter)
    for objective in model.objectives:
        if objective.reads_start:
            objective.refer(found)


def _wanted(prepared: Prepared) -> bool:
    return any(one.reads_start for one in prepared.recipe.chosen_objectives())


def _asked(prepared: Prepared, start: _Start, name: str, reporter: Reporter) -> torch.Tensor:
    """What a model gives for the training rows, which is kept in the cache."""
    from safetensors.torch import save

    task, examples = prepared.task, prepared.examples.train
    device = next(start.transformer.parameters()).device

    def run(rows: Sequence[Example]) -> list[torch.Tensor]:
        batch = all_moved(task.collate(rows, start.processor), device)
        labels = batch.pop("labels")
        with torch.no_grad(), _precision(start, device):
            better = task.log_likelihoods(start.transformer, start.head, batch, labels)
            worse = task.log_likelihoods(start.transformer, start.head, *task.rejected(batch))
        return list(torch.stack([better, worse], dim=1).float().cpu())

    with reporter.step(f"asking {name} about chosen and rejected answers", "rows") as advance:
        size = prepared.recipe.training.eval_batch_size
        each = in_order_of_size(examples, task.sizes(examples), size, run, advance)
    found = torch.stack(list(each)).contiguous()
    write_bytes_atomic(_file(prepared), save({"likelihoods": found}))
    return found


def _precision(start: _Start, device: torch.device) -> AbstractContextManager[Any]:
    return nullcontext() if start.autocast is None else torch.autocast(device.type, start.autocast)


def _cached(prepared: Prepared) -> torch.Tensor | None:
    from safetensors.torch import load

    file = _file(prepared)
    return load(file.read_bytes())["likelihoods"] if file.is_file() else None


def _file(prepared: Prepared) -> Path:
    """Where likelihoods are kept, by everything that determines them."""
    from transformers import __version__

    recipe, parent = prepared.recipe, prepared.parent
    said = [
        _FORMAT,
        prepared.base.identity,
        recipe.variant,
        recipe.training.precision,
        default_device().type,
        None if parent is None else parent.digest,
        prepared.task.name,
        prepared.task.options.model_dump(mode="json"),
        prepared.splits.train.digest(),
        __version__,
    ]
    key = hashlib.sha256(json.dumps(said).encode()).hexdigest()
    return cache_dir("references") / f"{key}.safetensors"
