"""Pictures and texts in one space: CLIP's own numbers, prompts, both directions of retrieval, and SigLIP."""

from __future__ import annotations

import math
from array import array
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoTokenizer, CLIPModel, SiglipConfig, SiglipModel

import pefttools
from pefttools.errors import BaseModelError, ConfigError, DataError
from pefttools.metrics.cross_modal import DirectedHitRate, DirectedMRR, DirectedRecall
from pefttools.recipe import choose_task
from pefttools.tasks.embedding.contrast import IGNORE, RIGHT, WRONG
from pefttools.tasks.vision.image_text_rows import ImageTextPrediction, Pair
from pefttools.testing import check_task
from pefttools.testing.rows import table_of_rows
from tests.pefttools.tasks.samples import SAMPLES

_, ROWS = SAMPLES["image-text-retrieval"]
PICTURES = [row["image"] for row in ROWS[:4]]
LABELS = ["red", "green", "blue"]
PROMPTED = {"name": "zero-shot-image-classification", "prompt": "a {label} picture"}
RETRIEVAL = {"name": "image-text-retrieval", "max_length": 16}


def _clip(base: str, pictures: list[str], texts: list[str], model: Any) -> Any:
    """What CLIP itself gives, as its documentation calls it."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    pixels = CLIPImageProcessorPil.from_pretrained(base)([Image.open(one) for one in pictures], return_tensors="pt")
    tokens = AutoTokenizer.from_pretrained(base)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model.from_pretrained(base).eval()(
            pixel_values=pixels["pixel_values"], input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )


def test_the_untuned_base_answers_as_clip_does(tiny_clip: str) -> None:
    options = {**PROMPTED, "prompts": {"blue": "the sky"}}
    model = pefttools.wrap(tiny_clip, "untuned", task=options, labels=LABELS, precision="float32")
    texts = ["a red picture", "a green picture", "the sky"]
    wanted = _clip(tiny_clip, PICTURES, texts, CLIPModel).logits_per_image.softmax(-1)
    found = pefttools.predict(model, PICTURES, all_scores=True)
    for one, row in zip(found, wanted, strict=True):
        assert list(one["scores"].values()) == pytest.approx(row.tolist(), abs=1e-6)
        assert one["prediction"] == LABELS[int(row.argmax())]


def test_vectors_are_clips_and_tell_of_either_side(tiny_clip: str) -> None:
    model = pefttools.wrap(tiny_clip, "untuned", task=RETRIEVAL, precision="float32")
    texts = [row["text"] for row in ROWS[:4]]
    wanted = _clip(tiny_clip, PICTURES, texts, CLIPModel)
    pictures = pefttools.predict(model, PICTURES)
    words = pefttools.predict(model, [{"text": one} for one in texts])
    both = pefttools.predict(model, [{"image": a, "text": b} for a, b in zip(PICTURES, texts, strict=True)])
    for index in range(4):
        image, text = wanted.image_embeds[index], wanted.text_embeds[index]
        assert pictures[index]["prediction"] == pytest.approx(image.tolist(), abs=1e-6)
        assert words[index]["prediction"] == pytest.approx(text.tolist(), abs=1e-6)
        assert both[index]["prediction"] == pictures[index]["prediction"]
        assert both[index]["similarity"] == pytest.approx(float(image @ text), abs=1e-6)


def test_the_loss_is_clips_where_all_captions_differ(tiny_clip: str) -> None:
    model = pefttools.wrap(tiny_clip, "untuned", task=RETRIEVAL, precision="float32")
    rows = [{"image": row["image"], "text": f"{row['text']} number {n}"} for n, row in enumerate(ROWS[:5])]
    task = model.spec.task
    batch = task.collate(task.encode(table_of_rows(rows, task), model.processor, []), model.processor)
    labels = batch.pop("labels")
    assert labels.tolist() == [[RIGHT if i == j else WRONG for j in range(5)] for i in range(5)]
    clip = CLIPModel.from_pretrained(tiny_clip).eval()
    with torch.no_grad():
        assert float(model(**batch, targets=labels)) == pytest.approx(
            float(clip(**batch, return_loss=True).loss), abs=1e-5
        )


def test_equal_captions_are_no_wrong_answers(tiny_clip: str) -> None:
    model = pefttools.wrap(tiny_clip, "untuned", task=RETRIEVAL, precision="float32")
    texts = ["a cat", "a dog", "a cat"]
    rows = [{"image": row["image"], "text": text} for row, text in zip(ROWS, texts, strict=False)]
    task = model.spec.task
    batch = task.collate(task.encode(table_of_rows(rows, task), model.processor, []), model.processor)
    assert batch["labels"].tolist() == [[RIGHT, WRONG, IGNORE], [WRONG, RIGHT, WRONG], [IGNORE, WRONG, RIGHT]]


def _vector(*numbers: float) -> array[float]:
    length = math.hypot(*numbers)
    return array("d", [number / length for number in numbers])


def test_both_directions_are_ranked() -> None:
    task = choose_task(RETRIEVAL)
    # Two pictures of a cat, one of a dog; "a cat" is nearest to the dog's.
    rows = [("p1", "a cat", (1, 0), (0.2, 1)), ("p2", "a cat", (1, 0.1), (0.2, 1)), ("p3", "a dog", (0, 1), (1, 0))]
    given = [
        ImageTextPrediction(_vector(*image), _vector(*text), Pair(key, said), 0.0) for key, said, image, text in rows
    ]
    found = list(task.finish(given))
    references = [one.pair for one in given]

    def value(metric: Any) -> float:
        total = [metric.contribution(one, reference) for one, reference in zip(found, references, strict=True)]
        return float(metric.value(torch.tensor(total, dtype=torch.float64).sum(0).numpy()))

    assert [one.nearest for one in found] == ["a dog", "a dog", "a cat"]
    assert value(DirectedHitRate(1, "image_to_text")) == 0.0
    assert value(DirectedRecall(2, "image_to_text")) == 1.0
    # For "a cat", which is one query, p3 stands first, then p2 and p1; for "a dog" p3 is last.
    assert value(DirectedMRR(10, "text_to_image")) == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert value(DirectedRecall(2, "text_to_image")) == pytest.approx((1 / 2 + 0) / 2)
    assert [sorted(one.rankings) for one in found] == [
        ["image_to_text", "text_to_image"], ["image_to_text"], ["image_to_text", "text_to_image"],
    ]  # fmt: skip
    names = [metric.name for metric in task.metrics]
    assert names[0] == "image_to_text_hit_rate@1" and "text_to_image_recall@10" in names


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12, unique=True))
def test_chance_is_what_random_vectors_give(pairs: list[tuple[int, int]]) -> None:
    task = choose_task(RETRIEVAL)
    references = [Pair(f"p{a}", f"t{b}") for a, b in pairs]
    chance = task.uninformed(references, [])
    assert chance is not None
    rankings = [one.rankings for one in chance]  # type: ignore[attr-defined]
    asked = {"image_to_text": [a for a, _ in pairs], "text_to_image": [b for _, b in pairs]}
    for direction, own in asked.items():
        assert [direction in one for one in rankings] == [own[:n].count(query) == 0 for n, query in enumerate(own)]
    whole = {direction: {query: one[direction] for query, one in zip(own, rankings, strict=True) if direction in one}
             for direction, own in asked.items()}  # fmt: skip
    for a, b in pairs:
        forward, back = whole["image_to_text"][a], whole["text_to_image"][b]
        assert forward.relevant == len({text for picture, text in pairs if picture == a})
        assert forward.candidates == len({text for _, text in pairs})
        assert back.relevant == len({picture for picture, text in pairs if text == b})
        assert back.candidates == len({picture for picture, _ in pairs})


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"image": PICTURES[0]}, {"image": PICTURES[1]}], "there is no column for 'text'"),
        ([{"image": PICTURES[0], "text": "one"}, {"image": None, "text": "two"}], "row 2, column 'image'"),
        ([{"image": PICTURES[0], "text": "one"}, {"image": PICTURES[1], "text": " "}], "row 2, column 'text'"),
    ],
    ids=["no texts", "no picture", "an empty text"],
)
def test_rows_that_can_not_be_learned(rows: list[dict[str, Any]], said: str) -> None:
    task = choose_task(RETRIEVAL)
    with pytest.raises(DataError, match=said):
        task.check(table_of_rows(rows, task), [])


def test_options_that_can_not_be(tiny_clip: str, tiny_bert: str) -> None:
    with pytest.raises(ConfigError, match=r"prompt must contain \{label\}"):
        choose_task({"name": "zero-shot-image-classification", "prompt": "a photo"})
    with pytest.raises(ConfigError, match=r"task\.prompts: 'pink' is not a label"):
        pefttools.wrap(tiny_clip, "lora", task={**PROMPTED, "prompts": {"pink": "a rose"}}, labels=LABELS)
    with pytest.raises(ConfigError, match=r"the prompt of 'red' has 43 tokens, and the base takes 32"):
        pefttools.wrap(tiny_clip, "lora", task={**PROMPTED, "prompt": "very " * 40 + "{label}"}, labels=LABELS)
    with pytest.raises(BaseModelError, match=r"is a bert; transformers has no AutoModelForZeroShotImageClassification"):
        pefttools.wrap(tiny_bert, "lora", task=PROMPTED, labels=LABELS)
    with pytest.raises(BaseModelError, match=r"a pool can't serve .*: it reads images and texts together"):
        pefttools.AdapterPool(tiny_clip)


def _siglip(folder: Path) -> str:
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    from tests.conftest import save_base

    tower = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = SiglipConfig(
        text_config={**tower, "vocab_size": 30522, "max_position_embeddings": 24, "projection_size": 32},
        vision_config={**tower, "image_size": 16, "patch_size": 4},
    )
    torch.manual_seed(0)
    save_base(SiglipModel(config), folder)
    SiglipImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
def test_siglip_reads_texts_padded_to_one_length(tmp_path: Path) -> None:
    base = _siglip(tmp_path / "base")
    model = pefttools.wrap(base, "untuned", task=PROMPTED, labels=LABELS)
    assert model.head is not None
    assert model.head()["input_ids"].shape == (3, 24)  # type: ignore[operator]
    assert "attention_mask" not in model.head()  # type: ignore[operator]
    rows = SAMPLES["zero-shot-image-classification"][1]
    check_task(PROMPTED, base=base, rows=rows, folder=tmp_path)
