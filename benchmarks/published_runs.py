"""Planned memory against what PEFT's own comparison of methods has published for Llama-3.2-3B.

    python benchmarks/published_runs.py
    python benchmarks/published_runs.py --json      # one object last

Eleven runs of https://github.com/huggingface/peft/tree/main/method_comparison/MetaMathQA, on one card: bfloat16
weights, adapters in float32 without autocast, AdamW, 4 rows a step. The figure is "mem allocated avg" of steps 751 to
1000, read after the optimizer's step: weights, gradients, moments, and the outputs of the step, which the script still
holds: logits, of virtual tokens too, and the cache of keys and values, of a prefix too.

How many tokens a row has with its padding was not published. It is taken from the first run (235), and the same for
all: the other ten figures are predictions.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pefttools.planning.device import GPU
from pefttools.planning.plan import Shape, combined

TOKENS = 235
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072, "tie_word_embeddings": True, "head_dim": 128, "hidden_size": 3072,
    "num_hidden_layers": 28, "num_attention_heads": 24, "num_key_value_heads": 8, "intermediate_size": 8192,
    "dtype": "bfloat16",
}  # fmt: skip
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Run:
    """A published run.

    Attributes:
        name: of the run.
        method: the same with pefttools.
        trained: number of trained parameters.
        allocated: bytes, averaged over steps 751 to 1000.
    """

    name: str
    method: dict[str, Any]
    trained: int
    allocated: float


RUNS = (
    Run("lora r=32", {"name": "lora", "r": 32, "targets": ["q_proj", "v_proj"]}, 9_175_040, 6919503566.848),
    Run("lora r=64", {"name": "lora", "r": 64, "targets": ["q_proj", "v_proj"]}, 18_350_080, 7066230261.76),
    Run("lora r=64, rslora", {"name": "lora", "r": 64, "rslora": True, "targets": ["q_proj", "v_proj"]}, 18_350_080,
        7066256992.256),
    Run("lora r=10, feed-forward", {"name": "lora", "r": 10, "targets": ["gate_proj", "up_proj", "down_proj"]},
        9_461_760, 6928097030.144),
    Run("dora r=32", {"name": "lora", "r": 32, "dora": True, "targets": ["q_proj", "v_proj"]}, 9_289_728,
        6919690883.072),
    Run("ia3", {"name": "ia3"}, 286_720, 6775492155.392),
    Run("ia3, all layers", {"name": "ia3", "targets": ALL, "feed_forward": ["gate_proj", "up_proj", "down_proj"]},
        630_784, 6783560933.376),
    Run("prefix, 200 tokens", {"name": "prefix", "length": 200}, 11_468_800, 7050079920.128),
    Run("prefix, 50 tokens", {"name": "prefix", "length": 50}, 2_867_200, 6846228791.296),
    Run("prompt, 200 tokens", {"name": "prompt", "length": 200}, 614_400, 7077280739.328),
    Run("full", {"name": "full", "master_weights": False}, 3_212_749_824, 26063373086.72),
)  # fmt: skip


@dataclass(frozen=True)
class Compared:
    """A run and its plan.

    Attributes:
        run: as published.
        trained: trained parameters, as planned.
        planned: bytes.
    """

    run: Run
    trained: int
    planned: int

    @property
    def difference(self) -> float:
        """Share by which the plan is too high."""
        return self.planned / self.run.allocated - 1


def compare(runs: Sequence[Run] = RUNS) -> list[Compared]:
    """Plan each run."""
    shape = Shape(4, TOKENS, eval_batch_size=1, precision="float32")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
        for run in runs:
            (planned,) = combined(folder, "causal-lm", [run.method], ["bfloat16"], 2, GPU)
            row = planned.row(shape)
            kept = planned.outputs_bytes(shape)
            found.append(Compared(run, row.trainable_parameters, row.persistent_bytes + kept))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    arguments = parser.parse_args()
    found = compare()
    print("| run | trained parameters | published, GiB | planned, GiB | difference |")
    print("|---|---|---|---|---|")
    for one in found:
        exact = "" if one.trained == one.run.trained else f" (published: {one.run.trained:,})"
        print(f"| {one.run.name} | {one.trained:,}{exact} | {one.run.allocated / 2**30:.2f} | "
              f"{one.planned / 2**30:.2f} | {one.difference:+.1%} |")  # fmt: skip
    if arguments.json:
        print(json.dumps({"rows": [asdict(one) | {"difference": one.difference} for one in found]}))


if __name__ == "__main__":
    main()
