"""Small recordings as torch.profiler writes them, made here."""

import gzip
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

Event = dict[str, object]
BASE_NS = 1_711_964_646_000_000_000
HOST, MAIN, BACKWARD = 4242, 4242, 4243
_ARGS = {"device": 0, "context": 1}


def op(name: str, start_us: float, dur_us: float, *, tid: int = MAIN, **args: object) -> Event:
    """An operator on the host."""
    return _event("cpu_op", name, start_us, dur_us, HOST, tid, args)


def call(name: str, start_us: float, dur_us: float, correlation: int, *, tid: int = MAIN) -> Event:
    """A call into the runtime."""
    args: Mapping[str, object] = {"cbid": 211, "correlation": correlation}
    return _event("cuda_runtime", name, start_us, dur_us, HOST, tid, args)


def kernel(
    name: str, start_us: float, dur_us: float, correlation: int = 0, *, stream: int = 7
) -> Event:
    """A kernel on device 0."""
    args = {**_ARGS, "stream": stream, "correlation": correlation}
    return _event("kernel", name, start_us, dur_us, 0, stream, args)


def copy(
    start_us: float, dur_us: float, correlation: int = 0, *, what: str = "HtoD", stream: int = 7
) -> Event:
    """A copy on device 0."""
    args = {**_ARGS, "stream": stream, "correlation": correlation, "bytes": 4096}
    name = f"Memcpy {what} (Pinned -> Device)"
    return _event("gpu_memcpy", name, start_us, dur_us, 0, stream, args)


def fill(start_us: float, dur_us: float, *, stream: int = 7) -> Event:
    """A memset on device 0."""
    args = {**_ARGS, "stream": stream}
    return _event("gpu_memset", "Memset (Device)", start_us, dur_us, 0, stream, args)


def step(number: int, start_us: float, dur_us: float) -> Event:
    """A range that torch.profiler's step() makes."""
    return _event("user_annotation", f"ProfilerStep#{number}", start_us, dur_us, HOST, MAIN, {})


def frame(name: str, start_us: float, dur_us: float, *, tid: int = MAIN) -> Event:
    """A call of a Python function, or the range of a module."""
    return _event("python_function", name, start_us, dur_us, HOST, tid, {"Python id": 1})


def _event(
    category: str,
    name: str,
    start_us: float,
    dur_us: float,
    pid: object,
    tid: object,
    args: Mapping[str, object],
) -> Event:
    return {
        "ph": "X", "cat": category, "name": name, "pid": pid, "tid": tid,
        "ts": start_us, "dur": dur_us, "args": {k.replace("_", " "): v for k, v in args.items()},
    }  # fmt: skip


def document(events: Sequence[Event], **header: object) -> dict[str, object]:
    """What torch.profiler puts around its events."""
    device = {"id": 0, "name": "NVIDIA H100 80GB HBM3", "totalGlobalMem": 85_018_279_936}
    return {
        "schemaVersion": 1,
        "deviceProperties": [device | {"numSms": 132, "computeMajor": 9, "computeMinor": 0}],
        "traceEvents": list(events),
        "baseTimeNanoseconds": BASE_NS,
    } | header


def write(path: Path, events: Sequence[Event], **header: object) -> Path:
    """A file of these events at `path`, compressed where its name says so."""
    text = json.dumps(document(events, **header)).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def training(rank: int = 0, num_steps: int = 3) -> list[Event]:
    """A small run: every step has a matrix product, an all-reduce that half hides behind another
    kernel on a second stream, and a copy, with a gap of 20 µs of which the host is the cause.
    """
    events: list[Event] = []
    for number in range(num_steps):
        at, first = 200.0 * number, 10 * number + 1
        events += [
            step(number, at, 190.0),
            op("aten::mm", at + 1, 10, External_id=first, Input_Dims=[[64, 32], [32, 16]],
               Input_type=["float", "float"]),
            call("cudaLaunchKernel", at + 2, 5, first),
            kernel("sgemm_128x64_nn", at + 10, 50, first),
            call("cudaLaunchKernel", at + 15, 5, first + 1),
            kernel("ncclDevKernel_AllReduce_Sum_f32", at + 60, 40, first + 1, stream=20),
            call("cudaLaunchKernel", at + 22, 5, first + 2),
            kernel("void at::native::vectorized_elementwise_kernel<4>", at + 60, 20, first + 2),
            call("cudaMemcpyAsync", at + 110, 8, first + 3),
            copy(at + 120, 30 + rank, first + 3),
        ]  # fmt: skip
    return events


_PIECES = (b'"', b"{", b"}", b"]", b",", b"\\", b"9" * 30, b"-1", b"1e18", b"null", b"\0", b"[]")


def mutations(text: bytes, count: int, *, seed: int = 7) -> Iterator[bytes]:
    """Copies of `text`, each damaged in one to four places, the same ones every time."""
    rng = random.Random(seed)
    for _ in range(count):
        damaged = bytearray(text)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(damaged))
            match rng.randrange(4):
                case 0:
                    damaged[at] = rng.randrange(256)
                case 1:
                    del damaged[at : at + rng.randint(1, 40)]
                case 2:
                    damaged[at:at] = rng.choice(_PIECES)
                case 3:
                    damaged[at:at] = damaged[at : at + rng.randint(1, 200)]
        yield bytes(damaged)
