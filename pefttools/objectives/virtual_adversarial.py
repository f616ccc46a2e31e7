"""Virtual adversarial training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pefttools.errors import ConfigError
from pefttools.objectives.attack import Attack, AttackConfig, direction
from pefttools.objectives.objective import WeightedConfig
from pefttools.objectives.unlabelled import ReadsUnlabelled

if TYPE_CHECKING:
    import torch

    from pefttools.bases import BaseVariant
    from pefttools.methods import Method
    from pefttools.objectives.step import Step
    from pefttools.tasks import Task


class VATConfig(AttackConfig, WeightedConfig):
    """Options of virtual adversarial training."""

    probe: float = Field(
        0.01, gt=0, description="norm of the change by which the direction is found, as a share as `epsilon`"
    )
    steps: int = Field(1, ge=1, description="passes in which the direction is found (power iteration)")
    unlabelled: Path | None = Field(
        None,
        description="file of rows without labels; each pass reads as many of them as of the others; none: no such file",
    )


class VirtualAdversarial(ReadsUnlabelled, Attack[VATConfig]):
    """``L + weight KL(p(x), p(x + epsilon |x| d))``, with ``d`` the direction that changes the answer most.

    ``d`` begins at random; each step replaces it by the unit gradient of ``KL(p(x), p(x + probe |x| d))``.
    No label is read, so rows without labels can be learned from too. ``p(x)`` is a constant.

    References:
        Miyato, T., Maeda, S., Koyama, M. and Ishii, S. (2018). Virtual adversarial training: a regularization method
        for supervised and semi-supervised learning. IEEE TPAMI. https://arxiv.org/abs/1704.03976
    """

    name = "vat"
    summary = "virtual adversarial training: the answer is to stay where the input changes a little"
    paper = "https://arxiv.org/abs/1704.03976"
    config = VATConfig
    compares = True

    def check(self, method: Method[Any], variant: BaseVariant, task: Task[Any]) -> None:
        super().check(method, variant, task)
        if self.options.unlabelled is not None and not task.one_label:
            raise ConfigError(f"vat.unlabelled needs a task with one label per row, not {task.name!r}")

    def unlabelled(self) -> Path | None:
        return self.options.unlabelled

    def term(self, step: Step) -> torch.Tensor:
        found = self._divergence(step)
        if self.options.unlabelled is None:
            return found
        return found + self._divergence(self.beside(step))

    def _divergence(self, step: Step) -> torch.Tensor:
        """The term of one batch."""
        import torch

        from pefttools.objectives.perturbation import Perturbation

        options, texts = self.options, step.texts
        plain = step.answer()

        def scaled(way: torch.Tensor, read: torch.Tensor, share: float) -> torch.Tensor:
            return share * texts.norm(texts.without_padding(read)) * way

        delta = Perturbation(lambda read: scaled(direction(torch.randn_like(read), texts), read, options.probe))
        for number in range(options.steps):
            logits = step.run(delta).logits
            assert logits is not None
            (slope,) = torch.autograd.grad(step.divergence(plain, logits) * step.scale, [delta.tensor])
            last = number + 1 == options.steps
            delta.move(scaled(direction(slope, texts), delta.read, options.epsilon if last else options.probe))
        logits = step.run(delta).logits
        assert logits is not None
        return options.weight * step.divergence(plain, logits)
