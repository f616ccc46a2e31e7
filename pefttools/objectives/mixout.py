"""Trained weights are mixed at random with those that training began with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pefttools.errors import ConfigError
from pefttools.objectives.objective import Objective, ObjectiveConfig

if TYPE_CHECKING:
    import torch

    from pefttools.bases import BaseVariant
    from pefttools.methods import Method
    from pefttools.objectives.step import Step
    from pefttools.tasks import Task
    from pefttools.tasks.model import Model


class MixoutConfig(ObjectiveConfig):
    """Options of mixout."""

    p: float = Field(
        0.7, ge=0, lt=1, description="probability with which a weight is replaced by its value at the start"
    )


class Mixout(Objective[MixoutConfig]):
    """While it is trained, the model has ``(m w0 + (1 - m) w - p w0) / (1 - p)`` in the place of its weights ``w``.

    ``m`` is 1 with probability ``p`` and 0 otherwise, drawn for each weight; ``w0`` are the trained weights as training
    begins. The mean over the draws is ``w``, which is what is evaluated, saved and updated. ``m`` is the same in all
    passes of a step, and drawn anew for each part of a batch that is computed in parts. Penalties on the weights,
    such as `l2-sp`, are of ``w``.

    If the base's own weights are trained, ``w0`` are the pretrained ones, as in the paper. Of an adapter they are the
    adapter's start: the weights that a method draws or computes, or those of the artifact that training starts `from`.
    The head is left as it is: its start is random. The paper mixes the weights of linear layers, and its code draws one
    ``m`` for all weights that read the same input; here every trained weight is mixed on its own, biases and norms too,
    which the paper calls mixconnect. That code leaves the factor ``1 / (1 - p)`` out of the gradient; it is in ours.

    References:
        Lee, C., Cho, K. and Kang, W. (2020). Mixout: effective regularization to finetune large-scale pretrained
        language models. ICLR. https://arxiv.org/abs/1909.11299
    """

    name = "mixout"
    summary = "regularization: trained weights are replaced at random by those of the start (mixout)"
    paper = "https://arxiv.org/abs/1909.11299"
    config = MixoutConfig
    changes_weights = True

    def check(self, method: Method[Any], variant: BaseVariant, task: Task[Any]) -> None:
        super().check(method, variant, task)
        if method.capabilities.trains == "head":
            raise ConfigError(
                f"the objective {self.name!r} has no effect: the method {method.name!r} trains the head alone, which "
                "it leaves as it is"
            )

    def begin(self, model: Model, trained: dict[str, torch.Tensor]) -> None:
        of_head = model.of_head()
        self._start = {name: p.detach().clone() for name, p in trained.items() if name not in of_head}

    @contextmanager
    def weights(self, step: Step) -> Iterator[Callable[[str, torch.Tensor], None]]:
        import torch

        share = self.options.p
        replaced: dict[str, torch.Tensor] = {}
        own: dict[str, torch.Tensor] = {}

        def chain(name: str, gradient: torch.Tensor) -> None:
            if name in replaced:
                gradient.div_(1 - share).masked_fill_(replaced[name], 0.0)

        with torch.no_grad():
            for name, start in self._start.items() if share else ():
                weight = step.trained[name]
                replaced[name] = torch.empty_like(weight, dtype=torch.bool).bernoulli_(share)
                own[name] = weight.detach().clone()
                weight.sub_(start).div_(1 - share).masked_fill_(replaced[name], 0.0).add_(start)
        try:
            yield chain
        finally:
            with torch.no_grad():
                for name, weight in own.items():
                    step.trained[name].copy_(weight)

    def state(self) -> dict[str, torch.Tensor]:
        return self._start

    def restore_state(self, state: dict[str, torch.Tensor]) -> None:
        self._start = state
