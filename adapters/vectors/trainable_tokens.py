"""Trainable tokens: the embeddings of some tokens are trained, all others stay frozen.

For tokens that a base has seldom seen, such as those of a chat format or of a special field; see PEFT's documentation.

    embedding[token]          its vector is trained if it is one of `tokens`
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from pefttools.errors import ConfigError
from pefttools.methods import Capabilities, Target
from pefttools.sites import transformers_models

from ..peft_weights import QUANTIZED, LayerOptions, PeftWeights

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pefttools.deltas import AdapterDeltas, SiteDelta

_DELTA = ".trainable_tokens_delta"


class TrainableTokensOptions(LayerOptions):
    """Options of trainable tokens."""

    targets: list[str] = Field(default_factory=list, description="the embedding, by its name; empty: the base's own")
    tokens: list[int] = Field(min_length=1, description="ids of the tokens in the vocabulary")


class TrainableTokens(PeftWeights[TrainableTokensOptions]):
    """Training of a few rows of the embedding."""

    name = "trainable_tokens"
    summary = "the embeddings of some tokens"
    config = TrainableTokensOptions
    capabilities = Capabilities(effect="weights", modalities=frozenset({"text"}), deltas=True)
    learning_rate = 1e-2
    peft_class = "TrainableTokensConfig"
    peft_names = {"tokens": "token_indices"}  # noqa: RUF012
    quantized = QUANTIZED
    conv1d = True

    def sites(self, model: nn.Module, config: TrainableTokensOptions, target: Target | None = None) -> list[str]:
        if config.targets:
            return list(config.targets)
        inputs = transformers_models(model)[0].get_input_embeddings()
        return [name for name, module in model.named_modules() if module is inputs]

    def decays_to(self, model: nn.Module, config: TrainableTokensOptions, name: str) -> float | None:
        return None if ".trainable_tokens_delta." in name else 0.0  # they start as the base's own vectors

    def check_model(self, config: TrainableTokensOptions, model: nn.Module) -> None:
        super().check_model(config, model)
        size = transformers_models(model)[0].get_input_embeddings().weight.shape[0]
        if max(config.tokens) >= size or min(config.tokens) < 0:
            raise ConfigError(
                f"trainable_tokens.tokens: there is no token {max(config.tokens)}",
                hint=f"The base's vocabulary has the tokens 0 to {size - 1}.",
            )

    def state_deltas(self, state: dict[str, Tensor], options: dict[str, Any], model: nn.Module) -> AdapterDeltas:
        import torch

        from pefttools.deltas import AdapterDeltas

        tokens = torch.tensor(options["token_indices"])
        sites = {name.removesuffix(_DELTA): vectors for name, vectors in state.items()}
        return AdapterDeltas({site: _at(model.get_submodule(site), tokens, rows) for site, rows in sites.items()})


def _at(module: nn.Module, tokens: Tensor, vectors: Tensor) -> SiteDelta:
    """Vectors of an embedding; for a language head that shares its weight, a change of the same rows."""
    import torch

    from pefttools.deltas import EmbeddingRows, LowRank, SiteDelta
    from pefttools.deltas.weights import dense_weight
    from pefttools.sites import is_linear, output_size

    if not is_linear(module):
        return SiteDelta(EmbeddingRows(tokens, vectors))
    change = vectors - dense_weight(module)[tokens.to(next(module.parameters()).device)].to(vectors)
    places = torch.nn.functional.one_hot(tokens, output_size(module)).T
    return SiteDelta(LowRank(change, places.to(vectors)))
