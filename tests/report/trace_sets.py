"""Recordings of several ranks with something to see on a page: a straggler, a pipeline, memory."""

from collections.abc import Sequence
from pathlib import Path

from recordings import Event, call, kernel, op, write

from ridgeline.traces.trace import Trace, trace

FORWARD_US, BACKWARD_US = 100, 200


def all_reduce(at_us: float, dur_us: float, number: int, size: int) -> Event:
    """A collective of 4 KiB per rank as NCCL's kernels are recorded."""
    found = kernel("ncclDevKernel_AllReduce_Sum_f32_RING_LL", at_us, dur_us, number, stream=20)
    found["args"] = {
        "device": 0, "stream": 20, "correlation": number, "Collective name": "allreduce",
        "In msg nelems": 1024, "Out msg nelems": 1024, "Group size": size, "dtype": "Float",
        "Process Group Name": "0", "Process Group Ranks": str([*range(size)]),
    }  # fmt: skip
    return found


def straggling(folder: Path, waits_us: Sequence[int], name: str = "gemm") -> Trace:
    """Ranks of one collective of 60 µs, each of which waits as long as given."""
    files = []
    for rank, wait_us in enumerate(waits_us):
        work_us = 500 - wait_us
        events = [
            call("cudaLaunchKernel", 0, 1, 1),
            kernel(name, 2, work_us, 1),
            call("cudaLaunchKernel", 1, 1, 2),
            all_reduce(2 + work_us, wait_us + 60, 2, len(waits_us)),
        ]
        about = {"rank": rank, "world_size": len(waits_us)}
        files.append(write(folder / f"rank-{rank}.json", events, distributedInfo=about))
    return trace(files)


def _transfer(way: str, peer: int, start_us: float, end_us: float) -> list[Event]:
    name = {"send": "c10d::send", "recv": "c10d::recv_"}[way]
    around = op(name, start_us, 0.2, Concrete_Inputs=["", "", str(peer), "0"])
    return [around, _range(f"gloo:{way}", start_us + 0.1, end_us - start_us - 0.1)]


def _range(name: str, start_us: float, dur_us: float) -> Event:
    return op(name, start_us, dur_us) | {"cat": "user_annotation"}


def two_stages(folder: Path) -> Trace:
    """A GPipe step of two stages and two microbatches: bubbles are a third of it."""
    first, second = [_range("ProfilerStep#0", 0, 900)], [_range("ProfilerStep#0", 0, 900)]
    for i in range(2):
        done = (i + 1) * FORWARD_US
        first += [op("aten::work", done - FORWARD_US, FORWARD_US)]
        first += _transfer("send", 1, done, done + 0.2)
        second += _transfer("recv", 0, done - FORWARD_US, done + 0.5)
        second += [op("aten::work", done, FORWARD_US)]
    for i in range(2):
        start = 300 + i * BACKWARD_US
        second += [op("aten::work", start, BACKWARD_US)]
        second += _transfer("send", 0, start + BACKWARD_US, start + BACKWARD_US + 0.2)
        first += _transfer("recv", 1, start if i else 200, start + BACKWARD_US + 0.5)
        first += [op("aten::work", start + BACKWARD_US, BACKWARD_US)]
    files = [
        write(folder / f"rank-{rank}.json", events, distributedInfo={"rank": rank})
        for rank, events in enumerate((first, second))
    ]
    return trace(files)


def allocated(at_us: float, nbytes: int, address: int, total_bytes: int) -> Event:
    """An allocation (or, below 0, a release) on device 0."""
    args = {
        "Device Type": 1, "Device Id": 0, "Bytes": nbytes, "Addr": address,
        "Total Allocated": total_bytes, "Total Reserved": 4096,
    }  # fmt: skip
    return {
        "ph": "i", "s": "t", "cat": "cpu_instant_event", "name": "[memory]",
        "pid": 4242, "tid": 4242, "ts": at_us, "args": args,
    }  # fmt: skip


def with_memory(folder: Path, op_name: str = "aten::empty") -> Trace:
    """1 KiB, then 2 KiB more at 30 µs (the peak), then only those."""
    events = [
        call("cudaLaunchKernel", 0, 1, 1),
        kernel("gemm", 2, 100, 1),
        op(op_name, 5, 50),
        allocated(10, 1024, 1, 1024),
        allocated(30, 2048, 2, 3072),
        allocated(50, -1024, 1, 2048),
    ]
    return trace([write(folder / "memory.json", events)])
