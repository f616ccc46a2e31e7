"""Elementwise operations made again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from pefttools.compute.selective import Selective
from pefttools.planning.counter import StorageCounter

STEPS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "square": lambda x: x * x,
    "scale": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5),
    "norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "cast": lambda x: x.bfloat16().float(),
    "turn": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
    "view": lambda x: x.reshape(-1, x.shape[-1]).tanh().view(x.shape),
    "in place": lambda x: (x + 1).mul_(0.5).sigmoid(),
    "halves": lambda x: x[..., : x.shape[-1] // 2].repeat_interleave(2, -1) * 0.3 + x,
    "product": lambda x: x @ torch.eye(x.shape[-1]) + x,
}


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=6), rows=st.integers(1, 3))
def test_any_chain_has_the_same_gradient(steps: list[str], rows: int) -> None:
    start = torch.randn(rows, 5, 4, generator=torch.Generator().manual_seed(rows))

    def gradient() -> Tensor:
        x = start.clone().requires_grad_()
        y = x
        for step in steps:
            y = STEPS[step](y)
        (y * y.detach()).sum().backward()
        assert x.grad is not None
        return x.grad

    plain = gradient()
    with Selective():
        torch.testing.assert_close(gradient(), plain, rtol=1e-6, atol=1e-7)


def _gated(width: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    parts = nn.ModuleDict({name: nn.Linear(width, width, bias=False) for name in ("gate", "up", "down")})
    norm = nn.LayerNorm(width)
    parts["norm"] = norm

    def run(x: Tensor) -> Tensor:
        h = norm(x)
        out: Tensor = parts["down"](F.silu(parts["gate"](h)) * parts["up"](h))
        return out

    return parts, run


def test_keeps_what_cannot_be_made_again_alone() -> None:
    """Of a gated block: its input, gate and up; not the norm's result, the activation or the product."""
    rows, width = 64, 32
    parts, run = _gated(width)
    x = torch.randn(rows, width, requires_grad=True)
    kept = []
    for mode in (Selective(), None):
        counter = StorageCounter(torch.device("cpu"))
        for tensor in (x, *parts.parameters()):
            counter.track(tensor, "weights")
        with counter:
            if mode is None:
                out = run(x)
            else:
                with mode:
                    out = run(x)
        kept.append((counter.now["other"] - out.untyped_storage().nbytes()) / x.untyped_storage().nbytes())
        del out
    assert kept[0] == pytest.approx(2, abs=0.1)
    assert kept[1] == pytest.approx(5, abs=0.1)


def test_under_autocast_too() -> None:
    parts, run = _gated(16)
    x = torch.randn(6, 16)
    found = []
    for mode in (None, Selective()):
        parts.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            if mode is None:
                out = run(x)
            else:
                with mode:
                    out = run(x)
        out.float().square().sum().backward()
        found.append([p.grad for p in parts.parameters()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_change_in_place_of_what_a_gradient_needs_is_an_error() -> None:
    x = torch.randn(4, 4, requires_grad=True)
    with Selective():
        y = x @ x
        z = F.silu(y) * y
        y.detach().add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        z.sum().backward()
