"""(d) Generation from a pool: greedy, beams, prompts of different lengths, sampling, virtual tokens; and a server."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from typing import Any

from card.setting import SMOLLM2, Case, Figures, Setting
from pefttools.pool import AdapterPool
from pefttools.pool.generation import Sampling

PROMPTS = [
    "The capital of France is",
    "Two plus two",
    "Once upon a time there was a small house near the sea, and in it",
    "Yes",
    "A cat is",
]
METHODS = ("lora", "prefix", "prompt", "bottleneck")
NEW = 12


def cases(setting: Setting) -> Iterator[Case]:
    """A case per way of choosing tokens and variant."""
    for variant in ("float32", "bfloat16", "nf4"):
        for way, options in (
            ("greedy", {}), ("beams", {"num_beams": 3}),
            ("drawn", {"sampling": [Sampling(row, 0.8, top_k=20) for row in range(len(PROMPTS))]}),
        ):  # fmt: skip
            yield f"{way} {variant}", partial(_mixed, setting, variant, options)
    yield "a server", partial(_served, setting)


def _adapters(setting: Setting) -> dict[str, Any]:
    return {
        method: setting.folder / f"gen-{method}"
        if (setting.folder / f"gen-{method}").exists()
        else setting.artifact(SMOLLM2, method, f"gen-{method}")
        for method in METHODS
    }


def _mixed(setting: Setting, variant: str, options: dict[str, Any]) -> Figures:
    pool = AdapterPool(SMOLLM2, variant=variant, device=setting.device)
    for name, folder in _adapters(setting).items():
        pool.load(name, folder)
    names = [None, *METHODS]
    together = pool.generate(PROMPTS, names, max_new_tokens=NEW, **options)
    equal = 0
    for row, (prompt, name) in enumerate(zip(PROMPTS, names, strict=True)):
        own = {**options, **({"sampling": [options["sampling"][row]]} if "sampling" in options else {})}
        equal += pool.generate([prompt], [name], max_new_tokens=NEW, **own) == [together[row]]
    again = pool.generate(PROMPTS, names, max_new_tokens=NEW, **options)
    # In 16 bits a batch's size decides which kernel runs, and near ties may flip: reported, but without a bound.
    return {"rows": len(names), "as_alone": equal, "repeatable": again == together,
            "ok": again == together and (variant != "float32" or equal == len(names))}  # fmt: skip


def _served(setting: Setting) -> Figures:
    from pefttools.store import Store

    store = Store(setting.folder / "store")
    for name, folder in _adapters(setting).items():
        store.add(folder, name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # -P: the working folder may be the repository, which is not the installed package
    command = [sys.executable, "-P", "-c", "from pefttools.cli.main import run; run()", "serve",
               "--base", SMOLLM2, "--store", str(setting.folder / "store"), "--port", str(port),
               "--host", "127.0.0.1"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        _await(process, port)
        answers = {}
        for name in METHODS:
            body = json.dumps({"model": name, "prompt": PROMPTS[0], "max_tokens": 8, "temperature": 0}).encode()
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/v1/completions", body, {"content-type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                answers[name] = json.load(answer)["choices"][0]["text"]
    finally:
        process.terminate()
        process.wait(20)
    return {"answers": answers, "ok": len(answers) == len(METHODS)}


def _await(process: subprocess.Popen[str], port: int) -> None:
    """Until it listens."""
    for _ in range(600):
        if process.poll() is not None:
            assert process.stdout is not None
            raise RuntimeError(f"the server did not start: {process.stdout.read()[-800:]}")
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError("the server does not listen")
