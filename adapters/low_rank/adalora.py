"""AdaLoRA: LoRA that allocates ranks where they matter.

Zhang et al.: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning, https://arxiv.org/abs/2303.10512

    y = W x + (alpha / initial_r) P diag(e) Q x

All layers start with rank `initial_r`. During training, the entries of ``e`` that matter least for the loss, over all
layers, are set to zero, until `r` are left per layer on average. A penalty keeps ``P`` and ``Q`` orthogonal.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pefttools.bases import BaseVariant
from pefttools.errors import ConfigError
from pefttools.methods import Target, TaskFacts

from ..peft_bridge import WEIGHTS
from ..peft_weights import QUANTIZED, DropoutOptions, PeftWeights

if TYPE_CHECKING:
    from torch import Tensor, nn


class AdaLoraOptions(DropoutOptions):
    """Options of AdaLoRA."""

    r: int = Field(8, ge=1, description="average rank at the end")
    initial_r: int = Field(12, ge=2, description="rank of every layer at the start")
    alpha: float = Field(32.0, gt=0, description="the update is scaled by alpha / initial_r")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps before the first rank is pruned")
    final: float = Field(0.3, ge=0, lt=1, description="share of the steps after the last rank is pruned")
    orthogonality: float = Field(0.5, ge=0, description="weight of the penalty")


class AdaLora(PeftWeights[AdaLoraOptions]):
    """Low-rank updates whose ranks are chosen during training."""

    name = "adalora"
    summary = "low-rank updates, ranks allocated by importance"
    paper = "https://arxiv.org/abs/2303.10512"
    config = AdaLoraOptions
    learning_rate = 5e-3
    peft_class = "AdaLoraConfig"
    rank_option = "init_r"
    quantized = QUANTIZED
    peft_names = {"r": "target_r", "initial_r": "init_r", "orthogonality": "orth_reg_weight"}  # noqa: RUF012
    # The number of steps is set when they start.
    always = {"total_step": 1}  # noqa: RUF012
    own_options = frozenset({"warmup", "final"})
    conv1d = True
    on_meta = False

    def check(self, config: AdaLoraOptions, variant: BaseVariant, task: TaskFacts) -> None:
        super().check(config, variant, task)
        if config.initial_r <= config.r:
            raise ConfigError(
                f"adalora.initial_r is {config.initial_r}, and adalora.r {config.r}: there is no rank to prune",
                hint="Start with a higher rank, about one and a half times adalora.r.",
            )
        if config.warmup + config.final >= 1:
            raise ConfigError("adalora.warmup and adalora.final leave no steps in which ranks could be pruned")

    def wrap(self, model: nn.Module, config: AdaLoraOptions, target: Target) -> nn.Module:
        wrapped = super().wrap(model, config, target)
        for name, parameter in wrapped.named_parameters():
            # A number that PEFT divides by and does not store: if it were trained, it would differ after loading.
            if ".ranknum." in name:
                parameter.requires_grad_(False)
        return wrapped

    def load(self, model: nn.Module, folder: Path, config: AdaLoraOptions, target: Target) -> nn.Module:
        from safetensors.torch import load_file

        wrapped = super().load(model, folder, config, target)
        stored = load_file(folder / WEIGHTS)
        for name, parameter in wrapped.named_parameters():
            # PEFT creates the small matrices in the compute format of a quantized base, which rounds them.
            value = stored.get(name.replace(f".{self.adapter}", ""))
            if value is not None and not parameter.is_meta and ".lora_" in name:
                parameter.data = value.to(parameter.device)
        return wrapped

    def begin(self, model: nn.Module, config: AdaLoraOptions, total_steps: int) -> None:
        given = _tuner(model).peft_config[self.adapter]
        given.total_step = total_steps
        given.tinit = int(config.warmup * total_steps)
        given.tfinal = int(config.final * total_steps)
        if total_steps - given.tinit - given.tfinal < 2:
            raise ConfigError(
                f"a training of {total_steps} steps leaves adalora no time to find out which ranks matter",
                hint="Train longer, or use lora.",
            )

    def after_step(self, model: nn.Module, step: int) -> None:
        _tuner(model).update_and_allocate(step)

    def penalty(self, model: nn.Module, config: AdaLoraOptions) -> Tensor:
        import torch

        found = []
        for name, parameter in model.named_parameters():
            if name.endswith((f".lora_A.{self.adapter}", f".lora_B.{self.adapter}")):  # not those of another method
                products = parameter @ parameter.T if ".lora_A." in name else parameter.T @ parameter
                found.append(torch.linalg.matrix_norm(products - torch.eye(len(products), device=products.device)))
        return config.orthogonality * torch.stack(found).mean()

    def save(self, model: nn.Module, folder: Path, base_id: str) -> None:
        """Without the pruned ranks, in the state that is saved rather than in the last one."""
        given = _tuner(model).peft_config[self.adapter]
        own = [
            (name, p) for name, p in _tuner(model).model.named_parameters() if name.endswith(f".lora_E.{self.adapter}")
        ]
        kept = {name: (p != 0).flatten().tolist() for name, p in own}
        last, given.rank_pattern = given.rank_pattern, kept if any(map(any, kept.values())) else None
        try:
            super().save(model, folder, base_id)
        finally:
            given.rank_pattern = last

    def training_state(self, model: nn.Module) -> dict[str, Tensor]:
        allocator = _tuner(model).rankallocator
        state = {f"{kind}:{name}": value for kind in _KEPT for name, value in getattr(allocator, kind).items()}
        pattern = _tuner(model).peft_config[self.adapter].rank_pattern or {}
        return state | {f"pattern:{name}": _as_tensor(value) for name, value in pattern.items()}

    def restore_training_state(self, model: nn.Module, state: dict[str, Tensor]) -> None:
        allocator, device = _tuner(model).rankallocator, next(model.parameters()).device
        for key, value in state.items():
            kind, _, name = key.partition(":")
            if kind in _KEPT:
                getattr(allocator, kind)[name] = value.to(device)
        pattern = {key.partition(":")[2]: value.tolist() for key, value in state.items() if key.startswith("pattern:")}
        _tuner(model).peft_config[self.adapter].rank_pattern = pattern or None


#: what PEFT's allocator remembers of the steps so far
_KEPT = ("ipt", "exp_avg_ipt", "exp_avg_unc")


def _tuner(model: nn.Module) -> Any:
    """PEFT's AdaLoraModel."""
    return model.base_model


def _as_tensor(values: list[bool]) -> Tensor:
    import torch

    return torch.tensor(values)
