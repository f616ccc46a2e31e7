"""HiRA: the base's weight times a low-rank matrix, element by element.

HiRA: Parameter-Efficient Hadamard High-Rank Adaptation, https://openreview.net/forum?id=TwJrTz9cRS

    y = W x + (W * B A) x          * element by element; of any rank
"""

from __future__ import annotations

from pydantic import Field

from ..peft_weights import QUANTIZED, TORCHAO, DropoutOptions, PeftWeights


class HiRAOptions(DropoutOptions):
    """Options of HiRA."""

    r: int = Field(32, ge=1, description="rank of the factor")


class HiRA(PeftWeights[HiRAOptions]):
    """Weights scaled element by element, by a low-rank matrix."""

    name = "hira"
    summary = "weights times a low-rank matrix, element by element"
    paper = "https://openreview.net/forum?id=TwJrTz9cRS"
    config = HiRAOptions
    learning_rate = 1e-2
    peft_class = "HiraConfig"
    quantized = QUANTIZED - TORCHAO
    conv1d = True
