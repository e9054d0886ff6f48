"""Memory over time: curve, peak and what lives at it, by hand and in recordings of others."""

from pathlib import Path

import numpy as np
from recordings import Event, call, kernel, op, write

from ridgeline.traces.kineto import read_kineto
from ridgeline.traces.memory_timeline import LiveMemory, memory_events, memory_timeline

RUN = [call("cudaLaunchKernel", 0, 1, 1), kernel("k", 2, 100, 1)]


def memory(at_us: float, nbytes: int, address: int, allocated: int, *, device: int = 1) -> Event:
    """An instant of the allocator."""
    args = {
        "Bytes": nbytes, "Addr": address, "Total Allocated": allocated, "Total Reserved": 4096,
        "Device Type": device, "Device Id": 0 if device else -1,
    }  # fmt: skip
    made = op("[memory]", at_us, 0) | {"cat": "cpu_instant_event", "ph": "i", "args": args}
    del made["dur"]
    return made


EVENTS = [
    *RUN,
    op("aten::empty", 10, 5),
    op("aten::mm", 20, 20),
    memory(11, 512, 1, 1512),  # 1000 bytes were there before
    memory(21, 2048, 2, 3560),
    memory(22, 64, 9, 64, device=0),
    memory(30, -512, 1, 3048),
    memory(35, 256, 3, 3304),
    memory(50, -2048, 2, 1256),
]


def test_the_peak_and_what_lived_at_it(tmp_path: Path) -> None:
    recording = read_kineto(write(tmp_path / "a.json", EVENTS))
    found = memory_timeline(recording, memory_events(recording))
    assert found is not None
    assert (found.device, found.num_events) == ("device 0", 5)
    assert (found.peak_allocated_bytes, found.peak_ns) == (3560, 10_000)
    assert found.live == (
        LiveMemory(op="aten::mm", nbytes=2048, num_blocks=1),
        LiveMemory(op="", nbytes=1000, num_blocks=0),
        LiveMemory(op="aten::empty", nbytes=512, num_blocks=1),
    )
    assert sum(one.nbytes for one in found.live) == found.peak_allocated_bytes
    assert [point[1] for point in found.curve] == [1512, 3560, 3048, 3304, 1256]


def test_free_memory_in_a_stretch_of_time(tmp_path: Path) -> None:
    recording = read_kineto(write(tmp_path / "a.json", EVENTS))
    found = memory_events(recording)
    zero_ns = int(found.time_ns[0]) - 11_000
    capacity = 85_018_279_936
    # what was allocated when it began counts
    assert found.most_between(zero_ns + 32_000, zero_ns + 60_000) == (3304, capacity - 4096)
    assert found.most_between(zero_ns, zero_ns + 5_000) == (None, None)


def test_a_recording_without_memory_has_no_timeline(tmp_path: Path) -> None:
    recording = read_kineto(write(tmp_path / "a.json", RUN))
    assert memory_timeline(recording, memory_events(recording)) is None


def test_a_long_curve_keeps_the_peak(shared_data: Path) -> None:
    recording = read_kineto(shared_data / "kineto" / "h100_qwen_0.5b.json.gz")
    found = memory_events(recording)
    timeline = memory_timeline(recording, found)
    assert timeline is not None
    assert len(timeline.curve) <= 512 < len(found)
    assert max(point[1] for point in timeline.curve) == int(np.max(found.allocated))
    assert sum(one.nbytes for one in timeline.live) == timeline.peak_allocated_bytes
