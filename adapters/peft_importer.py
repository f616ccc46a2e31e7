"""Importing what ``PeftModel.save_pretrained`` wrote: ``adapter_config.json`` and the weights beside it.

The configuration and a safetensors file are taken over byte for byte, so that PEFT itself goes on reading them.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttools.errors import ArtifactError, ConfigError
from pefttools.importers import Foreign, Importer, configured_labels

from .peft_bridge import CONFIG, WEIGHTS, is_copy
from .peft_options import OF_VIRTUAL_TOKENS, TASKS, Shapes, meaning_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pefttools.bases import Base
    from pefttools.tasks import Built

PICKLED = "adapter_model.bin"
#: a configuration of the model, which some programs put beside the adapter
_MODEL_CONFIG = "config.json"

#: the module of a head that gives its outputs, the likelier first
_OUTPUTS = ("classifier.out_proj.weight", "classifier.weight", "score.weight")


class PeftImporter(Importer):
    """Adapters of the PEFT library."""

    name = "peft"
    summary = f"a folder with {CONFIG} and {WEIGHTS} or {PICKLED}"
    patterns = ("adapter_config.json", "adapter_model.*", "config.json")

    def recognizes(self, folder: Path) -> bool:
        return any((folder / name).is_file() for name in (CONFIG, WEIGHTS, PICKLED))

    def read(self, folder: Path) -> Foreign:
        config = _configuration(folder)
        file = _weights_file(folder)
        shapes, storage = _shapes(file, config)
        meaning = meaning_of(config, shapes, str(folder))
        kind = config.get("task_type")
        if kind is not None and kind not in TASKS:
            raise ConfigError(
                f"{folder} was trained for PEFT's task type {kind!r}, which has no task here",
                hint=f"These have one: {', '.join(TASKS)}.",
            )
        whole = _whole(shapes)
        model_config = folder / _MODEL_CONFIG
        return Foreign(
            method=meaning.method,
            task=None if kind is None else TASKS[kind],
            head="model",
            labels=configured_labels(model_config) if model_config.is_file() else (),
            outputs=_outputs(shapes),
            virtual=meaning.virtual,
            trained=sum(math.prod(shape) for shape in shapes.values()),
            in_head=sum(math.prod(shapes[name]) for name in whole if kind == "SEQ_CLS" and not _in_block(name)),
            storage=storage,
            files=tuple(path for path in (folder / CONFIG, file, model_config) if path.is_file()),
            declared_base=config.get("base_model_name_or_path") or None,
            details=meaning.details,
        )

    def check(self, folder: Path, foreign: Foreign, built: Built, base: Base) -> None:
        config = _configuration(folder)
        shapes, _ = _shapes(_weights_file(folder), config)
        model = built.transformer
        wanted = {name: _wanted(name, shape, config, model) for name, shape in shapes.items()}
        misfit = f"{folder} does not fit the base {base.id!r} ({base.model_type})"
        named = f"; it names {foreign.declared_base!r}" if foreign.declared_base else ""
        hint = f"Give the base that the adapter was trained on{named}."
        strangers = sorted(name for name, shape in wanted.items() if shape is None)
        if strangers:
            raise ArtifactError(
                f"{misfit}: {len(strangers)} of its {len(shapes)} tensors belong to modules that the base does not "
                f"have, e.g. {strangers[0]}",
                hint=hint,
            )
        other = sorted(name for name, shape in wanted.items() if shape != shapes[name])
        if other:
            raise ArtifactError(
                f"{misfit}: {len(other)} of its {len(shapes)} tensors have another shape, "
                f"e.g. {other[0]} {shapes[other[0]]} where the base wants {wanted[other[0]]}",
                hint=hint,
            )
        lacking = _lacking(shapes, built, base)
        if lacking:
            raise ArtifactError(
                f"neither {folder} nor the base {base.id!r} holds {lacking[0]}, which the task's head needs: "
                "PEFT would draw it at random",
                hint="Train it with the adapter (modules_to_save), or give a base that has it.",
            )

    def write(self, folder: Path, output: Path) -> None:
        from safetensors.torch import save_file

        shutil.copyfile(folder / CONFIG, output / CONFIG)
        file = _weights_file(folder)
        if file.name == WEIGHTS:
            shutil.copyfile(file, output / WEIGHTS)
        else:
            state = {name: tensor.contiguous().clone() for name, tensor in _pickled(file).items()}
            save_file(state, output / WEIGHTS, metadata={"format": "pt"})


def _configuration(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise ArtifactError(
            f"{folder} has no {CONFIG}: without it the weights mean nothing",
            hint="Restore the file that PEFT wrote beside them.",
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ArtifactError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise ArtifactError(f"{path} is not a configuration of PEFT: it has no peft_type")
    return config


def _weights_file(folder: Path) -> Path:
    """The weights; safetensors first, as PEFT does."""
    for name in (WEIGHTS, PICKLED):
        if (folder / name).is_file():
            return folder / name
    raise ArtifactError(f"{folder} has a {CONFIG}, but neither {WEIGHTS} nor {PICKLED}")


def _shapes(file: Path, config: dict[str, Any]) -> tuple[Shapes, str]:
    """Shapes of all tensors by their names in the transformers model, and the number format of most of them.

    Raises:
        ArtifactError: damaged, or numbers that are not finite.
    """
    import torch

    state = _pickled(file) if file.name == PICKLED else _safetensors(file)
    broken = sorted(name for name, t in state.items() if t.is_floating_point() and not torch.isfinite(t).all())
    if broken:
        raise ArtifactError(f"{file}: the tensor {broken[0]} holds numbers that are not finite")
    formats = [str(tensor.dtype).removeprefix("torch.") for tensor in state.values()]
    if not formats:
        raise ArtifactError(f"{file} holds no tensors")
    # PEFT names them after the wrapped model.
    prefix = "base_model." if config["peft_type"] in OF_VIRTUAL_TOKENS else "base_model.model."
    shapes = {name.removeprefix(prefix): tuple(tensor.shape) for name, tensor in state.items() if not is_copy(name)}
    return shapes, max(formats, key=formats.count)


def _safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{file} is damaged: {error}", hint="Copy or download it again.") from error


def _pickled(file: Path) -> dict[str, Tensor]:
    """Tensors of a pickle, read without running anything that it asks for."""
    import pickle

    import torch

    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ArtifactError(
            f"{file} holds more than tensors: loading it would run code of its author's choice",
            hint="Don't load it. Ask for the adapter as safetensors.",
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise ArtifactError(f"{file} is damaged: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ArtifactError(f"{file} holds something else than tensors by name")
    return state


def _outputs(shapes: Shapes) -> int | None:
    for end in _OUTPUTS:
        found = [shape for name, shape in shapes.items() if name == end]
        if found:
            return found[0][0]
    return None


def _whole(shapes: Shapes) -> list[str]:
    """Tensors that stand in place of the model's own."""
    return [name for name in shapes if not _of_method(name)]


def _of_method(name: str) -> bool:
    return name == "prompt_embeddings" or ".lora_" in name or name.endswith(".ia3_l")


def _in_block(name: str) -> bool:
    return any(part.isdecimal() for part in name.split("."))


def _wanted(name: str, shape: tuple[int, ...], config: dict[str, Any], model: nn.Module) -> tuple[int, ...] | None:
    """The shape that the base asks of a tensor; None: it has no such module."""
    from pefttools.sites import input_size, is_linear, output_size

    if name == "prompt_embeddings":
        return _virtual_shape(config, model)
    site = name
    for mark in (".lora_A.", ".lora_B.", ".lora_magnitude_vector", ".ia3_l"):
        site = site.partition(mark)[0]
    try:
        if site == name:
            return tuple(model.get_parameter(name.replace(".base_layer.", ".")).shape)
        module = model.get_submodule(site)
    except AttributeError:
        return None
    if not is_linear(module):
        return None
    if name.endswith(".lora_A.weight"):
        return (shape[0], input_size(module))
    if name.endswith(".lora_B.weight"):
        return (output_size(module), shape[1])
    if name.endswith(".ia3_l"):
        return (1, input_size(module)) if shape[0] == 1 else (output_size(module), 1)
    if name.endswith((".lora_B.bias", ".lora_magnitude_vector")):
        return (output_size(module),)
    return None


def _virtual_shape(config: dict[str, Any], model: Any) -> tuple[int, ...]:
    """What virtual tokens must be like: embeddings, or the keys and values of all layers."""
    length = int(config["num_virtual_tokens"])
    if config["peft_type"] != "PREFIX_TUNING":
        return (length, int(model.get_input_embeddings().weight.shape[1]))
    text = model.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return (length, 2 * int(text.num_hidden_layers) * int(heads) * int(size))


def _lacking(shapes: Shapes, built: Built, base: Base) -> list[str]:
    """Parameters of the task head that nobody holds."""
    from pefttools.bases.fingerprint import safetensors_header, weight_files

    held = {name for file in weight_files(base.folder) for name in safetensors_header(file)} | set(shapes)
    return [
        name
        for head in built.target.head_modules
        for name in (f"{head}.{own}" for own, _ in built.transformer.get_submodule(head).named_parameters())
        if name not in held
    ]
