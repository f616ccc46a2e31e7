"""Importing what ``PeftModel.save_pretrained`` wrote: ``adapter_config.json`` and the weights next to it.

The configuration and a safetensors file are copied byte for byte, so that PEFT itself can still read them.
"""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttools.errors import ArtifactError, ConfigError
from pefttools.importers import Foreign, Importer, configured_labels

from .peft_bridge import CONFIG, WEIGHTS, saved_whole
from .peft_folder import HEADS, PICKLED, PeftFolder, read_folder
from .peft_options import TASKS, Shapes, meaning_of

if TYPE_CHECKING:
    from torch import nn

    from pefttools.bases import Base
    from pefttools.tasks import TaskModel

#: a configuration of the model, which some programs put next to the adapter
_MODEL_CONFIG = "config.json"
#: the parameter of a head that computes its outputs, the likelier first
_OUTPUTS = ("classifier.out_proj.weight", "classifier.weight", "score.weight")


class PeftImporter(Importer):
    """Adapters of the PEFT library."""

    name = "peft"
    summary = f"a folder with {CONFIG} and {WEIGHTS} or {PICKLED}"
    patterns = (CONFIG, "adapter_model.*", _MODEL_CONFIG)

    def recognizes(self, folder: Path) -> bool:
        return any((folder / name).is_file() for name in (CONFIG, WEIGHTS, PICKLED))

    def read(self, folder: Path) -> Foreign:
        found = read_folder(folder)
        config, shapes = found.config, _shapes(found)
        meaning = meaning_of(config, shapes, str(folder))
        kind = config.get("task_type")
        if kind is not None and kind not in TASKS:
            raise ConfigError(
                f"{folder} was trained for PEFT's task type {kind!r}, which has no task here",
                hint=f"Supported task types: {', '.join(TASKS)}.",
            )
        model_config = folder / _MODEL_CONFIG
        head = [name for name in found.whole if kind == "SEQ_CLS" and not _in_block(name)]
        left_out = {"left_out": sorted(found.of_base.values())} if found.of_base else {}
        return Foreign(
            method=meaning.method,
            task=None if kind is None else TASKS[kind],
            head="model",
            labels=configured_labels(model_config) if model_config.is_file() else (),
            outputs=next((shapes[name][0] for name in _OUTPUTS if name in shapes), None),
            virtual=meaning.virtual,
            trained=_numbers(shapes.values()),
            in_head=_numbers(shapes[name] for name in head),
            storage=found.storage(),
            files=tuple(path for path in (folder / CONFIG, found.file, model_config) if path.is_file()),
            declared_base=config.get("base_model_name_or_path") or None,
            details={**meaning.details, **left_out},
        )

    def check(self, folder: Path, foreign: Foreign, built: TaskModel, base: Base) -> Foreign:
        found = read_folder(folder)
        shapes = _shapes(found)
        wanted = {name: _wanted(name, shape, found.config, built.transformer) for name, shape in shapes.items()}
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
                f"{misfit}: {len(other)} of its {len(shapes)} tensors have the wrong shape, "
                f"e.g. {other[0]} {shapes[other[0]]} where the base needs {wanted[other[0]]}",
                hint=hint,
            )
        changed = _changed(found, built.transformer)
        if changed:
            raise ArtifactError(
                f"{misfit}: it contains all of {changed[0]}, with other values than the base's, but its configuration "
                "does not list it in modules_to_save",
                hint=f"Embeddings of a changed vocabulary can't be imported. {hint}",
            )
        if _has_another_head(built, base):
            raise ArtifactError(
                f"{folder} has a head with {foreign.outputs} outputs, but the base {base.id!r} has a head of another "
                "size",
                hint="Give the base as it was before it was fine-tuned.",
            )
        lacking = _lacking(shapes, built, base)
        if lacking:
            raise ArtifactError(
                f"neither {folder} nor the base {base.id!r} contains {lacking[0]}, which the task's head needs: "
                "PEFT would initialise it at random",
                hint="Train it with the adapter (modules_to_save), or give a base that has it.",
            )
        for option, name in _without_effect(found):
            warnings.warn(
                f"{folder}: {option} names {name!r}, but nothing of that name was trained: it has no effect",
                stacklevel=2,
            )
        return replace(foreign, method=_shorter(foreign.method, built.transformer))

    def write(self, folder: Path, output: Path) -> None:
        from safetensors.torch import save_file

        found = read_folder(folder)
        shutil.copyfile(folder / CONFIG, output / CONFIG)
        if found.file.name == WEIGHTS and not found.of_base:
            shutil.copyfile(found.file, output / WEIGHTS)
            return
        kept = {name: t.contiguous().clone() for name, t in found.stored.items() if name not in found.of_base}
        save_file(kept, output / WEIGHTS, metadata={"format": "pt"})


def _shorter(method: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """The same options with ends of names, as long as they match the same modules."""
    from pefttools.sites import ends

    lists = {key: ends(names, model) for key, names in method.items() if key in ("targets", "feed_forward")}
    return {**method, **lists}


def _shapes(found: PeftFolder) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in found.tensors.items()}


def _numbers(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes)


def _in_block(name: str) -> bool:
    return any(part.isdecimal() for part in name.split("."))


def _wanted(name: str, shape: tuple[int, ...], config: dict[str, Any], model: nn.Module) -> tuple[int, ...] | None:
    """The shape that the base requires of a tensor; None if it has no such module."""
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
    """The shape of virtual tokens: embeddings, or the keys and values of all layers."""
    length = int(config["num_virtual_tokens"])
    if config["peft_type"] != "PREFIX_TUNING":
        return (length, int(model.get_input_embeddings().weight.shape[1]))
    text = model.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return (length, 2 * int(text.num_hidden_layers) * int(heads) * int(size))


def _changed(found: PeftFolder, model: nn.Module) -> list[str]:
    """Full weights that would be left out although they differ from the base's."""
    import torch

    changed = []
    for in_file, name in found.of_base.items():
        stored = found.stored[in_file]
        try:
            own = model.get_parameter(name).detach()
        except AttributeError:
            own = None
        if own is None or own.shape != stored.shape or not torch.equal(own.cpu().to(stored.dtype), stored):
            changed.append(name)
    return changed


def _without_effect(found: PeftFolder) -> list[tuple[str, str]]:
    """Options of the configuration that match no trained module, which PEFT silently ignores."""
    from peft.utils.other import get_pattern_key

    sites = [name.partition(".lora_A.")[0] for name in found.tensors if ".lora_A." in name]
    unused = []
    for option in ("rank_pattern", "alpha_pattern"):
        patterns = found.config.get(option) or {}
        used = {get_pattern_key(patterns.keys(), site) for site in sites}
        unused += [(option, pattern) for pattern in patterns if pattern not in used]
    for name in found.config.get("modules_to_save") or ():
        if name not in HEADS and not saved_whole(found.whole, [name]):
            unused.append(("modules_to_save", name))
    return unused


def _has_another_head(built: TaskModel, base: Base) -> bool:
    """Whether the base's files contain the task head in another shape."""
    from pefttools.bases.fingerprint import safetensors_header, weight_files

    held = {name: one for file in weight_files(base.folder) for name, one in safetensors_header(file).items()}
    return any(
        full in held and tuple(held[full]["shape"]) != tuple(parameter.shape)
        for head in built.target.head_modules
        for full, parameter in (
            (f"{head}.{own}", parameter) for own, parameter in built.transformer.get_submodule(head).named_parameters()
        )
    )


def _lacking(shapes: Shapes, built: TaskModel, base: Base) -> list[str]:
    """Parameters of the task head that are in neither of them."""
    from pefttools.bases.fingerprint import safetensors_header, weight_files

    held = {name for file in weight_files(base.folder) for name in safetensors_header(file)} | set(shapes)
    return [
        name
        for head in built.target.head_modules
        for name in (f"{head}.{own}" for own, _ in built.transformer.get_submodule(head).named_parameters())
        if name not in held
    ]
