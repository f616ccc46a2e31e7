"""A bridge to all methods of the PEFT library: a method only maps its options to a PEFT configuration."""

from __future__ import annotations

import json
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pefttools.errors import ArtifactError, ConfigError
from pefttools.files import canonical_json
from pefttools.methods import Method, MethodConfig, Target

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pefttools.deltas import AdapterDeltas

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

ConfigT = TypeVar("ConfigT", bound=MethodConfig)


class PeftMethod(Method[ConfigT]):
    """A method that PEFT trains; its files are PEFT's own, so that ``PeftModel.from_pretrained`` reads them."""

    library = "peft"
    #: whether two of it, with other options, can be applied to one base
    twice: ClassVar[bool] = True
    #: PEFT's prefix to the names of the transformers model's parameters
    state_prefix: ClassVar[str] = "base_model.model."
    #: PEFT's name of the adapter within the model; a different one if several are put on one base
    adapter: str = "default"
    #: names of the other adapters on the same base
    siblings: tuple[str, ...] = ()

    @abstractmethod
    def peft_config(self, model: nn.Module, config: ConfigT, target: Target) -> Any:
        """The PEFT configuration of these options on this model (a ``peft.PeftConfig``).

        Raises:
            TargetError: a module pattern that matches nothing.
        """

    def wrap(self, model: nn.Module, config: ConfigT, target: Target) -> nn.Module:
        import peft

        peft_config = self.peft_config(model, config, target)
        with _without_noise():
            wrapped: nn.Module = peft.get_peft_model(model, peft_config, adapter_name=self.adapter)
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        return wrapped

    def save(self, model: nn.Module, folder: Path, base_id: str) -> None:
        # "auto" would query a hub to find out whether the vocabulary has grown; pefttools never grows it.
        model.save_pretrained(  # type: ignore[operator]
            str(folder), save_embedding_layers=False, state_dict=self._state(model)
        )
        inner = folder / self.adapter
        for written in list(inner.iterdir()) if inner.is_dir() else ():
            written.rename(folder / written.name)
        if inner.is_dir():
            inner.rmdir()
        (folder / "README.md").unlink(missing_ok=True)  # the model card is the artifact's own
        path = folder / CONFIG
        config = json.loads(path.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = base_id
        path.write_text(canonical_json(config), encoding="utf-8")

    def load(self, model: nn.Module, folder: Path, config: ConfigT, target: Target) -> nn.Module:
        import peft
        from safetensors import safe_open

        with _without_noise():
            # PEFT only warns about keys that match nothing; here that is an error, below.
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            wrapped: nn.Module = peft.PeftModel.from_pretrained(
                model, str(folder), adapter_name=self.adapter, config=self.stored_config(model, folder)
            )
        found = peft.get_peft_model_state_dict(
            wrapped, self._state(wrapped), adapter_name=self.adapter, save_embedding_layers=False
        )
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            expected = {name: tuple(tensor.shape) for name, tensor in found.items()}
            if stored == expected:
                _unrounded(wrapped, found, file)
        if stored != expected:
            unlike = sorted(name for name in stored.keys() | expected.keys() if stored.get(name) != expected.get(name))
            raise ArtifactError(
                f"{folder / WEIGHTS} does not fit the model: {len(unlike)} tensors are missing, unknown or have the "
                f"wrong shape, e.g. {', '.join(unlike[:3])}"
            )
        return wrapped

    def _state(self, model: nn.Module) -> dict[str, Tensor] | None:
        """The state in which PEFT looks for its tensors; None for that of the whole model.

        PEFT confuses layers of all its methods with those of the one that is asked for.
        """
        if not self.siblings:
            return None
        others = tuple(f".{name}." for name in self.siblings)
        return {key: t for key, t in model.state_dict().items() if not any(other in f"{key}." for other in others)}

    def stored_config(self, model: nn.Module, folder: Path) -> Any:
        """The PEFT configuration that `save` wrote, for this base."""
        import peft

        return peft.PeftConfig.from_pretrained(str(folder))

    def deltas(self, folder: Path, model: nn.Module, config: ConfigT, target: Target) -> AdapterDeltas:
        self.check_deltas()
        from pefttools.deltas.weights import read_state, split_heads

        options = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        state = {
            name.removeprefix(self.state_prefix): tensor
            for name, tensor in read_state(folder / WEIGHTS, model).items()
            if not is_copy(name)
        }
        whole = saved_whole(state, options.get("modules_to_save") or ())
        rest, heads = split_heads(state, (*target.head_modules, *whole))
        found = self.state_deltas(rest, options, model)
        return replace(found, sites={**found.sites, **heads})

    def state_deltas(self, state: dict[str, Tensor], options: dict[str, Any], model: nn.Module) -> AdapterDeltas:
        """The delta form of PEFT's tensors.

        Args:
            state: by name, as in the transformers model: ``encoder.layer.0....lora_A.weight``.
            options: PEFT's ``adapter_config.json``.
            model: the base.

        Raises:
            ConfigError: the method declares deltas, but does not define them.
        """
        raise ConfigError(f"the method {self.name!r} declares deltas, but has no state_deltas")

    def merge(self, model: nn.Module) -> nn.Module:
        self.check_mergeable()
        _keep_trained_heads(model)
        merged: nn.Module = model.merge_and_unload()  # type: ignore[operator]
        return merged


def _unrounded(model: nn.Module, state: dict[str, Tensor], file: Any) -> None:
    """Read again, in float32 as trained, the tensors that PEFT has rounded to the number format of a 16-bit base.

    Args:
        model: wrapped and loaded by PEFT.
        state: the adapter's tensors, which share their storage with the model's parameters.
        file: where they are stored.
    """
    import torch

    from pefttools.bases.unquantized import SIXTEEN_BITS

    names = {tensor.data_ptr(): name for name, tensor in state.items() if tensor.numel() and not tensor.is_meta}
    for parameter in model.parameters():
        name = names.get(parameter.data_ptr())
        if name is not None and parameter.dtype in SIXTEEN_BITS:
            parameter.data = file.get_tensor(name).to(parameter.device, torch.float32)


@contextmanager
def _without_noise() -> Iterator[None]:
    """Suppress warnings of PEFT that nobody could act on."""
    with warnings.catch_warnings():
        for message in (
            "Failed to load the CUDA extension", "Setting boft_n_butterfly_factor", "Unsupported layer type",
            "The following rank_pattern keys did not match", "Sparse invariant checks are implicitly disabled",
        ):  # fmt: skip
            warnings.filterwarnings("ignore", message=message)
        yield


def is_copy(name: str) -> bool:
    """Whether a tensor is one that PEFT stores in addition to the head's own and never reads (with ``bias="all"``)."""
    return ".original_module." in name or ".modules_to_save." in name


def saved_whole(names: Iterable[str], ends: Iterable[str]) -> list[str]:
    """Modules that were trained in full.

    Args:
        names: of tensors, as in the transformers model.
        ends: PEFT's ``modules_to_save``: ends of module names.
    """
    wanted = tuple(ends)
    found: dict[str, None] = {}
    for name in names if wanted else ():
        parts = name.split(".")
        modules = (".".join(parts[:length]) for length in range(1, len(parts)))
        whole = next((module for module in modules if module.endswith(wanted)), None)
        if whole is not None:
            found[whole] = None
    return list(found)


def _keep_trained_heads(model: nn.Module) -> None:
    """Replace PEFT's wrappers around modules that were trained in full by those modules.

    IA3's unloading mistakes such a wrapper for a linear layer.
    """
    from peft.utils import ModulesToSaveWrapper

    for name, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.modules_to_save[module.active_adapters[0]])


def refuse_pairs_of_options(options: dict[str, bool]) -> None:
    """Refuse options that are mutually exclusive.

    Raises:
        ConfigError: more than one is on.
    """
    on = [name for name, value in options.items() if value]
    if len(on) > 1:
        raise ConfigError(f"{' and '.join(on)} are mutually exclusive", hint="Choose one.")
