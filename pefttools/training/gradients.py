"""Parameters that are declared as trained, and whether they are."""

from __future__ import annotations

import re

from pefttools.errors import TrainingError
from pefttools.tuned import TunedModel

_EXPERT = re.compile(r"experts\.\d+")


def without_gradient(model: TunedModel) -> list[str]:
    """Trained parameters that got no gradient in the last pass."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]


def check_gradients(model: TunedModel, untouched: list[str]) -> None:
    """Refuse to continue if some of a method's own parameters are not trained by anything.

    If every weight of the base is trained, those that this task does not use, such as a pooler's, may have no gradient.

    Raises:
        TrainingError: names them.
    """
    # An expert of a mixture that no token of the first rows was routed to is trained by other rows.
    alive = {_EXPERT.sub("experts.#", n) for n, p in model.named_parameters() if p.grad is not None}
    untouched = [name for name in untouched if _EXPERT.sub("experts.#", name) not in alive]
    everything = all(parameter.requires_grad for parameter in model.transformer.parameters())
    if not untouched or everything:
        return
    raise TrainingError(
        f"{len(untouched)} parameters that {model.spec.method.name!r} counts as trained got no gradient in the first "
        f"step: {', '.join(untouched[:5])}{', ...' if len(untouched) > 5 else ''}",
        hint="The base does not run them, or reads them bypassing the method. Exclude them with the method's targets.",
    )
