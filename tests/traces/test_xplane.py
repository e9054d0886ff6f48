"""XLA profiles: what was written comes back exactly; what is torn or hostile is said."""

import gzip
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xplane_files import Event, PlaneFile, message, number

from ridgeline.errors import TraceError
from ridgeline.traces.columns import ABSENT, Kind, Recording
from ridgeline.traces.protobuf import Span, Torn, fields, signed, varint
from ridgeline.traces.xplane import read_xplane

EPOCH_NS = 1_718_000_000_000_000_000


def _events(recording: Recording) -> Counter[tuple[str, str, int, int, int, int]]:
    """Every event as (kind, name, start, duration, stream, correlation)."""
    events = recording.events
    columns = (events.kind, events.name, events.start_ns, events.duration_ns, events.stream,
               events.correlation)  # fmt: skip
    return Counter(
        (Kind(kind).name, recording.names[name], *rest)
        for kind, name, *rest in zip(*(column.tolist() for column in columns), strict=True)
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("xplane") / "a.xplane.pb"


EVENTS = st.lists(
    st.builds(
        Event,
        name=st.sampled_from(["loop_fusion", "gemm π", "MemcpyH2D", ""]),
        offset_ps=st.integers(0, 10**9).map(lambda ns: ns * 1000),
        duration_ps=st.integers(0, 10**9).map(lambda ns: ns * 1000),
        correlation=st.none() | st.integers(0, 2**40),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60)
@given(st.lists(EVENTS, min_size=1, max_size=4), st.sampled_from([0, 911_061, EPOCH_NS]))
def test_a_profile_gives_back_what_was_put_in(
    path: Path, devices: list[list[Event]], time_ns: int
) -> None:
    content = PlaneFile("/host:metadata").encoded()
    for device, events in enumerate(devices):
        plane = PlaneFile(f"/device:GPU:{device}")
        plane.line(99, f"Stream #{device + 10}(Kernel)", time_ns, events)
        content += plane.encoded()
    path.write_bytes(content)
    recordings = read_xplane(path)
    start = 0 if time_ns == EPOCH_NS else time_ns
    for device, (recording, events) in enumerate(zip(recordings, devices, strict=True)):
        assert _events(recording) == Counter(
            (
                "MEMCPY" if one.name.startswith("Memcpy") else "KERNEL",
                one.name,
                start + one.offset_ps // 1000,
                one.duration_ps // 1000,
                device + 10,
                ABSENT if one.correlation is None else one.correlation,
            )
            for one in events
        )
        assert recording.metadata.base_time_ns == time_ns - start
        assert recording.metadata.devices[device].memory_bytes == 1 << 37


def _two_devices() -> bytes:
    content = b""
    for device in (0, 1):
        plane = PlaneFile(f"/device:GPU:{device}")
        kernel = Event(
            name="k", offset_ps=5_000_000, duration_ps=1_000_000, correlation=70 + device
        )
        plane.line(1, f"Stream #{device}(Kernel)", 0, [kernel])
        plane.line(2, "XLA Modules", 0, [Event(name="jit_f", offset_ps=0, duration_ps=9_000_000)])
        content += plane.encoded()
    host = PlaneFile("/host:CPU")
    calls = [
        Event(name="cuLaunchKernel", offset_ps=1_000_000, duration_ps=500, correlation=70 + device)
        for device in (0, 1)
    ]
    others = [
        Event(name="$train.py:12 step", offset_ps=0, duration_ps=10_000),
        Event(name="PjitFunction(f)", offset_ps=0, duration_ps=20_000),
    ]
    host.line(5, "python", 0, [*calls, *others])
    return content + host.encoded()


def test_a_launch_belongs_to_the_device_of_its_kernel(path: Path) -> None:
    path.write_bytes(_two_devices())
    for device, recording in enumerate(read_xplane(path)):
        assert _events(recording) == Counter(
            [
                ("KERNEL", "k", 5000, 1000, device, 70 + device),
                ("DEVICE_ANNOTATION", "jit_f", 0, 9000, 2, ABSENT),
                ("RUNTIME", "cuLaunchKernel", 1000, 1, ABSENT, 70 + device),
                ("PYTHON", "$train.py:12 step", 0, 10, ABSENT, ABSENT),
                ("CPU_OP", "PjitFunction(f)", 0, 20, ABSENT, ABSENT),
            ]
        )
        assert "one process drives 2 devices" in recording.notes[0]


def test_arguments_are_the_statistics(path: Path) -> None:
    path.write_bytes(_two_devices())
    recording = read_xplane(path)[1]
    row = int(recording.events.where(Kind.KERNEL)[0])
    assert recording.args_of(row) == {"details": "not this", "correlation_id": 71}


def test_times_are_rounded_and_what_touches_still_touches(path: Path) -> None:
    plane = PlaneFile("/device:GPU:0")
    pair = [Event(name="a", offset_ps=1_499, duration_ps=1_002),
            Event(name="b", offset_ps=2_501, duration_ps=499)]  # fmt: skip
    plane.line(1, "Stream #1(Kernel)", 0, pair)
    path.write_bytes(plane.encoded())
    (recording,) = read_xplane(path)
    assert recording.events.start_ns.tolist() == [1, 3]
    assert recording.events.end_ns.tolist() == [3, 3]


def test_a_torn_file_gives_its_whole_planes(path: Path) -> None:
    content = _two_devices()
    path.write_bytes(content[: len(content) - 20])
    recordings = read_xplane(path)
    assert [len(one) for one in recordings] == [2, 2]
    assert "torn off" in recordings[0].notes[0]
    path.write_bytes(gzip.compress(content))
    assert len(read_xplane(path)[0]) == 5


@pytest.mark.parametrize(
    ("content", "message_"),
    [
        (b"", "is empty"),
        (b"hello, world", "holds no event of an XLA profile"),
        (bytes(100), "holds no event"),
        (b"\xff" * 100, "holds no event"),
        (PlaneFile("/host:metadata").encoded(), "holds no event"),
        (_two_devices()[:30], "torn off"),
        # an event of a line whose length leaves the line
        (message(1, message(2, b"/host:CPU") + message(3, message(4, b"\x12\x7f"))), "is damaged"),
        (message(1, message(3, number(3, 2**62) + message(4, number(2, 1)))), "lasts from 4611"),
        (message(1, message(3, message(4, number(3, -5000)))), "lasts from 0 to -5 ns"),
    ],
)
def test_what_is_no_profile_is_said(path: Path, content: bytes, message_: str) -> None:
    path.write_bytes(content)
    with pytest.raises(TraceError, match=message_):
        read_xplane(path)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=20))
def test_a_damaged_profile_is_read_or_refused(path: Path, changes: list[tuple[int, int]]) -> None:
    content = bytearray(_two_devices())
    for place, value in changes:
        content[place % len(content)] = value
    path.write_bytes(content)
    with suppress(TraceError):
        for recording in read_xplane(path):
            assert all(recording.args_of(row) is not None for row in range(len(recording)))


@given(st.binary(max_size=200))
def test_any_bytes_are_fields_or_torn(content: bytes) -> None:
    with suppress(Torn):
        for _, value in fields(content, Span(0, len(content))):
            assert isinstance(value, int) or value.end <= len(content)


@given(st.integers(-(2**63), 2**63 - 1))
def test_numbers_come_back(value: int) -> None:
    encoded = number(1, value)
    found, end = varint(encoded, 1, len(encoded))
    assert (signed(found), end) == (value, len(encoded))


def test_a_number_has_ten_bytes_at_most() -> None:
    with pytest.raises(Torn):
        varint(b"\xff" * 100, 0, 100)


def test_the_shared_profile(shared_data: Path) -> None:
    recordings = read_xplane(shared_data / "xplane" / "jax_conv_mi300.xplane.pb")
    assert len(recordings) == 8
    assert [len(one.events.where(Kind.KERNEL)) for one in recordings] == [25] * 8
    assert recordings[0].metadata.devices[0].num_multiprocessors == 304
    for one in recordings:
        launches = one.events.where(Kind.RUNTIME)
        kernels = one.events.where(Kind.KERNEL)
        assert set(one.events.correlation[kernels]) <= set(one.events.correlation[launches])
