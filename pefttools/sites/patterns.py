"""Matching modules by the patterns of a method's options."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from pefttools.errors import TargetError
from pefttools.sites.blocks import all_linear, fused_weights, part_of, read_past
from pefttools.sites.layers import base_modules, input_size, is_linear, output_size

if TYPE_CHECKING:
    from torch import nn

#: pattern for every linear layer inside the repeated blocks; heads, poolers and embeddings are outside of them
ALL_LINEAR = "all-linear"


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
        linear_only: match only linear layers; if not, any module that has parameters.
        fused: ends the warning of fused weights, which ``all-linear`` does not cover; None if the caller adapts them.

    Raises:
        TargetError: a pattern, even one of several, that matches nothing.
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
                    "weights, and an adapter on them would have no effect there",
                    hint="Adapt other layers of the mixer, such as in_proj.",
                )
            kind = "linear layer" if linear_only else "module"
            raise TargetError(
                f"{option}: the pattern {pattern!r} matches no {kind} of the model",
                hint=_suggestion(pattern, names),
            )
        chosen |= found
    return [name for name in names if name in chosen]


def ends(names: Iterable[str], model: nn.Module) -> list[str]:
    """The shortest list of name endings that means the same modules to PEFT, else the full names.

    PEFT takes a target as a whole name or as its end after a dot, among all modules of the model.
    """
    chosen = set(names)
    parts = sorted({part_of(name) or name for name in chosen})
    everything = [name for name, _ in model.named_modules()]
    meant = {name for name in everything for part in parts if _matches(name, part)}
    return parts if meant == chosen else sorted(chosen)


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
        f"{', '.join(names)}, which are not linear layers and are left as they are{hint}",
        stacklevel=3,
    )


def _is_candidate(module: nn.Module, linear_only: bool) -> bool:
    if linear_only:
        return is_linear(module)
    return next(module.parameters(), None) is not None


def _matches(name: str, pattern: str) -> bool:
    if any(sign in pattern for sign in "*?["):
        return fnmatchcase(name, pattern)
    return name == pattern or name.endswith(f".{pattern}")


def _suggestion(pattern: str, names: list[str]) -> str:
    short = sorted({part_of(name) or name for name in names})
    tails = {tail: None for name in short for tail in (name, name.rpartition(".")[2])}
    near = difflib.get_close_matches(pattern, tails, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    listed = ", ".join(short[:40]) + (f" and {len(short) - 40} more" if len(short) > 40 else "")
    return f"{hint}The model has: {listed}."
