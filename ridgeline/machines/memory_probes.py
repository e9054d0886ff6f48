"""Probes of what moves memory: streams, pointwise ops, norms, pools and gathers."""

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import TYPE_CHECKING

from ridgeline.machines.probe import Call, Probe, eager, filled, floats
from ridgeline.units import KIB, MIB

if TYPE_CHECKING:
    import torch

STREAMS = (256 * KIB, MIB, 4 * MIB, 16 * MIB, 32 * MIB, 64 * MIB)
NUMELS = (4 * KIB, 128 * KIB, MIB, 8 * MIB)
ROWS = ((128, 768), (1536, 128), (2364, 197), (2048, 768))


def memory_probes(device: "torch.device", *, uncached_nbytes: int) -> Iterator[Probe]:
    """The memory kernels as eager code runs them, streams up to a set of `uncached_nbytes`."""
    yield from _streams(device, (*STREAMS, uncached_nbytes))
    yield from _pointwise(device)
    yield from _rows(device)
    yield from _pools(device)
    yield from _gathers(device)


def _streams(device: "torch.device", sizes: tuple[int, ...]) -> Iterator[Probe]:
    import torch

    for nbytes in sizes:

        def pieces(count: int, nbytes: int = nbytes) -> Iterator[tuple["torch.Tensor", ...]]:
            vectors = [filled((nbytes // 4 // count,), torch.float32, device) for _ in range(count)]
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
            x = filled((half // 64, 64), torch.float32, device)
            return lambda: x.t().contiguous()

        piece = _piece_nbytes(nbytes, device)
        yield eager("stream_read", "fp32", (nbytes,), piece, read)
        yield eager("stream_copy", "fp32", (nbytes,), piece, copy)
        yield eager("stream_triad", "fp32", (nbytes * 3 // 4,), piece * 3 // 4, triad)
        if nbytes <= 16 * MIB:
            yield eager("permute", "fp32", (nbytes,), nbytes, permute)


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
    for name, dtype in floats(device):
        for numel in NUMELS:

            def add(numel: int = numel, dtype: "torch.dtype" = dtype) -> Call:
                a, b = filled((numel,), dtype, device), filled((numel,), dtype, device)
                return lambda: torch.add(a, b)

            yield eager("elementwise", name, (numel,), numel, add)
        for kind, op in one_input.items():
            for numel in NUMELS[1:3]:

                def unary(
                    op: Callable[["torch.Tensor"], object] = op,
                    numel: int = numel,
                    dtype: "torch.dtype" = dtype,
                ) -> Call:
                    x = filled((numel,), dtype, device)
                    return lambda: op(x)

                yield eager(kind, name, (numel,), numel, unary)


def _rows(device: "torch.device") -> Iterator[Probe]:
    import torch

    for name, dtype in floats(device):
        for rows, cols in ROWS:

            def softmax(
                shape: tuple[int, int] = (rows, cols), dtype: "torch.dtype" = dtype
            ) -> Call:
                x = filled(shape, dtype, device)
                return lambda: torch.softmax(x, -1)

            def norm(shape: tuple[int, int] = (rows, cols), dtype: "torch.dtype" = dtype) -> Call:
                x, w = filled(shape, dtype, device), filled(shape[1:], dtype, device)
                return lambda: torch.layer_norm(x, shape[1:], w, w)

            yield eager("softmax", name, (rows, cols), rows * cols, softmax)
            yield eager("layer_norm", name, (rows, cols), rows * cols, norm)


def _pools(device: "torch.device") -> Iterator[Probe]:
    import torch

    for name, dtype in floats(device):

        def image(channels: int, size: int, dtype: "torch.dtype" = dtype) -> "torch.Tensor":
            return filled((1, channels, size, size), dtype, device)

        def max_pool(make: Callable[[int, int], "torch.Tensor"] = image) -> Call:
            x = make(64, 112)
            return lambda: torch.nn.functional.max_pool2d(x, 3, 2, 1)

        def wide_pool(make: Callable[[int, int], "torch.Tensor"] = image) -> Call:
            x = make(256, 16)
            return lambda: torch.nn.functional.max_pool2d(x, 7, 1, 3)

        def avg_pool(make: Callable[[int, int], "torch.Tensor"] = image) -> Call:
            x = make(2048, 7)
            return lambda: torch.nn.functional.avg_pool2d(x, 7)

        def batch_norm(make: Callable[[int, int], "torch.Tensor"] = image) -> Call:
            x, w = make(64, 56), make(64, 1).flatten()
            return lambda: torch.nn.functional.batch_norm(x, w, w, w, w)

        yield eager("max_pool", name, (64 * 56 * 56, 9), 64 * 56 * 56, max_pool)
        yield eager("max_pool", name, (256 * 16 * 16, 49), 256 * 16 * 16, wide_pool)
        yield eager("avg_pool", name, (2048, 49), 2048, avg_pool)
        yield eager("batch_norm", name, (64 * 56 * 56,), 64 * 56 * 56, batch_norm)


def packed_pools() -> Iterator[Probe]:
    """The pool of a frozen graph on a CPU, which keeps pictures with their channels last."""
    import torch

    cpu = torch.device("cpu")
    for name, dtype in floats(cpu):

        def build(dtype: "torch.dtype" = dtype) -> Call:
            x = filled((1, 64, 112, 112), dtype, cpu).contiguous(memory_format=torch.channels_last)
            return lambda: torch.nn.functional.max_pool2d(x, 3, 2, 1)

        numel = 64 * 56 * 56
        yield Probe(
            route="compiled",
            kind="max_pool",
            dtype=name,
            features=(numel, 9),
            work=numel,
            build=build,
        )


def _gathers(device: "torch.device") -> Iterator[Probe]:
    import torch

    for rows in (128, 2048):

        def build(rows: int = rows) -> Call:
            table = filled((30522, 768), torch.float32, device)
            index = torch.arange(rows, device=device) * 7919 % 30522  # a prime apart: no locality
            return lambda: torch.nn.functional.embedding(index, table)

        yield eager("embedding", "fp32", (rows, 768 * 4), 2.0 * rows * 768 * 4, build)
