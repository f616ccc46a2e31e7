"""The record of one run: method x variant x task x seed. Written atomically, read back with checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pefttools.errors import DataError
from pefttools.files import canonical_json, write_text_atomic
from pefttools.metrics import Measure
from pefttools.tasks.cuts import Cuts

from .environment import Environment

RECORD = "record.json"
PREDICTIONS = "predictions.jsonl"
ARTIFACT = "artifact"
LOG = "log.txt"
#: folder of all runs inside the folder of a comparison
RUNS = "runs"
#: the summary of a comparison, in its folder
SUMMARY = "bench.json"
#: relative difference between predicted and measured memory that is not reported
TOLERANCE = 0.05
#: a main thread that ran for a smaller share of the wall time had to wait for others
IDLE_MACHINE = 0.8

Status = Literal["ok", "diverged", "oom", "failed"]


def measure_of_earlier_versions(metric: str) -> Measure:
    """What a metric's number means if its record does not say so."""
    shares = ("accuracy", "precision", "recall", "f1", "exact_match")
    if metric.startswith(shares) or metric.endswith("_accuracy"):
        return Measure.share()
    return Measure(higher_is_better=metric not in ("loss", "perplexity"))


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Parts(_Part):
    """Bytes by part, at the moment of their highest total.

    `other` are activations and temporaries.
    """

    weights: int
    gradients: int = 0
    optimizer: int = 0
    other: int = 0

    @property
    def peak(self) -> int:
        """All parts together."""
        return self.weights + self.gradients + self.optimizer + self.other


class Predicted(_Part):
    """Memory predicted for the profiled batch, in bytes.

    Attributes:
        training_peak: with the kernels of the device that it was measured on.
        gpu_training_peak: with a GPU's kernels; without its context.
    """

    training_peak: int
    gpu_training_peak: int


class Memory(_Part):
    """Memory of a run, in bytes.

    Attributes:
        device: ``cpu`` or the name of the GPU.
        training: parts at the peak of a training step.
        training_most: the maximum of each part in a training step, each at its own moment: gradients are held when most
            activations have been freed. None in records of earlier versions.
        unquantized: of the weights, those of the base that a quantized variant does not store in few bits.
        evaluation: parts at the peak of an evaluation step.
        source: ``counted``: at tensor level, in a separate profiling step; ``allocator``: by CUDA's allocator.
        batch: rows and tokens of the profiled batch.
        peak_rss: largest resident size of the process up to the end of training.
        cuda: ``max_memory_allocated`` and ``max_memory_reserved`` of training and of evaluation, on a GPU.
        predicted: None if the method can't be planned.
    """

    device: str
    training: Parts
    training_most: Parts | None = None
    unquantized: int = 0
    evaluation: Parts
    source: Literal["counted", "allocator"]
    batch: tuple[int, int]
    peak_rss: int
    cuda: dict[str, int] | None = None
    predicted: Predicted | None = None


class Trial(_Part):
    """One learning rate that was tried.

    Attributes:
        head_learning_rate: of the task head; None if no head is trained.
        score: the selection metric, on validation.
        loss: on validation; it breaks ties.
        beyond: tried because the best was at the edge of those tried before.
        did_not_learn: see `pefttools.training.learning`.
    """

    learning_rate: float
    head_learning_rate: float | None = None
    status: Status
    score: float | None = None
    loss: float | None = None
    steps: int = 0
    chosen: bool = False
    beyond: bool = False
    did_not_learn: str | None = None
    error: str | None = None


class ArtifactEntry(_Part):
    """The artifact of a run."""

    path: str
    bytes: int
    weights_bytes: int
    storage: str
    share_of_base: float


class UnderCondition(_Part):
    """A model on the measured rows under a condition.

    Attributes:
        settings: what was done, see `pefttools.robustness.Condition.settings`.
        metrics: as on the rows as they are.
        changed: what became of their texts; None if they are as they were.
        seconds: of the evaluation.
    """

    settings: dict[str, Any]
    metrics: dict[str, float]
    changed: str | None = None
    seconds: float


class Failure(_Part):
    """Why a run has no result."""

    type: str
    message: str
    step: int | None = None


class RunRecord(_Part):
    """Everything that is known about one run.

    Attributes:
        id: folder of the run.
        label: name of the method in tables: its own, or the label in the spec.
        base: id, model_type, structure, weights, size (bytes).
        data: split -> sha256 of its rows; rows: split -> number of rows.
        cut: split -> how many rows were truncated, and how long the longest is.
        notes: what was done to the data without being asked for.
        history: log entries in order; ``step`` with ``loss`` and ``learning_rate``, or with ``eval_*`` metrics.
        measures: metric -> what its number means; empty in records of earlier versions.
        fewest_rows: number of measured rows of the rarest class that occurs; None without classes.
        validation: metrics on validation of the saved artifact.
        test: metrics on test of the saved artifact; empty if there is no test split.
        robustness: title of a condition -> metrics under it of the saved artifact, on the same rows.
        accumulation: number of parts in which each batch was computed.
        seconds: ``train`` (steps only), ``train_cpu`` (processor time of them, over all threads),
            ``evaluation_in_training``, ``evaluation`` (final), ``total``.
        busy_share: share of the training's wall time in which its main thread ran; None if it is not meaningful.
        stopped_early: whether patience ended the training.
        did_not_learn: why the model is no better than an untrained one; None if it is better.
        samples: training rows seen; tokens: training tokens seen, without padding.
        code: digest of the source of pefttools; method_code: of the method; None in records of earlier versions.
        hardware: host facts, e.g. processor, cores, threads, memory, gpu.
    """

    schema_version: str = "1.0"
    id: str
    label: str
    method: str
    config: dict[str, Any]
    variant: str
    task: str
    primary_metric: str
    greater_is_better: bool = True
    seed: int
    base: dict[str, Any]
    recipe: dict[str, Any]
    recipe_hash: str
    status: Status
    error: Failure | None = None
    data: dict[str, str] = Field(default_factory=dict)
    rows: dict[str, int] = Field(default_factory=dict)
    cut: dict[str, Cuts] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    parameters: dict[str, int] = Field(default_factory=dict)
    learning_rate: float | None = None
    head_learning_rate: float | None = None
    trials: list[Trial] = Field(default_factory=list)
    history: list[dict[str, float]] = Field(default_factory=list)
    measures: dict[str, Measure] = Field(default_factory=dict)
    fewest_rows: int | None = None
    validation: dict[str, float] = Field(default_factory=dict)
    test: dict[str, float] = Field(default_factory=dict)
    robustness: dict[str, UnderCondition] = Field(default_factory=dict)
    accumulation: int = 1
    steps: int = 0
    best_step: int = 0
    samples: int = 0
    tokens: int = 0
    stopped_early: bool = False
    did_not_learn: str | None = None
    seconds: dict[str, float] = Field(default_factory=dict)
    busy_share: float | None = None
    memory: Memory | None = None
    artifact: ArtifactEntry | None = None
    packages: dict[str, str] = Field(default_factory=dict)
    code: str | None = None
    method_code: str | None = None
    hardware: dict[str, Any] = Field(default_factory=dict)
    git_revision: str | None = None
    created: str

    @property
    def metrics(self) -> dict[str, float]:
        """Test metrics, or those of validation if there is no test split."""
        return self.test or self.validation

    @property
    def score(self) -> float | None:
        """The primary metric."""
        return self.metrics.get(self.primary_metric)

    @property
    def measure(self) -> Measure:
        """What the primary metric's number means."""
        return self.measures.get(self.primary_metric) or measure_of_earlier_versions(self.primary_metric)

    @property
    def environment(self) -> Environment:
        """The environment in which it was made."""
        return Environment.of(self.packages, self.code, self.method_code, self.hardware)

    @property
    def busy_machine(self) -> bool:
        """Whether other work on the machine makes the times of this run too long."""
        return self.busy_share is not None and self.busy_share < IDLE_MACHINE

    @property
    def shared_card(self) -> bool:
        """Whether other runs used the same GPU at the same time."""
        return bool(self.hardware.get("card_shared"))

    @property
    def samples_per_second(self) -> float | None:
        """Training rows per second of training."""
        seconds = self.seconds.get("train")
        return self.samples / seconds if seconds else None

    @property
    def tokens_per_second(self) -> float | None:
        """Training tokens, without padding, per second of training."""
        seconds = self.seconds.get("train")
        return self.tokens / seconds if seconds else None


def write_record(folder: Path, record: RunRecord) -> None:
    """Write a record; a killed writer leaves none or a complete one."""
    write_text_atomic(folder / RECORD, canonical_json(record.model_dump(mode="json")))


def read_record(folder: Path) -> RunRecord | None:
    """The record of a run folder; None if there is none.

    Raises:
        DataError: it is damaged.
    """
    path = folder / RECORD
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise DataError(f"{path} is not a valid record: {error}", hint="Remove it, and run bench again.") from error


def read_records(folder: Path) -> list[RunRecord]:
    """All records of a comparison, by id.

    Args:
        folder: of the comparison; its runs are in ``runs/``.

    Raises:
        DataError: no records there, or a damaged one.
    """
    found = [read_record(path) for path in sorted((folder / RUNS).glob("*")) if path.is_dir()]
    records = [record for record in found if record is not None]
    if not records:
        raise DataError(f"{folder} holds no records", hint="Give the output folder of a `pefttools bench`.")
    return records


def write_predictions(folder: Path, predictions: list[dict[str, Any]]) -> None:
    """One JSON object per test row, in the order of the data."""
    lines = (json.dumps(entry, ensure_ascii=False) for entry in predictions)
    write_text_atomic(folder / PREDICTIONS, "\n".join([*lines, ""]))


def read_predictions(folder: Path) -> list[dict[str, Any]]:
    """Predictions of a run, one per test row; empty if none were written."""
    path = folder / PREDICTIONS
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
