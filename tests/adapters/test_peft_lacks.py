"""Methods that PEFT lacks: they compute what their papers say."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pefttools
from pefttools.adapters.bottleneck.kronecker import weight_of
from pefttools.errors import ConfigError, TargetError
from pefttools.tuned import TunedModel

TEXTS = ["a short text", "another text that is longer", "third"]
TASK = {"name": "sequence-classification", "head": "mean"}


def _wrap(base: str, method: dict[str, Any]) -> TunedModel:
    model = pefttools.wrap(base, method, task=TASK, labels=["a", "b"], precision="float32")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.transformer.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def _states(model: TunedModel, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What a module returns before and after what is hooked to it."""
    found: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, args: Any, output: Any) -> None:
        found.append((output[0] if isinstance(output, tuple) else output).clone())

    module = model.transformer.get_submodule(name)
    first = module.register_forward_hook(keep, prepend=True)
    last = module.register_forward_hook(keep)
    model.run_batch(dict(model.tokenizer(TEXTS, padding=True, return_tensors="pt")))
    first.remove()
    last.remove()
    before, after = found
    return before, after


@pytest.mark.parametrize("kind", ["loreft", "noreft", "direft"])
def test_reft_edits_states_as_the_paper_says(kind: str, tiny_bert: str) -> None:
    """Equations 2 to 4 of https://arxiv.org/abs/2404.03592, for every token."""
    model = _wrap(tiny_bert, {"name": "reft", "kind": kind, "r": 4})
    edit: Any = model.transformer.get_submodule("encoder.layer.1.reft")
    h, edited = _states(model, "encoder.layer.1")
    r, w, b = edit.rows(), edit.source.weight, edit.source.bias
    inner = h @ w.T + b - (0 if kind == "direft" else h @ r.T)
    torch.testing.assert_close(edited, h + inner @ r, atol=1e-5, rtol=1e-5)
    orthonormal = torch.allclose(r @ r.T, torch.eye(4), atol=1e-5)
    assert orthonormal == (kind == "loreft")
    assert not torch.allclose(h, edited, atol=1e-2)


@pytest.mark.parametrize("kind", ["loreft", "noreft", "direft"])
def test_reft_begins_at_the_base(kind: str, tiny_bert: str) -> None:
    model, plain = (
        pefttools.wrap(tiny_bert, method, task=TASK, labels=["a", "b"], precision="float32")
        for method in ({"name": "reft", "kind": kind}, {"name": "untuned"})
    )
    batch = dict(model.tokenizer(TEXTS, padding=True, return_tensors="pt"))
    torch.testing.assert_close(model.run_batch(dict(batch)), plain.run_batch(batch), atol=1e-5, rtol=1e-5)


def test_compacter_is_a_sum_of_kronecker_products(tiny_bert: str) -> None:
    """Equation 5 of https://arxiv.org/abs/2106.04647; the shared factors are one parameter of the whole model."""
    n, size = 4, 8
    model = _wrap(tiny_bert, {"name": "compacter", "size": size, "products": n, "activation": "relu"})
    adapter: Any = model.transformer.get_submodule("encoder.layer.0.output.dense.bottleneck")
    y, adapted = _states(model, "encoder.layer.0.output.dense")
    weights = []
    for layer in (adapter.down, adapter.up):
        products = [torch.kron(a, s @ t) for a, s, t in zip(layer.shared, layer.left, layer.right, strict=True)]
        weights.append(torch.stack(products).sum(0))
        torch.testing.assert_close(weight_of(layer.shared, layer.left, layer.right), weights[-1])
    down, up = weights
    wanted = y + torch.relu(y @ down + adapter.down.bias) @ up + adapter.up.bias
    torch.testing.assert_close(adapted, wanted, atol=1e-5, rtol=1e-5)
    shared = {
        id(p) for name, p in model.transformer.named_parameters(remove_duplicate=False) if name.endswith("shared")
    }
    assert len(shared) == 1
    # Of each of the 8 layers n (in + out) / n and a bias; of all together n^3.
    layers = 2 * 2 * 2
    assert model.count().trainable - model.count().head == layers * (64 + size) + 4 * (64 + size) + n**3


def test_compacter_products_must_divide(tiny_bert: str) -> None:
    with pytest.raises(ConfigError, match=r"compacter\.products is 3, which does not divide compacter\.size=8"):
        _wrap(tiny_bert, {"name": "compacter", "size": 8, "products": 3})


def test_adapterdrop_leaves_the_first_blocks_alone(tiny_bert: str) -> None:
    whole = _wrap(tiny_bert, {"name": "bottleneck", "size": 8})
    upper = _wrap(tiny_bert, {"name": "bottleneck", "size": 8, "first_layer": 1})
    trained = [name for name, p in upper.transformer.named_parameters() if p.requires_grad]
    assert trained and all(name.startswith("encoder.layer.1.") for name in trained)
    assert whole.count().trainable - whole.count().head == 2 * (upper.count().trainable - upper.count().head)
    with pytest.raises(TargetError, match="first_layer is 2, but the model has no such block"):
        _wrap(tiny_bert, {"name": "bottleneck", "first_layer": 2})


def test_partial_trains_the_last_blocks(tiny_bert: str, tiny_t5: str) -> None:
    model = _wrap(tiny_bert, {"name": "partial"})
    trained = {name for name, p in model.transformer.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in model.transformer.named_parameters() if name.startswith("encoder.layer.1.")}
    both = pefttools.wrap(tiny_t5, "partial", task={"name": "seq2seq-lm"})
    blocks = {".".join(name.split(".")[:3]) for name, p in both.transformer.named_parameters() if p.requires_grad}
    assert blocks == {"encoder.block.2", "decoder.block.1"}


def test_reft_layers_that_are_not_there(tiny_bert: str) -> None:
    with pytest.raises(TargetError, match="there is no block 5; there are 2"):
        _wrap(tiny_bert, {"name": "reft", "layers": [0, 5]})


def test_compacter_names_its_own_options(tiny_bert: str) -> None:
    with pytest.raises(TargetError, match=r"compacter\.first_layer is 2, but the model has no such block"):
        _wrap(tiny_bert, {"name": "compacter", "first_layer": 2})
