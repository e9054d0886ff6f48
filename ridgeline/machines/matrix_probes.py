"""Probes of what multiplies matrices: products, convolutions, attention and LSTM cells."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ridgeline.machines.probe import Call, Flush, InTurn, Probe, eager, filled, floats
from ridgeline.machines.tables import Route
from ridgeline.units import MIB

if TYPE_CHECKING:
    import torch

Shape = tuple[int, int, int]
# Every call of it is another call: of one and the same input, with weights of its own.
Fresh = Callable[[], Call]
# (m, n, k): a decoder's single token, small batches, a sentence, a page; square, wide, deep and
# small layers; the least of all shows what starting a product costs
GEMMS = (
    (1, 32, 32), (1, 256, 256), (128, 256, 256), (128, 1024, 256),
    (1, 768, 768), (1, 3072, 768), (1, 768, 3072), (1, 4096, 1024), (1, 4096, 4096),
    (8, 256, 256), (8, 768, 768), (8, 3072, 768), (32, 768, 768), (32, 3072, 768), (32, 4096, 4096),
    (128, 64, 64), (128, 768, 768), (128, 3072, 768), (128, 768, 3072), (128, 4096, 1024),
    (256, 768, 768), (256, 3072, 768),
    (512, 64, 256), (512, 256, 256), (512, 768, 768), (512, 3072, 768),
    (2048, 64, 64), (2048, 256, 1024), (2048, 768, 768),
)  # fmt: skip
# The same with weights that come from main memory each time: short products wait for them. Inputs
# stay where they are, for in a network the layer before has just written them.
COLD_GEMMS = (
    (1, 768, 768), (1, 768, 3072), (8, 768, 768), (32, 1024, 256), (32, 768, 768),
    (128, 256, 256), (128, 768, 768), (128, 768, 3072), (512, 768, 768),
)  # fmt: skip
# The weights that take turns between two flushes of the caches: the more of them, the longer it
# takes to make them, the fewer, the more often the caches are flushed.
TURNS_NBYTES, MOST_TURNS = 64 * MIB, 300
GPU_GEMMS = ((4096, 4096, 4096), (8192, 8192, 8192))
# (batch * heads, q, kv, head_dim): encoder, ViT, long, diffusion self and cross, decode with short
# and long caches
ATTENTIONS = (
    (1, 16, 16, 16), (4, 128, 128, 32),
    (12, 128, 128, 64), (12, 197, 197, 64), (12, 512, 512, 64), (8, 1024, 1024, 80),
    (8, 1024, 77, 80), (12, 1, 128, 64), (32, 1, 1024, 128),
)  # fmt: skip

LSTMS = ((4, 1, 64, 64), (35, 1, 512, 256), (70, 2, 512, 256))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvShape:
    """A convolution: `size` is the input's length in every one of `dims` spatial dimensions."""

    batch: int = 1
    inputs: int
    outputs: int
    size: int
    taps: int
    stride: int = 1
    groups: int = 1
    dims: int = 2

    @property
    def positions(self) -> int:
        """Output positions of one image; padding is taps // 2."""
        return int(((self.size + 2 * (self.taps // 2) - self.taps) // self.stride + 1) ** self.dims)

    @property
    def features(self) -> tuple[float, ...]:
        """m, n, k, groups, spatial_dims as KERNEL_FEATURES has them."""
        depth = self.inputs // self.groups * self.taps**self.dims
        m, n = self.batch * self.positions, self.outputs // self.groups
        return (m, n, depth, self.groups, self.dims)

    @property
    def num_weights(self) -> int:
        """Elements of the filters."""
        return int(self.outputs * (self.inputs // self.groups) * self.taps**self.dims)


CONVOLUTIONS = (
    ConvShape(inputs=16, outputs=16, size=1, taps=1),  # nothing but the start of a convolution
    ConvShape(inputs=16, outputs=16, size=1, taps=1, groups=16),
    ConvShape(inputs=64, outputs=64, size=2, taps=1, groups=4),
    ConvShape(inputs=16, outputs=16, size=1, taps=1, dims=3),
    ConvShape(inputs=512, outputs=128, size=1, taps=1),  # squeeze and excitation
    ConvShape(inputs=32, outputs=96, size=56, taps=1),  # narrow layers of small networks
    ConvShape(inputs=96, outputs=32, size=28, taps=1),
    ConvShape(inputs=64, outputs=384, size=14, taps=1),
    ConvShape(inputs=128, outputs=768, size=7, taps=1),
    ConvShape(inputs=128, outputs=128, size=28, taps=3),
    ConvShape(inputs=96, outputs=96, size=56, taps=3, groups=96),
    ConvShape(inputs=192, outputs=192, size=14, taps=3, groups=192),
    ConvShape(inputs=768, outputs=768, size=7, taps=5, groups=768),
    ConvShape(inputs=3, outputs=64, size=224, taps=7, stride=2),  # ResNet stem
    ConvShape(inputs=3, outputs=16, size=224, taps=3, stride=2),  # MobileNet stem
    ConvShape(inputs=64, outputs=256, size=56, taps=1),
    ConvShape(inputs=256, outputs=64, size=56, taps=1),
    ConvShape(inputs=1024, outputs=256, size=14, taps=1),
    ConvShape(inputs=512, outputs=2048, size=7, taps=1),
    ConvShape(inputs=16, outputs=64, size=112, taps=1),  # MobileNet expansion
    ConvShape(inputs=64, outputs=64, size=56, taps=3),
    ConvShape(inputs=256, outputs=256, size=14, taps=3),
    ConvShape(inputs=512, outputs=512, size=7, taps=3),
    ConvShape(inputs=32, outputs=32, size=160, taps=3),  # YOLOX
    ConvShape(inputs=320, outputs=320, size=32, taps=3),  # diffusion UNet
    ConvShape(batch=8, inputs=256, outputs=256, size=14, taps=3),
    ConvShape(inputs=128, outputs=128, size=56, taps=3, groups=32),  # ResNeXt 32x4d
    ConvShape(inputs=512, outputs=512, size=14, taps=3, groups=32),
    ConvShape(inputs=64, outputs=64, size=112, taps=3, stride=2, groups=64),  # depthwise
    ConvShape(inputs=240, outputs=240, size=28, taps=3, groups=240),
    ConvShape(inputs=672, outputs=672, size=14, taps=5, groups=672),
    ConvShape(inputs=1, outputs=64, size=48, taps=3, stride=2, dims=3),
    ConvShape(inputs=64, outputs=16, size=24, taps=1, dims=3),
    ConvShape(inputs=16, outputs=64, size=24, taps=3, dims=3),
    ConvShape(inputs=256, outputs=128, size=4, taps=1, dims=3),  # last layers of volume networks
    ConvShape(inputs=128, outputs=128, size=4, taps=3, dims=3),
    ConvShape(inputs=64, outputs=128, size=8, taps=3, dims=3),
)
COLD_CONVOLUTIONS = (
    ConvShape(inputs=16, outputs=16, size=1, taps=1),
    ConvShape(inputs=16, outputs=16, size=1, taps=1, groups=16),
    ConvShape(inputs=512, outputs=128, size=1, taps=1),
    ConvShape(inputs=3, outputs=16, size=224, taps=3, stride=2),
    ConvShape(inputs=32, outputs=96, size=56, taps=1),
    ConvShape(inputs=96, outputs=32, size=28, taps=1),
    ConvShape(inputs=64, outputs=384, size=14, taps=1),
    ConvShape(inputs=128, outputs=768, size=7, taps=1),
    ConvShape(inputs=1024, outputs=256, size=14, taps=1),
    ConvShape(inputs=64, outputs=64, size=56, taps=3),
    ConvShape(inputs=512, outputs=512, size=7, taps=3),
    ConvShape(inputs=96, outputs=96, size=56, taps=3, groups=96),
    ConvShape(inputs=192, outputs=192, size=14, taps=3, groups=192),
    ConvShape(inputs=768, outputs=768, size=7, taps=5, groups=768),
    ConvShape(inputs=128, outputs=128, size=56, taps=3, groups=32),
    ConvShape(inputs=512, outputs=512, size=14, taps=3, groups=32),
    ConvShape(inputs=16, outputs=64, size=24, taps=3, dims=3),
)


def matrix_probes(device: "torch.device") -> Iterator[Probe]:
    """The matrix kernels as a user's eager code runs them, on any device."""
    yield from _gemms(device)
    yield from _int8_gemms(device)
    yield from _convolutions(device)
    yield from _attentions(device)
    yield from _lstms(device)


def cold_probes(flush: Flush) -> Iterator[Probe]:
    """Products and convolutions as eager code runs them on a CPU, weights behind the caches."""
    import torch

    cpu = torch.device("cpu")
    for name, dtype in floats(cpu):
        for shape in COLD_GEMMS:
            yield _gemm_probe("eager", name, shape, _linear, dtype, cpu, flush)
        for conv in COLD_CONVOLUTIONS:
            yield _conv_probe("eager", name, conv, _convolve, dtype, cpu, flush)


def packed_probes(flush: Flush) -> Iterator[Probe]:
    """The matrix kernels with weights packed for oneDNN, as a frozen graph calls them on a CPU."""
    yield from _packed_gemms(flush)
    yield from _packed_convolutions(flush)
    yield from _packed_int8_gemms()


def _gemm_shapes(device: "torch.device") -> tuple[tuple[int, int, int], ...]:
    return GEMMS if device.type == "cpu" else (*GEMMS, *GPU_GEMMS)


def _gemms(device: "torch.device") -> Iterator[Probe]:
    for name, dtype in floats(device):
        for shape in _gemm_shapes(device):
            yield _gemm_probe("eager", name, shape, _linear, dtype, device)


def _packed_gemms(flush: Flush) -> Iterator[Probe]:
    import torch

    cpu = torch.device("cpu")
    for name, dtype in floats(cpu):
        for shapes, cold in ((GEMMS, None), (COLD_GEMMS, flush)):
            for shape in shapes:
                yield _gemm_probe("compiled", name, shape, packed_linear, dtype, cpu, cold)


def _linear(shape: Shape, dtype: "torch.dtype", device: "torch.device") -> Fresh:
    """Products as eager code makes them."""
    import torch

    m, n, k = shape
    x, bias = filled((m, k), dtype, device), filled((n,), dtype, device)

    def fresh() -> Call:
        w = filled((n, k), dtype, device)
        return lambda: torch.nn.functional.linear(x, w, bias)

    return fresh


def packed_linear(shape: Shape, dtype: "torch.dtype", device: "torch.device") -> Fresh:
    """Products as frozen code makes them: weights packed for oneDNN."""
    import torch

    (m, n, k), ops = shape, torch.ops.mkldnn
    x, bias = filled((m, k), dtype, device), filled((n,), dtype, device)

    def fresh() -> Call:
        packed = ops._reorder_linear_weight(filled((n, k), dtype, device), m)
        return lambda: ops._linear_pointwise(x, packed, bias, "none", [], "")

    return fresh


def _gemm_probe(
    route: Route,
    name: str,
    shape: Shape,
    make: Callable[[Shape, "torch.dtype", "torch.device"], Fresh],
    dtype: "torch.dtype",
    device: "torch.device",
    flush: Flush | None = None,
) -> Probe:
    _, n, k = shape
    return Probe(
        route=route,
        kind="gemm_cold" if flush else "gemm",
        dtype=name,
        features=shape,
        work=2.0 * prod(shape),
        build=_built(lambda: make(shape, dtype, device), n * k * dtype.itemsize, flush),
    )


def _built(make: Callable[[], Fresh], nbytes: int, flush: Flush | None) -> Callable[[], Call]:
    """Makes the call; cold, as many as have TURNS_NBYTES of weights, `nbytes` each, in turn."""
    if flush is None:
        return lambda: make()()
    count = min(MOST_TURNS, TURNS_NBYTES // nbytes + 1)

    def build() -> Call:
        fresh = make()
        return InTurn([fresh() for _ in range(count)], flush)

    return build


def _int8_gemms(device: "torch.device") -> Iterator[Probe]:
    import torch

    for m, n, k in _gemm_shapes(device):
        if device.type == "cuda" and m <= 16:
            continue  # cuBLAS takes int8 from 17 rows up

        def build(m: int = m, n: int = n, k: int = k) -> Call:
            x, w = filled((m, k), torch.int8, device), filled((n, k), torch.int8, device).t()
            return lambda: torch._int_mm(x, w)

        yield _int8_probe("eager", m, n, k, build)


def _packed_int8_gemms() -> Iterator[Probe]:
    import torch

    cpu = torch.device("cpu")
    ops = torch.ops.onednn
    for m, n, k in GEMMS:

        def build(m: int = m, n: int = n, k: int = k) -> Call:
            x = filled((m, k), torch.uint8, cpu)
            packed = ops.qlinear_prepack(filled((n, k), torch.int8, cpu), [m, k])
            scale, zero = torch.ones(n), torch.zeros(n, dtype=torch.int64)
            into = (None, 1.0, 0, torch.float32)  # no bias; fp32 out
            return lambda: ops.qlinear_pointwise(
                x, 0.02, 0, packed, scale, zero, *into, "none", [], ""
            )

        yield _int8_probe("compiled", m, n, k, build)


def _int8_probe(route: Route, m: int, n: int, k: int, build: Callable[[], Call]) -> Probe:
    work = 2.0 * m * n * k
    return Probe(route=route, kind="gemm", dtype="int8", features=(m, n, k), work=work, build=build)


def _convolutions(device: "torch.device") -> Iterator[Probe]:
    for name, dtype in floats(device):
        for shape in CONVOLUTIONS:
            yield _conv_probe("eager", name, shape, _convolve, dtype, device)


def _packed_convolutions(flush: Flush) -> Iterator[Probe]:
    import torch

    cpu = torch.device("cpu")
    for name, dtype in floats(cpu):
        for shapes, cold in ((CONVOLUTIONS, None), (COLD_CONVOLUTIONS, flush)):
            for shape in shapes:
                yield _conv_probe("compiled", name, shape, _convolve_packed, dtype, cpu, cold)


def _convolve(shape: ConvShape, dtype: "torch.dtype", device: "torch.device") -> Fresh:
    """Convolutions as eager code makes them."""
    import torch

    x = _conv_input(shape, dtype, device)
    run = (torch.conv2d, torch.conv3d)[shape.dims - 2]

    def fresh() -> Call:
        w = _filters(shape, dtype, device)
        return lambda: run(x, w, None, shape.stride, shape.taps // 2, 1, shape.groups)

    return fresh


def _convolve_packed(shape: ConvShape, dtype: "torch.dtype", device: "torch.device") -> Fresh:
    """Convolutions as frozen code makes them: channels last, weights packed for oneDNN."""
    import torch

    ops = torch.ops.mkldnn
    last = (torch.channels_last, torch.channels_last_3d)[shape.dims - 2]
    x = _conv_input(shape, dtype, device).contiguous(memory_format=last)
    pad, stride, dilation = ([value] * shape.dims for value in (shape.taps // 2, shape.stride, 1))
    how = (pad, stride, dilation, shape.groups)

    def fresh() -> Call:
        w = _filters(shape, dtype, device).contiguous(memory_format=last)
        packed = ops._reorder_convolution_weight(w, *how, list(x.shape))
        return lambda: ops._convolution_pointwise(x, packed, None, *how, "none", [], "")

    return fresh


def _conv_input(shape: ConvShape, dtype: "torch.dtype", device: "torch.device") -> "torch.Tensor":
    return filled((shape.batch, shape.inputs, *(shape.size,) * shape.dims), dtype, device)


def _filters(shape: ConvShape, dtype: "torch.dtype", device: "torch.device") -> "torch.Tensor":
    window = (shape.taps,) * shape.dims
    return filled((shape.outputs, shape.inputs // shape.groups, *window), dtype, device)


def _conv_probe(
    route: Route,
    name: str,
    shape: ConvShape,
    make: Callable[[ConvShape, "torch.dtype", "torch.device"], Fresh],
    dtype: "torch.dtype",
    device: "torch.device",
    flush: Flush | None = None,
) -> Probe:
    return Probe(
        route=route,
        kind="convolution_cold" if flush else "convolution",
        dtype=name,
        features=shape.features,
        work=2.0 * prod(shape.features[:4]),
        build=_built(lambda: make(shape, dtype, device), shape.num_weights * dtype.itemsize, flush),
    )


def _attentions(device: "torch.device") -> Iterator[Probe]:
    import torch

    for name, dtype in floats(device):
        for heads, num_q, num_kv, dim in ATTENTIONS:

            def build(
                query: tuple[int, ...] = (1, heads, num_q, dim),
                key: tuple[int, ...] = (1, heads, num_kv, dim),
                dtype: "torch.dtype" = dtype,
            ) -> Call:
                q, k = filled(query, dtype, device), filled(key, dtype, device)
                v = filled(key, dtype, device)
                return lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v)

            yield eager(
                "attention",
                name,
                (heads, num_q, num_kv, dim),
                4.0 * heads * num_q * num_kv * dim,
                build,
            )


def _lstms(device: "torch.device") -> Iterator[Probe]:
    import torch

    for seq, batch, inputs, hidden in LSTMS:

        def build(
            seq: int = seq, batch: int = batch, inputs: int = inputs, hidden: int = hidden
        ) -> Call:
            cell = torch.nn.LSTM(inputs, hidden, device=device).eval()
            x = filled((seq, batch, inputs), torch.float32, device)
            return lambda: cell(x)

        work = 8.0 * seq * batch * hidden * (inputs + hidden)
        yield eager("lstm", "fp32", (seq, batch, inputs, hidden), work, build)
