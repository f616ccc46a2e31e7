"""The task of a base without an adapter."""

from __future__ import annotations

from typing import Any

from pefttools.tasks.causal_lm import CausalLM
from pefttools.tasks.causal_lm_config import CausalLMConfig
from pefttools.tasks.task import Task


def base_task() -> Task[Any]:
    """Writes prompts for a base as it is: chats by its own template."""
    return CausalLM(CausalLMConfig())
