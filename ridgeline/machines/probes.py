"""What `calibrate` runs: one probe per kernel, shape, dtype and route, each knowing the work one
call does.

Operands are reused from call to call, so they are as warm as the caches keep them: a small
product's rate is that of the kernel, not of the memory. Whoever predicts a cold one takes the
larger of the two times.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from math import prod
from typing import TYPE_CHECKING

from ridgeline.machines.tables import Route
from ridgeline.units import KIB, MIB

if TYPE_CHECKING:
    import torch

Call = Callable[[], object]

# (m, n, k): a decoder's single token, small batches, a sentence, a page; square, wide, deep and
# small layers
GEMMS = (
    (1, 768, 768), (1, 3072, 768), (1, 768, 3072), (1, 4096, 1024), (1, 4096, 4096),
    (8, 256, 256), (8, 768, 768), (8, 3072, 768), (32, 768, 768), (32, 3072, 768), (32, 4096, 4096),
    (128, 64, 64), (128, 768, 768), (128, 3072, 768), (128, 768, 3072), (128, 4096, 1024),
    (512, 64, 256), (512, 256, 256), (512, 768, 768), (512, 3072, 768),
    (2048, 64, 64), (2048, 256, 1024), (2048, 768, 768),
)  # fmt: skip


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


CONVOLUTIONS = (
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
)

# (batch * heads, q, kv, head_dim): encoder, ViT, long, diffusion self and cross, decode with short
# and long caches
ATTENTIONS = (
    (12, 128, 128, 64), (12, 197, 197, 64), (12, 512, 512, 64), (8, 1024, 1024, 80),
    (8, 1024, 77, 80), (12, 1, 128, 64), (32, 1, 1024, 128),
)  # fmt: skip

STREAMS = (256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB)
GPU_GEMMS = ((4096, 4096, 4096), (8192, 8192, 8192))
NUMELS = (4 * KIB, 128 * KIB, MIB, 8 * MIB)
ROWS = ((128, 768), (1536, 128), (2364, 197), (2048, 768))
LSTMS = ((35, 1, 512, 256), (70, 2, 512, 256))


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One thing to time. `build` allocates operands and returns the call; `work` is what a call
    does, in FLOP, bytes or elements as KERNEL_UNITS has it; `features` as KERNEL_FEATURES has
    them."""

    route: Route
    kind: str
    dtype: str
    features: tuple[float, ...]
    work: float
    build: Callable[[], Call]


def cpu_probes(*, uncached_nbytes: int) -> list[Probe]:
    """Every probe this CPU's torch can run, cheapest first; streams up to a working set no cache
    holds."""
    import torch

    cpu = torch.device("cpu")
    probes = list(eager_probes(cpu, uncached_nbytes=uncached_nbytes))
    if torch._C._has_mkldnn:
        probes += _packed_gemms()
        probes += _packed_convolutions()
        probes += _packed_int8_gemms()
    return sorted(probes, key=lambda probe: probe.work)


def eager_probes(device: "torch.device", *, uncached_nbytes: int) -> Iterator[Probe]:
    """The probes that run as a user's eager code does, on any device."""
    yield from _gemms(device)
    yield from _int8_gemms(device)
    yield from _convolutions(device)
    yield from _attentions(device)
    yield from _streams(device, (*STREAMS, uncached_nbytes))
    yield from _pointwise(device)
    yield from _rows(device)
    yield from _pools(device)
    yield from _gathers(device)
    yield from _lstms(device)


def _floats(device: "torch.device") -> tuple[tuple[str, "torch.dtype"], ...]:
    """fp32 and bf16, and fp16 where it is not a trap: torch.mm is 1000 times slower in it on
    CPUs."""
    import torch

    both = (("fp32", torch.float32), ("bf16", torch.bfloat16))
    return both if device.type == "cpu" else (*both, ("fp16", torch.float16))


def _filled(shape: tuple[int, ...], dtype: "torch.dtype", device: "torch.device") -> "torch.Tensor":
    """Operands: constant on a CPU, random on a GPU, whose clock rises when the bits do not
    toggle."""
    import torch

    if device.type == "cpu":
        return torch.full(shape, 0.5 if dtype.is_floating_point else 1, dtype=dtype)
    if not dtype.is_floating_point:
        return torch.randint(0, 127, shape, dtype=dtype, device=device)
    return torch.rand(shape, dtype=dtype, device=device)


def _gemm_shapes(device: "torch.device") -> tuple[tuple[int, int, int], ...]:
    return GEMMS if device.type == "cpu" else (*GEMMS, *GPU_GEMMS)


def _gemms(device: "torch.device") -> Iterator[Probe]:
    import torch

    for name, dtype in _floats(device):
        for m, n, k in _gemm_shapes(device):

            def build(m: int = m, n: int = n, k: int = k, dtype: "torch.dtype" = dtype) -> Call:
                x, w = _filled((m, k), dtype, device), _filled((n, k), dtype, device)
                bias = _filled((n,), dtype, device)
                return lambda: torch.nn.functional.linear(x, w, bias)

            yield _gemm_probe("eager", name, m, n, k, build)


def _packed_gemms() -> Iterator[Probe]:
    import torch

    cpu = torch.device("cpu")
    ops = torch.ops.mkldnn
    for name, dtype in _floats(cpu):
        for m, n, k in GEMMS:

            def build(m: int = m, n: int = n, k: int = k, dtype: "torch.dtype" = dtype) -> Call:
                x, bias = _filled((m, k), dtype, cpu), _filled((n,), dtype, cpu)
                packed = ops._reorder_linear_weight(_filled((n, k), dtype, cpu), m)
                return lambda: ops._linear_pointwise(x, packed, bias, "none", [], "")

            yield _gemm_probe("compiled", name, m, n, k, build)


def _int8_gemms(device: "torch.device") -> Iterator[Probe]:
    import torch

    for m, n, k in _gemm_shapes(device):
        if device.type == "cuda" and m <= 16:
            continue  # cuBLAS takes int8 from 17 rows up

        def build(m: int = m, n: int = n, k: int = k) -> Call:
            x, w = _filled((m, k), torch.int8, device), _filled((n, k), torch.int8, device).t()
            return lambda: torch._int_mm(x, w)

        yield _gemm_probe("eager", "int8", m, n, k, build)


def _packed_int8_gemms() -> Iterator[Probe]:
    import torch

    cpu = torch.device("cpu")
    ops = torch.ops.onednn
    for m, n, k in GEMMS:

        def build(m: int = m, n: int = n, k: int = k) -> Call:
            x = _filled((m, k), torch.uint8, cpu)
            packed = ops.qlinear_prepack(_filled((n, k), torch.int8, cpu), [m, k])
            scale, zero = torch.ones(n), torch.zeros(n, dtype=torch.int64)
            into = (None, 1.0, 0, torch.float32)  # no bias; fp32 out
            return lambda: ops.qlinear_pointwise(
                x, 0.02, 0, packed, scale, zero, *into, "none", [], ""
            )

        yield _gemm_probe("compiled", "int8", m, n, k, build)


def _gemm_probe(
    route: Route, dtype: str, m: int, n: int, k: int, build: Callable[[], Call]
) -> Probe:
    work = 2.0 * m * n * k
    return Probe(route=route, kind="gemm", dtype=dtype, features=(m, n, k), work=work, build=build)


def _convolutions(device: "torch.device") -> Iterator[Probe]:
    import torch

    for name, dtype in _floats(device):
        for shape in CONVOLUTIONS:

            def build(shape: ConvShape = shape, dtype: "torch.dtype" = dtype) -> Call:
                x, w = _conv_operands(shape, dtype, device)
                run = (torch.conv2d, torch.conv3d)[shape.dims - 2]
                return lambda: run(x, w, None, shape.stride, shape.taps // 2, 1, shape.groups)

            yield _conv_probe("eager", name, shape, build)


def _packed_convolutions() -> Iterator[Probe]:
    import torch

    cpu = torch.device("cpu")
    ops = torch.ops.mkldnn
    for name, dtype in _floats(cpu):
        for shape in CONVOLUTIONS:

            def build(shape: ConvShape = shape, dtype: "torch.dtype" = dtype) -> Call:
                last = (torch.channels_last, torch.channels_last_3d)[shape.dims - 2]
                pair = _conv_operands(shape, dtype, cpu)
                x, w = (tensor.contiguous(memory_format=last) for tensor in pair)
                pad, stride, dilation = (
                    [value] * shape.dims for value in (shape.taps // 2, shape.stride, 1)
                )
                how = (pad, stride, dilation, shape.groups)
                packed = ops._reorder_convolution_weight(w, *how, list(x.shape))
                return lambda: ops._convolution_pointwise(x, packed, None, *how, "none", [], "")

            yield _conv_probe("compiled", name, shape, build)


def _conv_operands(
    shape: ConvShape, dtype: "torch.dtype", device: "torch.device"
) -> tuple["torch.Tensor", "torch.Tensor"]:
    space, window = (shape.size,) * shape.dims, (shape.taps,) * shape.dims
    x = _filled((shape.batch, shape.inputs, *space), dtype, device)
    return x, _filled((shape.outputs, shape.inputs // shape.groups, *window), dtype, device)


def _conv_probe(route: Route, dtype: str, shape: ConvShape, build: Callable[[], Call]) -> Probe:
    work = 2.0 * prod(shape.features[:4])
    return Probe(
        route=route,
        kind="convolution",
        dtype=dtype,
        features=shape.features,
        work=work,
        build=build,
    )


def _attentions(device: "torch.device") -> Iterator[Probe]:
    import torch

    for name, dtype in _floats(device):
        for heads, num_q, num_kv, dim in ATTENTIONS:

            def build(
                query: tuple[int, ...] = (1, heads, num_q, dim),
                key: tuple[int, ...] = (1, heads, num_kv, dim),
                dtype: "torch.dtype" = dtype,
            ) -> Call:
                q, k = _filled(query, dtype, device), _filled(key, dtype, device)
                v = _filled(key, dtype, device)
                return lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v)

            yield _eager(
                "attention",
                name,
                (heads, num_q, num_kv, dim),
                4.0 * heads * num_q * num_kv * dim,
                build,
            )


def _eager(
    kind: str, dtype: str, features: tuple[float, ...], work: float, build: Callable[[], Call]
) -> Probe:
    return Probe(route="eager", kind=kind, dtype=dtype, features=features, work=work, build=build)


def _streams(device: "torch.device", sizes: tuple[int, ...]) -> Iterator[Probe]:
    import torch

    for nbytes in sizes:

        def pieces(count: int, nbytes: int = nbytes) -> Iterator[tuple["torch.Tensor", ...]]:
            vectors = [
                _filled((nbytes // 4 // count,), torch.float32, device) for _ in range(count)
            ]
            length = _piece_nbytes(nbytes, device) // 4 // count
            return cycle(zip(*(torch.split(vector, length) for vector in vectors), strict=True))

        def read(make: Callable[[int], Iterator[tuple["torch.Tensor", ...]]] = pieces) -> Call:
            turns = make(1)
            return lambda: next(turns)[0].sum()

        def copy(make: Callable[[int], Iterator[tuple["torch.Tensor", ...]]] = pieces) -> Call:
            turns = make(2)

            def call() -> None:
                a, b = next(turns)
                b.copy_(a)

            return call

        def triad(make: Callable[[int], Iterator[tuple["torch.Tensor", ...]]] = pieces) -> Call:
            turns = make(4)  # of which three are used: pieces stay whole

            def call() -> None:
                a, b, c, _ = next(turns)
                torch.add(a, b, alpha=3.0, out=c)

            return call

        def permute(half: int = nbytes // 8) -> Call:
            x = _filled((half // 64, 64), torch.float32, device)
            return lambda: x.t().contiguous()

        piece = _piece_nbytes(nbytes, device)
        yield _eager("stream_read", "fp32", (nbytes,), piece, read)
        yield _eager("stream_copy", "fp32", (nbytes,), piece, copy)
        yield _eager("stream_triad", "fp32", (nbytes * 3 // 4,), piece * 3 // 4, triad)
        if nbytes <= 16 * MIB:
            yield _eager("permute", "fp32", (nbytes,), nbytes, permute)


def _piece_nbytes(nbytes: int, device: "torch.device") -> int:
    """How much of a working set one call streams: on a CPU little enough to end within a time
    slice, or no sample is undisturbed; the next call goes on where it ended, so all of the set
    passes by."""
    return min(nbytes, 4 * MIB) if device.type == "cpu" else nbytes


def _pointwise(device: "torch.device") -> Iterator[Probe]:
    import torch

    functional = torch.nn.functional
    one_input: dict[str, Callable[[torch.Tensor], object]] = {
        "exp": torch.exp,
        "erf": torch.erf,
        "tanh": torch.tanh,
        "gelu": functional.gelu,
        "silu": functional.silu,
    }
    for name, dtype in _floats(device):
        for numel in NUMELS:

            def add(numel: int = numel, dtype: "torch.dtype" = dtype) -> Call:
                a, b = _filled((numel,), dtype, device), _filled((numel,), dtype, device)
                return lambda: torch.add(a, b)

            yield _eager("elementwise", name, (numel,), numel, add)
        for kind, op in one_input.items():
            for numel in NUMELS[1:3]:

                def unary(
                    op: Callable[["torch.Tensor"], object] = op,
                    numel: int = numel,
                    dtype: "torch.dtype" = dtype,
                ) -> Call:
                    x = _filled((numel,), dtype, device)
                    return lambda: op(x)

                yield _eager(kind, name, (numel,), numel, unary)


def _rows(device: "torch.device") -> Iterator[Probe]:
    import torch

    for name, dtype in _floats(device):
        for rows, cols in ROWS:

            def softmax(
                shape: tuple[int, int] = (rows, cols), dtype: "torch.dtype" = dtype
            ) -> Call:
                x = _filled(shape, dtype, device)
                return lambda: torch.softmax(x, -1)

            def norm(shape: tuple[int, int] = (rows, cols), dtype: "torch.dtype" = dtype) -> Call:
                x, w = _filled(shape, dtype, device), _filled(shape[1:], dtype, device)
                return lambda: torch.layer_norm(x, shape[1:], w, w)

            yield _eager("softmax", name, (rows, cols), rows * cols, softmax)
            yield _eager("layer_norm", name, (rows, cols), rows * cols, norm)


def _pools(device: "torch.device") -> Iterator[Probe]:
    import torch

    for name, dtype in _floats(device):

        def image(channels: int, size: int, dtype: "torch.dtype" = dtype) -> "torch.Tensor":
            return _filled((1, channels, size, size), dtype, device)

        def max_pool(make: Callable[[int, int], "torch.Tensor"] = image) -> Call:
            x = make(64, 112)
            return lambda: torch.nn.functional.max_pool2d(x, 3, 2, 1)

        def avg_pool(make: Callable[[int, int], "torch.Tensor"] = image) -> Call:
            x = make(2048, 7)
            return lambda: torch.nn.functional.avg_pool2d(x, 7)

        def batch_norm(make: Callable[[int, int], "torch.Tensor"] = image) -> Call:
            x, w = make(64, 56), make(64, 1).flatten()
            return lambda: torch.nn.functional.batch_norm(x, w, w, w, w)

        yield _eager("max_pool", name, (64 * 56 * 56, 9), 64 * 56 * 56, max_pool)
        yield _eager("avg_pool", name, (2048, 49), 2048, avg_pool)
        yield _eager("batch_norm", name, (64 * 56 * 56,), 64 * 56 * 56, batch_norm)


def _gathers(device: "torch.device") -> Iterator[Probe]:
    import torch

    for rows in (128, 2048):

        def build(rows: int = rows) -> Call:
            table = _filled((30522, 768), torch.float32, device)
            index = torch.arange(rows, device=device) * 7919 % 30522  # a prime apart: no locality
            return lambda: torch.nn.functional.embedding(index, table)

        yield _eager("embedding", "fp32", (rows, 768 * 4), 2.0 * rows * 768 * 4, build)


def _lstms(device: "torch.device") -> Iterator[Probe]:
    import torch

    for seq, batch, inputs, hidden in LSTMS:

        def build(
            seq: int = seq, batch: int = batch, inputs: int = inputs, hidden: int = hidden
        ) -> Call:
            cell = torch.nn.LSTM(inputs, hidden, device=device).eval()
            x = _filled((seq, batch, inputs), torch.float32, device)
            return lambda: cell(x)

        work = 8.0 * seq * batch * hidden * (inputs + hidden)
        yield _eager("lstm", "fp32", (seq, batch, inputs, hidden), work, build)
