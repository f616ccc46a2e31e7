"""ReFT: the states that a block returns are edited within a small subspace.

Wu et al.: ReFT: Representation Finetuning for Language Models, https://arxiv.org/abs/2404.03592

    loreft   h + R^T (W h + b - R h)          R [r, hidden] with orthonormal rows
    noreft   h + R^T (W h + b - R h)          R free
    direft   h + R^T (W h + b)                R free

The paper edits the first and the last tokens of a text, at tuned positions; here all tokens are edited. It starts from
a random W; here W starts as R, and for direft as zero, so that training starts from the base.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pefttools.methods import Capabilities, MethodConfig, Target

from ..own import OwnMethod, train_heads

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pefttools.deltas import SiteDelta

#: name of the edit below its block
CHILD = "reft"


class ReftOptions(MethodConfig):
    """Options of ReFT."""

    kind: Literal["loreft", "noreft", "direft"] = Field("loreft", description="which of the three edits")
    r: int = Field(8, ge=1, description="size of the subspace")
    layers: list[int] = Field(default_factory=list, description="numbers of the blocks, from 0; empty: all")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the edit during training")


class Reft(OwnMethod[ReftOptions]):
    """Edits of states."""

    name = "reft"
    summary = "the states between blocks, edited in a small subspace: loreft, noreft or direft"
    paper = "https://arxiv.org/abs/2404.03592"
    config = ReftOptions
    capabilities = Capabilities(deltas=True)
    learning_rate = 2e-3

    def wrap(self, model: nn.Module, config: ReftOptions, target: Target) -> nn.Module:
        from ..bottleneck.module import attach_serial
        from .edit import blocks, make_edit

        for name, size in blocks(model, config):
            block = model.get_submodule(name)
            attach_serial(block, make_edit(size, config, next(block.parameters()).device), CHILD)
        train_heads(model, target)
        return model

    def site_deltas(self, state: dict[str, Tensor], model: nn.Module, config: ReftOptions) -> dict[str, SiteDelta]:
        import torch

        from pefttools.deltas import Bottleneck, SiteDelta

        from .edit import blocks, make_edit

        found = {}
        for name, size in blocks(model, config):
            own = {full.removeprefix(f"{name}.{CHILD}."): t for full, t in state.items() if full.startswith(f"{name}.")}
            edit = make_edit(size, config, torch.device("cpu")).to(next(iter(own.values())).dtype)
            edit.load_state_dict(own)
            with torch.no_grad():
                down, bias, up = edit.as_bottleneck()
            found[name] = SiteDelta(Bottleneck(down, bias, up, up.new_zeros(size), "identity"))
        return found
