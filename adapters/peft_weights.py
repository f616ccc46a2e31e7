"""Methods of PEFT that change the weights of layers: each only declares its options and their names in PEFT.

What they share is here: the layers that they act on, sizes that must divide those of the layers, the variants that they
support, and the delta form of the trained adapter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import Field

from pefttools.bases import BaseVariant
from pefttools.errors import ConfigError
from pefttools.methods import Capabilities, MethodConfig, Target, TaskFacts
from pefttools.sites import ALL_LINEAR, ends, input_size, match_modules, output_size

from .lora_experts import exact
from .peft_bridge import PeftMethod

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pefttools.deltas import AdapterDeltas, DeltaKind


class LayerOptions(MethodConfig):
    """Options of all methods that act on linear layers."""

    targets: list[str] = Field(
        default_factory=lambda: [ALL_LINEAR],
        min_length=1,
        description="modules to adapt: names, ends of names, globs, or all-linear",
    )
    peft: dict[str, Any] = Field(
        default_factory=dict, description="further options of PEFT's own configuration of this method, by PEFT's names"
    )


class DropoutOptions(LayerOptions):
    """Options of methods with dropout during training."""

    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on what the method reads or adds, during training")


#: variants by torchao, whose weights look like plain ones to a layer that only runs the base's layer
TORCHAO = frozenset({"torchao-int8", "hqq"})
#: the built-in quantized variants
QUANTIZED = frozenset({"int8", "nf4"}) | TORCHAO

#: PEFT's options that follow from the task and from `LayerOptions.targets`
_SET = ("task_type", "modules_to_save", "target_modules", "peft_type", "base_model_name_or_path")

OptionsT = TypeVar("OptionsT", bound=LayerOptions)


class PeftWeights(PeftMethod[OptionsT]):
    """A method of PEFT that changes the weights of linear layers."""

    capabilities = Capabilities(effect="weights", deltas=True)
    #: PEFT's class of configuration
    peft_class: ClassVar[str]
    #: options that PEFT calls differently; prefixes of names, as in vera_dropout, are found automatically
    peft_names: ClassVar[Mapping[str, str]] = {}
    #: options that PEFT does not have
    own_options: ClassVar[frozenset[str]] = frozenset()
    #: PEFT's options with a fixed value
    always: ClassVar[Mapping[str, Any]] = {}
    #: PEFT's option that bounds the rank of the change of a weight; None if it may have any rank
    rank_option: ClassVar[str | None] = None
    #: it changes biases too, if there are any
    changes_bias: ClassVar[bool] = False
    #: option that must divide the sizes of every layer; if its value is None, the largest up to `preferred` is chosen
    divides: ClassVar[str | None] = None
    preferred: ClassVar[int] = 64
    #: it must divide only the sizes of the layers' inputs
    divides_inputs: ClassVar[bool] = False
    #: quantized variants that PEFT's layers of this method support
    quantized: ClassVar[frozenset[str]] = frozenset()
    #: PEFT has layers of this method for GPT-2's transposed linear layers
    conv1d: ClassVar[bool] = False
    #: PEFT's layers of this method take inputs of any number of dimensions
    any_inputs: ClassVar[bool] = True
    #: PEFT can create its layers on the meta device
    on_meta: ClassVar[bool] = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.capabilities = replace(cls.capabilities, quantized=cls.quantized)

    def check(self, config: OptionsT, variant: BaseVariant, task: TaskFacts) -> None:
        super().check(config, variant, task)
        self._check_further(config)

    def check_model(self, config: OptionsT, model: nn.Module) -> None:
        from transformers.pytorch_utils import Conv1D

        names = self.sites(model, config)
        # A quantized layer records its original class: the adapter should fit the base in other formats too.
        layers = {name: model.get_submodule(name) for name in names}
        transposed = [name for name, one in layers.items() if Conv1D in (type(one), getattr(one, "source_cls", None))]
        if transposed and not self.conv1d:
            raise ConfigError(
                f"the method {self.name!r} can't be used on this base: PEFT has no layers of this method for the "
                f"transposed linear layers of GPT-2, such as {transposed[0]}",
                hint="Use lora there, or another method that `pefttools methods` lists for it.",
            )
        latent = [] if self.any_inputs else [name for name in names if name.endswith(".kv_b_proj")]
        if latent:
            raise ConfigError(
                f"the method {self.name!r} can't be used on {latent[0]}: a latent attention gives it inputs with four "
                "dimensions, but PEFT's layers of this method take three",
                hint=f"Leave it out of {self.name}.targets.",
            )
        self.sizes(model, config, names)

    def sites(self, model: nn.Module, config: OptionsT, target: Target | None = None) -> list[str]:
        """Full names of the layers that are adapted.

        Raises:
            TargetError: a pattern that matches nothing.
        """
        names = match_modules(model, config.targets, option=f"{self.name}.targets")
        return [name for name in names if target is None or not target.in_head(name)]

    def sizes(self, model: nn.Module, config: OptionsT, names: list[str]) -> dict[str, Any]:
        """Options that depend on the sizes of the layers.

        Raises:
            ConfigError: a size that does not divide those of a layer.
        """
        if self.divides is None:
            return {}
        lengths = {
            name: pair[:1] if self.divides_inputs else pair
            for name, pair in zip(names, shapes(model, names), strict=True)
        }
        given = getattr(config, self.divides)
        if given is None:
            every = {size for pair in lengths.values() for size in pair}
            given = max(n for n in range(1, self.preferred + 1) if all(size % n == 0 for size in every))
        for name, pair in lengths.items():
            if any(size % given for size in pair):
                raise ConfigError(
                    f"{self.name}.{self.divides} is {given}, which does not divide the sizes of {name}, "
                    f"{' and '.join(map(str, pair))}",
                    hint="Leave it out to use the largest number that divides the sizes of all layers.",
                )
        return {self.divides: given}

    def wrap(self, model: nn.Module, config: OptionsT, target: Target) -> nn.Module:
        with self._numbers(model, config):
            wrapped = super().wrap(model, config, target)
        return wrapped.to("meta") if _on_meta(model) else wrapped

    def load(self, model: nn.Module, folder: Path, config: OptionsT, target: Target) -> nn.Module:
        with self._numbers(model, config):
            wrapped = super().load(model, folder, config, target)
        return wrapped.to("meta") if _on_meta(model) else wrapped

    def peft_config(self, model: nn.Module, config: OptionsT, target: Target) -> Any:
        import peft

        names = self.sites(model, config, target)
        own = config.model_dump(exclude={"targets", "peft", *self.own_options}) | self.sizes(model, config, names)
        named = self._peft_names(own)
        options = {named[name]: value for name, value in own.items()}
        return getattr(peft, self.peft_class)(
            **{**options, **self.always, **config.peft},
            target_modules=exact(ends(names, model)),
            **self._heads(target),
        )

    def _heads(self, target: Target) -> dict[str, Any]:
        """PEFT's options that depend on the task.

        Raises:
            ConfigError: the model's own head would have to be trained, which PEFT can't do with this method.
        """
        if "modules_to_save" in self._known_to_peft():
            return {"task_type": target.peft_task_type or None, "modules_to_save": list(target.head_modules) or None}
        if target.head_modules:
            raise ConfigError(
                f"the method {self.name!r} can't train the model's own head, {target.head_modules[0]}, as well",
                hint="Choose one of pefttools' heads, e.g. task.head=mean, or another method.",
            )
        return {"task_type": target.peft_task_type or None}

    def stored_config(self, model: nn.Module, folder: Path) -> Any:
        stored = super().stored_config(model, folder)
        if not isinstance(stored.target_modules, str | None):
            stored.target_modules = set(exact(stored.target_modules))
        return stored

    def state_deltas(self, state: dict[str, Tensor], options: dict[str, Any], model: nn.Module) -> AdapterDeltas:
        from .weight_reader import read_changes

        return read_changes(self, state, options, model)

    def rank(self, options: Mapping[str, Any], inputs: int, outputs: int) -> int | None:
        """Highest rank that the change of a weight may have, whatever is trained; None for any.

        Args:
            options: PEFT's ``adapter_config.json``.
            inputs: of the layer.
            outputs: of the layer.
        """
        return None if self.rank_option is None else int(options[self.rank_option])

    def parts(self, layer: Any, adapter: str) -> Sequence[DeltaKind]:
        """A layer's effect, in delta kinds smaller than the change of its weight; empty if it has no such form.

        The caller checks whether they do the same as the layer.

        Args:
            layer: PEFT's layer.
            adapter: name of the adapter within it.
        """
        return ()

    @contextmanager
    def _numbers(self, model: nn.Module, config: OptionsT) -> Iterator[None]:
        """Give the layers of a model on the meta device zeros that take no memory, if PEFT needs numbers."""
        import torch
        from torch import nn

        if self.on_meta or not _on_meta(model):
            yield
            return
        with torch.device("cpu"):
            for name in self.sites(model, config):
                layer = model.get_submodule(name)
                if type(layer.weight) is not nn.Parameter:  # packed weights, whose format PEFT reads
                    continue
                zeros = torch.zeros((), dtype=layer.weight.dtype).expand(layer.weight.shape)
                layer.weight = nn.Parameter(zeros, requires_grad=False)
            yield

    def _check_further(self, config: OptionsT) -> None:
        if not config.peft:
            return
        known = self._known_to_peft()
        ours = {theirs: name for name, theirs in self._peft_names(type(config).model_fields).items()}
        for name in config.peft:
            if name == "bias":
                raise ConfigError(
                    f"{self.name}.peft: PEFT would train the base's own biases, which are not stored with the adapter",
                    hint=f"Combine it with another method: method: [{{name: bitfit, targets: [...]}}, {self.name}].",
                )
            if name in ours or name in self.always or name in _SET:
                raise ConfigError(
                    f"{self.name}.peft: {name} is set by pefttools",
                    hint=f"Use {self.name}.{ours.get(name, 'targets')}.",
                )
            if name not in known:
                raise ConfigError(
                    f"{self.name}.peft: PEFT's {self.peft_class} has no option {name!r}",
                    hint=f"It has: {', '.join(sorted(known))}.",
                )

    def _peft_names(self, names: Iterable[str]) -> dict[str, str]:
        """PEFT's names of options: the same as here, or with a prefix of the method."""
        known, found = self._known_to_peft(), {}
        for name in names:
            longer = [one for one in known if one.endswith(f"_{name}")]
            other = longer[0] if name not in known and len(longer) == 1 else name
            found[name] = self.peft_names.get(name, other)
        return found

    def _known_to_peft(self) -> list[str]:
        import dataclasses

        import peft

        return [field.name for field in dataclasses.fields(getattr(peft, self.peft_class))]


def shapes(model: nn.Module, names: Iterable[str]) -> list[tuple[int, int]]:
    """Sizes of the inputs and outputs of layers."""
    return [(input_size(layer), output_size(layer)) for layer in map(model.get_submodule, names)]


def _on_meta(model: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in model.parameters())
