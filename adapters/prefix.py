"""Prefix tuning, by PEFT: trained keys and values that every layer attends to.

Li, Liang: Prefix-Tuning, https://arxiv.org/abs/2101.00190
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttools.methods import Capabilities, Target

from .peft_bridge import PeftMethod
from .prefix_config import PrefixConfig
from .prefix_pairs import PairPrefix, check_pair, is_pair
from .prefix_states import as_prefix
from .virtual_tokens import check_prefix

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pefttools.deltas import AdapterDeltas


class PrefixTuning(PeftMethod[PrefixConfig]):
    """Extra keys and values in every layer."""

    name = "prefix"
    summary = "trained keys and values in every layer"
    paper = "https://arxiv.org/abs/2101.00190"
    state_prefix = "base_model."
    config = PrefixConfig
    capabilities = Capabilities(effect="virtual_tokens", all_inputs=False, deltas=True)
    learning_rate = 1e-2

    def peft_config(self, model: nn.Module, config: PrefixConfig, target: Target) -> Any:
        import peft

        return peft.PrefixTuningConfig(
            num_virtual_tokens=config.length,
            task_type=target.peft_task_type or None,
            modules_to_save=list(target.head_modules) or None,
        )

    def check_model(self, config: PrefixConfig, model: nn.Module) -> None:
        check_prefix(model, self.name)
        if is_pair(model):
            check_pair(model)

    def wrap(self, model: nn.Module, config: PrefixConfig, target: Target) -> nn.Module:
        return PairPrefix().wrap(model, config, target) if is_pair(model) else super().wrap(model, config, target)

    def save(self, model: nn.Module, folder: Path, base_id: str) -> None:
        if is_pair(model):
            PairPrefix().save(model, folder, base_id)
        else:
            super().save(model, folder, base_id)

    def load(self, model: nn.Module, folder: Path, config: PrefixConfig, target: Target) -> nn.Module:
        if is_pair(model):
            return PairPrefix().load(model, folder, config, target)
        return super().load(model, folder, config, target)

    def deltas(self, folder: Path, model: nn.Module, config: PrefixConfig, target: Target) -> AdapterDeltas:
        if is_pair(model):
            return PairPrefix().deltas(folder, model, config, target)
        return super().deltas(folder, model, config, target)

    def virtual_tokens(self, config: PrefixConfig) -> int:
        return config.length

    def state_deltas(self, state: dict[str, Tensor], options: dict[str, Any], model: nn.Module) -> AdapterDeltas:
        return as_prefix(state["prompt_embeddings"], options)
