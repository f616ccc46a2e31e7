"""One device's part of a sharded training: predicted, against torch's own ``fully_shard``."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from pefttools.bases import locate_base
from pefttools.bases.skeleton import skeleton
from pefttools.building import build
from pefttools.errors import ConfigError
from pefttools.planning.device import CPU
from pefttools.planning.plan import Planned, Shape
from pefttools.recipe import choose_method, choose_task

from ...allocator import peak_of
from ...planned import plan

#: every dimension can be halved: where one can not, the CPU copies what a GPU does not
DEVICES = 2
TASK = {"name": "causal-lm", "loss_rows": 16}


@pytest.fixture
def alone_of_several() -> Iterator[None]:
    """The first of several processes, of which the others are made up: what they would send is left out."""
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=DEVICES)
    yield
    distributed.destroy_process_group()


def _measured(base: str, method: Any, variant: str, rows: int, length: int) -> tuple[int, int]:
    """Peak of a step and what stands after it, on one device."""
    chosen, config = choose_method(method)
    model = build(locate_base(base), variant, chosen, config, choose_task(TASK), [], precision="float32", seed=0)
    mesh = init_device_mesh("cpu", (DEVICES,))
    for module in model.modules():
        if isinstance(module, LlamaDecoderLayer):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    ids = torch.randint(5, 1000, (rows, length))
    mask = torch.ones_like(ids)
    mask[0, -1] = 0
    trained: list[Any] = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=True)
    model.train()

    def step() -> None:
        model(input_ids=ids, attention_mask=mask, targets=ids).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    step()
    gradients = sum(p.grad.to_local().nbytes for p in trained)
    optimizer.zero_grad()
    gc.collect()
    everything: list[Any] = [*model.parameters(), *(v for state in optimizer.state.values() for v in state.values())]
    local = [t.to_local() if hasattr(t, "to_local") else t for t in everything]
    standing = sum(t.untyped_storage().nbytes() for t in (*local, *model.buffers(), ids, mask))
    return standing + peak_of(step), standing + gradients


@pytest.mark.usefixtures("alone_of_several")
@pytest.mark.parametrize(("method", "variant"), [
    ("lora", "float32"), ("full", "float32"), pytest.param("lora", "bfloat16", marks=pytest.mark.slow),
    pytest.param("ia3", "float32", marks=pytest.mark.slow),
])  # fmt: skip
def test_as_much_as_fully_shard_takes(method: str, variant: str, tiny_llama: str) -> None:
    rows, length = 2, 16
    peak, standing = _measured(tiny_llama, method, variant, rows, length)
    asked = Shape(rows * DEVICES, length, precision="float32", devices=DEVICES, sharded=True, eval_batch_size=1)
    (row,) = plan(tiny_llama, task=TASK, methods=[method], variants=[variant], shape=asked)
    assert row.persistent_bytes == pytest.approx(standing, rel=0.02)
    assert row.peak_bytes == pytest.approx(peak, rel=0.05)


@pytest.mark.slow
def test_sharing_takes_less(tiny_llama: str) -> None:
    def peak(method: str, recompute: bool = False, **changes: Any) -> int:
        planned = Planned(skeleton(tiny_llama), TASK, method, "nf4" if method == "lora" else "float32", 2, CPU)
        return planned.training_bytes(Shape(16, 16, gradient_checkpointing=recompute, **changes))

    for method, recompute in (("lora", True), ("full", False)):
        shared = [peak(method, recompute, devices=n, sharded=True, accumulation=16 // n) for n in (2, 8)]
        assert shared[0] > shared[1]
    # Of so small a model nearly all is embeddings, which stand whole: full fine-tuning alone gains.
    assert peak("full", devices=4) > peak("full", devices=4, sharded=True)


def test_one_device_can_not_share() -> None:
    with pytest.raises(ConfigError, match="at least 2 devices"):
        Shape(sharded=True)
