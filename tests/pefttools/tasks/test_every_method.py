"""Every task by every built-in method, on plain and on quantized weights: as it was in a process that knows nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pefttools
from pefttools.errors import ConfigError
from pefttools.methods import methods
from pefttools.tasks import tasks
from tests.methods import AVAILABLE, OTHERS, choice_of
from tests.pefttools.tasks.samples import SAMPLES, base_of

BUILT_IN = [name for name in AVAILABLE if methods.origin(name).distribution == "pefttools"]
#: method, variant -> why it is refused before anything is loaded
REFUSED = {
    ("full", "nf4"): "can't be used with the variant 'nf4'",
    ("head", "causal-lm"): "it trains a head, and the task has none",
    ("head", "preferences"): "it trains a head, and the task has none",
    ("head", "seq2seq-lm"): "it trains a head, and the task has none",
    ("head", "speech-recognition"): "it trains a head, and the task has none",
    ("head", "prompted-classification"): "the answers are words of the base's own language head",
}
#: tasks whose models read two texts, which a BERT tells apart by token types
READ_PAIRS = ("multiple-choice", "question-answering")
_ASK = """
import json, sys
import pefttools
for line in sys.stdin:
    folder, rows = json.loads(line)
    print(json.dumps(pefttools.predict(folder, rows)))
"""


#: why methods of PEFT are refused before anything is loaded, or by the base's structure
KNOWN = (
    "can't be used with the variant", "can't train the task", "PEFT does not support its attention",
    "can't train the model's own head", "can't be used on models with an encoder and a decoder",
    "the parts of this model's blocks are not known",
)  # fmt: skip


def _refused(recipe: dict[str, Any]) -> bool:
    """Whether a recipe is refused for a known reason; any other one is an error."""
    try:
        pefttools.train(recipe)
    except pefttools.PeftToolsError as error:
        assert any(reason in error.message for reason in KNOWN), (recipe["method"], error.message)
        return True
    shutil.rmtree(recipe["output"])
    return False


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["float32", "nf4"])
@pytest.mark.parametrize("name", SAMPLES)
def test_a_new_process_predicts_what_the_trained_model_did(
    name: str, variant: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    options, rows = SAMPLES[name]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    asked = [{role: cell for role, cell in row.items() if role in tasks.get(name).inputs()} for row in rows[:6]]
    before: dict[str, list[dict[str, Any]]] = {}
    for method in BUILT_IN:
        recipe = {
            "base": base_of(name, request), "variant": variant, "method": choice_of(method),
            "task": {"name": name, **options}, "data": {"train": str(path), "validation": 0.34},
            "training": {"max_steps": 3, "batch_size": 8, "precision": "float32"}, "output": str(tmp_path / method),
        }  # fmt: skip
        why = REFUSED.get((method, variant)) or REFUSED.get((method, name))
        if method == "bitfit" and name in ("causal-lm", "seq2seq-lm", "preferences", "prompted-classification"):
            why = "no bias terms"  # as no Llama and no T5 has
        can = methods.get(method).capabilities
        if can.effect == "virtual_tokens" and tasks.get(name).modality != "text":
            why = "it puts virtual tokens before a text"
        if not can.all_inputs and tasks.get(name).name in READ_PAIRS:
            why = "it drops token types"
        if why is None and method in OTHERS and _refused(recipe):
            assert not (tmp_path / method).exists()
            continue
        if why is not None:
            with pytest.raises(pefttools.PeftToolsError, match=why) as caught:
                pefttools.train(recipe)
            assert isinstance(caught.value, ConfigError) and not (tmp_path / method).exists()
            continue
        stored = pefttools.train(recipe)
        assert stored is not None
        before[str(tmp_path / method)] = pefttools.predict(stored.model, asked)
    done = subprocess.run(
        [sys.executable, "-c", _ASK], input="".join(f"{json.dumps([one, asked])}\n" for one in before),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    after = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(after) == len(before) >= 5
    for (folder, expected), found in zip(before.items(), after, strict=True):
        assert found == expected, folder
