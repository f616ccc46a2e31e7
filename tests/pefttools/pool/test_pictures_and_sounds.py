"""Adapters of pictures and of sounds, mixed in one batch: each row gets what its adapter alone gives it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import pefttools
from pefttools.errors import ConfigError
from tests.conftest import save_wav2vec2
from tests.pefttools.tasks.samples import SAMPLES

PICTURES = [row["image"] for row in SAMPLES["image-classification"][1]]
SOUNDS = [row["audio"] for row in SAMPLES["audio-classification"][1]]
LABELS = ["l0", "l1", "l2"]

_SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
#: of transformers' ways to a head: a first state, a mean, a pooler with weights or without, what the base pools itself
VISION: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViT", _SMALL),
    "deit": ("DeiT", _SMALL),
    "beit": ("Beit", _SMALL | {"use_mean_pooling": True, "num_labels": 3}),
    "dinov2": ("Dinov2", _SMALL),
    "swin": ("Swin", {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "image_size": 16,
                      "patch_size": 2}),
    "resnet": ("ResNet", {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"}),
    "convnext": ("ConvNext", {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2, "patch_size": 4}),
    "mobilenet": ("MobileNetV2", {"depth_multiplier": 0.35, "image_size": 32}),
}  # fmt: skip


def _vision(name: str, folder: Path) -> str:
    kind, options = VISION[name]
    config = getattr(transformers, f"{kind}Config")(**options)
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(config)
    for module in model.modules():  # as if they had been trained: an untrained norm passes nothing on that differs
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return str(folder)


def _hearing(name: str, folder: Path) -> str:
    if name != "ast":
        return save_wav2vec2(folder, feat_extract_norm=name, do_stable_layer_norm=name == "layer")
    config = transformers.ASTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
                                    max_length=64, num_mel_bins=16)  # fmt: skip
    torch.manual_seed(0)
    transformers.ASTModel(config).save_pretrained(folder)
    transformers.ASTFeatureExtractor(num_mel_bins=16, max_length=64).save_pretrained(folder)
    return str(folder)


def _adapter(base: str, method: str, task: dict[str, Any], folder: Path, seed: int, **options: Any) -> Path:
    """A saved adapter, all of whose weights are far from their start."""
    named = [] if task["name"] == "speech-recognition" else LABELS
    model = pefttools.wrap(base, method, task=task, labels=named, precision="float32", **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    pefttools.save(model, folder)
    return folder


def _check(base: str, adapters: dict[str, Path], inputs: list[Any], **pool_options: Any) -> None:
    """A pool says of each row what the adapter alone says of it, whatever stands beside it."""
    pool = pefttools.AdapterPool(base, **pool_options)
    for name, folder in adapters.items():
        pool.load(name, folder)
    rows = [(one, name) for one in inputs for name in adapters]
    mixed = pool.predict([one for one, _ in rows], [name for _, name in rows], all_scores=False, batch_size=5)
    alone = {name: pefttools.predict(folder, inputs) for name, folder in adapters.items()}
    for (one, name), found in zip(rows, mixed, strict=True):
        wanted = dict(alone[name][inputs.index(one)])
        wanted.pop("cut_from", None)
        score = wanted.pop("score", None)
        assert score is None or found.pop("score") == pytest.approx(score, abs=1e-4), (name, one)
        assert found == wanted, (name, one)
    said = [[(one["prediction"], one.get("score")) for one in found] for found in alone.values()]
    assert all(one != other for one, other in itertools.combinations(said, 2)), "two adapters say the same"


@pytest.mark.parametrize(
    "name", [name if name in ("vit", "convnext") else pytest.param(name, marks=pytest.mark.slow) for name in VISION]
)
def test_pictures(name: str, tmp_path: Path) -> None:
    base = _vision(name, tmp_path / "base")
    convolutions = name in ("resnet", "mobilenet")  # of which none is a linear layer
    methods = ["head", "bitfit"] if convolutions else ["lora", "head", "bitfit"]
    heads = ["model"] if name in ("resnet", "mobilenet", "convnext") else ["model", "mean", "cls"]
    task = {"name": "image-classification"}
    adapters = {
        f"{method}-{head}": _adapter(base, method, {**task, "head": head}, tmp_path / f"{method}-{head}", seed)
        for seed, method in enumerate(methods)
        for head in heads
    }
    if name == "swin":  # whose rows are taken apart into windows before its linear layers
        with pytest.raises(ConfigError, match="rows can't be matched with adapters there"):
            _check(base, adapters, PICTURES[:4])
        return
    _check(base, adapters, PICTURES[:4])


@pytest.mark.parametrize("name", ["layer", pytest.param("group", marks=pytest.mark.slow),
                                  pytest.param("ast", marks=pytest.mark.slow)])  # fmt: skip
def test_sounds(name: str, tmp_path: Path) -> None:
    base = _hearing(name, tmp_path / "base")
    adapters = {
        f"{method}-{head}": _adapter(
            base, method, {"name": "audio-classification", "max_seconds": seconds, "head": head},
            tmp_path / f"{method}-{head}", seed,
        )
        # Each hears as much of a sound as it was trained on.
        for seed, (method, seconds) in enumerate([("lora", 0.2), ("bitfit", 0.12), ("bottleneck", 0.2)])
        for head in ("model", "mean")
    }  # fmt: skip
    _check(base, adapters, SOUNDS[:5])


def test_transcripts_and_commands_share_a_pool(tiny_whisper: str, tmp_path: Path) -> None:
    """Heads stand on the states of the encoder, and sounds are as long as each adapter was trained on."""

    def writing(seconds: float, name: str) -> dict[str, Any]:
        return {"name": name, "max_seconds": seconds}

    speech = "speech-recognition"
    short = {"max_new_tokens": 4, "max_target_length": 16}
    adapters = {
        "short": _adapter(tiny_whisper, "lora", writing(0.15, speech) | short, tmp_path / "short", 1),
        "long": _adapter(tiny_whisper, "ia3", writing(0.5, speech) | short, tmp_path / "long", 2),
        "beams": _adapter(
            tiny_whisper, "bottleneck", writing(0.5, speech) | short | {"beams": 2}, tmp_path / "beams", 3
        ),
        "head": _adapter(
            tiny_whisper, "lora", writing(0.2, "audio-classification") | {"head": "model"}, tmp_path / "head", 4
        ),
        "mean": _adapter(
            tiny_whisper, "bitfit", writing(0.3, "audio-classification") | {"head": "mean"}, tmp_path / "mean", 5
        ),
    }
    _check(tiny_whisper, adapters, SOUNDS[:4])


def test_who_writes_gives_no_states(tiny_whisper: str, tmp_path: Path) -> None:
    task = {"name": "speech-recognition", "max_target_length": 16, "max_new_tokens": 4}
    pool = pefttools.AdapterPool(tiny_whisper)
    pool.load("one", _adapter(tiny_whisper, "lora", task, tmp_path / "a", 1))
    with pytest.raises(ConfigError, match="the adapter 'one' writes texts: use generate or predict"):
        pool({"input_features": torch.rand(1, 16, 100)}, ["one"])
    with pytest.raises(ConfigError, match="200 frames are more than the 100 of the base"):
        pool({"input_features": torch.rand(1, 16, 200)}, [None])


def test_processors_are_shared(tiny_whisper: str, tmp_path: Path) -> None:
    pool = pefttools.AdapterPool(tiny_whisper)
    task = {"name": "speech-recognition", "max_target_length": 16}
    for number in range(3):
        own = {**task, "max_new_tokens": 4 + number, "max_seconds": 0.5 if number < 2 else 0.4}
        pool.load(f"a{number}", _adapter(tiny_whisper, "lora", own, tmp_path / str(number), number))
    with pool._holding(["a0", "a1", "a2"]) as rows:
        processors = [row.prepared.processor for row in rows if row is not None]
    assert processors[0] is processors[1] is not processors[2]


def test_a_base_that_writes_transcripts_answers_as_it_is(tiny_whisper: str) -> None:
    pool = pefttools.AdapterPool(tiny_whisper)
    model = pefttools.wrap(
        tiny_whisper, "untuned", task={"name": "speech-recognition", "max_new_tokens": 4, "max_target_length": 16}
    )
    alone = [one["prediction"] for one in pefttools.predict(model, SOUNDS[:2])]
    assert pool.generate(SOUNDS[:2], [None, None], max_new_tokens=4) == alone


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda pool: pool(["a text"], ["one"]), "the base reads image: give tensors"),
        (lambda pool: pool.generate(PICTURES[:1], ["one"]), "is an encoder: it can't generate"),
        (lambda pool: pool({"input_ids": torch.ones(1, 3)}, ["one"]), "inputs need pixel_values"),
        (
            lambda pool: pool.answer([{"image": PICTURES[0], "where": ""}], [None]),
            "rows without an adapter must be tensors",
        ),
    ],
)
def test_what_a_pool_of_pictures_refuses(
    work: Callable[[pefttools.AdapterPool], Any], said: str, tiny_vit: str, tmp_path: Path
) -> None:
    pool = pefttools.AdapterPool(tiny_vit)
    pool.load("one", _adapter(tiny_vit, "lora", {"name": "image-classification", "head": "mean"}, tmp_path / "a", 1))
    with pytest.raises(ConfigError, match=said):
        work(pool)


def test_pictures_are_not_compiled(tiny_vit: str) -> None:
    with pytest.raises(ConfigError, match="compile=True is for bases that read texts, not image"):
        pefttools.AdapterPool(tiny_vit, compile=True)


def test_tensors_of_pictures(tiny_vit: str, tmp_path: Path) -> None:
    folder = _adapter(tiny_vit, "lora", {"name": "image-classification", "head": "mean"}, tmp_path / "a", 1)
    pool = pefttools.AdapterPool(tiny_vit)
    pool.load("one", folder)
    model = pefttools.load(folder)
    pixels = torch.rand(2, 3, 16, 16)
    mine, base = pool({"pixel_values": pixels}, ["one", None])
    assert mine.logits is not None
    torch.testing.assert_close(mine.logits, model.run_batch({"pixel_values": pixels})[0], atol=1e-5, rtol=1e-5)
    assert base.states is not None
    assert base.states.shape == (17, 64)
    assert base.logits is None


def test_a_text_has_no_place_among_pictures(tiny_vit: str, tiny_bert: str, tmp_path: Path) -> None:
    model = pefttools.wrap(tiny_bert, "lora", task="sequence-classification", labels=LABELS)
    pefttools.save(model, tmp_path / "a")
    with pytest.raises(Exception, match="base"):
        pefttools.AdapterPool(tiny_vit).load("one", tmp_path / "a")
