"""The page of methods says what the registry says."""

from __future__ import annotations

import re
from pathlib import Path

from pefttools.adapters.peft_weights import PeftWeights
from pefttools.methods import methods

from ..methods import AVAILABLE, UNAVAILABLE

PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")


def test_every_method_stands_in_the_table_as_it_declares_itself() -> None:
    rows = {
        match[1]: match[2].split(" | ")
        for match in re.finditer(r"^\| \[?`(\w+)`(?:\]\(.*?\))? \| (.*) \|$", PAGE.split("<!-- probe:")[0], re.M)
    }
    assert rows.keys() >= {name for name in AVAILABLE if name != "stack"}
    for name in set(AVAILABLE) - {"stack"}:
        can = methods.get(name).capabilities
        summary, _, merged, pooled, quantized = rows[name]
        assert summary == methods.get(name).summary
        assert (merged, pooled) == ("yes" if can.mergeable else "no", "yes" if can.deltas else "no"), name
        named = ", ".join(sorted(can.quantized or ())) or "no"
        assert quantized == ("all" if can.quantized is None and can.trains != "base" else named), name


def test_what_is_said_of_gpt2_and_of_what_cannot_be_trained() -> None:
    (line,) = re.findall(r"PEFT has layers for (.*?); the others", PAGE, re.S)
    listed = set(re.findall(r"`(\w+)`", line))
    able = {name for name in AVAILABLE if issubclass(methods.get(name), PeftWeights) and methods.get(name).conv1d}  # type: ignore[attr-defined]
    assert listed == (able | {"lora", "ia3"}) - {"ln_tuning", "trainable_tokens"}
    assert all(f"`{name}`" in PAGE for name in UNAVAILABLE)
