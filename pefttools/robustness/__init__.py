"""How well a trained model answers when its input is worse than that it was trained on; see `Condition`."""

from pefttools.robustness.condition import Condition

__all__ = ["Condition"]
