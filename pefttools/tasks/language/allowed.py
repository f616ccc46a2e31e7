"""Generation that can write nothing but certain answers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pefttools.errors import ConfigError

if TYPE_CHECKING:
    import torch


class AllowedAnswers:
    """Which tokens may come next in an answer.

    Args:
        answers: the tokens of each answer in all ways in which it is written; those after its end are ignored.
        ends: tokens that end an answer.
        longest: maximum number of new tokens.

    Raises:
        ConfigError: an answer is longer, or no token ends one.
    """

    def __init__(self, answers: Mapping[str, Sequence[Sequence[int]]], ends: Collection[int], longest: int) -> None:
        if not ends:
            raise ConfigError("task.answers: the base has no token that ends an answer")
        self._next: dict[int, Any] = {}
        for answer, tokens in ((answer, one) for answer, ways in answers.items() for one in ways):
            own = _until_end(tokens, ends)
            if len(own) > longest:
                raise ConfigError(
                    f"task.answers: {answer!r} takes {len(own)} tokens, but task.max_new_tokens is {longest}",
                    hint=f"Set task.max_new_tokens={len(own)} or more.",
                )
            node = self._next
            for token in own:
                node = node.setdefault(token, {})

    def after(self, tokens: Iterable[int]) -> list[int]:
        """Tokens that may follow those of an answer so far; none if it has ended."""
        node = self._next
        for token in tokens:
            node = node.get(token, {})
        return list(node)


class OnlyAllowed:
    """A processor of logits for transformers' ``generate``: all tokens that may not come next get minus infinity.

    Args:
        rows: what each row may write; None for anything. Beams of a row follow one another.
        starts: where the answer of each row begins in its tokens.
    """

    def __init__(self, rows: Sequence[AllowedAnswers | None], starts: Sequence[int]) -> None:
        self._rows = rows
        self._starts = starts

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Logits ``[rows, vocabulary]`` of the tokens after ``input_ids``, ``[rows, tokens]``."""
        import torch

        beams, found = len(scores) // len(self._rows), scores.clone()
        for index in range(len(scores)):
            own, start = self._rows[index // beams], self._starts[index // beams]
            following = [] if own is None else own.after(input_ids[index, start:].tolist())
            if following:
                chosen = torch.tensor(following, device=scores.device)
                found[index] = float("-inf")
                found[index, chosen] = scores[index, chosen]
                if bool(found[index].isneginf().all()):
                    raise ConfigError(
                        "the base's generation settings forbid every token with which an answer of task.answers could "
                        "go on",
                        hint="Remove suppress_tokens, no_repeat_ngram_size and such from its generation_config.json.",
                    )
        return found


def constraint(own: AllowedAnswers | None, rows: int, start: int) -> dict[str, list[OnlyAllowed]]:
    """Options for ``generate`` that keep a batch to the allowed answers; none if any text may be written.

    Args:
        own: what each row may write.
        rows: their number.
        start: number of tokens before the answers.
    """
    return {} if own is None else {"logits_processor": [OnlyAllowed([own] * rows, [start] * rows)]}


def _until_end(tokens: Sequence[int], ends: Collection[int]) -> list[int]:
    """The tokens up to the first that ends an answer; if none does, one that does follows."""
    stop = next((index for index, token in enumerate(tokens) if token in ends), None)
    return [*tokens, min(ends)] if stop is None else list(tokens[: stop + 1])
