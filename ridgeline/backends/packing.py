"""Makes Inductor pack fp32 linears for oneDNN where that is faster here than MKL."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from statistics import median
from typing import Any

import torch
from torch import Tensor

# The probe's linear (rows, in, out): a transformer's, small enough to be timed often in a second.
_ROWS, _IN, _OUT = 128, 768, 768
_ROUNDS = 15
# Below this gain a difference is noise, and Inductor's own choice stays.
_LEAST_GAIN = 1.1


@cache
def is_onednn_faster() -> bool:
    """Whether a packed oneDNN linear beats MKL's on this machine by more than noise; measured."""
    if not (torch._C._has_mkldnn and torch._C.has_mkl):
        return False
    x, weight = torch.randn(_ROWS, _IN), torch.randn(_OUT, _IN)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)

    def onednn() -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
        return out

    def mkl() -> Tensor:
        return torch.nn.functional.linear(x, weight)

    times: dict[Callable[[], Tensor], list[float]] = {onednn: [], mkl: []}
    with torch.no_grad():
        for _ in range(_ROUNDS):
            for run, seen in times.items():
                start = time.perf_counter()
                run()
                seen.append(time.perf_counter() - start)
    return median(times[mkl][3:]) > _LEAST_GAIN * median(times[onednn][3:])


@contextmanager
def onednn_packing() -> Iterator[None]:
    """Within the block Inductor packs fp32 linears as it packs bf16 ones: for oneDNN, with fused
    epilogues.

    Inductor 2.13 takes MKL for fp32 unless it compiles ahead of time (mkldnn_fusion.py,
    CpuMkldnnDeviceOp); the two methods that decide are wrapped and restored.
    """
    from torch._inductor.fx_passes import mkldnn_fusion

    owner: Any = mkldnn_fusion.CpuMkldnnDeviceOp
    pack_weight, pack_linear = owner.pack_linear_weight, owner.pack_linear

    def weight_for_onednn(  # type: ignore[no-untyped-def]
        self, graph, is_lp_weight, transpose_weight_node, batch_size
    ):
        return pack_weight(self, graph, True, transpose_weight_node, batch_size)

    def linear_for_onednn(  # type: ignore[no-untyped-def]
        self, graph, is_lp_weight, batch_size, input, packed_weight_node, bias
    ):
        return pack_linear(self, graph, True, batch_size, input, packed_weight_node, bias)

    owner.pack_linear_weight, owner.pack_linear = weight_for_onednn, linear_for_onednn
    try:
        yield
    finally:
        owner.pack_linear_weight, owner.pack_linear = pack_weight, pack_linear
