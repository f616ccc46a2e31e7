"""MonteCLoRA: LoRA whose A is averaged over random samples around it during training.

Sengupta et al.: Robust and Efficient Fine-tuning of LLMs with Bayesian Reparameterization of Low-Rank Adaptation,
https://arxiv.org/abs/2411.04358

    y = W x + (alpha / r) B (A + sum_n p_n E_n) x     E_n ~ scale * N(0, V),  V ~ Wishart,  p ~ Dirichlet

The spread ``V`` and the weights ``p`` are trained too, with a penalty on their distance from a prior. After training,
the samples are left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pefttools.methods import Target

from .lora_relative import LoraRelative, LoraRelativeOptions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pefttools.deltas import AdapterDeltas


#: buffers of PEFT's sampler that every forward pass in training replaces
_OF_LAST_PASS = ("gaussian_var_prior", "expert_weights")


class MonteCLoraOptions(LoraRelativeOptions):
    """Options of MonteCLoRA."""

    samples: int = Field(8, ge=1, description="number of samples in every forward pass")
    scale: float = Field(1e-4, ge=0, description="scale of the samples")
    prior: float = Field(0.1, gt=0, description="concentration of the prior of the samples' weights")
    kl: float = Field(1e-5, ge=0, description="weight of the distance from the prior in the loss")


class MonteCLora(LoraRelative[MonteCLoraOptions]):
    """Low-rank updates trained on random samples around them."""

    name = "monteclora"
    summary = "low-rank updates, averaged over random samples around them during training"
    paper = "https://arxiv.org/abs/2411.04358"
    config = MonteCLoraOptions
    own_options = frozenset({"samples", "scale", "prior", "kl"})
    on_meta = False

    def sizes(self, model: nn.Module, config: MonteCLoraOptions, names: list[str]) -> dict[str, Any]:
        import peft

        given = peft.tuners.lora.MontecloraConfig(
            num_samples=config.samples, sample_scaler=config.scale, dirichlet_prior=config.prior,
            kl_loss_weight=config.kl, buffer_size=1,
        )  # fmt: skip
        return {"monteclora_config": given}

    def wrap(self, model: nn.Module, config: MonteCLoraOptions, target: Target) -> nn.Module:
        return _drawn_when_needed(super().wrap(model, config, target))

    def load(self, model: nn.Module, folder: Path, config: MonteCLoraOptions, target: Target) -> nn.Module:
        return _drawn_when_needed(super().load(model, folder, config, target))

    def _state(self, model: nn.Module) -> dict[str, Tensor]:
        state = super()._state(model) or model.state_dict()
        return {name: tensor for name, tensor in state.items() if not name.endswith(_OF_LAST_PASS)}

    def state_deltas(self, state: dict[str, Tensor], options: dict[str, Any], model: nn.Module) -> AdapterDeltas:
        plain = {name: tensor for name, tensor in state.items() if ".lora_monteclora_sampler." not in name}
        return super().state_deltas(plain, {**options, "monteclora_config": None}, model)

    def penalty(self, model: nn.Module, config: MonteCLoraOptions) -> Tensor:
        found: Tensor = model.base_model._get_monteclora_loss(self.adapter)  # type: ignore[operator, union-attr]
        return found


def _drawn_when_needed(model: nn.Module) -> nn.Module:
    for layer in model.modules():
        for sampler in getattr(layer, "lora_monteclora_sampler", {}).values():
            sampler.sampler = _DrawnWhenNeeded(sampler)
            for name in _OF_LAST_PASS:  # kept as a plain attribute: it is a part of the last pass's graph
                setattr(sampler, name, sampler._buffers.pop(name))
    return model


class _DrawnWhenNeeded:
    """PEFT's samples, drawn in every forward pass instead of in advance: a pass that is recomputed draws the same."""

    def __init__(self, sampler: Any) -> None:
        self._of = sampler

    def get(self) -> dict[str, Tensor]:
        """One set of standard samples, by PEFT's names."""
        import torch
        from torch.distributions import Chi2

        like, count, rank = self._of.std_prior, self._of.num_samples, self._of.out_features
        with torch.no_grad():
            # Bartlett's decomposition of a Wishart matrix with as many degrees of freedom as rows.
            freedom = torch.arange(rank, 0, -1, device=like.device, dtype=torch.float32)
            lower = torch.randn(rank, rank, device=like.device).tril(-1)
            lower = lower + Chi2(freedom, validate_args=False).sample().sqrt().diag()
            return {
                "z_mvn": torch.randn(count, self._of.in_features, rank, device=like.device, dtype=like.dtype),
                "z_wishart": (lower @ lower.T).to(like.dtype),
                "z_dirichlet": torch.randn(count, device=like.device, dtype=like.dtype),
            }
