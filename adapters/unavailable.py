"""Adapter types of PEFT that can't be trained from a configuration: listed here, each with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pefttools.methods import Capabilities, Method, MethodConfig, Target

if TYPE_CHECKING:
    from torch import nn


class _Unavailable(Method[MethodConfig]):
    """A method that is refused before anything is loaded."""

    library = "peft"
    config = MethodConfig
    capabilities = Capabilities()
    learning_rate = 1e-3

    def wrap(self, model: nn.Module, config: MethodConfig, target: Target) -> nn.Module:
        raise self.refusal()

    def save(self, model: nn.Module, folder: Path, base_id: str) -> None:
        raise self.refusal()

    def load(self, model: nn.Module, folder: Path, config: MethodConfig, target: Target) -> nn.Module:
        raise self.refusal()


class ActivatedLora(_Unavailable):
    """Activated LoRA, https://arxiv.org/abs/2504.12397."""

    name = "alora"
    summary = "LoRA that acts from a given sequence of tokens on"
    paper = "https://arxiv.org/abs/2504.12397"
    peft_class = "LoraConfig"
    why_not = "what it does depends on where its invocation stands, which generation, packing and pools don't follow"


class Arrow(_Unavailable):
    """Arrow, https://arxiv.org/abs/2405.11157."""

    name = "arrow"
    summary = "a router over previously trained LoRA adapters, computed from their weights"
    paper = "https://arxiv.org/abs/2405.11157"
    peft_class = "LoraConfig"
    why_not = "nothing of it is trained, and PEFT reads the adapters that it mixes bypassing every check"


class CPT(_Unavailable):
    """Context-aware prompt tuning, https://arxiv.org/abs/2410.17222."""

    name = "cpt"
    summary = "virtual tokens initialized from examples of the task"
    paper = "https://arxiv.org/abs/2410.17222"
    why_not = "it starts from worked examples, in which the role of every token is marked, and weights the loss by them"


class MultitaskPromptTuning(_Unavailable):
    """Multitask prompt tuning, https://arxiv.org/abs/2303.02861."""

    name = "multitask_prompt_tuning"
    summary = "one prompt for several tasks, and a small change of it for each"
    paper = "https://arxiv.org/abs/2303.02861"
    why_not = "every row needs the number of its task; for one task it is prompt tuning, the method 'prompt'"


class Poly(_Unavailable):
    """Polytropon, https://arxiv.org/abs/2202.13914."""

    name = "poly"
    summary = "a mixture of low-rank updates for each of several tasks"
    paper = "https://arxiv.org/abs/2202.13914"
    why_not = "every row needs the number of its task; for one task it is LoRA, the method 'lora'"


class QALora(_Unavailable):
    """QA-LoRA, https://arxiv.org/abs/2309.14717."""

    name = "qalora"
    summary = "LoRA on pooled groups of inputs, which merges into a base quantized in such groups"
    paper = "https://arxiv.org/abs/2309.14717"
    peft_class = "LoraConfig"
    why_not = "PEFT has it on GPTQ bases only, which are not loaded here"


class Shadow(_Unavailable):
    """ShadowPEFT, https://arxiv.org/abs/2604.19254."""

    name = "shadow"
    summary = "a small side network that corrects the states of the base's layers"
    paper = "https://arxiv.org/abs/2604.19254"
    why_not = "PEFT 0.21 can't run it on the models of transformers 5: a layer is given a tuple instead of states"


class XLora(_Unavailable):
    """X-LoRA, https://arxiv.org/abs/2402.07148."""

    name = "xlora"
    summary = "a router over previously trained LoRA adapters"
    paper = "https://arxiv.org/abs/2402.07148"
    why_not = "it mixes previously trained adapters, each in its own folder, which PEFT reads bypassing every check"
