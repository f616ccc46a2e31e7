"""Train a small vision transformer on half of Fashion-MNIST's classes: the base of examples/clothes.yaml.

    python examples/data.py clothes && python examples/small_vit.py

No transformers vision model is available as a package. This one has 0.8 million parameters, is trained for a few
minutes on two cores, and is written to examples/data/small-vit. Methods are then compared on the other five classes,
which it has not seen.
"""

from __future__ import annotations

from pathlib import Path

import pefttools
from pefttools.progress import default_reporter

DATA = Path(__file__).parent / "data"
BASE = DATA / "small-vit"


def untrained(folder: Path) -> None:
    """Write a model with random weights, and its image processor."""
    import torch
    from transformers import ViTConfig, ViTModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512, image_size=28, patch_size=7
    )
    ViTModel(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 28, "width": 28}).save_pretrained(folder)


def main() -> None:
    """Train by full fine-tuning, and keep the transformer without its head."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        untrained(Path(folder, "start"))
        stored = pefttools.train(
            {
                "base": str(Path(folder, "start")),
                "method": "full",
                "task": {"name": "image-classification", "head": "mean"},
                "data": {
                    "train": str(DATA / "clothes-known-train.parquet"),
                    "validation": 0.05,
                    "test": str(DATA / "clothes-known-test.parquet"),
                },
                "training": {"epochs": 4, "batch_size": 128, "learning_rate": 1e-3, "weight_decay": 0.05},
                "output": str(Path(folder, "trained")),
            },
            reporter=default_reporter(),
        )
        assert stored is not None and stored.test is not None
        print(f"test accuracy on the classes it was trained on: {stored.test.metrics['accuracy']:.4f}")
        stored.model.transformer.save_pretrained(BASE)
        stored.model.processor.save_pretrained(BASE)


if __name__ == "__main__":
    main()
