"""Cartridges: keys and values of virtual tokens, trained directly, the first of which stay frozen.

Eyuboglu et al.: Cartridges: Lightweight and general-purpose long context representations via self-study,
https://arxiv.org/abs/2506.06266

    every layer attends to   [k_1 v_1 (frozen)] [k_2 v_2] ... [k_n v_n]   and then to the text

The paper starts from the keys and values of a long text, and trains by distillation; here they start at random.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from pefttools.errors import ConfigError
from pefttools.methods import Capabilities, MethodConfig, Target

from ..peft_bridge import PeftMethod
from ..prefix_pairs import is_pair
from ..prefix_states import as_prefix
from ..virtual_tokens import check_prefix

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pefttools.deltas import AdapterDeltas


class CartridgeOptions(MethodConfig):
    """Options of cartridges."""

    length: int = Field(20, ge=2, description="number of virtual tokens")
    frozen: int = Field(1, ge=0, description="how many of them stay frozen")


class Cartridge(PeftMethod[CartridgeOptions]):
    """Trained keys and values behind frozen ones."""

    name = "cartridge"
    summary = "keys and values in every layer, the first of them frozen"
    paper = "https://arxiv.org/abs/2506.06266"
    state_prefix = "base_model."
    config = CartridgeOptions
    capabilities = Capabilities(effect="virtual_tokens", all_inputs=False, deltas=True)
    learning_rate = 1e-2

    def peft_config(self, model: nn.Module, config: CartridgeOptions, target: Target) -> Any:
        import peft

        return peft.CartridgeConfig(
            num_virtual_tokens=config.length,
            num_frozen_tokens=config.frozen,
            task_type=target.peft_task_type or None,
            modules_to_save=list(target.head_modules) or None,
        )

    def wrap(self, model: nn.Module, config: CartridgeOptions, target: Target) -> nn.Module:
        import torch
        from torch import nn

        wrapped = super().wrap(model, config, target)
        for module in wrapped.modules():
            frozen = getattr(module, "frozen_embedding", None)
            if frozen is not None and frozen.is_meta:  # of a plan, which gives numbers only to what is trained
                module.frozen_embedding = nn.Parameter(torch.zeros(frozen.shape, device="cpu"), requires_grad=False)
        return wrapped

    def check_model(self, config: CartridgeOptions, model: nn.Module) -> None:
        check_prefix(model, self.name)
        if is_pair(model):
            raise ConfigError(
                "the method 'cartridge' can't be used on models with an encoder and a decoder", hint="Use prefix there."
            )
        if config.frozen >= config.length:
            raise ConfigError(
                f"cartridge.frozen is {config.frozen}: none of the {config.length} tokens would be trained"
            )

    def virtual_tokens(self, config: CartridgeOptions) -> int:
        return config.length

    def state_deltas(self, state: dict[str, Tensor], options: dict[str, Any], model: nn.Module) -> AdapterDeltas:
        return as_prefix(state["prompt_embeddings"], options)
