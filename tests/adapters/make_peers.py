"""Writes `peers.safetensors`: what AdapterHub's `adapters` and Stanford's `pyreft` make of a tiny model.

It runs in an environment of its own, since neither library goes with the versions that pefttools is tested with:

    pip install adapters==1.3.0 pyvene==0.1.8 matplotlib plotnine ipywidgets accelerate "datasets<4.5"
    pip install --no-deps pyreft==0.1.0
    python tests/adapters/make_peers.py

The file holds the model's weights (``base/``), the inputs (``inputs/``) and, for each case, the weights by the
library's own names (``CASE/weights/``) and what comes out (``CASE/states``).
"""

from __future__ import annotations

from pathlib import Path

import pyreft
import torch
import transformers
from safetensors.torch import save_file

import adapters
from adapters import composition

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40}
CONFIGS = {
    "houlsby": adapters.DoubleSeqBnConfig(reduction_factor=4, non_linearity="gelu"),
    "pfeiffer": adapters.SeqBnConfig(reduction_factor=4),
    "parallel": adapters.ParBnConfig(reduction_factor=4),
    "compacter": adapters.CompacterConfig(reduction_factor=2, phm_dim=4),
    "compacter++": adapters.CompacterPlusPlusConfig(reduction_factor=2, phm_dim=4, non_linearity="gelu"),
}
EDITS = {
    "loreft": pyreft.LoreftIntervention,
    "noreft": pyreft.NoreftIntervention,
    "nodireft": pyreft.NodireftIntervention,
}


def base() -> transformers.BertModel:
    """The same tiny model each time."""
    torch.manual_seed(0)
    return transformers.BertModel(transformers.BertConfig(**SIZES), add_pooling_layer=False).eval()


def shuffled(parameters: dict[str, torch.nn.Parameter]) -> None:
    """Numbers that are far from any start."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name in sorted(parameters):
            parameters[name].copy_(torch.randn(parameters[name].shape) * 0.3)


def main() -> None:
    inputs = {
        "input_ids": torch.randint(1, 40, (3, 7), generator=torch.Generator().manual_seed(2)),
        "attention_mask": torch.tensor([[1] * 7, [1] * 5 + [0] * 2, [1] * 3 + [0] * 4]),
    }
    found = {f"base/{name}": tensor for name, tensor in base().state_dict().items()}
    found |= {f"inputs/{name}": tensor for name, tensor in inputs.items()}

    def keep(case: str, model: torch.nn.Module) -> None:
        plain = base().state_dict()
        added = {name: p for name, p in model.named_parameters() if name not in plain}
        shuffled(added)
        found.update({f"{case}/weights/{name}": p.detach().clone() for name, p in added.items()})
        with torch.no_grad():
            found[f"{case}/states"] = model(**inputs).last_hidden_state

    for case, config in CONFIGS.items():
        model = base()
        adapters.init(model)
        model.add_adapter("one", config=config)
        model.set_active_adapters("one")
        keep(case, model)
    model = base()
    adapters.init(model)
    model.add_adapter("one", config=adapters.SeqBnConfig(reduction_factor=4))
    model.add_adapter("two", config=adapters.SeqBnConfig(reduction_factor=2, non_linearity="gelu"))
    model.add_adapter_fusion(composition.Fuse("one", "two"))
    model.set_active_adapters(composition.Fuse("one", "two"))
    keep("fusion", model.eval())

    states = torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(3))
    found["edits/inputs"] = states
    for case, kind in EDITS.items():
        torch.manual_seed(4)
        edit = kind(embed_dim=16, low_rank_dimension=4, dtype=torch.float32, add_bias=False)
        named = {name: p.detach().clone() for name, p in edit.learned_source.named_parameters()}
        found.update({f"{case}/weights/learned_source.{name}": p for name, p in named.items()})
        rows = edit.rotate_layer.weight.T if hasattr(edit, "rotate_layer") else edit.proj_layer.weight
        found[f"{case}/weights/rows"] = rows.detach().clone()
        with torch.no_grad():
            found[f"{case}/states"] = edit(states)
    metadata = {"adapters": "1.3.0", "pyreft": "0.1.0", "transformers": transformers.__version__}
    found = {name: tensor.contiguous() for name, tensor in found.items()}
    save_file(found, Path(__file__).with_name("peers.safetensors"), metadata=metadata)


if __name__ == "__main__":
    main()
