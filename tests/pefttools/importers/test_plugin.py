"""Another format is another class: nothing of importing knows PEFT."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import pefttools
from pefttools.bases import Base
from pefttools.errors import ArtifactError
from pefttools.importers import Foreign, Importer, importers
from pefttools.tasks import TaskModel

FILE = "biases.safetensors"


class Biases(Importer):
    """A file of changes to biases, by module."""

    name = "biases"
    summary = f"a folder with {FILE}"
    patterns = (FILE,)

    def recognizes(self, folder: Path) -> bool:
        return (folder / FILE).is_file()

    def read(self, folder: Path) -> Foreign:
        state = load_file(folder / FILE)
        numbers = sum(tensor.numel() for tensor in state.values())
        return Foreign(
            method={"name": "bitfit", "targets": sorted(state)}, task="causal-lm", head="model", labels=(),
            outputs=None, virtual=0, trained=numbers, in_head=0, storage="float32", files=(folder / FILE,),
        )  # fmt: skip

    def check(self, folder: Path, foreign: Foreign, built: TaskModel, base: Base) -> Foreign:
        modules = dict(built.transformer.named_modules())
        for name in load_file(folder / FILE):
            if name not in modules:
                raise ArtifactError(f"{folder}: the base {base.id!r} has no module {name}")
        return foreign

    def write(self, folder: Path, output: Path) -> None:
        state = {f"{name}.bias_delta": tensor for name, tensor in load_file(folder / FILE).items()}
        save_file(state, output / "adapter_model.safetensors")
        (output / "adapter_config.json").write_text(json.dumps({"pefttools_method": "bitfit"}))


@pytest.fixture
def _registered() -> Iterator[None]:
    importers.register("biases")(Biases)
    yield
    importers.unregister("biases")


@pytest.mark.usefixtures("_registered")
def test_a_format_of_ones_own(tiny_gpt2: str, tmp_path: Path) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    site = "transformer.h.1.mlp.c_proj"
    save_file({site: torch.linspace(-1, 1, 64)}, folder / FILE)
    manifest = pefttools.import_adapter(folder, tiny_gpt2, tmp_path / "artifact")
    assert manifest.imported is not None and manifest.imported.importer == "biases"
    model = pefttools.load(tmp_path / "artifact")
    batch = {"input_ids": torch.tensor([[1, 2, 3]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    found = model.run_batch(batch)
    bare = pefttools.wrap(tiny_gpt2, "untuned", task="causal-lm", precision="float32")
    plain = bare.run_batch(batch)
    bare.transformer.get_submodule(site).get_parameter("bias").data += torch.linspace(-1, 1, 64)
    assert torch.allclose(found, bare.run_batch(batch), atol=1e-5) and not torch.allclose(found, plain, atol=1e-2)
    save_file({"transformer.h.7.mlp.c_proj": torch.zeros(64)}, folder / FILE)
    with pytest.raises(ArtifactError, match="has no module"):
        pefttools.import_adapter(folder, tiny_gpt2, tmp_path / "other")


def test_a_folder_of_no_known_format(tiny_gpt2: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(ArtifactError, match="is not in a format that can be imported") as caught:
        pefttools.import_adapter(tmp_path / "in", tiny_gpt2, tmp_path / "out")
    assert "adapter_config.json" in (caught.value.hint or "")
    with pytest.raises(ArtifactError, match="does not exist"):
        pefttools.import_adapter(tmp_path / "nothing", tiny_gpt2, tmp_path / "out")
    assert not (tmp_path / "out").exists()
