"""Tuning methods: their contract, and the registry of installed ones."""

from .facts import Capabilities, MethodConfig, Pass, Target, TaskFacts
from .method import Method, methods

__all__ = ["Capabilities", "Method", "MethodConfig", "Pass", "Target", "TaskFacts", "methods"]
