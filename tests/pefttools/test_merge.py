"""Merged models, opened by other libraries alone: they give the adapter's labels, scores and texts."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import pefttools
from pefttools.artifact.merge import MergeError
from pefttools.errors import ConfigError

LABELS = ["no", "perhaps", "yes"]
TEXTS = ["where is my card", "rate", "i would like to know what the rate is"]


def _artifact(base: str, folder: Path, task: dict[str, Any], method: dict[str, Any] | None = None) -> Path:
    """An adapter far from its start."""
    classifies = task["name"] == "sequence-classification"
    model = pefttools.wrap(base, method or {"name": "lora", "r": 2}, task=task, labels=LABELS if classifies else [],
                           precision="float32")  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    pefttools.save(model, folder / "artifact")
    return folder / "artifact"


def _card_prints(folder: Path) -> Any:
    """What the code of a merged model's card prints for TEXTS."""
    card = (folder / "README.md").read_text()
    found = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert found is not None
    code = found[1].replace("path/to/this/folder", str(folder))
    assert "pefttools" not in code.replace(str(folder), "")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "card", "exec"), {"TEXTS": TEXTS})  # the lines that a reader would run
    return ast.literal_eval(printed.getvalue().strip().splitlines()[-1])


@pytest.mark.parametrize("head", ["mean", "cls", "last", "model"])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_labels_and_scores(head: str, family: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    from transformers import AutoConfig

    base = request.getfixturevalue(f"tiny_{family}")
    artifact = _artifact(base, tmp_path, {"name": "sequence-classification", "head": head})
    wanted = pefttools.predict(artifact, TEXTS)
    pefttools.merge(artifact, tmp_path / "merged")
    found = _card_prints(tmp_path / "merged")
    found = [(one["label"], one["score"]) if isinstance(one, dict) else one for one in found]
    assert [label for label, _ in found] == [one["prediction"] for one in wanted]
    assert [score for _, score in found] == pytest.approx([one["score"] for one in wanted], abs=1e-4)
    config = AutoConfig.from_pretrained(tmp_path / "merged")
    assert config.id2label == dict(enumerate(LABELS))
    assert config.label2id == {label: index for index, label in enumerate(LABELS)}
    assert f"| labels | {', '.join(LABELS)} |" in (tmp_path / "merged" / "README.md").read_text()


@pytest.mark.parametrize("head", ["mean", "cls", "last"])
def test_sentence_transformers_opens_a_pooling_head(head: str, tiny_bert: str, tmp_path: Path) -> None:
    artifact = _artifact(tiny_bert, tmp_path, {"name": "sequence-classification", "head": head})
    wanted = pefttools.predict(artifact, TEXTS)
    pefttools.merge(artifact, tmp_path / "merged", format="sentence-transformers")
    found = _card_prints(tmp_path / "merged")
    assert [label for label, _ in found] == [one["prediction"] for one in wanted]
    assert [score for _, score in found] == pytest.approx([one["score"] for one in wanted], abs=1e-4)


def test_formats_that_do_not_go(tiny_bert: str, tmp_path: Path) -> None:
    artifact = _artifact(tiny_bert, tmp_path, {"name": "sequence-classification", "head": "model"})
    with pytest.raises(ConfigError, match="the task head is the model's own"):
        pefttools.merge(artifact, tmp_path / "merged", format="sentence-transformers")
    with pytest.raises(ConfigError, match="unknown format 'gguf'"):
        pefttools.merge(artifact, tmp_path / "merged", format="gguf")
    assert not (tmp_path / "merged").exists()


def test_the_bases_pooler_is_kept(tiny_bert: str, tmp_path: Path) -> None:
    from transformers import BertModel

    artifact = _artifact(tiny_bert, tmp_path, {"name": "sequence-classification", "head": "mean"})
    pefttools.merge(artifact, tmp_path / "merged")
    before, after = (BertModel.from_pretrained(folder).pooler for folder in (tiny_bert, tmp_path / "merged"))
    assert torch.equal(before.dense.weight, after.dense.weight)


@pytest.mark.parametrize("plain", ["lines", "joined"])
def test_texts(plain: str, tiny_llama: str, tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    base = shutil.copytree(tiny_llama, tmp_path / "base")
    backend = AutoTokenizer.from_pretrained(base).backend_tokenizer
    # as Llama's: a beginning, and no end
    backend.post_processor = TemplateProcessing("[CLS] $A", special_tokens=[("[CLS]", 101)])
    for file in Path(base).glob("tokenizer*"):
        file.unlink()
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", eos_token="[SEP]").save_pretrained(base)
    task = {"name": "causal-lm", "max_new_tokens": 5, "plain": plain, "system": "be kind"}
    artifact = _artifact(str(base), tmp_path, task)
    wanted = [one["prediction"] for one in pefttools.predict(artifact, TEXTS)]
    assert len(set(wanted)) > 1
    pefttools.merge(artifact, tmp_path / "merged")
    assert _card_prints(tmp_path / "merged") == wanted


def test_chats_end_where_the_template_ends_turns(tiny_llama: str, tmp_path: Path) -> None:
    from transformers import GenerationConfig

    from tests.pefttools.test_chats import CHATML, named, with_template

    base = with_template(tiny_llama, tmp_path / "base", named(CHATML))
    artifact = _artifact(base, tmp_path, {"name": "causal-lm", "max_new_tokens": 5, "system": "be kind"})
    pefttools.merge(artifact, tmp_path / "merged")
    model = pefttools.load(artifact)
    ends = GenerationConfig.from_pretrained(tmp_path / "merged").eos_token_id
    assert ends == sorted(model.spec.task.answer_ends(model.tokenizer)) and len(ends) == 2
    assert _card_prints(tmp_path / "merged") == [one["prediction"] for one in pefttools.predict(model, TEXTS)]


@pytest.mark.parametrize("targets", [["lm_head"], ["lm_head", "all-linear"], ["q_proj"]])
def test_a_change_of_tied_weights_does_not_reach_the_embeddings(targets: list[str], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    from tests.conftest import save_base

    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=30522,
        tie_word_embeddings=True, bos_token_id=101, eos_token_id=102, pad_token_id=0,
    )  # fmt: skip
    base = save_base(LlamaForCausalLM(config), tmp_path / "base")
    method = {"name": "lora", "r": 2, "targets": targets}
    artifact = _artifact(base, tmp_path, {"name": "causal-lm", "max_new_tokens": 5}, method)
    pefttools.merge(artifact, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    model = pefttools.load(artifact)
    batch = dict(model.tokenizer(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False))
    with torch.no_grad():
        found = merged(**batch).logits
    torch.testing.assert_close(found, model.run_batch(batch), atol=1e-4, rtol=1e-4)
    assert merged.config.tie_word_embeddings == (targets == ["q_proj"])


def test_a_merged_model_that_answers_otherwise_is_not_written(
    tiny_llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pefttools.adapters.lora import Lora

    artifact = _artifact(tiny_llama, tmp_path, {"name": "causal-lm"})
    monkeypatch.setattr(Lora, "merge", lambda self, model: model.unload())  # a merge that forgets the adapter
    with pytest.raises(MergeError, match=r"logits differ by [\d.]+% of the largest. Nothing was written"):
        pefttools.merge(artifact, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_sentence_transformer_that_answers_otherwise_is_not_written(
    tiny_bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers.sentence_transformer import modules

    artifact = _artifact(tiny_bert, tmp_path, {"name": "sequence-classification", "head": "mean"})
    pooling = modules.Pooling
    monkeypatch.setattr(modules, "Pooling", lambda size, pooling_mode: pooling(size, pooling_mode="max"))
    with pytest.raises(MergeError, match=r"probabilities differ by [\d.]+% of the largest. Nothing was written"):
        pefttools.merge(artifact, tmp_path / "merged", format="sentence-transformers")
    assert not (tmp_path / "merged").exists()


def test_a_merged_model_of_other_shapes_is_not_written(
    tiny_bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pefttools.artifact import merge

    artifact = _artifact(tiny_bert, tmp_path, {"name": "sequence-classification", "head": "model"})
    logits = iter([2, 2, 5, 5])
    real = merge._logits
    monkeypatch.setattr(merge, "_logits", lambda *given: real(*given)[:, :1].repeat(1, next(logits)))
    with pytest.raises(MergeError, match=r"shapes are \(2, 5\) and \(2, 2\). Nothing was written"):
        pefttools.merge(artifact, tmp_path / "merged")
