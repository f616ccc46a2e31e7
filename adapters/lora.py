"""LoRA and its relatives, by PEFT.

LoRA     y = W x + (alpha / r) B A x             https://arxiv.org/abs/2106.09685
rsLoRA   alpha / sqrt(r) instead of alpha / r    https://arxiv.org/abs/2312.03732
DoRA     magnitude and direction decoupled       https://arxiv.org/abs/2402.09353
LoRA+    B learns faster than A                  https://arxiv.org/abs/2402.12354
LoRA-FA  A is frozen                             https://arxiv.org/abs/2308.03303

Initialization of A and B: `lora_starts`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pefttools.bases import BaseVariant
from pefttools.errors import ArtifactError, ConfigError
from pefttools.methods import Capabilities, MethodConfig, Pass, Target, TaskFacts
from pefttools.sites import ALL_LINEAR, ends, match_modules

from .lora_experts import exact, experts_of, in_order, packed_experts, take_back_updates
from .lora_starts import (
    FROM_DATA,
    OF_BASE,
    OF_FOUR_BITS,
    RESIDUAL,
    Start,
    free_gradients,
    freeze_minor_directions,
    of_peft,
    remember_start,
    say_as_update,
    take_off,
    taken_off,
)
from .peft_bridge import PeftMethod, refuse_pairs_of_options

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.deltas import AdapterDeltas, SiteDelta

#: prefix of the names of factors that were subtracted from the base, in a checkpoint
_TAKEN = "taken off "
_A, _B, _BIAS, _MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_B.bias", ".lora_magnitude_vector"


class LoraConfig(MethodConfig):
    """Options of LoRA."""

    r: int = Field(8, ge=1, description="rank of the update")
    alpha: float = Field(16.0, gt=0, description="the update is scaled by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the update's input during training")
    targets: list[str] = Field(
        default_factory=lambda: [ALL_LINEAR],
        min_length=1,
        description="modules to adapt: names, ends of names, globs, or all-linear",
    )
    experts: bool = Field(
        False,
        description="also adapt the routed experts of a mixture that are stored in one fused weight, each separately",
    )
    rslora: bool = Field(False, description="rank-stabilized scale alpha / sqrt(r)")
    dora: bool = Field(False, description="weight-decomposed LoRA: train magnitude and direction separately")
    lean: bool = Field(True, description="save memory in the backward pass; off: PEFT's own layers")
    start: Start = Field(
        "zero", description="initialization; olora, pissa, corda and lora-ga need float32, loftq nf4 or hqq"
    )
    pissa: bool = Field(False, description="the same as start=pissa")
    b_rate: float = Field(1.0, gt=0, description="learning rate of B as a multiple of A's (LoRA+: 16)")
    frozen_a: bool = Field(False, description="train only B, with gradients as if the whole update were free (LoRA-FA)")

    @property
    def begin_at(self) -> Start:
        """How the factors are initialized."""
        return "pissa" if self.pissa else self.start


class Lora(PeftMethod[LoraConfig]):
    """Low-rank updates of linear layers."""

    name = "lora"
    summary = "low-rank updates; options rslora, dora, start, b_rate, frozen_a"
    paper = "https://arxiv.org/abs/2106.09685"
    config = LoraConfig
    capabilities = Capabilities(effect="weights", deltas=True)
    learning_rate = 2e-3
    neutral = {r"\.lora_A\.weight$": None, r"\.lora_B\.(weight|bias)$": 0.0}  # noqa: RUF012

    def check(self, config: LoraConfig, variant: BaseVariant, task: TaskFacts) -> None:
        super().check(config, variant, task)
        start, begun = config.begin_at, f"lora.start={config.begin_at}"
        if config.pissa and config.start not in ("zero", "pissa"):
            raise ConfigError(f"lora.pissa and lora.start={config.start} are mutually exclusive", hint="Choose one.")
        refuse_pairs_of_options({"lora.dora": config.dora, begun: start not in ("zero", "gaussian")})
        refuse_pairs_of_options({"lora.dora": config.dora, "lora.frozen_a": config.frozen_a})
        refuse_pairs_of_options({"lora.b_rate": config.b_rate != 1.0, "lora.frozen_a": config.frozen_a})
        refuse_pairs_of_options({begun: start == "mica", "lora.frozen_a": config.frozen_a})
        refuse_pairs_of_options({begun: start == "mica", "lora.b_rate": config.b_rate != 1.0})
        for name, given in (
            ("dora", config.dora), ("dropout", config.dropout), ("frozen_a", config.frozen_a),
        ):  # fmt: skip
            refuse_pairs_of_options({"lora.experts": config.experts, f"lora.{name}": bool(given)})
        refuse_pairs_of_options({"lora.experts": config.experts, begun: start != "zero"})
        if start == "loftq" and variant.name not in OF_FOUR_BITS:
            raise ConfigError(
                f"{begun} compensates for the quantization error of the 4-bit variants {' and '.join(OF_FOUR_BITS)}, "
                f"but the variant is {variant.name}",
                hint="Use one of them, or another start.",
            )
        if start in RESIDUAL and variant.name != "float32":
            raise ConfigError(
                f"{begun} can't be used with the variant {variant.name!r}: it rewrites the base's weights",
                hint=f"Use the variant float32, or another start: on {' and '.join(OF_FOUR_BITS)}, loftq.",
            )
        if config.dora and variant.quantized and variant.name != "nf4":
            raise ConfigError(
                f"lora.dora can't be used with the variant {variant.name!r}: PEFT misreads its norms",
                hint="Use the variant nf4, or leave dora off.",
            )

    def trained(self, config: LoraConfig) -> LoraConfig:
        # What an initialization freezes stays frozen.
        return config.model_copy(update={"start": "mica" if config.begin_at == "mica" else "zero", "pissa": False})

    def decays_to(self, model: nn.Module, config: LoraConfig, name: str) -> float | None:
        # PiSSA's factors hold the principal components of the base's own weights: decay to zero would erase those.
        return None if config.begin_at in OF_BASE and ".lora_" in name else 0.0

    def rate_factor(self, model: nn.Module, config: LoraConfig, name: str) -> float:
        return config.b_rate if ".lora_B." in name else 1.0

    def reads_rows(self, config: LoraConfig) -> bool:
        return config.begin_at in FROM_DATA

    def prepare(self, model: nn.Module, config: LoraConfig, passes: Iterable[Pass]) -> None:
        if config.begin_at in FROM_DATA:
            from .lora_row_starts import start_from_rows

            start_from_rows(model, self.adapter, config.begin_at, passes)
            if config.frozen_a:
                free_gradients(model)

    def idle_options(self, config: LoraConfig, variant: BaseVariant) -> list[str]:
        if config.dora and "lean" in config.model_fields_set:
            return ["lora.lean has no effect: with DoRA the layers are PEFT's own"]
        return []

    def peft_config(self, model: nn.Module, config: LoraConfig, target: Target) -> Any:
        import peft

        fused = None if config.experts else " (experts are adapted with lora.experts=true)"
        names = match_modules(model, config.targets, option="lora.targets", fused=fused)
        names = [name for name in names if not target.in_head(name)]
        return peft.LoraConfig(
            r=config.r,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=exact(ends(names, model)),
            target_parameters=experts_of(model) if config.experts else None,
            use_rslora=config.rslora,
            use_dora=config.dora,
            init_lora_weights=of_peft(config.begin_at),
            task_type=target.peft_task_type or None,
            modules_to_save=list(target.head_modules) or None,
        )

    def stored_config(self, model: nn.Module, folder: Path) -> Any:
        stored = super().stored_config(model, folder)
        if stored.target_parameters:
            stored.target_parameters = in_order(stored.target_parameters, model)
        if not isinstance(stored.target_modules, str | None):
            stored.target_modules = set(exact(stored.target_modules))
        return stored

    def load(self, model: nn.Module, folder: Path, config: LoraConfig, target: Target) -> nn.Module:
        wrapped = super().load(model, folder, config, target)
        take_back_updates(wrapped)
        return wrapped

    def merge(self, model: nn.Module) -> nn.Module:
        if packed_experts(model):
            raise ConfigError(
                "LoRA on experts can't be merged into a base that stores them in 4 bits",
                hint="Merge into the variant bfloat16.",
            )
        return super().merge(model)

    def wrap(self, model: nn.Module, config: LoraConfig, target: Target) -> nn.Module:
        wrapped = super().wrap(model, config, target)
        take_back_updates(wrapped)
        if config.lean:
            from .lora_function import keep_less

            keep_less(wrapped)
        if config.begin_at == "loftq":
            from .loftq import start_from_rounding

            start_from_rounding(wrapped, self.adapter)
        if config.begin_at == "mica":
            freeze_minor_directions(wrapped, self.adapter)
        if config.begin_at in RESIDUAL and config.begin_at not in FROM_DATA:
            remember_start(wrapped, self.adapter)
        if config.frozen_a:
            free_gradients(wrapped)
        return wrapped

    def save(self, model: nn.Module, folder: Path, base_id: str) -> None:
        super().save(model, folder, base_id)
        say_as_update(model, folder)

    def training_state(self, model: nn.Module) -> dict[str, torch.Tensor]:
        # A checkpoint of trained parameters contains neither frozen random factors nor those read from rows.
        frozen = {n: p.detach() for n, p in model.named_parameters() if ".lora_" in n and not p.requires_grad}
        return frozen | {f"{_TAKEN}{key}": tensor for key, tensor in taken_off(model).items()}

    def restore_training_state(self, model: nn.Module, state: dict[str, torch.Tensor]) -> None:
        taken = {key.removeprefix(_TAKEN): value for key, value in state.items() if key.startswith(_TAKEN)}
        if taken and not taken_off(model):  # what is computed from the base alone was already subtracted by `wrap`
            take_off(model, self.adapter, taken)
        frozen = {name: value for name, value in state.items() if not name.startswith(_TAKEN)}
        for name, value in frozen.items():
            parameter = model.get_parameter(name)
            parameter.data = value.to(parameter)
        if any(".lora_A." in name for name in frozen):
            free_gradients(model)

    def state_deltas(self, state: dict[str, torch.Tensor], options: dict[str, Any], model: nn.Module) -> AdapterDeltas:
        from pefttools.deltas import AdapterDeltas, Bias, SiteDelta

        if options.get("target_parameters"):
            raise ConfigError(
                "an adapter of fused experts can't be served alongside other adapters",
                hint="Load it alone (load_artifact), or train with lora.experts=false.",
            )
        sites = {
            name.removesuffix(_A): _site(state, name.removesuffix(_A), options, model)
            for name in state
            if name.endswith(_A)
        }
        for name in state:
            if not name.endswith((_A, _B, _BIAS, _MAGNITUDE)):
                site, change = _trained_bias(name, state[name], model)
                own = Bias(change)
                rest = []
                for part in sites.get(site, ()):
                    if isinstance(part, Bias):
                        own = Bias(part.vector + change)
                    else:
                        rest.append(part)
                sites[site] = SiteDelta(*rest, own)
        return AdapterDeltas(sites)


def _trained_bias(name: str, bias: torch.Tensor, model: nn.Module) -> tuple[str, torch.Tensor]:
    """Site of a bias that PEFT trained directly (``bias="all"`` or ``"lora_only"``), and how it changed."""
    site = name.removesuffix(".bias").removesuffix(".base_layer")
    try:
        own = model.get_submodule(site).get_parameter("bias")
    except AttributeError:
        own = None
    if own is None or not name.endswith(".bias"):
        raise ArtifactError(f"the method 'lora' does not know the tensor {name!r}")
    return site, bias - own.detach().to(bias)


def _scale(options: dict[str, Any], site: str, rank: int) -> float:
    """The scale of the product of B and A; alpha may differ by module."""
    from peft.utils.other import get_pattern_key

    alphas = options.get("alpha_pattern") or {}
    alpha = alphas.get(get_pattern_key(alphas.keys(), site), options.get("lora_alpha", 8))
    return float(alpha / (rank**0.5 if options.get("use_rslora") else rank))


def _site(state: dict[str, torch.Tensor], name: str, options: dict[str, Any], model: nn.Module) -> SiteDelta:
    import torch

    from pefttools.deltas import Bias, LowRank, SiteDelta, WeightScale
    from pefttools.deltas.weights import dense_weight

    scale = _scale(options, name, state[name + _A].shape[0])
    low_rank = LowRank(state[name + _A], state[name + _B] * scale)
    # Composed adapters have it if one of their parts changes biases.
    bias = Bias(state[name + _BIAS] * scale) if name + _BIAS in state else None
    magnitude = state.get(name + _MAGNITUDE)
    if magnitude is None:
        return SiteDelta(low_rank, bias)
    weight = dense_weight(model.get_submodule(name)).to(magnitude.dtype)
    norm = torch.linalg.norm(weight + low_rank.dense().to(weight.device), dim=1)
    return SiteDelta(low_rank, WeightScale(magnitude.to(norm.device) / norm), bias)
