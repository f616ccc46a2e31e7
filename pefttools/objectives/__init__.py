"""What is minimised beside the task's loss, or instead of it; see `Objective`."""

from pefttools.objectives.objective import Objective, ObjectiveConfig, objectives

__all__ = ["Objective", "ObjectiveConfig", "objectives"]
