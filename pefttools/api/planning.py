"""Memory before a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pefttools.planning.fits import Largest
    from pefttools.planning.plan import Choice, MemoryPlan
    from pefttools.pool.planned import Serving
    from pefttools.recipe import GivenMethod

# What plans is imported when it is used: a prediction needs neither it nor the pool, nor what both import of torch.


def plan(
    base: str,
    *,
    task: Choice | None = None,
    methods: Sequence[GivenMethod] | None = None,
    variants: Sequence[str] | None = None,
    labels: int = 2,
    gpu: str = "cpu",
    overrides: Sequence[str] = (),
    **shape: Any,
) -> list[MemoryPlan]:
    """Predict the memory that training runs need; no weights are loaded.

    Args:
        base: folder (``config.json`` is enough), ``package:`` reference or hub id; or the path of a recipe, which
            supplies everything that is not given here.
        task: name of a task, or a mapping with name and options.
        methods: names, or mappings with name and options.
        variants: number formats of the base's weights.
        labels: number of labels, if the task has labels.
        gpu: a card, ``gpu`` for one of unspecified size, or ``cpu`` for this machine's kernels.
        overrides: ``field.field=value`` on a recipe.
        shape: fields of `pefttools.planning.plan.Shape`, e.g. ``batch_size=8, length=512``.

    Returns:
        One row per method and variant; sizes in bytes.

    Raises:
        PeftToolsError: a name, an option or a combination that can't work, or can't be traced.

    Example:
        >>> (row,) = pefttools.plan("path/to/base", methods=["lora"], gpu="t4", batch_size=8)
        >>> row.peak_bytes < 16 * 2**30
        True
    """
    from pefttools.planning.device import find_device
    from pefttools.planning.request import resolve_request

    request = resolve_request(base, task, methods, variants, labels, overrides, shape, find_device(gpu))
    return [planned.row(request.shape) for planned in request.planned]


def plan_pool(
    base: str,
    *,
    residents: int,
    task: Choice | None = None,
    methods: Sequence[GivenMethod] | None = None,
    variants: Sequence[str] | None = None,
    labels: int = 2,
    gpu: str = "cpu",
    overrides: Sequence[str] = (),
    **shape: Any,
) -> list[Serving]:
    """Predict the memory of pools of adapters that are all alike; no weights are loaded.

    Args:
        base: see `plan`.
        residents: number of adapters held.
        task: see `plan`.
        methods: see `plan`.
        variants: see `plan`.
        labels: see `plan`.
        gpu: see `plan`.
        overrides: see `plan`.
        shape: see `plan`; ``eval_batch_size`` rows of ``length`` tokens are answered at a time.

    Returns:
        One per method and variant; sizes in bytes.

    Raises:
        PeftToolsError: as `plan`; a method whose adapters can't be pooled.
    """
    from pefttools.planning.device import find_device
    from pefttools.planning.request import resolve_request
    from pefttools.pool.planned import plan_serving

    request = resolve_request(base, task, methods, variants, labels, overrides, shape, find_device(gpu))
    return [plan_serving(planned, request.shape, residents) for planned in request.planned]


def largest_fit(
    base: str,
    *,
    task: Choice | None = None,
    method: Choice | None = None,
    variant: str | None = None,
    labels: int = 2,
    gpu: str = "gpu",
    overrides: Sequence[str] = (),
    **shape: Any,
) -> list[Largest]:
    """Predict the largest batch and the longest texts that fit on a card in training; no weights are loaded.

    Args:
        base: see `plan`.
        task: see `plan`.
        method: name, or a mapping with name and options.
        variant: number format of the base's weights.
        labels: see `plan`.
        gpu: a card; ``gpu`` for all known ones that compute in bfloat16.
        overrides: see `plan`.
        shape: see `plan`.

    Returns:
        One per card.

    Raises:
        PeftToolsError: as `plan`.
    """
    from pefttools.planning.device import find_device
    from pefttools.planning.fits import largest_that_fit
    from pefttools.planning.request import resolve_request

    methods, variants = None if method is None else [method], None if variant is None else [variant]
    request = resolve_request(base, task, methods, variants, labels, overrides, shape, find_device(gpu))
    return largest_that_fit(request.planned[0], request.shape, request.cards)
