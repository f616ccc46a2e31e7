"""What PEFT's layers do to weights, read from the layers themselves.

A layer is given the identity, in eval mode: its output minus the output of the base's layer is the change of the
weight, ``dW = (L(I) - base(I))^T``, and for zeros the change of the bias. Whether the layer really is such a change is
then checked on random inputs. PEFT's own ``get_delta_weight`` is not additive for rotations and products with the
weight.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from pefttools.deltas import AdapterDeltas, Bias, DeltaKind, Dense, LowRank, SiteDelta
from pefttools.deltas.kind import converted
from pefttools.deltas.merge import bias_change, weight_change
from pefttools.deltas.weights import dense_weight
from pefttools.errors import ArtifactError, ConfigError
from pefttools.sites import input_size, is_linear, output_size

if TYPE_CHECKING:
    from peft import PeftConfig

#: tolerated error, relative to the change: far above float64's rounding, far below anything that was trained
_EXACT = 1e-6
#: the same for layers that compute a part in float32, relative to the base's weight
_NOISE = 1e-5
#: random vectors beyond the rank
_MORE = 8
_PREFIX = "base_model.model."


class WeightMethod(Protocol):
    """What is needed from a method."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def changes_bias(self) -> bool:
        """It changes biases too."""

    def rank(self, options: Mapping[str, Any], inputs: int, outputs: int) -> int | None:
        """Highest rank that the change of a weight may have."""

    def parts(self, layer: Any, adapter: str) -> Sequence[DeltaKind]:
        """The effect of a layer, in smaller kinds."""


def read_changes(
    method: WeightMethod, state: dict[str, torch.Tensor], options: dict[str, Any], model: nn.Module
) -> AdapterDeltas:
    """The changes of weights and biases that an adapter makes.

    Args:
        method: which method trained it.
        state: PEFT's tensors, by their names in the transformers model, without those of task heads.
        options: PEFT's ``adapter_config.json``.
        model: the base; it is not changed.

    Raises:
        ArtifactError: the tensors do not fit the model.
        ConfigError: a layer does something other than changing a weight and a bias.
    """
    config = _configuration(options)
    names = _targets(config, model)
    if _weightless(model.get_submodule(names[0])):
        return _planned(method, config, options, model, names)
    adapted = _adapted(config, state, model, names)
    sites = {}
    dtype = torch.float64 if next(model.parameters()).dtype == torch.float64 else torch.float32
    for name in names:
        layer = adapted.get_submodule(_PREFIX + name)
        found = _change(method, options, layer, _twin(model.get_submodule(name)), name, dtype)
        if found.parts:
            sites[name] = found
    return AdapterDeltas(sites)


def _configuration(options: dict[str, Any]) -> PeftConfig:
    from peft import PeftConfig

    from .lora_experts import exact

    # Heads and the kind of model do not matter: only layers are read.
    config = PeftConfig.from_peft_type(**{**options, "task_type": None, "modules_to_save": None})
    if not isinstance(config.target_modules, str | None):
        config.target_modules = set(exact(config.target_modules))
    return config


def _targets(config: PeftConfig, model: nn.Module) -> list[str]:
    from peft.tuners.tuners_utils import check_target_module_exists

    named = model.named_modules()
    names = [name for name, module in named if is_linear(module) and check_target_module_exists(config, name)]
    if not names:
        raise ArtifactError("the adapter does not act on any layer of the model")
    return names


def _adapted(config: PeftConfig, state: dict[str, torch.Tensor], model: nn.Module, names: Iterable[str]) -> nn.Module:
    """PEFT's layers with the adapter's tensors, around copies of the base's layers, and nothing else of the model."""
    import peft

    layers = nn.Module()
    for name in names:
        parent = layers
        *path, last = name.split(".")
        for part in path:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent._modules[part]  # type: ignore[assignment]
        parent.add_module(last, _twin(model.get_submodule(name)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about what only a complete model has
        adapted: nn.Module = peft.PeftModel(layers, config)
        named = {name if name.startswith("base_model.") else _PREFIX + name: value for name, value in state.items()}
        peft.set_peft_model_state_dict(adapted, named)
        expected = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
    if unlike := sorted(named.keys() ^ expected.keys()):
        raise ArtifactError(
            f"the adapter does not fit the model: {len(unlike)} tensors are missing or unknown, e.g. {unlike[0]}"
        )
    return adapted.eval()


def _twin(module: nn.Module) -> nn.Module:
    """A plain layer on the CPU; for a quantized layer, with the dequantized weight.

    In float32, as the base was when PEFT computed what it stores about it, such as singular vectors.
    """
    from transformers.pytorch_utils import Conv1D

    weight = dense_weight(module).to("cpu", torch.float32)
    bias = getattr(module, "bias", None)
    outputs, inputs = weight.shape
    with torch.device("meta"):
        transposed = isinstance(module, Conv1D)
        layer: nn.Module = Conv1D(outputs, inputs) if transposed else nn.Linear(inputs, outputs, bias=bias is not None)
    layer.weight = nn.Parameter(weight.T.contiguous() if transposed else weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().to("cpu", torch.float32), requires_grad=False)
    return layer


def _change(
    method: WeightMethod, options: Mapping[str, Any], layer: Any, base: nn.Module, name: str, dtype: torch.dtype
) -> SiteDelta:
    """What a layer does that the base's layer does not; the one within it may have lost a part of its weight."""
    with torch.no_grad():
        rounding = 1e-12
        try:
            exact, plain = copy.deepcopy(layer).double(), copy.deepcopy(base).double()
            change, bias = _pushed(exact, plain, method, name)
        except RuntimeError:  # some part of it always stays in float32
            exact, plain, rounding = layer.float(), base, 1e-6
            change, bias = _pushed(exact, plain, method, name)
        small = _smaller(method, exact, plain, change, bias)
    if small is not None:
        return SiteDelta(*(converted(part, dtype) for part in small))
    parts: list[DeltaKind] = []
    if bool(change.any()):
        outputs, inputs = change.shape
        rank = method.rank(options, inputs, outputs)
        noise = _NOISE * float(torch.linalg.matrix_norm(base.get_parameter("weight").double()))
        pays = _pays(rank, inputs, outputs)
        parts.append(_factors(change, rank, dtype, noise) if pays else Dense(change.to(dtype)))
    if float(bias.abs().max()) > rounding:
        parts.append(Bias(bias.to(dtype)))
    return SiteDelta(*parts)


def _smaller(
    method: WeightMethod, layer: Any, base: nn.Module, change: torch.Tensor, bias: torch.Tensor
) -> Sequence[DeltaKind] | None:
    """The method's own form of a layer's effect, if it has one that does the same and is smaller."""
    parts = method.parts(layer, "default")
    if not parts or sum(part.bytes for part in parts) >= change.numel() * change.element_size():
        return None
    weight = dense_weight(base).to(change)
    own = weight.new_zeros(len(weight)) if getattr(base, "bias", None) is None else base.get_parameter("bias").detach()
    delta = SiteDelta(*parts)
    off = max(
        float((weight_change(delta, weight) - change).abs().max()), float((bias_change(delta, own) - bias).abs().max())
    )
    return parts if off <= _EXACT * max(1.0, float(weight.abs().max())) else None


def _pushed(layer: Any, base: nn.Module, method: WeightMethod, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Changes of the weight ``[out, in]`` and of the bias ``[out]``.

    Raises:
        ConfigError: it does something else.
    """
    inputs, like = input_size(base), base.get_parameter("weight")

    def added(x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = layer(x.clone()) - base(x)
        return found

    bias = added(like.new_zeros(1, 1, inputs))[0, 0]
    change = (added(torch.eye(inputs, dtype=like.dtype)[None])[0] - bias).T.contiguous()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, inputs, dtype=like.dtype, generator=generator)
    wanted = added(x)
    off = float((x @ change.T + bias - wanted).abs().max())
    # A layer that computes in float32 sums in another order, with sums as large as the base's own.
    if off > _EXACT * max(1.0, float(wanted.abs().max()), float(base(x).abs().max())):
        raise ConfigError(
            f"the method {method.name!r} does more at {name} than change a weight (off by {off:.1e}), so the adapter "
            "has no delta form: it can't be pooled, exported or composed",
            hint="Serve it alone, with pefttools.load.",
        )
    return change, bias


def _pays(rank: int | None, inputs: int, outputs: int) -> bool:
    """Whether factors of this rank are smaller than the weight."""
    return rank is not None and rank * (inputs + outputs) < inputs * outputs


def _factors(change: torch.Tensor, rank: int | None, dtype: torch.dtype, noise: float) -> DeltaKind:
    """The change as factors of this rank, if its rank is no higher apart from noise; otherwise as it is.

    Its range is that of its products with random vectors (Halko, Martinsson, Tropp: Finding structure with randomness,
    https://arxiv.org/abs/0909.4061), which is exact for a matrix of that rank.
    """
    generator = torch.Generator().manual_seed(0)
    found = rank or 0
    # A few more probes than the rank, so that components much smaller than the largest are not lost.
    probes = torch.randn(change.shape[1], found + _MORE, dtype=change.dtype, generator=generator)
    basis = torch.linalg.qr(change @ probes).Q
    u, s, v = torch.linalg.svd(basis.T @ change, full_matrices=False)
    low = LowRank(s[:found, None] * v[:found], basis @ u[:, :found])
    left = torch.linalg.matrix_norm(change - low.dense())
    if float(left) > noise + _EXACT * float(torch.linalg.matrix_norm(change)):
        return Dense(change.to(dtype))
    return LowRank(low.a.to(dtype), low.b.to(dtype))


def _planned(
    method: WeightMethod, config: PeftConfig, options: Mapping[str, Any], model: nn.Module, names: Sequence[str]
) -> AdapterDeltas:
    """Deltas of layers on the meta device, for their sizes only: zeros, from one layer of each shape."""
    found: dict[tuple[int, int, bool], SiteDelta] = {}
    sites = {}
    for name in names:
        layer = model.get_submodule(name)
        shape = (input_size(layer), output_size(layer), getattr(layer, "bias", None) is not None)
        if shape not in found:
            found[shape] = _planned_site(method, config, options, shape)
        sites[name] = found[shape]
    return AdapterDeltas(sites)


def _planned_site(
    method: WeightMethod, config: PeftConfig, options: Mapping[str, Any], shape: tuple[int, int, bool]
) -> SiteDelta:
    import peft

    inputs, outputs, biased = shape
    own = copy.copy(config)
    own.target_modules = {"layer"}
    one = nn.Module()
    with torch.device("meta"):
        layer = nn.Linear(inputs, outputs, bias=biased)
    for name, parameter in list(layer.named_parameters()):  # zeros that take no memory
        layer.register_parameter(name, nn.Parameter(torch.zeros(()).expand(parameter.shape), requires_grad=False))
    one.add_module("layer", layer)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        parts = method.parts(peft.PeftModel(one, own).get_submodule(f"{_PREFIX}layer"), "default")
    if parts and sum(part.bytes for part in parts) < inputs * outputs * 4:
        return SiteDelta(*parts)
    rank = method.rank(options, inputs, outputs)
    bias = Bias(torch.zeros(outputs)) if method.changes_bias and biased else None
    if rank is not None and _pays(rank, inputs, outputs):
        return SiteDelta(LowRank(torch.zeros(rank, inputs), torch.zeros(outputs, rank)), bias)
    return SiteDelta(Dense(torch.zeros(outputs, inputs)), bias)


def _weightless(module: nn.Module) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor

    weight = next(module.parameters())
    return weight.is_meta or isinstance(weight, FakeTensor)
