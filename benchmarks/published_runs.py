"""Planned memory against what PEFT's own comparison of methods has published for Llama-3.2-3B.

    python benchmarks/published_runs.py             # a quarter of an hour
    python benchmarks/published_runs.py --only lora
    python benchmarks/published_runs.py --json      # one object at the end

`published_llama_3b.jsonl` has 74 runs of https://github.com/huggingface/peft/tree/main/method_comparison/MetaMathQA,
each with the equivalent method here: bfloat16 weights, adapters in float32 without autocast, AdamW, 4 rows per step.
The figure is "mem allocated avg" of steps 751 to 1000, read after the optimizer's step: weights, gradients, moments,
and the outputs of the step, which the script still holds: logits, including those of virtual tokens, and the KV cache,
including a prefix.

The padded number of tokens per row was not published. It is inferred from the run of LoRA with rank 32 (235), and
the same for all: the other figures are predictions.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pefttools.errors import PeftToolsError
from pefttools.logs import quiet_libraries
from pefttools.planning.device import GPU
from pefttools.planning.plan import Shape, combined

TOKENS = 235
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072, "tie_word_embeddings": True, "head_dim": 128, "hidden_size": 3072,
    "num_hidden_layers": 28, "num_attention_heads": 24, "num_key_value_heads": 8, "intermediate_size": 8192,
    "dtype": "bfloat16",
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A published run.

    Attributes:
        name: of the run.
        method: the same with pefttools; None if there is none.
        trained: number of trained parameters.
        allocated: bytes, averaged over steps 751 to 1000.
        left_out: why there is no such method here.
    """

    name: str
    method: dict[str, Any] | None
    trained: int
    allocated: float
    left_out: str = ""


RUNS = tuple(
    Run(**json.loads(line))
    for line in (Path(__file__).parent / "published_llama_3b.jsonl").read_text(encoding="utf-8").splitlines()
)


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
        """Relative amount by which the plan is too high."""
        return self.planned / self.run.allocated - 1


def compare(runs: Sequence[Run] = RUNS) -> Iterator[Compared | tuple[Run, str]]:
    """Plan each run; for those that can't be planned, give the reason."""
    shape = Shape(4, TOKENS, eval_batch_size=1, precision="float32")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
        for run in runs:
            if run.method is None:
                yield run, run.left_out
                continue
            try:
                (planned,) = combined(folder, "causal-lm", [run.method], ["bfloat16"], 2, GPU)
                row = planned.row(shape)
                kept = planned.outputs_bytes(shape)
            except PeftToolsError as error:
                yield run, error.message
            else:
                yield Compared(run, row.trainable_parameters, row.persistent_bytes + kept)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only runs whose names contain this")
    parser.add_argument("--json", action="store_true", help="print a JSON object at the end")
    arguments = parser.parse_args()
    quiet_libraries()
    found: list[Compared] = []
    print("| run | trained parameters | published, GiB | planned, GiB | difference |")
    print("|---|---|---|---|---|", flush=True)
    for one in compare([run for run in RUNS if arguments.only in run.name]):
        if isinstance(one, tuple):
            run, why = one
            print(f"| {run.name} | {run.trained:,} published | {run.allocated / 2**30:.2f} | | {why} |", flush=True)
            continue
        found.append(one)
        exact = "" if one.trained == one.run.trained else f" (published: {one.run.trained:,})"
        print(f"| {one.run.name} | {one.trained:,}{exact} | {one.run.allocated / 2**30:.2f} | "
              f"{one.planned / 2**30:.2f} | {one.difference:+.2%} |", flush=True)  # fmt: skip
    exact_runs = sum(one.trained == one.run.trained for one in found)
    near = sum(abs(one.difference) <= 0.03 for one in found)
    print(f"\n{len(found)} runs: trained parameters exact for {exact_runs}, memory within 3 % for {near}")
    if arguments.json:
        print(json.dumps({"rows": [asdict(one) | {"difference": one.difference} for one in found]}))


if __name__ == "__main__":
    main()
