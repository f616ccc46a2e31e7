"""(j) Loading: the peak RAM of the process and the peak memory of the GPU, compared with the size of the base."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from card.setting import DECODER, MINILM, VARIANTS, Case, Figures, Setting
from pefttools.bases import locate_base
from pefttools.building import build
from pefttools.planning.counter import weights_of
from pefttools.pool import AdapterPool
from pefttools.recipe import choose_method, choose_task


def cases(setting: Setting) -> Iterator[Case]:
    """A case per variant, for a training and for a pool."""
    setting.build(MINILM, "lora")  # what is imported on the way is not part of a model
    for variant in VARIANTS:
        yield f"training {variant}", partial(_loaded, setting, variant, False)
        yield f"pool {variant}", partial(_loaded, setting, variant, True)


def _loaded(setting: Setting, variant: str, pool: bool) -> Figures:
    folder = locate_base(setting.deep).folder
    stored = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
    before = setting.clean()
    if setting.on_card:
        torch.cuda.reset_peak_memory_stats()
    with _own_memory() as peak:
        if pool:
            served = AdapterPool(setting.deep, variant=variant, device=setting.device).served.model
        else:
            method, config = choose_method("lora")
            served = build(locate_base(setting.deep), variant, method, config, choose_task(DECODER), [],
                           precision="bfloat16", seed=0, device=setting.device)  # fmt: skip
    size = sum(tensor.untyped_storage().nbytes() for tensor in {t.data_ptr(): t for t in weights_of(served)}.values())
    card = torch.cuda.max_memory_allocated() - before if setting.on_card else 0
    figures = {"stored_bytes": stored, "size_bytes": size, "ram_bytes": peak[0], "card_bytes": card,
               "ram_to_stored": round(peak[0] / stored, 3), "card_to_size": round(card / size, 3)}  # fmt: skip
    del served
    return figures | {"ok": peak[0] <= 1.2 * (stored if setting.on_card else max(stored, size))}


@contextmanager
def _own_memory() -> Iterator[list[int]]:
    """Peak RAM beyond that at the start, polled every few milliseconds, without file-backed pages."""
    gc.collect()
    found, done = [0], threading.Event()
    begin = _anonymous()

    def watch() -> None:
        while not done.wait(0.002):
            found[0] = max(found[0], _anonymous() - begin)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()


def _anonymous() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise OSError("this system does not say how much memory a process has of its own")
