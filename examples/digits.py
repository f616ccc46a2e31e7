"""Images of handwritten numbers with their captions, and a small CLIP trained on one way to write them.

    python examples/data.py numbers && python examples/digits.py

No CLIP is available as a package. Two of scikit-learn's handwritten digits side by side form a number, black on white,
with a caption in English words; a small CLIP of one million parameters learns that from 6,000 images (three minutes
on two cores; written to examples/data/small-clip). Methods are then compared on what it has not seen: digits by
other writers, white on black, with captions in German, in which the units come first. Each digit is used once: no
image of a test set contains one that was trained on.
"""

from __future__ import annotations

import io
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
BASE = DATA / "small-clip"

_UNITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_EINER = ["null", "ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]
_ZEHNER = ["zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig"]
_ZEHN = ["zehn", "elf", "zwölf", "dreizehn", "vierzehn", "fünfzehn", "sechzehn", "siebzehn", "achtzehn", "neunzehn"]


def english(number: int) -> str:
    """A number below 100 in words."""
    tens, units = divmod(number, 10)
    if tens == 0:
        return _UNITS[units]
    if tens == 1:
        return _TEENS[units]
    return _TENS[tens - 2] + (f"-{_UNITS[units]}" if units else "")


def german(number: int) -> str:
    """The same in German: the units come before the tens."""
    tens, units = divmod(number, 10)
    if tens == 0:
        return "eins" if units == 1 else _EINER[units]
    if tens == 1:
        return _ZEHN[units]
    return (f"{_EINER[units]}und" if units else "") + _ZEHNER[tens - 2]


def numbers() -> dict[str, list[dict[str, Any]]]:
    """Images by split: to train the base, to adapt it, to test it, and single digits with their labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    # This set is ordered by writer, so that its parts come from different writers.
    parts = {"known": range(900), "train": range(900, 1400), "test": range(1400, 1797)}
    draw = random.Random(0)
    made: dict[str, list[dict[str, Any]]] = {}
    for split, rows in parts.items():
        of_digit = {digit: [index for index in rows if found.target[index] == digit] for digit in range(10)}
        new = split != "known"
        pictures: dict[bytes, dict[str, Any]] = {}
        while len(pictures) < (1000 if new else 6000):
            row = _number(found.images, of_digit, draw.randrange(100), draw, new)
            pictures[row["image"]] = row  # no image twice
        made[f"numbers-{split}"] = list(pictures.values())
        if new:
            made[f"digits-{split}"] = [
                {"image": _picture([found.images[index]], True), "label": _UNITS[found.target[index]]} for index in rows
            ]
    return made


def _number(images: Any, of_digit: dict[int, list[int]], number: int, draw: random.Random, new: bool) -> dict[str, Any]:
    digits = [images[draw.choice(of_digit[digit])] for digit in divmod(number, 10)]
    said = f"die Zahl {german(number)}" if new else f"the number {english(number)}"
    return {"image": _picture(digits, new), "text": said}


def _picture(digits: list[Any], new: bool) -> bytes:
    """Digits side by side on 32 x 32 pixels, as a PNG; new ones are white on black."""
    import numpy as np
    from PIL import Image

    ink = np.zeros((16, 16), dtype=np.uint8)
    for place, digit in enumerate(digits):
        left = 4 if len(digits) == 1 else 8 * place
        ink[4:12, left : left + 8] = np.minimum(digit * 16, 255)
    image = Image.fromarray(ink if new else 255 - ink).resize((32, 32), Image.Resampling.BILINEAR)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def captions() -> Iterator[str]:
    """Everything that captions say, in both languages."""
    for number in range(100):
        yield from (f"the number {english(number)}", f"die Zahl {german(number)}")


def untrained(folder: Path) -> None:
    """Write a model with random weights, and its processors for images and texts."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    # Not 2: CLIP's class takes that number to mean an old configuration, and looks for the end elsewhere.
    ends = ["<pad>", "<s>", "<unk>", "</s>"]
    made.train_from_iterator(captions(), trainers.WordPieceTrainer(vocab_size=120, special_tokens=ends))
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 3)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        model_max_length=24,
    )  # fmt: skip
    tower = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 512}
    texts = {**tower, "num_hidden_layers": 2, "vocab_size": 120, "max_position_embeddings": 24, "pad_token_id": 0,
             "bos_token_id": 1, "eos_token_id": 3}  # fmt: skip
    pictures = {**tower, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=texts, vision_config=pictures, projection_dim=64))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)


def main() -> None:
    """Train a model with random weights by full fine-tuning."""
    import pefttools
    from pefttools.progress import default_reporter

    with tempfile.TemporaryDirectory() as folder:
        untrained(Path(folder, "start"))
        stored = pefttools.train(
            {
                "base": str(Path(folder, "start")),
                "method": "full",
                "task": {"name": "image-text-retrieval", "max_length": 24},
                "data": {"train": str(DATA / "numbers-known.parquet"), "validation": 0.1},
                "training": {"epochs": 20, "batch_size": 128, "learning_rate": 1e-3, "evaluations": 5},
                "output": str(Path(folder, "trained")),
            },
            reporter=default_reporter(),
        )
        assert stored is not None
        stored.model.transformer.save_pretrained(BASE)
        stored.model.processor.save_pretrained(BASE)


if __name__ == "__main__":
    main()
