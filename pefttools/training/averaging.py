"""An average of the trained weights over the steps, which is evaluated and kept instead of the last ones.

References:
    Polyak, B. T. and Juditsky, A. B. (1992). Acceleration of stochastic approximation by averaging. SIAM Journal on
    Control and Optimization 30(4).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pefttools.training.checkpoints import State, put_state
from pefttools.tuned import TunedModel


class AveragedWeights:
    """An exponential moving average.

    Early on it follows the weights faster, by ``min(decay, (1 + step) / (10 + step))``: an average that still holds the
    start would be worse than none.

    Args:
        model: its trained parameters are averaged.
        decay: how much of the average is kept at each step.
    """

    def __init__(self, model: TunedModel, decay: float) -> None:
        self._model = model
        self._decay = decay
        self.state: State = {name: p.clone() for name, p in model.trainable_state().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step.

        Args:
            step: its number, from 1.
        """
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        for name, parameter in self._model.trained().items():
            self.state[name].lerp_(parameter, share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model with the average as its weights."""
        own = {name: p.clone() for name, p in self._model.trainable_state().items()}
        self.put()
        try:
            yield
        finally:
            put_state(self._model, own, "the weights of the training")

    def put(self) -> None:
        """Make the average the model's weights."""
        put_state(self._model, self.state, "the moving average")
