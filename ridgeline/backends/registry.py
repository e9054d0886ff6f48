"""Every backend by name, and how far its outputs may be from the reference's."""

from collections.abc import Mapping

from ridgeline.backends.aoti import Aoti
from ridgeline.backends.backend import Backend, Dtype
from ridgeline.backends.eager import Eager
from ridgeline.backends.inductor import Inductor
from ridgeline.backends.native.backend import Native
from ridgeline.backends.onnxruntime import OnnxRuntime
from ridgeline.backends.openvino import OpenVino
from ridgeline.backends.split.backend import (
    NativeOnnxRuntime,
    NativeOpenVino,
    OpenVinoOnnxRuntime,
    Split,
)
from ridgeline.backends.torchao import Torchao
from ridgeline.backends.tosa import Iree
from ridgeline.errors import BackendError

BACKENDS: Mapping[str, type[Backend]] = {
    b.name: b for b in (Eager, Native, Inductor, Aoti, OnnxRuntime, OpenVino, Torchao, Iree)
}
# Tried after those, where two of a pair are about as fast; what each runs is part of the graph.
SPLITS: Mapping[str, type[Split]] = {
    b.name: b for b in (NativeOpenVino, NativeOnnxRuntime, OpenVinoOnnxRuntime)
}
ALL: Mapping[str, type[Backend]] = {**BACKENDS, **SPLITS}
# Largest |error| / largest |reference| accepted. fp32: reordered sums differ by 1e-6 or so, and
# 1e-4 is an error; bf16 has 8 bits, and whole networks were seen to lose up to 3e-2; int8 rounds
# each value to one of 256 steps of its range, and whole networks were seen to lose up to 3e-2 with
# ranges that fit, several times that with a range that one outlier stretches.
TOLERANCES: Mapping[Dtype, float] = {"fp32": 1e-4, "bf16": 5e-2, "int8": 1e-1}


def find(backend: str | type[Backend]) -> type[Backend]:
    """The backend of that name. Raises BackendError with all names for an unknown one."""
    if not isinstance(backend, str):
        return backend
    if backend not in ALL:
        raise BackendError(f"no backend {backend!r}; there are {', '.join(ALL)}.")
    return ALL[backend]


def split_of(first: type[Backend], second: type[Backend]) -> type[Split] | None:
    """The backend that runs parts of a graph on each of these two; None where there is none."""
    return next((s for s in SPLITS.values() if set(s.pair) == {first, second}), None)
