"""The `training` part of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from pefttools.compute.optimizers import OptimizerName

Precision = Literal["auto", "float32", "bfloat16", "float16"]


class SelectionConfig(BaseModel):
    """What the best model is, among the evaluations of a training, the trials of a search, and in a comparison."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str | None = Field(None, description="of the validation rows, e.g. f1_macro or loss; none: the task's own")
    greater_is_better: bool | None = Field(
        None, description="none: as pefttools knows the metric; needed for others than it knows"
    )
    patience: int | None = Field(
        None, ge=1, description="stop after so many evaluations in a row that were no better; none: never"
    )
    threshold: float = Field(0.0, ge=0, description="what is better by no more than this does not count for patience")


class TrainingConfig(BaseModel):
    """How a model is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: float = Field(3, gt=0, description="passes over the training rows")
    max_steps: int | None = Field(None, ge=1, description="stop after so many optimizer steps")
    batch_size: int = Field(32, ge=1, description="rows of one optimizer step, over all processes")
    gradient_accumulation: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        1, description="parts that a batch is computed in, to save memory; auto: the fewest that fit on this device"
    )
    eval_batch_size: int = Field(64, ge=1, description="rows of one batch at evaluation")
    learning_rate: float | None = Field(None, gt=0, description="none: the method's own default for this base")
    head_learning_rate: float = Field(
        1e-2, gt=0, description="of the task head, the same for every method unless search.head_learning_rate varies it"
    )
    weight_decay: float = Field(0.0, ge=0)
    warmup: float = Field(0.06, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = Field("linear")
    max_gradient_norm: float = Field(1.0, gt=0)
    gradient_checkpointing: bool | Literal["selective"] = Field(
        False,
        description="compute activations again in the backward pass: true: each layer's; selective: all but the "
        "results of large products and of attention, at little cost in time",
    )
    precision: Precision = Field(
        "auto",
        description="auto: autocast to bfloat16 where the hardware is fast at it, to float16 with scaled gradients on "
        "cards before it (T4, V100), else float32",
    )
    deterministic: bool = Field(
        False, description="the same numbers from run to run on a card too, which costs time there; a CPU gives them"
    )
    optimizer: OptimizerName = Field(
        "adamw", description="8bit: moments in one byte each, by bitsandbytes; paged: they may leave the GPU"
    )
    evaluations: int = Field(0, ge=0, description="evaluations on validation during training; 0: one per epoch")
    keep_best: bool = Field(True, description="end with the model that was best on validation")
    checkpoints: bool = Field(True, description="write a checkpoint at every evaluation, to resume from")
    report_to: list[str] = Field(default_factory=list, description="trackers: tensorboard, wandb, mlflow, ...")

    @property
    def parts(self) -> int:
        """Parts that a batch is computed in; 1 as long as nobody has settled what ``auto`` is."""
        return 1 if self.gradient_accumulation == "auto" else self.gradient_accumulation
