"""Where in a model a method acts: matching module patterns, and what the parts of a transformer block are called."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from pefttools.errors import TargetError

if TYPE_CHECKING:
    from torch import nn

#: pattern for every linear layer inside the repeated blocks; heads, poolers and embeddings are outside of them
ALL_LINEAR = "all-linear"

_IN_BLOCK = re.compile(r"(?:^|.*\.)\d+\.(?P<part>[^\d].*)")


@dataclass(frozen=True)
class BlockParts:
    """Names of a transformer block's linear layers, relative to the block.

    Attributes:
        keys_values: projections to keys and values.
        attention_output: the projection that ends the attention sub-layer.
        feed_forward_input: the first projections of the feed-forward sub-layer.
        feed_forward_output: the projection that ends the feed-forward sub-layer.
        final_norm: in families of post-norm blocks, the norm that ends the block.
        cross_keys_values: the same projections of a decoder's attention to an encoder's states, which only some blocks
            of such models have.
        cross_attention_output: the projection that ends that attention.
    """

    keys_values: tuple[str, ...]
    attention_output: str
    feed_forward_input: tuple[str, ...]
    feed_forward_output: str
    final_norm: str | None = None
    cross_keys_values: tuple[str, ...] = ()
    cross_attention_output: str | None = None

    @property
    def all_keys_values(self) -> tuple[str, ...]:
        """Projections to keys and values of both attentions."""
        return (*self.keys_values, *self.cross_keys_values)

    @property
    def attention_outputs(self) -> tuple[str, ...]:
        """The projections that end the attention sub-layers."""
        cross = self.cross_attention_output
        return (self.attention_output,) if cross is None else (self.attention_output, cross)


_BART_CROSS = (("encoder_attn.k_proj", "encoder_attn.v_proj"), "encoder_attn.out_proj")
_T5_CROSS = (("EncDecAttention.k", "EncDecAttention.v"), "EncDecAttention.o")
#: By family; the first whose every part stands in the model is taken. Another family costs one line here.
FAMILIES = {
    "bert": BlockParts(
        ("attention.self.key", "attention.self.value"),
        "attention.output.dense",
        ("intermediate.dense",),
        "output.dense",
        "output.LayerNorm",
    ),
    "deberta-v2": BlockParts(
        ("attention.self.key_proj", "attention.self.value_proj"),
        "attention.output.dense",
        ("intermediate.dense",),
        "output.dense",
        "output.LayerNorm",
    ),
    "mpnet": BlockParts(
        ("attention.attn.k", "attention.attn.v"),
        "attention.attn.o",
        ("intermediate.dense",),
        "output.dense",
        "output.LayerNorm",
    ),
    "albert": BlockParts(
        ("attention.key", "attention.value"), "attention.dense", ("ffn",), "ffn_output", "full_layer_layer_norm"
    ),
    "vit": BlockParts(
        ("attention.attention.key", "attention.attention.value"),
        "attention.output.dense",
        ("intermediate.dense",),
        "output.dense",
    ),
    "vit-5": BlockParts(("attention.k_proj", "attention.v_proj"), "attention.o_proj", ("mlp.fc1",), "mlp.fc2"),
    "wav2vec2": BlockParts(
        ("attention.k_proj", "attention.v_proj"),
        "attention.out_proj",
        ("feed_forward.intermediate_dense",),
        "feed_forward.output_dense",
    ),
    "distilbert": BlockParts(
        ("attention.k_lin", "attention.v_lin"), "attention.out_lin", ("ffn.lin1",), "ffn.lin2", "output_layer_norm"
    ),
    "llama": BlockParts(
        ("self_attn.k_proj", "self_attn.v_proj"), "self_attn.o_proj", ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"
    ),
    "phi3": BlockParts(("self_attn.qkv_proj",), "self_attn.o_proj", ("mlp.gate_up_proj",), "mlp.down_proj"),
    "phi": BlockParts(("self_attn.k_proj", "self_attn.v_proj"), "self_attn.dense", ("mlp.fc1",), "mlp.fc2"),
    "clip": BlockParts(("self_attn.k_proj", "self_attn.v_proj"), "self_attn.out_proj", ("mlp.fc1",), "mlp.fc2"),
    "bart": BlockParts(
        ("self_attn.k_proj", "self_attn.v_proj"),
        "self_attn.out_proj",
        ("fc1",),
        "fc2",
        "final_layer_norm",
        *_BART_CROSS,
    ),
    "gpt2": BlockParts(("attn.c_attn",), "attn.c_proj", ("mlp.c_fc",), "mlp.c_proj"),
    "gpt-neox": BlockParts(
        ("attention.query_key_value",), "attention.dense", ("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h"
    ),
    "bloom": BlockParts(
        ("self_attention.query_key_value",), "self_attention.dense", ("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h"
    ),
    "modernbert": BlockParts(("attn.Wqkv",), "attn.Wo", ("mlp.Wi",), "mlp.Wo"),
    "t5": BlockParts(
        ("SelfAttention.k", "SelfAttention.v"),
        "SelfAttention.o",
        ("DenseReluDense.wi",),
        "DenseReluDense.wo",
        None,
        *_T5_CROSS,
    ),
    "t5-gated": BlockParts(
        ("SelfAttention.k", "SelfAttention.v"),
        "SelfAttention.o",
        ("DenseReluDense.wi_0", "DenseReluDense.wi_1"),
        "DenseReluDense.wo",
        None,
        *_T5_CROSS,
    ),
}


def block_parts(model: nn.Module) -> BlockParts:
    """What the linear layers of this model's blocks are called.

    Raises:
        TargetError: no family in the table fits; the message lists the linear layers that do exist.
    """
    names = set(_linear_parts(model).values())
    for parts in FAMILIES.values():
        needed = {
            *parts.keys_values,
            parts.attention_output,
            *parts.feed_forward_input,
            parts.feed_forward_output,
        }
        if needed <= names:
            return parts
    raise TargetError(
        "the parts of this model's blocks are not known",
        hint="Name the modules in the method's options. "
        f"Linear layers of its blocks: {', '.join(sorted(names)) or 'none'}.",
    )


def modules_at(model: nn.Module, part: str) -> list[str]:
    """Full names of the block layers that are called exactly `part` within their block."""
    return [name for name, inside in _linear_parts(model).items() if inside == part]


def all_linear(model: nn.Module) -> list[str]:
    """Full names of the linear layers inside the repeated blocks that are called wherever the model runs."""
    passed_by = read_past(model)
    return [name for name in _linear_parts(model) if name not in passed_by]


def block_linear(model: nn.Module) -> list[str]:
    """Full names of the linear layers inside the repeated blocks, be they called or only read."""
    return list(_linear_parts(model))


def read_past(model: nn.Module) -> set[str]:
    """Full names of linear layers of state-space mixers whose weights are read without calling the layer.

    Mamba and its kind run one kernel on a GPU, which is handed the weights of most of a mixer's layers: what is put on
    such a layer has an effect on a CPU and none there. Which layers these are is read off the mixer's own code.
    """
    kinds: dict[type, set[str]] = {}
    found = set()
    for name, mixer in model.named_modules():
        if not hasattr(mixer, "A_log"):
            continue
        if type(mixer) not in kinds:
            kinds[type(mixer)] = _weights_read_by(type(mixer))
        for own, layer in mixer.named_children():
            if own in kinds[type(mixer)] and is_linear(layer):
                found.add(f"{name}.{own}")
    return found


def _weights_read_by(kind: type) -> set[str]:
    """Children of which the methods of a module's class read the weight, but for those that initialise it."""
    found: set[str] = set()
    for name, method in vars(kind).items():
        if callable(method) and "init" not in name:
            with contextlib.suppress(OSError, TypeError):
                found |= set(re.findall(r"self\.(\w+)\.weight\b", inspect.getsource(method)))
    return found


def match_modules(
    model: nn.Module, patterns: Iterable[str], *, option: str, linear_only: bool = True, fused: str | None = ""
) -> list[str]:
    """Full names of the modules that match at least one pattern, in the model's order.

    A pattern is a full name, the end of one (``query``, ``output.dense``), a glob (``*.layer.[01].*.value``), or
    ``all-linear``.

    Args:
        model: the model whose modules are named.
        patterns: what to match.
        option: name of the option that holds the patterns, for the message.
        linear_only: match only linear layers; else any module that has parameters.
        fused: ends the warning of fused weights, which ``all-linear`` does not cover; None: the caller adapts them too.

    Raises:
        TargetError: a pattern, be it one of several, that matches nothing.
    """
    passed_by = read_past(model) if linear_only else set()
    named = [name for name, module in base_modules(model) if name and _is_candidate(module, linear_only)]
    names = [name for name in named if name not in passed_by]
    chosen: set[str] = set()
    for pattern in patterns:
        if pattern == ALL_LINEAR and fused is not None:
            _warn_of_fused_weights(model, option, fused)
        found = set(all_linear(model)) if pattern == ALL_LINEAR else {name for name in names if _matches(name, pattern)}
        if not found:
            if any(_matches(name, pattern) for name in named):
                raise TargetError(
                    f"{option}: {pattern!r} names layers that the model's GPU kernel does not call: it reads their "
                    "weights, and what is put on them would have no effect there",
                    hint="Adapt others of the mixer's layers, such as in_proj.",
                )
            kind = "linear layer" if linear_only else "module"
            raise TargetError(
                f"{option}: the pattern {pattern!r} matches no {kind} of the model",
                hint=_suggestion(pattern, names),
            )
        chosen |= found
    return [name for name in names if name in chosen]


def fused_weights(model: nn.Module) -> dict[str, int]:
    """Block weights that multiply as linear layers do, but stand fused in one parameter of three or more dimensions.

    Mixtures of experts keep all experts so, XLNet its attention heads.

    Returns:
        Names of the parameters, and the number of their elements.
    """
    from torch.nn.modules.conv import _ConvNd

    found = {}
    for name, module in model.named_modules():
        if isinstance(module, _ConvNd):
            continue
        shapes = {own: parameter.shape for own, parameter in module.named_parameters(recurse=False)}
        shapes |= {own: packed.original.quant_state.shape for own, packed in parametrized(module).items()}
        for own, shape in shapes.items():
            full = f"{name}.{own}"
            if len(shape) > 2 and _part(full):
                found[full] = shape.numel()
    return found


def parametrized(module: nn.Module) -> dict[str, Any]:
    """By name, the lists of parametrizations of a module's weights that are stored in few bits."""
    lists: Any = getattr(module, "parametrizations", {})
    # Of a weight norm there are several originals, and none by this name.
    return {name: chain for name, chain in lists.items() if hasattr(getattr(chain, "original", None), "quant_state")}


def _warn_of_fused_weights(model: nn.Module, option: str, hint: str) -> None:
    fused = fused_weights(model)
    if not fused:
        return
    # By sizes and not by parameters: a quantized weight is packed.
    covered = sum(input_size(layer) * output_size(layer) for layer in map(model.get_submodule, all_linear(model)))
    share = covered / (covered + sum(fused.values()))
    names = sorted({name.rpartition(".")[2] for name in fused})
    warnings.warn(
        f"{option}: {ALL_LINEAR!r} covers {share:.0%} of the weights in this model's blocks; the rest is fused in "
        f"{', '.join(names)}, which are not linear layers and stay as they are{hint}",
        stacklevel=3,
    )


def ends(names: Iterable[str], model: nn.Module) -> list[str]:
    """The shortest list of name endings that means the same modules to PEFT, else the full names.

    PEFT takes a target as a whole name or as its end after a dot, among all modules of the model.
    """
    chosen = set(names)
    parts = sorted({_part(name) or name for name in chosen})
    everything = [name for name, _ in model.named_modules()]
    meant = {name for name in everything for part in parts if _matches(name, part)}
    return parts if meant == chosen else sorted(chosen)


def is_linear(module: nn.Module) -> bool:
    """A linear layer, quantized or not, or the transposed kind of GPT-2.

    Routers of mixtures of experts are subclasses that give choices and no product: what has a forward pass of its own
    is taken for linear only where it is called so.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if not isinstance(module, nn.Linear | Conv1D):
        return False
    kind = type(module)
    return kind.forward in (nn.Linear.forward, Conv1D.forward) or "Linear" in kind.__name__


def output_size(module: nn.Module) -> int:
    """Size of a linear layer's output."""
    size = getattr(module, "out_features", None) or getattr(module, "nf", None)
    if not isinstance(size, int):
        raise TargetError(f"{type(module).__name__} is not a linear layer")
    return size


def input_size(module: nn.Module) -> int:
    """Size of a linear layer's input."""
    size = getattr(module, "in_features", None) or getattr(module, "nx", None)
    if not isinstance(size, int):
        raise TargetError(f"{type(module).__name__} is not a linear layer")
    return size


def base_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules by name, without those that a method has added to the base: they say so by ``of_adapter``."""
    added: list[str] = []
    for name, module in model.named_modules():
        if getattr(module, "of_adapter", False):
            added.append(f"{name}.")
        if not added or not f"{name}.".startswith(tuple(added)):
            yield name, module


def _linear_parts(model: nn.Module) -> dict[str, str]:
    found = {}
    for name, module in base_modules(model):
        part = _part(name)
        if part and is_linear(module):
            found[name] = part
    return found


def _part(name: str) -> str | None:
    match = _IN_BLOCK.fullmatch(name)
    return match["part"] if match else None


def _is_candidate(module: nn.Module, linear_only: bool) -> bool:
    if linear_only:
        return is_linear(module)
    return next(module.parameters(), None) is not None


def _matches(name: str, pattern: str) -> bool:
    if any(sign in pattern for sign in "*?["):
        return fnmatchcase(name, pattern)
    return name == pattern or name.endswith(f".{pattern}")


def _suggestion(pattern: str, names: list[str]) -> str:
    short = sorted({_part(name) or name for name in names})
    tails = {tail: None for name in short for tail in (name, name.rpartition(".")[2])}
    near = difflib.get_close_matches(pattern, tails, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    listed = ", ".join(short[:40]) + (f" and {len(short) - 40} more" if len(short) > 40 else "")
    return f"{hint}The model has: {listed}."


def backbone_name(model: nn.Module) -> str:
    """What the base is called inside of one of transformers' classes with a head."""
    from transformers import PreTrainedModel

    prefix = str(getattr(model, "base_model_prefix", ""))
    if hasattr(model, prefix):
        return prefix
    # Whisper's class for audio is around the encoder alone, and says that its base is the whole model.
    return next((name for name, child in model.named_children() if isinstance(child, PreTrainedModel)), prefix)


def transformers_models(model: nn.Module) -> list[Any]:
    """transformers' own models inside of a wrapped one, the outermost first."""
    from transformers import PreTrainedModel

    return [module for module in model.modules() if isinstance(module, PreTrainedModel)]
