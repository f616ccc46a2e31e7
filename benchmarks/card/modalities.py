"""(m) Image, audio and encoder-decoder models: steps, the planner and mixed pools, on common shapes."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pefttools
from card.setting import MINILM, Case, Figures, Setting, apart, loss_of
from pefttools.bases import locate_base
from pefttools.bases.skeleton import skeleton
from pefttools.building import build
from pefttools.compute.optimizers import make_optimizer
from pefttools.planning.device import CPU, Device, find_device
from pefttools.planning.plan import Planned, Shape
from pefttools.pool import AdapterPool
from pefttools.recipe import choose_method, choose_task
from pefttools.testing.rows import table_of_rows
from pefttools.training.step import optimizer_step
from pefttools.tuned import TunedModel

LABELS = ["a", "b", "c"]
#: base -> its task
TASKS: dict[str, dict[str, Any]] = {
    "vit": {"name": "image-classification", "head": "mean"},
    "clip": {"name": "image-text-retrieval", "max_length": 32},
    "wav2vec2": {"name": "audio-classification", "head": "mean", "max_seconds": 3},
    "whisper": {"name": "speech-recognition", "max_seconds": 10, "max_target_length": 32, "max_new_tokens": 12},
    "t5": {"name": "seq2seq-lm", "max_length": 64, "max_target_length": 32, "max_new_tokens": 12},
}
#: what was planned for a GPU
PLANS = Path(__file__).parent / "plans-modalities.json"
#: rounding of the compute format, through a whole model; convolutions compute in TF32 on GPUs
BOUNDS = {"float32": 5e-3, "bfloat16": 0.05, "nf4": 0.05}
#: rows of a planned step, and the size of each
ROWS = 32
SIZES = {"vit": 1, "clip": 12, "wav2vec2": 240, "whisper": 240, "t5": 32}


def cases(setting: Setting) -> Iterator[Case]:
    """A case per base and number format, of each kind."""
    # There are no stored plans for a dry run's small shapes: they are planned where they run.
    expected = {} if setting.small else json.loads(PLANS.read_text(encoding="utf-8"))
    for name in TASKS:
        for variant in ("float32", "nf4"):
            yield f"step {name} lora {variant}", partial(_step, setting, name, variant)
        for method in ("lora", "full"):
            yield f"plan {name} {method}", partial(_plan, setting, name, method, expected.get(f"{name} {method}"))
        if name != "clip":  # no pool serves it
            for variant in ("float32", "bfloat16", "nf4"):
                yield f"pool {name} {variant}", partial(_pool, setting, name, variant)


def write_plans(setting: Setting, card: str) -> None:
    """Plan all cases for a GPU; needs none."""
    found = {}
    for name in TASKS:
        for method in ("lora", "full"):
            found[f"{name} {method}"] = _planned(setting, name, method, ROWS, find_device(card))
            print(f"{found[f'{name} {method}'] / 2**20:9.1f} MiB  {name} {method}", flush=True)
    PLANS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _planned(setting: Setting, name: str, method: str, rows: int, device: Device) -> int:
    planned = Planned(skeleton(_base(setting, name)), TASKS[name], method, "float32", len(LABELS), device)
    return planned.training_bytes(Shape(rows, SIZES[name], precision="bfloat16"))


def _base(setting: Setting, name: str) -> str:
    folder = setting.folder / name
    if not folder.exists():
        torch.manual_seed(0)
        _MADE[name](folder, setting.small)
        from transformers import AutoTokenizer

        if name in ("clip", "whisper", "t5"):
            AutoTokenizer.from_pretrained(locate_base(MINILM).folder).save_pretrained(folder)
    return str(folder)


def _vit(folder: Path, small: bool) -> None:
    from transformers import ViTConfig, ViTModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    size = 32 if small else 224
    config = ViTConfig(image_size=size, patch_size=16, **(_tower(small)))
    ViTModel(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": size, "width": size}).save_pretrained(folder)


def _clip(folder: Path, small: bool) -> None:
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    size = 32 if small else 224
    ends = {"vocab_size": 30522, "max_position_embeddings": 77, "pad_token_id": 0, "bos_token_id": 101,
            "eos_token_id": 102}  # fmt: skip
    config = CLIPConfig(text_config={**_tower(small), **ends},
                        vision_config={**_tower(small), "image_size": size, "patch_size": 32})  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size}).save_pretrained(
        folder
    )


def _wav2vec2(folder: Path, small: bool) -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    config = Wav2Vec2Config(feat_extract_norm="layer", do_stable_layer_norm=True, **_tower(small))
    Wav2Vec2Model(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)


def _whisper(folder: Path, small: bool) -> None:
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    layers = 2 if small else 6
    config = WhisperConfig(
        d_model=512, encoder_layers=layers, decoder_layers=layers, encoder_attention_heads=8,
        decoder_attention_heads=8, encoder_ffn_dim=2048, decoder_ffn_dim=2048, vocab_size=30522, pad_token_id=0,
        bos_token_id=101, eos_token_id=102, decoder_start_token_id=101, begin_suppress_tokens=None,
    )  # fmt: skip
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)


def _t5(folder: Path, small: bool) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=30522, num_layers=2 if small else 6, pad_token_id=0, eos_token_id=102,
                      decoder_start_token_id=0)  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)


def _tower(small: bool) -> dict[str, int]:
    if small:
        return {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    return {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}


_MADE: dict[str, Callable[[Path, bool], None]] = {
    "vit": _vit, "clip": _clip, "wav2vec2": _wav2vec2, "whisper": _whisper, "t5": _t5,
}  # fmt: skip


def _rows(name: str, count: int) -> list[dict[str, Any]]:
    """Rows of noise, all different."""
    draw = np.random.default_rng(0)
    found = []
    for number in range(count):
        said = " ".join("abcdefghij"[int(one)] for one in draw.integers(0, 10, 6 + number % 5))
        row: dict[str, Any] = {"text": said, "target": said[::-1], "label": LABELS[number % 3]}
        if name in ("vit", "clip"):
            row["image"] = _png(draw)
        elif name in ("wav2vec2", "whisper"):
            row["audio"] = _wav(draw, 2.0 + 0.1 * (number % 5))
        found.append({role: row[role] for role in choose_task(TASKS[name]).roles if role in row})
    return found


def _png(draw: np.random.Generator) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)).resize((224, 224)).save(stream, "PNG")
    return stream.getvalue()


def _wav(draw: np.random.Generator, seconds: float) -> bytes:
    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, draw.normal(0, 0.1, round(16_000 * seconds)).astype(np.float32), 16_000, format="WAV")
    return stream.getvalue()


def _built(
    setting: Setting, name: str, method: str, variant: str, precision: Any, device: torch.device | None = None
) -> TunedModel:
    chosen, config = choose_method(method)
    task = choose_task(TASKS[name])
    return build(locate_base(_base(setting, name)), variant, chosen, config, task, LABELS if task.has_labels else [],
                 precision=precision, seed=0, device=device or setting.device)  # fmt: skip


def _examples(model: TunedModel, name: str, count: int) -> list[dict[str, Any]]:
    task = model.spec.task
    return task.encode(table_of_rows(_rows(name, count), task), model.processor, model.labels)


def _step(setting: Setting, name: str, variant: str) -> Figures:
    """The loss of a step is the CPU's, and the step changes it."""
    precision = "float32" if variant == "float32" else "bfloat16"
    reference = _built(setting, name, "lora", variant, precision, torch.device("cpu")).eval()
    examples = _examples(reference, name, 4)
    with torch.no_grad():
        wanted = loss_of(reference, examples)
    del reference
    model = _built(setting, name, "lora", variant, precision).eval()
    with torch.no_grad():
        before = loss_of(model, examples)
    model.train()
    optimizer = make_optimizer("adamw", [p for p in model.parameters() if p.requires_grad], 1e-3)
    optimizer_step(model, examples, 1, optimizer)
    with torch.no_grad():
        after = float(loss_of(model.eval(), examples))
    difference = apart(before, wanted)
    return {"cpu": float(wanted), "card": float(before), "difference": difference, "after": after,
            "ok": difference <= BOUNDS[variant] and math.isfinite(after) and after != float(before)}  # fmt: skip


def _plan(setting: Setting, name: str, method: str, expected: int | None) -> Figures:
    """Predicted and allocated peak of a training step."""
    rows = 4 if setting.small else ROWS
    if expected is None:
        expected = _planned(setting, name, method, rows, CPU)
    if setting.on_card:
        for dtype in (torch.float32, torch.bfloat16):
            # The workspace of matrix products is allocated by the first of them and stays.
            torch.ones(8, 8, device="cuda", dtype=dtype) @ torch.ones(8, 8, device="cuda", dtype=dtype)
    before = setting.clean()
    model = _built(setting, name, method, "float32", "bfloat16").train()
    example = _examples(model, name, 5)[-1]  # the longest
    if model.spec.task.encoder_decoder:
        target = [7] * TASKS[name]["max_target_length"]
        example |= {"labels": target, "decoder_input_ids": target}
        example |= {"input_ids": target} if name == "t5" else {}
    assert model.spec.task.size(example) == SIZES[name]
    examples = [example] * rows
    optimizer = make_optimizer("adamw", [p for p in model.parameters() if p.requires_grad], 1e-5)
    optimizer_step(model, examples, 1, optimizer)
    found = setting.peak_bytes(lambda: optimizer_step(model, examples, 1, optimizer), model, before, optimizer)
    return {"predicted": expected, "allocated": found, "ratio": round(expected / found, 4),
            "ok": abs(expected / found - 1) <= (0.06 if setting.small else 0.05)}  # fmt: skip


def _pool(setting: Setting, name: str, variant: str) -> Figures:
    """Rows of three adapters in one batch, each as its adapter alone answers."""
    folders = {method: setting.folder / f"{name}-{method}" for method in ("lora", "ia3", "bottleneck")}
    for seed, (method, folder) in enumerate(folders.items()):
        if folder.exists():
            continue
        model = _built(setting, name, method, "float32", "float32", torch.device("cpu"))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        pefttools.save(model, folder)
    dtype = torch.bfloat16 if variant == "bfloat16" else None
    pool = AdapterPool(
        _base(setting, name), variant="float32" if dtype else variant, dtype=dtype, device=setting.device
    )
    for method, folder in folders.items():
        pool.load(method, folder)
    task = choose_task(TASKS[name])
    rows = [{role: one[role] for role in task.inputs() & one.keys()} for one in _rows(name, 6)]
    names = [method for _ in rows for method in folders]
    mixed = pool.predict([row for row in rows for _ in folders], names, all_scores=bool(task.has_labels))
    alone = pool.predict([row for row in rows for _ in folders], names, all_scores=bool(task.has_labels), batch_size=1)
    if task.encoder_decoder:
        same = sum(one == other for one, other in zip(mixed, alone, strict=True))
        texts = len({one["prediction"] for one in mixed})
        return {"rows": len(mixed), "as_alone": same, "texts": texts,
                "ok": same == len(mixed) if variant == "float32" else same >= len(mixed) / 2}  # fmt: skip
    pairs = zip(mixed, alone, strict=True)
    off = max(abs(one["scores"][label] - other["scores"][label]) for one, other in pairs for label in LABELS)
    return {"rows": len(mixed), "difference": round(off, 6), "ok": off <= BOUNDS[variant]}
