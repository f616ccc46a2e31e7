"""One generated answer: its tokens as they arrive, its text, and when it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from transformers import LogitsProcessor, StoppingCriteria

from pefttools.compute.moving import moved
from pefttools.pool.generation import Sampling
from pefttools.tasks.task import Example

T = TypeVar("T")
#: what a decoder shows while the rest of a character is missing
_INCOMPLETE = "\ufffd"


@dataclass
class Generation:
    """An answer that is being generated.

    Attributes:
        prompt: token ids; for an encoder-decoder model, those that the encoder reads.
        max_tokens: maximum number of new tokens.
        ends: tokens at which it ends.
        stop: texts at which it ends; they are not part of the answer.
        sampling: how tokens are drawn; None for the most likely.
        on_text: called with each new piece of text, from the thread that generates.
        on_first: called once, when the first token arrives.
        example: what the encoder of an encoder-decoder model reads.
        tokens: what has been generated so far.
        reason: why it ended: ``stop`` or ``length``; None while it continues.
        failed: whether the model's logits for the next token were not finite.
    """

    prompt: Sequence[int]
    max_tokens: int
    ends: frozenset[int] = frozenset()
    stop: Sequence[str] = ()
    sampling: Sampling | None = None
    on_text: Callable[[str], None] | None = None
    on_first: Callable[[], None] | None = None
    example: Example | None = None
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    reason: str | None = None
    failed: bool = False
    _sent: int = 0
    _drawn: Sampling | None = None

    def restart(self) -> None:
        """Start again after a failed attempt; text that was passed on already is not passed on again."""
        self.tokens.clear()
        self.text, self.reason, self.failed = "", None, False
        self._drawn = None

    def drawing(self, device: torch.device) -> Sampling | None:
        """How its tokens are drawn; a resumed answer continues drawing where it stopped."""
        if self._drawn is None and self.sampling is not None:
            self._drawn = self.sampling.begun(device)
        return self._drawn

    def push(self, token: int, tokenizer: Any) -> bool:
        """Take the next token; True if the answer has ended."""
        if self.reason is not None:
            return True
        if self.on_first is not None:
            first, self.on_first = self.on_first, None
            first()
        if token in self.ends:
            self.reason = "stop"
        else:
            self.tokens.append(token)
            self.text = tokenizer.decode(self.tokens, skip_special_tokens=True)
            at = min((self.text.find(stop) for stop in self.stop if stop in self.text), default=-1)
            if at >= 0:
                self.text, self.reason = self.text[:at], "stop"
            elif len(self.tokens) >= self.max_tokens:
                self.reason = "length"
        self._send()
        return self.reason is not None

    def _send(self) -> None:
        """Pass on the text that can't change any more."""
        safe = len(self.text)
        if self.reason is None:
            if self.text.endswith(_INCOMPLETE):
                return
            # The end of the text may be the beginning of a stop string.
            for stop in self.stop:
                for size in range(min(len(stop) - 1, len(self.text)), 0, -1):
                    if self.text.endswith(stop[:size]):
                        safe = min(safe, len(self.text) - size)
                        break
        if safe > self._sent and self.on_text is not None:
            self.on_text(self.text[self._sent : safe])
        self._sent = max(self._sent, safe)


class Numbers(LogitsProcessor):  # type: ignore[misc]
    """Notes the rows whose logits are not finite, and lets the others continue.

    Attributes:
        bad: which rows those were at the last token, ``[rows]``, None before the first; left on the device, from where
            `Control` fetches them with the tokens.
    """

    bad: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # Only the largest is checked: a token may be forbidden by minus infinity.
        self.bad = ~scores.max(-1).values.isfinite()
        return scores.masked_fill(self.bad[:, None], 0.0)


class Control(StoppingCriteria):  # type: ignore[misc]
    """Hands each row's new token to its `Generation` and ends rows one by one.

    Args:
        rows: the answers, in the order of the batch.
        cancelled: per row, whether nobody is waiting for it any more.
        ended: per row, called once its answer has ended, while others continue.
        tokenizer: the base's tokenizer.
        gives_way: called at every token with the number of unfinished answers: whether all should stop here, and
            continue later.
        numbers: notes the rows that failed.
    """

    def __init__(
        self,
        rows: Sequence[Generation],
        cancelled: Sequence[Callable[[], bool]],
        ended: Sequence[Callable[[], None]],
        tokenizer: Any,
        gives_way: Callable[[int], bool],
        numbers: Numbers,
    ) -> None:
        self.rows = rows
        self.cancelled = cancelled
        self.ended = list(ended)
        self.open = [True] * len(rows)
        self.tokenizer = tokenizer
        self.gives_way = gives_way
        self.numbers = numbers

    def going_on(self, rows: Sequence[T]) -> list[T]:
        """Those of the rows, in the order of the batch, whose answers are to be continued."""
        return [row for row, goes_on in zip(rows, self.open, strict=True) if goes_on]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        # The one thing that the CPU must wait for at every token.
        last, bad = input_ids[:, -1], self.numbers.bad
        news = torch.stack([last, torch.zeros_like(last) if bad is None else bad.to(last.dtype)]).tolist()
        for index, (token, failed) in enumerate(zip(*news, strict=True)):
            if not self.open[index]:
                continue
            if failed:
                self.rows[index].failed = True
                self.open[index] = False
            elif self.rows[index].push(token, self.tokenizer):
                self.open[index] = False
                self.ended[index]()
            elif self.cancelled[index]():
                self.open[index] = False
        stop = self.gives_way(sum(self.open))
        return moved(torch.tensor([stop or not one for one in self.open]), input_ids.device)


def sampling(temperature: float, top_p: float, top_k: int, seed: int | None) -> Sampling | None:
    """OpenAI's options: temperature 0 takes the most likely token."""
    if temperature == 0:
        return None
    drawn = int(torch.randint(2**31, ()).item()) if seed is None else seed
    return Sampling(drawn, temperature, max(top_k, 0), top_p)
