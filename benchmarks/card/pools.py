"""(c) A pool of all methods, with rows of the base in between and heads of both kinds: is each row as if alone?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pefttools
from card.setting import DECODER, ENCODER, MINILM, SMOLLM2, VARIANTS, Case, Figures, Setting
from pefttools.pool import AdapterPool

OWN_HEAD = {"name": "sequence-classification", "head": "model"}
TEXTS = [
    "where is my new card?",
    "it was stolen on the train yesterday, please block it at once",
    "what is the rate",
    "I was charged twice for one withdrawal",
    "hello",
    "may I change my address and my telephone number, please?",
]
METHODS = ("lora", "ia3", "prefix", "bottleneck", "bitfit", "prompt")
#: rounding of the compute format, through a whole model
BOUNDS = {"float32": 1e-3, "bfloat16": 0.05, "int8": 0.1, "nf4": 0.05}


def cases(setting: Setting) -> Iterator[Case]:
    """A case per base and variant."""
    for variant in VARIANTS:
        yield f"MiniLM {variant}", partial(_encoder, setting, variant)
    for variant in VARIANTS:
        yield f"decoder {variant}", partial(_decoder, setting, variant)


def _encoder(setting: Setting, variant: str) -> Figures:
    folders = {}
    for method in (*METHODS, "head"):
        folders[method] = setting.artifact(MINILM, method, f"{method}-{variant}", variant, ENCODER)
    for method in ("lora", "bitfit"):
        folders[f"{method} own"] = setting.artifact(MINILM, method, f"{method}-own-{variant}", variant, OWN_HEAD)
    return _compared(setting, MINILM, variant, folders)


def _decoder(setting: Setting, variant: str) -> Figures:
    folders = {}
    for method in METHODS:
        if method != "bitfit":  # Llama has no biases
            folders[method] = setting.artifact(SMOLLM2, method, f"{method}-lm-{variant}", variant, DECODER)
    return _compared(setting, SMOLLM2, variant, folders)


def _compared(setting: Setting, base: str, variant: str, folders: dict[str, object]) -> Figures:
    pool = AdapterPool(base, variant=variant, device=setting.device)
    for name, folder in folders.items():
        pool.load(name, str(folder))
    names: list[str | None] = [None, *folders, None, *folders]
    inputs = [TEXTS[row % len(TEXTS)] for row in range(len(names))]
    answers = pool(inputs, names)
    differences: dict[str, float] = {}
    size = 0.0
    for name, folder in folders.items():
        alone = pefttools.load(str(folder))
        if variant != "bfloat16":
            alone.autocast = None  # as the pool, which has no mixed precision
        differences[name] = 0.0
        for row, (own, text) in enumerate(zip(names, inputs, strict=True)):
            if own != name:
                continue
            example = dict(alone.tokenizer(text))
            wanted = alone.run([example])[0]
            found = answers[row].logits
            assert found is not None
            found = found[-len(wanted) :] if found.dim() > 1 else found
            differences[name] = max(differences[name], float((found.float() - wanted.float()).abs().max()))
            size = max(size, float(wanted.abs().max()))
        del alone
        setting.clean()
    # As a share of the largest logit of all: a model of two labels may give a row numbers near zero.
    figures: Figures = {name: round(difference / size, 6) for name, difference in differences.items()}
    return figures | {"ok": all(share <= BOUNDS[variant] for share in figures.values())}
