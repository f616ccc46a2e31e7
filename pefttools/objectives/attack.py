"""What adversarial objectives share: how large a perturbation may be, and how it is enlarged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field

from pefttools.objectives.objective import Objective, ObjectiveConfig

if TYPE_CHECKING:
    import torch

    from pefttools.objectives.inputs import Texts


class AttackConfig(ObjectiveConfig):
    """Options of an adversarial objective."""

    epsilon: float = Field(
        0.1, gt=0, description="largest norm of a perturbation, as a share of the norm of the text that it changes"
    )


class SteppedAttackConfig(AttackConfig):
    """Options of one that enlarges its perturbation in several steps."""

    steps: int = Field(3, ge=1, description="passes that the perturbation is enlarged in")
    step_size: float | None = Field(
        None, gt=0, description="norm of what a step adds, as a share as `epsilon`; none: 1.5 * epsilon / steps"
    )
    norm: Literal["l2", "linf"] = Field(
        "l2", description="l2: the norm of the whole text; linf: the largest number, as a share of the root mean square"
    )

    @property
    def step_share(self) -> float:
        """What a step adds, as a share."""
        return 1.5 * self.epsilon / self.steps if self.step_size is None else self.step_size


ConfigT = TypeVar("ConfigT", bound=AttackConfig)
SteppedT = TypeVar("SteppedT", bound=SteppedAttackConfig)


class Attack(Objective[ConfigT]):
    """An objective that perturbs what the model reads in the direction that harms most."""

    perturbs = True


class SteppedAttack(Attack[SteppedT]):
    """One that does so in several steps."""

    def enlarged(self, delta: torch.Tensor, slope: torch.Tensor, read: torch.Tensor, texts: Texts) -> torch.Tensor:
        """A perturbation after one more step, within its bound.

        Args:
            delta: as it is.
            slope: gradient with regard to it, times a number above 0.
            read: what is perturbed.
            texts: which numbers belong to which text.
        """
        options = self.options
        if options.norm == "linf":
            unit = root_mean_square(read, texts)
            return (delta + options.step_share * unit * slope.sign()).clamp(
                -options.epsilon * unit, options.epsilon * unit
            )
        size = texts.norm(texts.without_padding(read))
        return shortened(delta + options.step_share * size * direction(slope, texts), options.epsilon * size, texts)


def direction(slope: torch.Tensor, texts: Texts) -> torch.Tensor:
    """A gradient as unit vectors, one per text; 0 where it is 0."""
    slope = texts.without_padding(slope.float())
    # A gradient may be too small to be squared in float32.
    slope = slope / texts.largest_of_each(slope.abs()).clamp(min=_TINY)
    return slope / texts.norm(slope).clamp(min=_TINY)


def shortened(delta: torch.Tensor, longest: torch.Tensor, texts: Texts) -> torch.Tensor:
    """A perturbation whose norm is at most `longest` in each text."""
    return delta * (longest / texts.norm(delta).clamp(min=_TINY)).clamp(max=1.0)


def root_mean_square(read: torch.Tensor, texts: Texts) -> torch.Tensor:
    """Of each text's numbers."""
    import torch

    counted = texts.without_padding(torch.ones_like(read))
    return texts.norm(texts.without_padding(read)) / texts.of_each(counted).clamp(min=1.0).sqrt()


_TINY: Any = 1e-30
