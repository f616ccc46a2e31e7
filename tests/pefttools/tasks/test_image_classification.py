"""Pictures: how they are read, and what is said of those that can't be."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

import pefttools
from pefttools.data import mapped
from pefttools.data.pictures import read_picture
from pefttools.errors import BaseModelError, ConfigError, DataError
from tests.pefttools.tasks.samples import SAMPLES

TASK = {"name": "image-classification", "head": "mean"}


def _bytes(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def _recipe(base: str, data: Path, output: Path, **changes: Any) -> dict[str, Any]:
    return {
        "base": base, "method": "lora", "task": TASK, "data": {"train": str(data), "validation": 0.25},
        "training": {"max_steps": 4, "batch_size": 8, "precision": "float32"}, "output": str(output), **changes,
    }  # fmt: skip


def test_a_picture_is_turned_as_its_data_says() -> None:
    wide = Image.new("RGB", (4, 2), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    assert read_picture(_bytes(wide, "JPEG", exif=exif), "here").size == (2, 4)


@pytest.mark.parametrize(
    ("picture", "wanted"),
    [
        (Image.new("L", (2, 2), 100), (100, 100, 100)),
        (Image.new("RGBA", (2, 2), (0, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (10, 20, 30, 255)), (10, 20, 30)),
        (Image.fromarray(np.full((2, 2), 51_200, np.uint16)), (200, 200, 200)),
        (Image.new("P", (2, 2), 0), (0, 0, 0)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
    ],
    ids=["grey", "transparent", "opaque", "16 bits", "palette", "1 bit"],
)
def test_every_kind_becomes_colours(picture: Image.Image, wanted: tuple[int, int, int]) -> None:
    found = read_picture(_bytes(picture), "here")
    assert found.mode == "RGB" and found.getpixel((1, 1)) == wanted


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (b"no picture", "the bytes are not a picture in a known format"),
        (
            _bytes(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)))[:900],
            "can't be decoded",
        ),
        ("nowhere.png", "there is no file 'nowhere.png'"),
        (None, "the picture is missing"),
        (3.5, "not a picture: 3.5"),
    ],
)
def test_what_is_no_picture_is_named(cell: Any, said: str) -> None:
    with pytest.raises(DataError, match=f"rows.csv, row 3, column 'photo': .*{said}"):
        read_picture(cell, "rows.csv, row 3, column 'photo'")


def test_no_other_program_is_run_to_decode_a_picture() -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\nshowpage\n"
    with pytest.raises(DataError, match="not a picture in a known format"):
        read_picture(postscript, "rows.csv, row 3, column 'photo'")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_small_file_with_very_many_pixels_is_refused() -> None:
    content = _bytes(Image.new("1", (12_000, 12_000)))
    assert len(content) < 100_000
    with pytest.raises(DataError, match="the picture has 12,000 x 12,000 pixels; at most 89,478,485 are allowed"):
        read_picture(content, "rows.csv, row 3, column 'photo'")


def test_paths_are_relative_to_the_file_that_names_them(tiny_vit: str, tmp_path: Path) -> None:
    _, rows = SAMPLES["image-classification"]
    data = tmp_path / "data"
    (data / "pictures").mkdir(parents=True)
    lines = ["photo,label"]
    for number, row in enumerate(rows):
        (data / "pictures" / f"{number}.png").write_bytes(Path(row["image"]).read_bytes())
        lines.append(f"pictures/{number}.png,{row['label']}")
    (data / "rows.csv").write_text("\n".join([*lines, ""]))
    recipe = _recipe(tiny_vit, data / "rows.csv", tmp_path / "out")
    recipe["data"]["columns"] = {"image": "photo"}
    stored = pefttools.train(recipe)
    assert stored is not None
    found = pefttools.predict(stored.model, data=str(data / "rows.csv"))
    assert found == pefttools.predict(tmp_path / "out", [row["image"] for row in rows])
    (data / "pictures" / "4.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"rows\.csv, row 5, column 'photo': .*not a picture"):
        pefttools.evaluate(tmp_path / "out", str(data / "rows.csv"))
    cut = Path(rows[0]["image"]).read_bytes()
    (data / "pictures" / "4.png").write_bytes(cut[: len(cut) // 2])
    with pytest.raises(DataError, match=r"rows\.csv, row 5, column 'photo': the picture can't be decoded"):
        pefttools.evaluate(tmp_path / "out", str(data / "rows.csv"))
    some = pefttools.predict(tmp_path / "out", data=str(data / "rows.csv"), on_error="skip")
    assert ["error" in one for one in some].index(True) == 4 and sum("error" in one for one in some) == 1


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("as_hub", [True, False])
def test_pictures_in_columns_of_bytes(
    as_hub: bool, small: bool, tiny_vit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `datasets` writes them, or plain; also where rows stand in mapped files."""
    if not small:
        monkeypatch.setattr("pefttools.data.mapped.SMALL", 5)
        monkeypatch.setattr("pefttools.data.table.SMALL", 5)
        monkeypatch.setattr("pefttools.training.examples.SMALL", 5)
    _, rows = SAMPLES["image-classification"]
    content = [Path(row["image"]).read_bytes() for row in rows]
    cells: list[Any] = [{"bytes": one, "path": None} for one in content] if as_hub else content
    table = pyarrow.table({"image": cells, "label": [row["label"] for row in rows]})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    stored = pefttools.train(_recipe(tiny_vit, tmp_path / "rows.parquet", tmp_path / "out"))
    assert stored is not None
    assert pefttools.predict(stored.model, content) == pefttools.predict(stored.model, [row["image"] for row in rows])
    assert (20_000 if small else 5) == mapped.SMALL


def test_a_base_with_a_head_of_another_size_gets_a_new_one(tiny_vit: str, tmp_path: Path) -> None:
    """As those trained on ImageNet have."""
    from transformers import ViTForImageClassification

    whole = ViTForImageClassification.from_pretrained(tiny_vit, num_labels=7)
    whole.save_pretrained(tmp_path / "base")
    for file in Path(tiny_vit).glob("*processor*"):
        (tmp_path / "base" / file.name).write_bytes(file.read_bytes())
    model = pefttools.wrap(str(tmp_path / "base"), "head", task={**TASK, "head": "model"}, labels=["a", "b", "c"])
    assert model.run_batch(model.spec.task.probe(model.processor)).shape == (1, 3)
    backbone = model.transformer.vit.state_dict()  # type: ignore[union-attr,operator]
    assert all(torch.equal(value, backbone[name]) for name, value in whole.vit.state_dict().items())


def test_bases_of_other_inputs_are_refused(tiny_bert: str, tiny_vit: str) -> None:
    with pytest.raises(BaseModelError, match="it reads input_ids, not pictures"):
        pefttools.wrap(tiny_bert, "lora", task={**TASK, "head": "mean"}, labels=["a", "b"])
    with pytest.raises(BaseModelError, match="it reads pixel_values, not text"):
        pefttools.wrap(tiny_vit, "lora", task={"name": "sequence-classification", "head": "mean"}, labels=["a", "b"])
    with pytest.raises(ConfigError, match="'prefix' can't train the task 'image-classification': it puts virtual"):
        pefttools.wrap(tiny_vit, "prefix", task=TASK, labels=["a", "b"])


def test_no_more_than_a_batch_of_pixels_is_in_memory(tiny_vit: str, tmp_path: Path) -> None:
    """Examples hold files, not pixels."""
    _, rows = SAMPLES["image-classification"]
    model = pefttools.wrap(tiny_vit, "lora", task=TASK, labels=["l0", "l1", "l2"])
    from pefttools.testing.rows import table_of_rows

    examples = model.spec.task.encode(table_of_rows(rows, model.spec.task), model.processor, model.labels)
    assert not any(isinstance(value, torch.Tensor) for one in examples for value in one.values())
    assert model.spec.task.sizes(examples) == [1] * len(rows)
