"""Adapters compute what AdapterHub's and Stanford's own libraries do, from the same numbers: see `make_peers.py`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pefttools.adapters.bottleneck import BottleneckAdapters, BottleneckConfig
from pefttools.adapters.bottleneck.compacter import Compacter, CompacterConfig
from pefttools.adapters.fusion import AdapterFusion, FusionOptions
from pefttools.adapters.reft import ReftOptions
from pefttools.adapters.reft.edit import make_edit
from pefttools.methods import Target

PEERS = load_file(Path(__file__).with_name("peers.safetensors"))
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40}
TARGET = Target("t", "FEATURE_EXTRACTION")
COMPACTER = {"size": 8, "products": 4, "activation": "gelu"}
CASES: dict[str, tuple[Any, Any]] = {
    "houlsby": (BottleneckAdapters(), BottleneckConfig(placement="houlsby", size=4)),
    "pfeiffer": (BottleneckAdapters(), BottleneckConfig(placement="pfeiffer", size=4)),
    "parallel": (BottleneckAdapters(), BottleneckConfig(placement="parallel", size=4)),
    "compacter": (Compacter(), CompacterConfig(**COMPACTER)),
    "compacter++": (Compacter(), CompacterConfig(**COMPACTER, placement="pfeiffer")),
    "fusion": (
        AdapterFusion(),
        FusionOptions(
            fused=[
                {"size": 4, "placement": "pfeiffer"},
                {"size": 8, "placement": "pfeiffer", "activation": "gelu"},
            ]  # type: ignore[list-item]
        ),
    ),
}
#: what their names are called here, in this order
NAMES = (
    (r"\.adapter_down\.0\.", ".down."),
    (r"\.adapter_up\.", ".up."),
    (r"\.output\.adapter_fusion_layer\.one,two\.", ".output.LayerNorm.fusion."),
    (r"\.W_left$", ".left"),
    (r"\.W_right$", ".right"),
    (r"\.b$", ".bias"),
)


def _under(case: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(f"{case}/"): t for name, t in PEERS.items() if name.startswith(f"{case}/")}


def _base() -> nn.Module:
    import transformers as t

    model = t.BertModel(t.BertConfig(**SIZES), add_pooling_layer=False).eval()
    model.load_state_dict(_under("base"))
    return model.requires_grad_(False)


def _ours(case: str, name: str) -> str:
    for theirs, ours in NAMES:
        name = re.sub(theirs, ours, name)
    site = r"\1.LayerNorm" if case in ("pfeiffer", "compacter++", "fusion") else r"\1.dense"
    if case == "fusion":
        name = re.sub(r"\.adapters\.(one|two)\.", lambda m: f".adapters.{('one', 'two').index(m[1])}.", name)
        return re.sub(r"(\.output)\.adapters", r"\1.LayerNorm.fusion.adapters", name)
    return re.sub(r"(\.output)\.adapters\.one", rf"{site}.bottleneck", name)


@pytest.mark.parametrize("case", CASES)
def test_as_adapterhub(case: str) -> None:
    method, config = CASES[case]
    model = method.wrap(_base(), config, TARGET).eval()
    weights = _under(f"{case}/weights")
    shared = weights.pop("shared_parameters.one.phm_rule", None)
    given = {_ours(case, name): tensor for name, tensor in weights.items()}
    own = {name: p for name, p in method.stored(model).items() if not name.endswith(".shared")}
    assert given.keys() == own.keys()
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(given[name])
        for name, p in model.named_parameters():
            if name.endswith(".shared"):
                p.copy_(shared)
        states = model(**_under("inputs")).last_hidden_state
        plain = _base()(**_under("inputs")).last_hidden_state
    wanted = PEERS[f"{case}/states"]
    torch.testing.assert_close(states, wanted, atol=1e-5, rtol=1e-5)
    assert float((wanted - plain).abs().max()) > 0.1, "the adapter does nothing: this compares bases"


@pytest.mark.parametrize(("kind", "theirs"), [("loreft", "loreft"), ("noreft", "noreft"), ("direft", "nodireft")])
def test_as_pyreft(kind: str, theirs: str) -> None:
    """What it calls NodiReFT is the paper's DiReFT: its own DiReFT has orthonormal rows."""
    weights, states = _under(f"{theirs}/weights"), PEERS["edits/inputs"]
    edit = make_edit(16, ReftOptions(kind=kind, r=4), torch.device("cpu"))  # type: ignore[arg-type]
    with torch.no_grad():
        edit.subspace.copy_(weights["rows"])
        edit.source.weight.copy_(weights["learned_source.weight"])
        edit.source.bias.copy_(weights["learned_source.bias"])
        edited = states + edit(states)
    torch.testing.assert_close(edited, PEERS[f"{theirs}/states"], atol=1e-5, rtol=1e-5)
    assert float((edited - states).abs().max()) > 0.1
