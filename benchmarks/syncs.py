"""How often the CPU would have to wait for a GPU: counted on the CPU, operation by operation.

    python benchmarks/syncs.py
    python benchmarks/syncs.py --json

An operation waits if its result is a Python number or has a shape that depends on values: ``item``, ``nonzero``, a
mask as an index, a comparison of whole tensors. Waits are counted in a training step, a batch of a pool and a generated
token, each at two sizes, separately for pefttools and for the libraries below it. Waits that grow with the rows or
tokens could be done once for all of them: none of ours should grow.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from card.setting import ENCODER, MINILM, SMOLLM2, Setting, texts
from torch.utils._python_dispatch import TorchDispatchMode

from pefttools.logs import quiet_libraries
from pefttools.pool import AdapterPool
from pefttools.pool.generation import Sampling
from pefttools.pool.running import fetched

_ATEN = torch.ops.aten
_WAITS = {
    _ATEN._local_scalar_dense.default, _ATEN.nonzero.default, _ATEN.masked_select.default, _ATEN.equal.default,
    _ATEN._unique2.default, _ATEN.unique_consecutive.default, _ATEN.repeat_interleave.Tensor, _ATEN.is_nonzero.default,
}  # fmt: skip
_INDEXED = {_ATEN.index.Tensor, _ATEN.index_put.default, _ATEN.index_put_.default}
#: rows of the smaller and of the larger batch
SIZES = (4, 16)


class Waits(TorchDispatchMode):
    """Counts operations for which the CPU would have to wait for a GPU, by the file that called them.

    Attributes:
        ours: file and line -> how often, of pefttools.
        others: the same, of libraries.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ours: Counter[str] = Counter()
        self.others: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masks = func in _INDEXED and any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1])
        if func in _WAITS or masks:
            frame: FrameType | None = sys._getframe(1)
            found = None
            while frame is not None and found is None:
                name = frame.f_code.co_filename
                if not any(part in name for part in ("/torch/", "/contextlib.py", __file__)):
                    found = name
                    line = f"{'/'.join(Path(name).parts[-2:])}:{frame.f_lineno}"
                frame = frame.f_back
            if found is not None:
                own = any(f"/{room}/" in found for room in ("pefttools", "adapters"))
                (self.ours if own else self.others)[line] += 1
        return func(*args, **(kwargs or {}))


def waits(run: Callable[[], Any]) -> Waits:
    """Waits of one call, after a warm-up call that does not count."""
    run()
    with Waits() as counted:
        run()
    return counted


def training(setting: Setting, rows: int) -> Waits:
    """One forward and backward pass of a language model; its batch comes from CPU memory."""
    model = setting.build(SMOLLM2, "lora").train()
    batch = model.spec.task.training_batch(model, texts(rows, 8, 24))
    targets = batch.pop("labels")
    return waits(lambda: model(**batch, targets=targets).backward())


def classifying(setting: Setting, rows: int) -> Waits:
    """A batch of a pool whose rows have LoRA, prefixes, and heads of transformers' own class."""
    pool = AdapterPool(MINILM, device=setting.device)
    for method in ("lora", "prefix"):
        pool.load(method, setting.artifact(MINILM, method, f"{method}-{rows}", task=ENCODER))
    own = {"name": "sequence-classification", "head": "model"}
    pool.load("own", setting.artifact(MINILM, "lora", f"own-{rows}", task=own))
    inputs = ["where is my card?" + " please" * (row % 3) for row in range(rows)]
    names = (["lora", "prefix", "own"] * rows)[:rows]
    return waits(lambda: fetched(pool(inputs, names)))


def generating(setting: Setting, rows: int, new: int) -> Waits:
    """A call of a pool that samples tokens for some rows and decodes greedily for others."""
    pool = AdapterPool(SMOLLM2, device=setting.device)
    for method in ("lora", "prefix"):
        pool.load(method, setting.artifact(SMOLLM2, method, f"{method}-lm-{rows}-{new}"))
    inputs = ["Once upon a time" + " there" * (row % 3) for row in range(rows)]
    names = (["lora", None, "prefix"] * rows)[:rows]
    drawn = [Sampling(row, 0.8, top_k=20) if row % 2 else None for row in range(rows)]
    return waits(
        lambda: pool.generate(inputs, names, max_new_tokens=new, min_new_tokens=new, sampling=drawn)
    )  # fmt: skip


def measured() -> list[dict[str, Any]]:
    """A row per kind of work: the waits of pefttools and of the libraries at two sizes, and where they occur."""
    small, large = SIZES
    kinds: dict[str, tuple[Callable[[Setting], Waits], Callable[[Setting], Waits]]] = {
        f"training pass, {small} and {large} rows": (lambda s: training(s, small), lambda s: training(s, large)),
        f"classifying, {small} and {large} rows": (lambda s: classifying(s, small), lambda s: classifying(s, large)),
        f"generating 4 tokens, {small} and {large} rows": (
            lambda s: generating(s, small, 4), lambda s: generating(s, large, 4),
        ),
        f"generating 4 and 12 tokens, {small} rows": (
            lambda s: generating(s, small, 4), lambda s: generating(s, small, 12),
        ),
    }  # fmt: skip
    found = []
    for kind, runs in kinds.items():
        with tempfile.TemporaryDirectory() as folder:
            setting = Setting(torch.device("cpu"), Path(folder), small=True)
            first, second = (run(setting) for run in runs)
        found.append({
            "kind": kind,
            "ours": [first.ours.total(), second.ours.total()],
            "others": [first.others.total(), second.others.total()],
            "where": dict(second.ours.most_common(6)),
            "where_others": dict(second.others.most_common(4)),
        })  # fmt: skip
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a JSON object at the end")
    options = parser.parse_args()
    quiet_libraries()
    rows = measured()
    for row in rows:
        print(f"{row['kind']:44} ours {row['ours'][0]:3} {row['ours'][1]:3}   libraries {row['others'][0]:3} "
              f"{row['others'][1]:3}   {row['where']} {row['where_others']}", flush=True)  # fmt: skip
    grown = [row["kind"] for row in rows if row["ours"][1] > row["ours"][0]]
    print(f"ours grow with the size: {', '.join(grown) or 'none'}")
    if options.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
