"""Options of prefix tuning."""

from __future__ import annotations

from pydantic import Field

from pefttools.methods import MethodConfig


class PrefixConfig(MethodConfig):
    """Options of prefix tuning."""

    length: int = Field(20, ge=1, description="number of virtual tokens")
