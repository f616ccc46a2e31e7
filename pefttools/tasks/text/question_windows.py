"""A question and its context as tokens, and the windows in which a model reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pefttools.data import Table
from pefttools.errors import BaseModelError
from pefttools.tasks.task import Example
from pefttools.tasks.text.answer_rows import answers_of
from pefttools.tasks.text.text_pairs import between
from pefttools.tasks.text.windows import characters, covering, windows


def encode_questions(table: Table, tokenizer: Any, limit: int, stride: int, learned: bool) -> list[Example]:
    """One example per row, whole: no context is cut.

    Args:
        table: checked rows.
        tokenizer: a fast one, which knows what characters a token stands for.
        limit: tokens of a window.
        stride: tokens that windows share.
        learned: with the answers.

    Returns:
        ``input_ids``: what the tokenizer makes of question and context; ``before``, ``behind``: numbers of tokens
        before and after those of the context; ``none``: where "no answer" is in a window, -1 for its last token;
        ``starts``, ``ends``: characters of the context's tokens; ``context``. Learned: ``answers``, one empty text
        if there are none; ``span``: first and last token of the first answer in the context, or nothing.

    Raises:
        DataError: a question that leaves no room, a context or an answer without a token; names file, row and column.
        BaseModelError: the tokenizer can't say what its tokens stand for.
    """
    if not tokenizer.is_fast:
        raise BaseModelError("this task needs a fast tokenizer, which knows what characters a token stands for")
    questions = [f"{row['question'].strip()}{between(tokenizer)}" for row in table.rows]
    contexts = [row["context"] for row in table.rows]
    encoded = tokenizer(questions, contexts, return_offsets_mapping=True, verbose=False)
    return [_example(table, index, encoded, tokenizer, (limit, stride), learned) for index in range(len(table))]


def _example(table: Table, index: int, encoded: Any, tokenizer: Any, sizes: tuple[int, int], learned: bool) -> Example:
    sides = encoded.sequence_ids(index)
    if 1 not in sides:
        raise table.error(index, "context", "the tokenizer leaves nothing of this context", hint="Drop the row.")
    before, count = sides.index(1), sides.count(1)
    offsets = encoded["offset_mapping"][index][before : before + count]
    ids, behind = list(encoded["input_ids"][index]), len(sides) - before - count
    types = {"token_type_ids": list(encoded["token_type_ids"][index])} if "token_type_ids" in encoded else {}
    none = ids[:before].index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids[:before] else -1
    if none < 0 and not behind:
        # This tokenizer has no token that could say that there is no answer; at the end, a decoder has seen everything.
        ids.append(_end(tokenizer))
        behind = 1
        if types:
            types["token_type_ids"].append(types["token_type_ids"][-1])
    limit, stride = sizes
    if (room := limit - before - behind) <= stride:
        raise table.error(
            index,
            "question",
            f"its {before + behind} tokens leave room for {max(room, 0)} of the context, but windows share {stride}",
            hint=f"Raise task.max_length={limit}, lower task.stride={stride}, or shorten the question.",
        )
    starts, ends = [a for a, _ in offsets], [b for _, b in offsets]
    example: Example = {
        "input_ids": ids, **types, "before": before, "behind": behind, "none": none, "starts": starts, "ends": ends,
        "context": table.rows[index]["context"],
    }  # fmt: skip
    return {**example, **_answered(table, index, starts, ends)} if learned else example


def _answered(table: Table, index: int, starts: Sequence[int], ends: Sequence[int]) -> Example:
    answers = answers_of(table, index)
    if not answers.texts:
        return {"answers": [""], "span": []}
    if answers.start is None:
        return {"answers": list(answers.texts), "span": []}
    text = answers.texts[0]
    span = covering(starts, ends, answers.start, answers.start + len(text))
    if span is None:
        role = "answers" if "answers" in table.columns else "answer"
        raise table.error(index, role, f"the tokenizer leaves nothing of the answer {text!r}", hint="Drop the row.")
    return {"answers": list(answers.texts), "span": list(span)}


def _end(tokenizer: Any) -> int:
    for token in (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id):
        if token is not None:
            return int(token)
    raise BaseModelError("the tokenizer has no token that could end a text")


class Question:
    """A row as `encode_questions` gives it.

    Args:
        example: the row.
    """

    def __init__(self, example: Example) -> None:
        self._example = example

    def places(self, limit: int, stride: int) -> list[tuple[int, int]]:
        """First token of the context in each window, and the one after the last."""
        one = self._example
        return windows(len(one["starts"]), limit - one["before"] - one["behind"], stride)

    def windows(self, limit: int, stride: int) -> list[Example]:
        """What the model reads: the question, a part of the context, and what ends them.

        Returns:
            ``input_ids`` and the like; ``first``, ``count``: the tokens of the context that are in it; ``before``: the
            place of the first of them; ``none``: that of "no answer". Labelled: ``labels``, places of the answer's
            first and last token, both that of "no answer" unless all of it is in the window.
        """
        one = self._example
        before, end = one["before"], len(one["input_ids"]) - one["behind"]
        found = []
        for first, last in self.places(limit, stride):
            window: Example = {
                name: [*one[name][:before], *one[name][before + first : before + last], *one[name][end:]]
                for name in ("input_ids", "token_type_ids")
                if name in one
            }
            none = one["none"] if one["none"] >= 0 else len(window["input_ids"]) - 1
            window |= {"first": first, "count": last - first, "before": before, "none": none}
            if "span" in one:
                whole = self.holds(first, last)
                window["labels"] = [before + place - first for place in one["span"]] if whole else [none, none]
            found.append(window)
        return found

    def holds(self, first: int, last: int) -> bool:
        """Whether all of the answer is in a window."""
        span = self._example["span"]
        return bool(span) and first <= span[0] and span[1] < last

    def characters(self, first: int, last: int) -> tuple[int, int]:
        """Where in the context these tokens begin, and the character after them."""
        return characters(self._example["context"], self._example["starts"][first], self._example["ends"][last])


def window_notes(examples: Sequence[Example], limit: int, stride: int, longest: int) -> list[str]:
    """What became of labelled rows, one line each: how many windows, and which answers can't be found as they are."""
    rows = several = count = silent = lost = long = inexact = 0
    for example in examples:
        question = Question(example)
        places = question.places(limit, stride)
        rows, count, several = rows + 1, count + len(places), several + (len(places) > 1)
        span = example.get("span", [])
        held = sum(question.holds(*place) for place in places) if span else 0
        silent += len(places) - held
        if span:
            start, end = question.characters(*span)
            lost += not held
            long += span[1] - span[0] >= longest
            inexact += example["context"][start:end] != example["answers"][0].strip()
    notes = [
        f"{rows:,} rows gave {count:,} windows of up to {limit} tokens, {silent:,} of them without the answer; "
        f"{several:,} contexts took more than one"
    ]
    if lost:
        notes.append(f"{lost:,} answers are too long for a window: raise task.max_length or task.stride")
    if long:
        notes.append(
            f"{long:,} first answers have more than task.max_answer_length={longest} tokens and can't be given"
        )
    if inexact:
        notes.append(f"{inexact:,} first answers begin or end inside a token: slightly more than the answer is learned")
    return notes
