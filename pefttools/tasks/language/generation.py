"""What tasks that generate text have in common."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pefttools.tasks.evaluation import Prediction


def end_tokens(model: Any) -> list[int]:
    """Tokens at which a transformers model's own generation settings end a text."""
    settings = getattr(model, "generation_config", None)  # an encoder has none
    ends = None if settings is None else settings.eos_token_id
    if ends is None:
        return []
    return [ends] if isinstance(ends, int) else list(ends)


def answer_text(tokens: Sequence[int], tokenizer: Any, ends: Collection[int]) -> str:
    """Text of generated tokens, up to the first that ends the answer."""
    stop = next((index for index, token in enumerate(tokens) if token in ends), len(tokens))
    text: str = tokenizer.decode(list(tokens[:stop]), skip_special_tokens=True)
    return text


@dataclass(frozen=True)
class TextPrediction(Prediction):
    """The answer to one prompt.

    Attributes:
        answer: the generated text; None if nothing was generated.
        loss: of the true completion's tokens, summed; in nats.
        right: how many of them were predicted correctly after the true beginning.
        tokens: their number; 0 if no completion is known.
    """

    answer: str | None
    loss: float = 0.0
    right: int = 0
    tokens: int = 0

    def as_dict(self, *, all_scores: bool = False) -> dict[str, Any]:
        return {"prediction": self.right if self.answer is None else self.answer}

    def shown(self, answer: str | None) -> Any:
        return self.right if answer is None else answer

    def entry(self, reference: str) -> dict[str, Any]:
        if self.answer is None:
            return {"prediction": self.right, "reference": self.tokens, "correct": self.right == self.tokens}
        return {**super().entry(reference), "correct": self.answer.strip() == reference.strip()}
