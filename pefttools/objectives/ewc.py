"""Elastic weight consolidation."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from pefttools.objectives.objective import Objective, ObjectiveConfig

if TYPE_CHECKING:
    import torch

    from pefttools.methods import Pass
    from pefttools.objectives.step import Step
    from pefttools.tasks.model import Model


class EWCConfig(ObjectiveConfig):
    """Options of elastic weight consolidation."""

    rows: Path = Field(description="rows of what is not to be forgotten, with the columns of the training rows")
    limit: int = Field(
        200, ge=1, description="maximum number of those rows that the Fisher information is estimated from"
    )
    strength: float = Field(1.0, gt=0, description="factor of the term")


class EWC(Objective[EWCConfig]):
    """``L + strength / 2 * sum_i F_i (w_i - w0_i)^2``, with ``F`` the diagonal of the Fisher information at ``w0``.

    ``w0`` are the trained parameters as training begins: those of the artifact that it starts `from`. What matters
    little to the old rows may change freely. ``F_i`` is the mean over the old rows of the squared gradient of a row's
    loss (the empirical Fisher information), one row at a time, in eval mode. It is scaled to a mean of 1 over all
    trained parameters, so that `strength` means the same for a model whose gradients on the old rows are tiny.

    References:
        Kirkpatrick, J., Pascanu, R., Rabinowitz, N. et al. (2017). Overcoming catastrophic forgetting in neural
        networks. PNAS 114(13). https://arxiv.org/abs/1612.00796
    """

    name = "ewc"
    summary = "continual learning: weights that old rows depend on are held (elastic weight consolidation)"
    paper = "https://arxiv.org/abs/1612.00796"
    config = EWCConfig
    of_weights = True

    def old_rows(self) -> tuple[Path, int] | None:
        return self.options.rows, self.options.limit

    def remember(self, trained: dict[str, torch.Tensor], passes: Iterable[Pass]) -> None:
        import torch

        self._start = {name: p.detach().clone() for name, p in trained.items()}
        self._fisher = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in trained.items()}
        for run in passes:
            gradients = torch.autograd.grad(run(), list(trained.values()), allow_unused=True)
            for name, gradient in zip(trained, gradients, strict=True):
                if gradient is not None:
                    self._fisher[name] += gradient.float().square()
        total = sum(float(fisher.sum()) for fisher in self._fisher.values())
        mean = total / sum(fisher.numel() for fisher in self._fisher.values())
        for fisher in self._fisher.values():
            fisher /= max(mean, torch.finfo(torch.float32).tiny)

    def begin(self, model: Model, trained: dict[str, torch.Tensor]) -> None:
        import torch

        if not hasattr(self, "_fisher"):  # a step that is only measured
            self._start = {name: p.detach().clone() for name, p in trained.items()}
            self._fisher = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in trained.items()}

    def term(self, step: Step) -> torch.Tensor:
        import torch

        terms = [
            (self._fisher[name] * (parameter - self._start[name]).float().square()).sum()
            for name, parameter in step.trained.items()
        ]
        return self.options.strength / 2 * torch.stack(terms).sum() / step.model.passes

    def state(self) -> dict[str, torch.Tensor]:
        parts = {"start": self._start, "fisher": self._fisher}
        return {f"{part}:{name}": tensor for part, of in parts.items() for name, tensor in of.items()}

    def restore_state(self, state: dict[str, torch.Tensor]) -> None:
        self._start = {name: state[f"start:{name}"] for name in self._start}
        self._fisher = {name: state[f"fisher:{name}"] for name in self._fisher}
