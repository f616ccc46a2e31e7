"""The base class of methods that put embeddings before the input: the embeddings are what is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from pefttools.methods import Capabilities, MethodConfig

from .peft_bridge import PeftMethod
from .virtual_tokens import check_prompt

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pefttools.deltas import AdapterDeltas

ConfigT = TypeVar("ConfigT", bound=MethodConfig)


class _WithLength(Protocol):
    length: int


class PromptMethod(PeftMethod[ConfigT]):
    """A method of PEFT whose virtual tokens are embeddings. Its options have a `length`."""

    state_prefix = "base_model."
    # With padding between prompt and text, PEFT gives the text other positions than in training from its second token.
    capabilities = Capabilities(effect="virtual_tokens", all_inputs=False, left_padding=False, deltas=True)

    def check_model(self, config: ConfigT, model: nn.Module) -> None:
        check_prompt(model, self.name)

    def virtual_tokens(self, config: ConfigT) -> int:
        return cast("_WithLength", config).length

    def state_deltas(self, state: dict[str, Tensor], options: dict[str, Any], model: nn.Module) -> AdapterDeltas:
        from pefttools.deltas import AdapterDeltas, Prompt

        return AdapterDeltas({}, (Prompt(state["prompt_embeddings"]),))
