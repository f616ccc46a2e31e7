"""Texts from texts: what is learned, what is cut, and what is written, alone and in a pool."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import pefttools
from pefttools.errors import ConfigError, DataError
from pefttools.recipe import choose_task
from pefttools.tasks.cuts import cuts_of
from pefttools.testing.rows import table_of_rows
from tests.pefttools.server.conftest import serve  # noqa: F401
from tests.pefttools.tasks.samples import SAMPLES

TASK = {"name": "seq2seq-lm", "max_length": 64, "max_target_length": 64, "max_new_tokens": 6}
ROWS = SAMPLES["seq2seq-lm"][1]


def _model(base: str, method: Any = "untuned", **options: Any) -> pefttools.TunedModel:
    return pefttools.wrap(base, method, task=TASK | options, precision="float32")


@pytest.mark.parametrize("base", ["tiny_t5", "tiny_bart"])
def test_the_loss_is_that_of_transformers(base: str, request: pytest.FixtureRequest) -> None:
    """Also where the language head runs in pieces, and where a bias follows it."""
    for rows in (0, 7):
        model = _model(request.getfixturevalue(base), loss_rows=rows)
        task = model.spec.task
        batch = task.collate(task.encode(table_of_rows(ROWS[:5], task), model.processor, []), model.processor)
        labels = batch.pop("labels")
        with model.inference_mode():
            ours = float(model(**batch, targets=labels))
            given = {name: batch[name] for name in ("input_ids", "attention_mask")}
            theirs = float(model.transformer(**given, labels=labels).loss)
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_a_text_that_is_cut_has_no_end_to_learn(tiny_t5: str) -> None:
    model = _model(tiny_t5, max_target_length=4)
    task, end = model.spec.task, model.tokenizer.sep_token_id
    rows = [{"text": "one", "target": "two three four five six seven"}, {"text": "one", "target": "two"}]
    cut, whole = task.encode(table_of_rows(rows, task), model.processor, [])
    assert len(cut["labels"]) == 4 and end not in cut["labels"]
    assert whole["labels"][-1] == end
    found = cuts_of([cut, whole], task)
    assert (found.cut, found.longest) == (1, 8)
    assert "task.max_length=64 or task.max_target_length=4 tokens" in found.line("train")


def test_a_prefix_stands_before_every_text(tiny_t5: str) -> None:
    plain, told = _model(tiny_t5), _model(tiny_t5, prefix="translate: ")
    (example,) = told.spec.task.encode(table_of_rows([{"text": "one two"}], told.spec.task), told.processor, [])
    assert example["input_ids"] == plain.tokenizer("translate: one two")["input_ids"]


def test_beams_are_those_of_transformers(tiny_bart: str) -> None:
    model = _model(tiny_bart, beams=3)
    texts = [row["text"] for row in ROWS[:4]]
    batch = model.tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    written = model.transformer.generate(**batch, num_beams=3, max_new_tokens=6, do_sample=False)  # type: ignore[operator]
    wanted = [one.strip() for one in model.tokenizer.batch_decode(written, skip_special_tokens=True)]
    assert [one["prediction"] for one in pefttools.predict(model, texts)] == wanted


@pytest.mark.parametrize(("row", "column"), [({"text": " ", "target": "a"}, "text"), ({"text": "a"}, "target")])
def test_a_row_without_a_text_is_named(row: dict[str, str], column: str) -> None:
    task = choose_task(TASK)
    with pytest.raises(DataError, match=f"row 2, column '{column}'"):
        task.check(table_of_rows([{"text": "a", "target": "b"}, row], task), [])


def test_texts_longer_than_the_positions_are_refused(tiny_bart: str) -> None:
    with pytest.raises(ConfigError, match=r"task.max_target_length=200 is more than the 128 positions"):
        _model(tiny_bart, max_target_length=200)


def test_languages_that_a_tokenizer_asks_for_are_refused(tiny_bart: str, tmp_path: Path) -> None:
    from transformers import MBartTokenizer

    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(Path(tiny_bart) / name)
    MBartTokenizer(vocab=[("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="needs to know the languages of its texts"):
        _model(str(tmp_path))


def _trained(base: str, folder: Path, method: Any, number: int, **options: Any) -> Path:
    """An adapter with large weights of its own, so that nothing else answers like it."""
    model = _model(base, method, **options)
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    target = folder / f"{number}"
    pefttools.save(model, target)
    return target


@pytest.fixture(scope="module")
def adapters(tiny_bart: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("texts")
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "lora": ("lora", {}), "prompt": ({"name": "prompt", "length": 5}, {}), "ia3": ("ia3", {"prefix": "say: "}),
        "bitfit": ("bitfit", {"beams": 2}),
        "prefix": ({"name": "prefix", "length": 4}, {"beams": 2}), "bottleneck": ("bottleneck", {"max_new_tokens": 3}),
    }  # fmt: skip
    return {
        name: _trained(tiny_bart, folder, method, number, **options)
        for number, (name, (method, options)) in enumerate(kinds.items())
    }


def test_a_pool_writes_what_each_adapter_alone_writes(adapters: dict[str, Path], tiny_bart: str) -> None:
    """Prefixes, beams and lengths are the adapter's own; rows of the base stand among them."""
    pool = pefttools.AdapterPool(tiny_bart)
    for name, folder in adapters.items():
        pool.load(name, folder)
    texts = [row["text"] for row in ROWS[:4]]
    rows = [(text, name) for text in texts for name in [*adapters, None]]
    mixed = pool.generate([text for text, _ in rows], [name for _, name in rows])
    alone = {name: pefttools.predict(folder, texts) for name, folder in adapters.items()}
    for (text, own), found in zip(rows, mixed, strict=True):
        if own is not None:
            assert found == alone[own][texts.index(text)]["prediction"], own
    assert len(set(mixed)) > len(texts), "every adapter writes the same"
    assert pool.predict(texts, ["lora"] * len(texts)) == alone["lora"]


def test_what_was_begun_goes_on(adapters: dict[str, Path], tiny_bart: str) -> None:
    pool = pefttools.AdapterPool(tiny_bart)
    pool.load("a", adapters["lora"])
    task = choose_task(TASK)
    examples = task.encode(table_of_rows([{"text": row["text"]} for row in ROWS[:2]], task), pool.tokenizer, [])
    whole = pool.write_tokens(examples, ["a", None], max_new_tokens=6, min_new_tokens=6).tolist()
    begun = [whole[0][:2], whole[1][:4]]
    rest = pool.write_tokens(examples, ["a", None], max_new_tokens=[4, 2], begun=begun).tolist()
    for row, before, after in zip(whole, begun, rest, strict=True):
        left = len(row) - len(before)
        assert before + after[:left] == row


def test_other_tasks_are_refused_by_name(tiny_bart: str, adapters: dict[str, Path], tmp_path: Path) -> None:
    labels = pefttools.wrap(
        tiny_bart, "lora", task={"name": "sequence-classification", "head": "model"}, labels=["a", "b"]
    )
    pefttools.save(labels, tmp_path / "labels")
    pool = pefttools.AdapterPool(tiny_bart)
    with pytest.raises(ConfigError, match=r"'sequence-classification' can't be served in a pool of .*writes texts"):
        pool.load("labels", tmp_path / "labels")
    with pytest.raises(ConfigError, match="only writes texts: use generate"):
        pool(["a text"], [None])


def test_a_server_writes_texts(serve: Any, adapters: dict[str, Path], tiny_bart: str) -> None:  # noqa: F811
    server = serve(tiny_bart, {name: [adapters[name]] for name in ("lora", "prompt", "bitfit")})
    texts = [row["text"] for row in ROWS[:3]]
    for name in ("lora", "prompt"):
        wanted = [one["prediction"] for one in pefttools.predict(adapters[name], texts)]
        found = server.http.post(
            "/v1/predict", json={"model": name, "input": [{"text": text} for text in texts]}
        ).json()
        assert [one["prediction"] for one in found["data"]] == wanted
        asked = {"model": name, "prompt": texts, "max_tokens": 6, "temperature": 0}
        found = server.http.post("/v1/completions", json=asked).json()
        assert [one["text"].strip() for one in found["choices"]] == wanted
        assert found["usage"]["prompt_tokens"] == sum(
            len(server.service.pool.tokenizer(text)["input_ids"]) for text in texts
        )
    streamed = server.http.post("/v1/completions", json={**asked, "prompt": texts[0], "stream": True}).text
    pieces = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    assert "".join(piece["choices"][0]["text"] for piece in pieces).strip() == wanted[0]
    chat = server.http.post(
        "/v1/chat/completions", json={"model": "lora", "messages": [{"role": "user", "content": "a"}]}
    )
    assert chat.status_code == 404 and "does not answer chats" in chat.text
    beams = server.http.post("/v1/predict", json={"model": "bitfit", "input": "a"})
    assert beams.status_code == 404 and "task.beams=2" in beams.text


@pytest.mark.parametrize("base", ["tiny_t5", "tiny_bart"])
def test_a_prefix_is_found_on_both_sides(base: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    model = _model(request.getfixturevalue(base), {"name": "prefix", "length": 3})
    task = model.spec.task
    (example,) = task.encode(table_of_rows(ROWS[3:4], task), model.processor, [])
    before = model.run([example])
    for side in ("encoder", "decoder"):
        states = model.transformer.get_parameter(f"prefix.{side}")
        with torch.no_grad():
            kept = states.clone()
            for layer in range(0, len(states), 2):
                states.copy_(kept)
                states[layer + 1] += 3.0  # the values of one layer
                assert not torch.allclose(model.run([example]), before, atol=1e-3), f"layer {layer // 2} of the {side}"
            states.copy_(kept)
    pefttools.save(model, tmp_path / "artifact")
    card = (tmp_path / "artifact" / "README.md").read_text(encoding="utf-8")
    assert "library_name: pefttools" in card, "PEFT can't load it"
