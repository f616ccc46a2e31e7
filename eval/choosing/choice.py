"""Methods that fit on a GPU, ranked by what is known about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pefttools.bases import variants as known_variants
from pefttools.bases.skeleton import skeleton
from pefttools.errors import ConfigError, PeftToolsError
from pefttools.methods import methods as known_methods
from pefttools.planning.device import Device, find_device
from pefttools.planning.plan import MemoryPlan, Shape, combined
from pefttools.progress import Reporter, SilentReporter
from pefttools.recipe import choose_task
from pefttools.tasks import tasks

from .evidence import Evidence, read_comparison, read_kept

#: bytes of a parameter as artifacts store it
_STORED = 2
#: ratio of rows or of parameters beyond which a comparison is of another kind of case
_FAR = 10.0


@dataclass(frozen=True)
class Candidate:
    """A method with what is known about it.

    Attributes:
        label: of the method.
        method: name and options.
        plan: its memory on the GPU, in the first format in which it fits, or in the first of all.
        fits: whether the GPU has room for it; None if no GPU of a known size is given.
        evidence: its result in a comparison; None if nobody has tried it on such a task.
        near_best: no significant difference from the best of those that fit.
    """

    label: str
    method: Mapping[str, Any]
    plan: MemoryPlan
    fits: bool | None
    evidence: Evidence | None
    near_best: bool = False

    @property
    def artifact_bytes(self) -> int:
        """Bytes of its weights: as many per trained parameter as in the comparison, or else two."""
        one = self.evidence
        each = one.weights_bytes / one.trained if one and one.weights_bytes and one.trained else _STORED
        return round(each * self.plan.trainable_parameters)


@dataclass(frozen=True)
class Advice:
    """What to start with.

    Attributes:
        candidates: those that fit and are known come first, the best of them at the top.
        baseline: label of what their scores are compared with; empty if nothing is known.
        notes: the limits of the evidence, a sentence each.
        left_out: method -> why it can't be planned or used.
    """

    candidates: tuple[Candidate, ...]
    baseline: str
    notes: tuple[str, ...]
    left_out: Mapping[str, str]

    @property
    def first(self) -> Candidate | None:
        """The smallest adapter with no significant difference from the best; None if nothing is known, or fits."""
        near = [one for one in self.candidates if one.near_best and one.plan.trainable_parameters]
        return min(near, key=lambda one: one.artifact_bytes, default=None)


def choose(
    base: str,
    *,
    task: str | Mapping[str, Any] | None = None,
    gpu: str = "gpu",
    rows: int | None = None,
    labels: int = 2,
    methods: Sequence[str] | None = None,
    variants: Sequence[str] | None = None,
    comparisons: Sequence[Path | str] = (),
    reporter: Reporter | None = None,
    **shape: Any,
) -> Advice:
    """Which method to start with: what fits on the GPU, ranked by what stored comparisons have shown.

    Nothing is guessed: a method that the comparison has not tried comes last, without a score. Scores come from one
    comparison, as those of different comparisons can't be compared: from your own, if one is of this task, otherwise
    from the one with the most methods.

    Args:
        base: folder (``config.json`` will do), ``package:`` reference or hub id.
        task: name of a task, or a mapping with name and options.
        gpu: name of a GPU; ``gpu`` for one of no particular size.
        rows: number of your training rows; None if not known.
        labels: number of labels, if the task has labels.
        methods: names; all that can be planned if None.
        variants: number formats of the base's weights, in order of preference; None for the default, and smaller ones
            if it does not fit.
        comparisons: output folders of `bench`, in addition to those that come with the package.
        reporter: shows progress.
        shape: fields of `pefttools.planning.plan.Shape`, e.g. ``batch_size=8``.

    Returns:
        Candidates, and the limits of the evidence.

    Raises:
        PeftToolsError: an unknown name, or nothing that can be planned.
    """
    name = task if isinstance(task, str) else task["name"] if task else tasks.default()
    device = find_device(gpu)
    own = [one for folder in comparisons for one in read_comparison(Path(folder))]
    known, others = _one_comparison(own, read_kept(), name)
    wanted, left_out = _wanted(methods, known)
    first = known_variants.default()
    formats = list(variants or [first, *known_variants.get(first).smaller])
    chosen = dict(task) if isinstance(task, Mapping) else {"name": name}
    size = Shape(**{"length": choose_task(chosen).longest_input or 1, **shape})
    planned = partial(_smallest, base, chosen, formats=formats, labels=labels, device=device, size=size)
    ranked = _ranked(_candidates(wanted, planned, left_out, reporter or SilentReporter()))
    notes = [
        *_notes(ranked, name, rows, _parameters(base)),
        *([f"Comparisons not used here: {', '.join(others)}."] if others else []),
    ]
    return Advice(tuple(ranked), known[0].baseline if known else "", tuple(notes), left_out)


def _one_comparison(own: Sequence[Evidence], kept: Sequence[Evidence], task: str) -> tuple[list[Evidence], list[str]]:
    """What one comparison has shown on a task, and titles of others on that task."""
    found: dict[str, list[Evidence]] = {}
    mine = [one for one in own if one.task == task and one.gain is not None]
    for one in mine or [one for one in kept if one.task == task and one.gain is not None]:
        found.setdefault(one.comparison, []).append(one)
    if not found:
        return [], []
    best = max(found, key=lambda title: len(found[title]))
    titles = dict.fromkeys(one.comparison for one in (*own, *kept) if one.task == task)
    return found[best], [repr(title) for title in titles if title != best]


def _wanted(
    methods: Sequence[str] | None, known: Sequence[Evidence]
) -> tuple[list[tuple[str, dict[str, Any], Evidence | None]], dict[str, str]]:
    """Label, method and evidence of each that can be planned; methods without evidence under their own names."""
    names = list(methods or (name for name in known_methods if known_methods.get(name).why_not is None))
    found: dict[str, tuple[str, dict[str, Any], Evidence | None]] = {}
    for one in known:
        if one.method["name"] in names and (one.label not in found or one.variant == known_variants.default()):
            found[one.label] = (one.label, dict(one.method), one)
    have = {method["name"] for _, method, _ in found.values()}
    left_out: dict[str, str] = {}
    for name in names:
        plugin = known_methods.get(name)
        needed = [option for option, one in plugin.config.model_fields.items() if one.is_required()]
        if name in have:
            continue
        if needed:
            left_out[name] = f"it has no default for {', '.join(needed)}"
        else:
            found[name] = (name, {"name": name}, None)
    return list(found.values()), left_out


def _candidates(
    wanted: Sequence[tuple[str, dict[str, Any], Evidence | None]],
    planned: Callable[[Mapping[str, Any]], tuple[MemoryPlan, bool | None]],
    left_out: dict[str, str],
    reporter: Reporter,
) -> list[Candidate]:
    """Those of which the memory can be planned; the others go to `left_out`, with the reason.

    Raises:
        ConfigError: there are none.
    """
    found: list[Candidate] = []
    with reporter.step("plans", "methods") as advance:
        for done, (label, method, evidence) in enumerate(wanted, 1):
            try:
                plan, fits = planned(method)
            except PeftToolsError as error:
                left_out[label] = error.message
            else:
                found.append(Candidate(label, method, plan, fits, evidence))
            advance(done, len(wanted), label)
    if not found:
        raise ConfigError(f"no method can be planned: {next(iter(left_out.values()), 'none was given')}")
    return found


def _smallest(
    base: str,
    task: Mapping[str, Any],
    method: Mapping[str, Any],
    *,
    formats: Sequence[str],
    labels: int,
    device: Device,
    size: Shape,
) -> tuple[MemoryPlan, bool | None]:
    """The plan in the first format that fits, or else in the first that can be planned.

    Raises:
        PeftToolsError: none can be planned.
    """
    found: tuple[MemoryPlan, bool | None] | None = None
    refusal: PeftToolsError | None = None
    for variant in formats:
        try:
            (planned,) = combined(base, task, [method], [variant], labels, device)
            plan = planned.row(size)
        except PeftToolsError as error:
            refusal = refusal or error
            continue
        fits = None if device.memory is None else plan.total_bytes <= device.memory
        if found is None or fits:
            found = plan, fits
        if fits is not False:
            break
    if found is None:
        assert refusal is not None
        raise refusal
    return found


def _ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that fit and are known, by gain; then those that fit and are not known; then the rest."""
    fitting = [one for one in candidates if one.fits is not False]
    known = sorted((one for one in fitting if one.evidence), key=lambda one: -_gain(one))
    unknown = sorted((one for one in fitting if not one.evidence), key=lambda one: one.plan.total_bytes)
    rest = sorted((one for one in candidates if one.fits is False), key=lambda one: one.plan.total_bytes)
    if known:
        best = known[0]
        assert best.evidence is not None
        reach = _gain(best) - (best.evidence.doubt if best.evidence.doubt != float("inf") else 0.0)
        known = [_marked(one, reach) for one in known]
    return [*known, *unknown, *rest]


def _marked(one: Candidate, reach: float) -> Candidate:
    """Near the best if its own interval reaches as far as that of the best."""
    assert one.evidence is not None
    near = one.evidence.doubt == float("inf") or _gain(one) + one.evidence.doubt >= reach
    return replace(one, near_best=near)


def _gain(one: Candidate) -> float:
    assert one.evidence is not None and one.evidence.gain is not None
    return one.evidence.gain


def _notes(candidates: Sequence[Candidate], task: str, rows: int | None, size: int) -> list[str]:
    """The limits of the evidence in this case."""
    known = [one.evidence for one in candidates if one.evidence is not None]
    if not known:
        return [f"No stored comparison is on the task {task}: methods are sorted by memory, not by score."]
    one = known[0]
    notes = [
        f"The scores are from {one.comparison!r}: {one.base}, {one.base_parameters / 1e6:,.0f} million parameters, "
        f"{one.rows:,} training rows."
    ]
    if rows is not None and not 1 / _FAR <= rows / one.rows <= _FAR:
        notes.append(
            f"You have {rows:,} rows, it had {one.rows:,}: more rows favour methods that train more parameters."
        )
    if size > _FAR * one.base_parameters:
        notes.append(
            "Your base is more than ten times as large: what is best on a small model may not be on a large one."
        )
    other = sorted({each.plan.variant for each in candidates if each.evidence} - {one.variant})
    if other:
        notes.append(f"The scores are from {one.variant} bases; on {', '.join(other)} they may be lower.")
    single = [one.label for one in known if one.seeds < 2 and not one.is_baseline]
    if single:
        notes.append(
            f"Only one seed was run of {_listed(single)}: the variation between seeds is not known, so differences "
            "between them are weak evidence."
        )
    unknown = [one.label for one in candidates if one.evidence is None]
    if unknown:
        notes.append(f"Nothing is known about {_listed(unknown)} on this task.")
    return notes


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} others" if len(names) > most else "")


def _parameters(base: str) -> int:
    """Number of parameters of a base, from its configuration alone; 0 if that does not say."""
    from transformers import AutoModel

    model: Any
    try:
        model, _ = skeleton(base).transformer(AutoModel, known_variants.get(known_variants.default())())
    except PeftToolsError:
        return 0
    return sum(parameter.numel() for parameter in model.parameters())
