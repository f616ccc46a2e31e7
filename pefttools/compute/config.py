"""The `training` part of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from pefttools.compute.optimizers import OptimizerName

Precision = Literal["auto", "float32", "bfloat16", "float16"]


class SelectionConfig(BaseModel):
    """Which model is best, among the evaluations of a training run, the trials of a search, and in a comparison."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str | None = Field(
        None, description="metric of the validation rows, e.g. f1_macro or loss; none: the task's own"
    )
    greater_is_better: bool | None = Field(
        None, description="none: the metric's own direction; required for metrics that pefttools does not know"
    )
    patience: int | None = Field(
        None, ge=1, description="stop after this many evaluations in a row without improvement; none: never"
    )
    threshold: float = Field(0.0, ge=0, description="smaller improvements than this do not count for patience")


class TrainingConfig(BaseModel):
    """How a model is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: float = Field(3, gt=0, description="number of epochs")
    max_steps: int | None = Field(None, ge=1, description="stop after this many optimizer steps")
    batch_size: int = Field(32, ge=1, description="rows per optimizer step, over all processes")
    gradient_accumulation: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        1,
        description="number of parts in which a batch is computed, to save memory; auto: the fewest that fit here. If "
        "the loss compares all rows of a batch, parts run again in the backward pass, and the loss stays the same",
    )
    eval_batch_size: int = Field(64, ge=1, description="batch size for evaluation")
    learning_rate: float | None = Field(None, gt=0, description="none: the method's own default for this base")
    head_learning_rate: float = Field(
        1e-2,
        gt=0,
        description="rate of the task head, the same for every method unless search.head_learning_rate varies it",
    )
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay, as in AdamW")
    warmup: float = Field(0.06, ge=0, lt=1, description="share of the steps used for learning-rate warm-up")
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = Field(
        "linear", description="how the learning rate changes after the warm-up"
    )
    max_gradient_norm: float = Field(1.0, gt=0, description="gradients with a larger norm are scaled down to it")
    gradient_checkpointing: bool | Literal["selective"] = Field(
        False,
        description="recompute activations in the backward pass. true: those of each layer; selective: all but the "
        "results of large products and of attention, at little cost in time",
    )
    precision: Precision = Field(
        "auto",
        description="auto: autocast to bfloat16 where the hardware is fast at it, to float16 with scaled gradients on "
        "older GPUs (T4, V100), else float32",
    )
    deterministic: bool = Field(
        False, description="reproducible results on a GPU too, at some cost in time; CPU runs always are"
    )
    optimizer: OptimizerName = Field(
        "adamw",
        description="8bit: optimizer state in one byte per value, by bitsandbytes; paged: it may be moved off the GPU",
    )
    averaging: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="evaluate and keep a moving average of the trained weights, of which each step keeps this share; "
        "none: the weights themselves",
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="factor of the learning rate of each block, relative to the block above it"
    )
    evaluations: int = Field(0, ge=0, description="evaluations on validation during training; 0: one per epoch")
    keep_best: bool = Field(True, description="restore the best model on validation at the end")
    checkpoints: bool = Field(True, description="save a checkpoint at every evaluation, to resume from")
    report_to: list[str] = Field(default_factory=list, description="trackers: tensorboard, wandb, mlflow, ...")

    @property
    def microbatches(self) -> int:
        """Parts that a batch is computed in; 1 as long as ``auto`` is not resolved."""
        return 1 if self.gradient_accumulation == "auto" else self.gradient_accumulation
