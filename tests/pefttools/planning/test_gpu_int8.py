"""int8 on a GPU, as bitsandbytes' CUDA kernels have it."""

from __future__ import annotations

import torch
from bitsandbytes.nn import Linear8bitLt
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pefttools.bases.skeleton import skeleton
from pefttools.planning.counting import DEVICE, counting, kernels
from pefttools.planning.device import CPU, Device
from pefttools.planning.fake import to_fake
from pefttools.planning.plan import Planned, Shape

ROWS = 96


def _peaks(base: str, device: Device) -> tuple[Linear8bitLt, int, int, int]:
    """A layer, and bytes beside its weights, its input and its output's gradient.

    The bytes are those at the peak of a forward pass, after it, and at the peak of a backward pass.
    """
    model = Planned(skeleton(base), "causal-lm", "ia3", "int8", 2, device).build(Shape())
    layer = next(module for module in model.modules() if isinstance(module, Linear8bitLt))
    holder = nn.Sequential(layer)
    mode = FakeTensorMode()
    to_fake(holder, mode, DEVICE)
    with counting(holder, mode, device, "a layer") as counter:
        with counter, kernels(device):
            x = torch.empty(ROWS, layer.in_features, dtype=torch.bfloat16, requires_grad=True)
            outer = torch.empty(ROWS, layer.out_features, dtype=torch.bfloat16)
            before = counter.now.total()
            counter.reset_peak()
            out = holder(x)
            forward, kept = counter.peak.total() - before, counter.now.total() - before
            counter.reset_peak()
            torch.autograd.grad(out, x, outer)
        return layer, forward, kept, counter.peak.total() - before - kept


def test_a_layer_multiplies_in_int8_and_makes_whole_weights_for_the_gradient_alone(tiny_llama: str) -> None:
    layer, forward, kept, backward = _peaks(tiny_llama, Device("exact", "a GPU that rounds nothing", granularity=1))
    inner, outer = layer.in_features, layer.out_features
    # the input in int8 with its scales; the product in int32, from that float16, from that the result
    assert forward == ROWS * (inner + 4) + ROWS * outer * (4 + 2 + 2)
    assert kept == ROWS * outer * 2
    # weights in bfloat16, and the input's gradient
    assert backward == outer * inner * 2 + ROWS * inner * 2
    assert _peaks(tiny_llama, CPU)[1] != forward, "a CPU multiplies by whole weights"
