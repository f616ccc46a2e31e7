"""The base class of the methods that PEFT lacks: their state is the parameters that they train, by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from pefttools.errors import ArtifactError
from pefttools.files import canonical_json
from pefttools.methods import Method, MethodConfig, Target

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pefttools.deltas import AdapterDeltas, SiteDelta

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

ConfigT = TypeVar("ConfigT", bound=MethodConfig)


class OwnMethod(Method[ConfigT]):
    """A method whose state is parameters, by name: those that require gradients after `wrap`, unless it says more."""

    #: names of parameters that files of 0.1.0 lack, as a regular expression: they keep the values set by `wrap`
    added_later: ClassVar[str] = r"(?!)"

    def stored(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters of a wrapped model that are its state, by name."""
        return {name: p for name, p in model.named_parameters() if p.requires_grad}

    def save(self, model: nn.Module, folder: Path, base_id: str) -> None:
        from safetensors.torch import save_file

        state = {name: p.detach().cpu().contiguous() for name, p in self.stored(model).items()}
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
        config = {"pefttools_method": self.name, "base_model_name_or_path": base_id}
        (folder / CONFIG).write_text(canonical_json(config), encoding="utf-8")

    def load(self, model: nn.Module, folder: Path, config: ConfigT, target: Target) -> nn.Module:
        import torch
        from safetensors.torch import load_file

        written = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("pefttools_method")
        if written != self.name:
            raise ArtifactError(f"{folder / CONFIG} is of the method {written!r}, not {self.name!r}")
        others = {id(p) for p in model.parameters() if p.requires_grad}  # of methods that were applied before
        wrapped = self.wrap(model, config, target)
        state = load_file(folder / WEIGHTS)
        trained = {name: p for name, p in self.stored(wrapped).items() if id(p) not in others}
        if self.capabilities.trains == "base":  # 0.1.0 also trained what transformers' class never trains
            trained |= {name: p for name, p in wrapped.named_parameters() if name in state}
        missing = sorted(name for name in trained.keys() - state.keys() if not re.search(self.added_later, name))[:5]
        unknown = sorted(state.keys() - trained.keys())[:5]
        if missing or unknown:
            raise ArtifactError(
                f"{folder / WEIGHTS} does not fit the model: "
                f"missing {missing or 'nothing'}, unknown {unknown or 'nothing'}"
            )
        with torch.no_grad():
            for name in state:
                parameter = trained[name]
                if parameter.shape != state[name].shape:
                    raise ArtifactError(
                        f"{folder / WEIGHTS}: {name} has shape {tuple(state[name].shape)}, "
                        f"the model needs {tuple(parameter.shape)}"
                    )
                parameter.copy_(state[name])
        return wrapped

    def deltas(self, folder: Path, model: nn.Module, config: ConfigT, target: Target) -> AdapterDeltas:
        self.check_deltas()
        from pefttools.deltas import AdapterDeltas
        from pefttools.deltas.weights import read_state, split_heads

        rest, heads = split_heads(read_state(folder / WEIGHTS, model), target.head_modules)
        return AdapterDeltas({**self.site_deltas(rest, model, config), **heads})

    def site_deltas(self, state: dict[str, Tensor], model: nn.Module, config: ConfigT) -> dict[str, SiteDelta]:
        """The effect of the trained parameters, heads aside, at each site. Here: none.

        Raises:
            ArtifactError: an unknown parameter.
        """
        if state:
            raise ArtifactError(f"the method {self.name!r} does not know the parameter {next(iter(state))!r}")
        return {}


def train_heads(model: nn.Module, target: Target) -> None:
    """Make the task head's modules inside the transformers model trainable, in float32."""
    for name in target.head_modules:
        module = model.get_submodule(name)
        module.float()
        for parameter in module.parameters():
            parameter.requires_grad_(True)
