"""Each kind that changes a layer does to states what it does to the weight, in a pool and folded in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pefttools.deltas import (
    Bias,
    Circulant,
    DeltaKind,
    Dense,
    InputScale,
    Kronecker,
    LowRank,
    OutputScale,
    PairRotation,
    Rotation,
    SharedBases,
    SharedLowRank,
    SiteDelta,
    Sparse,
    Spectrum,
    Wavelets,
    WeightScale,
)  # fmt: skip
from pefttools.deltas.adapter import KINDS
from pefttools.deltas.kind import At, tensors_of
from pefttools.deltas.merge import folded
from pefttools.pool.shared import SharedTensors
from pefttools.pool.stack import Stack, TensorOptions

Draw = Callable[..., torch.Tensor]


def _wavelets(draw: Draw, a: int, b: int, c: int) -> tuple[DeltaKind, int, int]:
    """With any filters of an even length; the weight is cut from the middle."""
    length, sizes = 2 * c, (2 * a + 2 * c, 2 * b + 2 * c)
    outputs, inputs = (max(1, size - length + 2 - (a + b) % 2) for size in sizes)
    part = Wavelets(
        _places(draw, *sizes), draw((sizes[0] * sizes[1] + 1) // 2), draw(2, length), sizes, (outputs, inputs)
    )
    return part, outputs, inputs


def _bases(draw: Draw, a: int, b: int, c: int) -> tuple[DeltaKind, int, int]:
    smaller, larger = sorted((a, b))
    part = SharedBases(draw(c, smaller), draw(larger, 2 * c), draw(c, 2), draw(2, smaller), b == smaller)
    return part, a, b


def _places(draw: Draw, outputs: int, inputs: int) -> torch.Tensor:
    """Half of all places, each once."""
    order = draw(outputs * inputs).argsort()[: (outputs * inputs + 1) // 2]
    return torch.stack([order // inputs, order % inputs]).int()


#: kind -> from numbers and three sizes to one of it, with the sizes of its layer
MAKERS: dict[type[DeltaKind], Callable[[Draw, int, int, int], tuple[DeltaKind, int, int]]] = {
    Bias: lambda draw, a, b, c: (Bias(draw(a)), a, b),
    InputScale: lambda draw, a, b, c: (InputScale(draw(b)), a, b),
    OutputScale: lambda draw, a, b, c: (OutputScale(draw(a)), a, b),
    WeightScale: lambda draw, a, b, c: (WeightScale(draw(a)), a, b),
    Dense: lambda draw, a, b, c: (Dense(draw(a, b)), a, b),
    LowRank: lambda draw, a, b, c: (LowRank(draw(c, b), draw(a, c)), a, b),
    Rotation: lambda draw, a, b, c: (Rotation(draw(b, c, c)), a, b * c),
    PairRotation: lambda draw, a, b, c: (PairRotation(draw(2 * a * c), draw(2 * a * c), 2 * c), 2 * a * c, b),
    Kronecker: lambda draw, a, b, c: (Kronecker(draw(a, b), draw(c, a)), a * c, b * a),
    Circulant: lambda draw, a, b, c: (Circulant(draw(a, b, c)), a * c, b * c),
    SharedLowRank: lambda draw, a, b, c: (SharedLowRank(draw(c, b), draw(a, c), draw(c), draw(a)), a, b),
    Sparse: lambda draw, a, b, c: (Sparse(_places(draw, a, b), draw((a * b + 1) // 2)), a, b),
    Spectrum: lambda draw, a, b, c: (Spectrum(_places(draw, a, b), draw((a * b + 1) // 2), (a, b)), a, b),
    SharedBases: _bases,
    Wavelets: _wavelets,
}


def test_no_kind_of_a_linear_layer_is_left_out() -> None:
    assert {kind for kind in KINDS if kind.linear} == MAKERS.keys()


@pytest.mark.parametrize("kind", MAKERS, ids=lambda kind: kind.name)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.booleans(), st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_what_a_pool_does_is_what_is_folded(
    kind: type[DeltaKind], a: int, b: int, c: int, biased: bool, seed: int
) -> None:
    """Of three rows the first and the last have an adapter each, the second has none."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    (first, outputs, inputs), (second, _, _) = MAKERS[kind](draw, a, b, c), MAKERS[kind](draw, a, b, c)
    layer = nn.Linear(inputs, outputs, bias=biased or kind is Bias).double().requires_grad_(False)
    x = draw(3, 4, inputs)
    wanted = torch.stack([_alone(layer, first, x[0]), layer(x[1]), _alone(layer, second, x[2])])
    torch.testing.assert_close(_pooled(layer, first, second, x), wanted, atol=1e-9, rtol=0)
    if kind not in (Bias, InputScale, OutputScale, WeightScale, PairRotation, Rotation):
        change = folded(dict(layer.named_parameters()), SiteDelta(first), "layer")["weight"] - layer.weight
        assert first.norm() == pytest.approx(float(torch.linalg.matrix_norm(change)), rel=1e-4, abs=1e-6)


def _alone(layer: nn.Linear, part: DeltaKind, x: torch.Tensor) -> torch.Tensor:
    changed = folded(dict(layer.named_parameters()), SiteDelta(part), "layer")
    return nn.functional.linear(x, changed["weight"], changed.get("bias"))


def _pooled(layer: nn.Linear, first: DeltaKind, second: DeltaKind, x: torch.Tensor) -> torch.Tensor:
    if not first.stacked:
        y = layer(x)
        rows = [part.alone(layer)(x[row : row + 1], y[row : row + 1]) for row, part in ((0, first), (2, second))]
        return torch.cat([rows[0], y[1:2], rows[1]])
    family = first.family()
    stack = Stack(family, first, 4, TensorOptions(torch.float64, torch.device("cpu")))
    slots = torch.tensor([1, 0, 3])
    stack.write(1, first)
    stack.write(3, second)
    weights = {name: tensor[slots] for name, tensor in stack.tensors.items()}
    at = At(layer, slots, family.form, family.size)
    if first.on_input:
        return layer(type(first).apply(x, x, weights, at))
    return type(first).apply(x, layer(x), weights, at)


def test_shared_matrices_are_held_once() -> None:
    from pefttools.deltas import AdapterDeltas

    def adapter(seed: int) -> AdapterDeltas:
        common, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
        a, b = torch.randn(8, 6, generator=common), torch.randn(4, 8, generator=common)
        part = SharedLowRank(a, b, torch.randn(8, generator=own), torch.randn(4, generator=own))
        return AdapterDeltas({"one": SiteDelta(part), "other": SiteDelta(part)})

    held = SharedTensors()
    matrices = 4 * (8 * 6 + 4 * 8)
    assert held.missing(adapter(1)) == matrices
    first = held.put_in(adapter(1))
    assert held.bytes() == matrices and held.missing(adapter(2)) == 0
    second = held.put_in(adapter(2))
    assert held.bytes() == matrices
    parts = [site.parts[0] for deltas in (first, second) for site in deltas.sites.values()]
    assert len({id(part.a) for part in parts}) == 1  # type: ignore[attr-defined]
    assert {part.bytes for part in parts} == {4 * (8 + 4)}
    del first, second, parts
    assert held.bytes() == 0


def test_kinds_say_which_of_their_tensors_are_shared() -> None:
    part = SharedLowRank(torch.ones(2, 3), torch.ones(4, 2), torch.ones(2), torch.ones(4))
    assert len(tensors_of(part)) == 4
    assert {name for kind in KINDS for name in kind.shared} == {"a", "b"}
