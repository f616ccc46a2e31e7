"""Reading a folder that PEFT wrote, without running anything in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttools.errors import ArtifactError

from .peft_bridge import CONFIG, WEIGHTS, is_copy, saved_whole
from .peft_options import OF_VIRTUAL_TOKENS

if TYPE_CHECKING:
    from torch import Tensor

PICKLED = "adapter_model.bin"
#: modules that PEFT saves in full with every classifier, named in the configuration or not
HEADS = ("classifier", "score")


@dataclass(frozen=True)
class PeftFolder:
    """A configuration and its tensors.

    Attributes:
        config: content of ``adapter_config.json``.
        file: the weights.
        stored: the tensors, by their names in the file.
    """

    config: dict[str, Any]
    file: Path
    stored: dict[str, Tensor]

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """What was trained, by name in the transformers model."""
        untrained = set(self.of_base)
        return {self._plain(name): t for name, t in self.stored.items() if name not in untrained and not is_copy(name)}

    @cached_property
    def whole(self) -> list[str]:
        """Names of trained tensors that replace the model's own."""
        return [name for name in self.tensors if not _of_method(name)]

    @cached_property
    def of_base(self) -> dict[str, str]:
        """Names in the file -> in the transformers model, of tensors that were not trained.

        PEFT stores full embeddings if one of them is adapted or if it assumed that the vocabulary was changed.
        """
        heads = HEADS if self.config.get("task_type") == "SEQ_CLS" else ()
        ends = (*(self.config.get("modules_to_save") or ()), *heads)
        trained = tuple(f"{module}." for module in saved_whole(map(self._plain, self.stored), ends))
        biases = self.config.get("bias", "none") != "none"
        return {
            name: self._plain(name).replace(".base_layer.", ".")
            for name in self.stored
            if not (_of_method(name) or is_copy(name) or self._plain(name).startswith(trained))
            and not (biases and name.endswith(".bias"))
        }

    def storage(self) -> str:
        """Number format of most tensors, e.g. ``float32``."""
        formats = [str(tensor.dtype).removeprefix("torch.") for tensor in self.tensors.values()]
        return max(formats, key=formats.count)

    def _plain(self, name: str) -> str:
        # PEFT names tensors after the wrapped model.
        virtual = self.config["peft_type"] in OF_VIRTUAL_TOKENS
        return name.removeprefix("base_model." if virtual else "base_model.model.")


def read_folder(folder: Path) -> PeftFolder:
    """Read a PEFT folder.

    Raises:
        ArtifactError: a file is missing or damaged, or contains numbers that are not finite.
    """
    import torch

    config = _configuration(folder / CONFIG)
    file = next((folder / name for name in (WEIGHTS, PICKLED) if (folder / name).is_file()), None)
    if file is None:
        raise ArtifactError(f"{folder} has a {CONFIG}, but neither {WEIGHTS} nor {PICKLED}")
    stored = _pickled(file) if file.name == PICKLED else _safetensors(file)
    broken = sorted(name for name, t in stored.items() if t.is_floating_point() and not torch.isfinite(t).all())
    if broken:
        raise ArtifactError(f"{file}: the tensor {broken[0]} has values that are not finite")
    found = PeftFolder(config, file, stored)
    if not found.tensors:
        raise ArtifactError(f"{file} contains no tensors of an adapter")
    return found


def _configuration(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ArtifactError(
            f"{path.parent} has no {path.name}: without it the weights can't be interpreted",
            hint="Restore the file that PEFT wrote next to them.",
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ArtifactError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise ArtifactError(f"{path} is not a configuration of PEFT: it has no peft_type")
    return config


def _safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{file} is damaged: {error}", hint="Copy or download it again.") from error


def _pickled(file: Path) -> dict[str, Tensor]:
    """Tensors of a pickle, from which nothing but tensors is loaded."""
    import pickle

    import torch

    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ArtifactError(
            f"{file} contains more than tensors: loading it could run arbitrary code",
            hint="Don't load it. Ask for the adapter as safetensors.",
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise ArtifactError(
            f"{file} is damaged: {str(error).splitlines()[0] if str(error) else repr(error)}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ArtifactError(f"{file} contains something other than named tensors")
    return state


def _of_method(name: str) -> bool:
    return name == "prompt_embeddings" or ".lora_" in name or name.endswith(".ia3_l")
