"""Nsight Systems exports: what was written comes back exactly; hostile files are refused."""

import gzip
import pickle
import sqlite3
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nsys_exports import DDL, KERNEL, MEMCPY, MEMSET, NVTX, RUNTIME, SYNC, Export, global_pid

from ridgeline.errors import TraceError
from ridgeline.traces.columns import ABSENT, Device, Kind, Recording
from ridgeline.traces.nsys import read_nsys
from ridgeline.traces.nsys_metrics import field_of_metric, read_nsys_metrics
from ridgeline.traces.nsys_stats import kernel_sums, read_gpu_trace
from ridgeline.traces.samples import Clock

Event = tuple[str, str, int, int, int, int]
KERNELS = ("nvjet_tst_192x192_64x4", "ncclDevKernel_AllReduce_Sum_bf16_RING_LL", "fused_moe_kernel")
DEVICE_TABLES = {KERNEL: Kind.KERNEL, MEMCPY: Kind.MEMCPY, MEMSET: Kind.MEMSET, SYNC: Kind.SYNC}


def _events(recording: Recording) -> Counter[Event]:
    """Every event as (kind, name, start, duration, stream, correlation)."""
    events = recording.events
    columns = (events.kind, events.name, events.start_ns, events.duration_ns, events.stream,
               events.correlation)  # fmt: skip
    return Counter(
        (Kind(kind).name, recording.names[name], start, duration, stream, correlation)
        for kind, name, start, duration, stream, correlation in zip(
            *(column.tolist() for column in columns), strict=True
        )
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nsys")


TIMES = st.tuples(st.integers(0, 2**50), st.integers(0, 2**40))
ON_DEVICE = st.tuples(
    st.sampled_from(list(DEVICE_TABLES)), TIMES, st.integers(0, 3), st.integers(0, 2**31)
)
ON_HOST = st.tuples(
    st.sampled_from([RUNTIME, NVTX]), TIMES, st.sampled_from(["a", "b π", "c"]), st.integers(0, 99)
)


@settings(max_examples=60)
@given(
    devices=st.lists(ON_DEVICE, max_size=30),
    hosts=st.lists(ON_HOST, max_size=20),
    num_ranks=st.integers(1, 4),
    is_packed=st.booleans(),
)
def test_an_export_gives_back_what_was_put_in(
    folder: Path,
    devices: list[tuple[str, tuple[int, int], int, int]],
    hosts: list[tuple[str, tuple[int, int], str, int]],
    num_ranks: int,
    is_packed: bool,
) -> None:
    export, expected = Export(), [Counter[Event]() for _ in range(num_ranks)]
    for rank in range(num_ranks):  # one kernel each, so that each is a rank
        export.kernel("first", rank, rank + 1, rank, 100 + rank, correlationId=rank)
        expected[rank][("KERNEL", "first", rank, 1, 7, rank)] += 1
    names = {
        MEMCPY: "Memcpy HtoD (Pinned -> Device)",
        MEMSET: "Memset (Device)",
        SYNC: "Event Sync",
    }
    for index, (table, (start, length), stream, correlation) in enumerate(devices):
        rank = index % num_ranks
        cells = {"streamId": stream, "correlationId": correlation}
        name = names.get(table, KERNELS[index % 3])
        if table == KERNEL:
            export.kernel(name, start, start + length, rank, 100 + rank, **cells)
        else:
            codes = {MEMCPY: {"copyKind": 1, "srcKind": 1, "dstKind": 2}, SYNC: {"syncType": 1}}
            cells |= codes.get(table, {})
            export.on_device(table, start, start + length, rank, 100 + rank, **cells)
        event = (DEVICE_TABLES[table].name, name, start, length, stream, correlation)
        expected[rank][event] += 1
    for index, (table, (start, length), name, correlation) in enumerate(hosts):
        rank = index % num_ranks
        if table == RUNTIME:
            export.call(f"{name}_v7000", start, start + length, 100 + rank, correlation)
            expected[rank][("RUNTIME", name, start, length, ABSENT, correlation)] += 1
        else:
            export.nvtx(name, start, start + length, 100 + rank)
            expected[rank][("ANNOTATION", name, start, length, ABSENT, ABSENT)] += 1
    path = folder / "export.sqlite"
    path.unlink(missing_ok=True)
    export.write(path)
    if is_packed:
        path = folder / "export.sqlite.gz"
        path.write_bytes(gzip.compress((folder / "export.sqlite").read_bytes(), 1))
    recordings = read_nsys(path)
    assert [_events(one) for one in recordings] == expected
    assert [one.metadata.rank for one in recordings] == list(range(num_ranks))


def _steps() -> tuple[Export, int]:
    """Two ranks, three steps of a product, a gap of 40 us, an all-reduce; the span in ns."""
    export = Export()
    for rank in (0, 1):
        for step in range(3):
            zero = step * 200_000 + rank * 5_000
            export.kernel(KERNELS[0], zero, zero + 100_000, rank, 10 + rank)
            export.kernel(KERNELS[1], zero + 140_000, zero + 200_000, rank, 10 + rank, streamId=20)
    return export, 600_000


def test_known_gaps_come_back(tmp_path: Path) -> None:
    export, span = _steps()
    for recording in read_nsys(export.write(tmp_path / "a.sqlite")):
        order = np.argsort(recording.events.start_ns)
        start = recording.events.start_ns[order]
        end = recording.events.end_ns[order]
        gaps = start[1:] - np.maximum.accumulate(end)[:-1]
        assert end.max() - start.min() == span
        assert gaps[gaps > 0].tolist() == [40_000] * 3
        is_nccl = [recording.name_of(row).startswith("nccl") for row in range(len(recording))]
        assert int(recording.events.duration_ns[is_nccl].sum()) == 180_000


def test_what_the_session_and_the_devices_are(tmp_path: Path) -> None:
    export, _ = _steps()
    export.add("TARGET_INFO_SESSION_START_TIME", utcEpochNs=1_779_787_126_655_288_414)
    export.add(
        "TARGET_INFO_GPU", id=0, name="NVIDIA A100", l2CacheSize=41_943_040, smCount=108,
        totalMemory=42_298_834_944, memoryBandwidth=1_555_200_000_000, computeMajor=8,
        computeMinor=0, cuDevice=1,
    )  # fmt: skip
    export.add("TARGET_INFO_GPU", id=1)
    found = read_nsys(export.write(tmp_path / "a.sqlite"))[0].metadata
    assert found.base_time_ns == 1_779_787_126_655_288_414
    assert found.devices == (
        Device(
            id=1, name="NVIDIA A100", memory_bytes=42_298_834_944, num_multiprocessors=108,
            compute_capability=(8, 0), bandwidth_bytes_per_s=1_555_200_000_000,
            l2_bytes=41_943_040,
        ),
        Device(id=1, name=""),
    )  # fmt: skip


def test_ranges_of_pytorch_are_operators_and_domains_have_names(tmp_path: Path) -> None:
    export, _ = _steps()
    export.nvtx("aten::mm, seq = 7, op_id = 9, sizes = [[2, 3], [3, 4]]", 0, 10, 10)
    export.nvtx("step 1", 0, 20, 10)
    export.nvtx("mark", 5, None, 10, eventType=34)
    export.nvtx("never ended", 6, None, 10, eventType=60)
    text = export.string("ncclAllReduce")
    export.nvtx("", 7, 9, 10, textId=text, domainId=1, uint64Value=4096)
    export.nvtx("NCCL", 0, None, 10, eventType=75, domainId=1)
    recording = read_nsys(export.write(tmp_path / "a.sqlite"))[0]
    rows = recording.events.where(Kind.CPU_OP, Kind.ANNOTATION, Kind.INSTANT)
    found = [(Kind(recording.events.kind[row]).name, recording.name_of(row)) for row in rows]
    assert found == [
        ("CPU_OP", "aten::mm"),
        ("ANNOTATION", "step 1"),
        ("INSTANT", "mark"),
        ("ANNOTATION", "never ended"),
        ("ANNOTATION", "ncclAllReduce"),
    ]
    assert recording.events.duration_ns[rows].tolist() == [10, 20, 0, 14, 2]
    assert recording.notes == (
        "1 NVTX range never ended: taken to the last one's end.",
        "the export does not name its devices; --machine says what they are.",
    )
    given_args = recording.args_of(int(rows[-1]))
    assert (given_args["domain"], given_args["uint64Value"]) == ("NCCL", 4096)
    assert recording.args_of(int(rows[0]))["Input Dims"] == [[2, 3], [3, 4]]


def test_arguments_are_read_when_asked_and_travel(tmp_path: Path) -> None:
    export, _ = _steps()
    shape = {"gridX": 5, "gridY": 2, "gridZ": 1, "blockX": 128, "blockY": 1, "blockZ": 1}
    export.kernel("last", 700_000, 700_001, 0, 10, registersPerThread=32, **shape)
    recording = pickle.loads(pickle.dumps(read_nsys(export.write(tmp_path / "a.sqlite"))[0]))
    row = next(row for row in range(len(recording)) if recording.name_of(row) == "last")
    found = recording.args_of(row)
    assert (found["grid"], found["block"], found["registersPerThread"]) == (
        [5, 2, 1],
        [128, 1, 1],
        32,
    )


def test_graphs_traced_whole_keep_the_device_busy_and_are_said(tmp_path: Path) -> None:
    export, _ = _steps()
    export.on_device("CUPTI_ACTIVITY_KIND_GRAPH_TRACE", 10, 90, 0, 10)
    recording = read_nsys(export.write(tmp_path / "a.sqlite"))[0]
    graph = [
        row for row in recording.events.where(Kind.KERNEL) if "graph" in recording.name_of(row)
    ]
    assert recording.events.duration_ns[graph].tolist() == [80]
    assert "--cuda-graph-trace=node" in recording.notes[0]


def test_one_process_may_drive_two_devices(tmp_path: Path) -> None:
    export = Export()
    for device in (0, 1):
        export.kernel("k", device, device + 10, device, 50, correlationId=100 + device)
        export.call(f"launch {device}", device, device + 1, 50, 100 + device)
    export.call("cudaLaunchKernel_ptsz_v7000", 0, 1, 50, 3)
    export.on_device(SYNC, 2, 3, 5, 50, streamId=2**32 - 1, syncType=4)
    first, second = read_nsys(export.write(tmp_path / "a.sqlite"))
    calls = [{one[1] for one in _events(recording)} for recording in (first, second)]
    assert calls == [
        {"k", "Context Sync", "cudaLaunchKernel", "launch 0"},
        {"k", "cudaLaunchKernel", "launch 1"},
    ]
    assert first.events.stream[first.events.where(Kind.SYNC)].tolist() == [ABSENT]
    assert "a process drives several devices" in first.notes[0]


def test_a_recording_without_a_device_has_a_rank_per_process(tmp_path: Path) -> None:
    export = Export()
    export.nvtx("a", 0, 1, 60)
    export.nvtx("b", 0, 1, 61)
    found = read_nsys(export.write(tmp_path / "a.sqlite"))
    assert [next(iter(_events(one)))[1] for one in found] == ["a", "b"]


@pytest.mark.parametrize(
    "without",
    [
        (KERNEL, "greenContextId"),
        (KERNEL, "globalPid"),
        (KERNEL, "correlationId"),
        (NVTX, "textId"),
        (NVTX, "jsonTextId"),
        (RUNTIME, "callchainId"),
    ],
)
def test_other_versions_lack_columns(tmp_path: Path, without: tuple[str, str]) -> None:
    export, _ = _steps()
    export.call("cudaLaunchKernel", 0, 1, 10, 1)
    export.nvtx("a", 0, 1, 10)
    recordings = read_nsys(export.write(tmp_path / "a.sqlite", without=[without]))
    kernels = [len(one.events.where(Kind.KERNEL)) for one in recordings]
    assert kernels == [6, 6]


METRICS = (
    "SMs Active [Throughput %]",
    "DRAM Read Bandwidth [Throughput %]",
    "GPC Clock Frequency [MHz]",
)


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(-5, 2**40), st.integers(0, 7), st.sampled_from([0, 1, 2]),
                  st.integers(0, 100)),
        max_size=40,
    )
)  # fmt: skip
def test_gpu_metrics_come_back(folder: Path, rows: list[tuple[int, int, int, int]]) -> None:
    export = Export()
    for gpu in range(8):
        for metric, name in enumerate(METRICS):
            cells = {"metricId": metric, "metricName": name, "typeName": "GPU"}
            export.add("TARGET_INFO_GPU_METRICS", typeId=0x100 | gpu, **cells)
    export.add("GPU_METRICS", timestamp=1, typeId=0x100, metricId=0, value=7)
    for time, gpu, metric, value in rows:
        export.add("GPU_METRICS", timestamp=time, typeId=0x100 | gpu, metricId=metric, value=value)
    path = folder / "metrics.sqlite"
    path.unlink(missing_ok=True)
    samples = read_nsys_metrics(export.write(path))
    found = Counter(
        (samples.entities[entity].gpu, samples.fields[column].key, time, value)
        for entity, column, time, value in zip(
            *(c.tolist() for c in (samples.entity, samples.field, samples.time_ns, samples.value)),
            strict=True,
        )
    )
    keys, scale = ("sm_active", "dram_read", "sm_clock"), (100, 100, 1)
    expected = Counter(
        (gpu, keys[metric], time, value / scale[metric])
        for time, gpu, metric, value in [(1, 0, 0, 7), *rows]
        if time >= 0
    )
    assert found == expected
    assert samples.clock is Clock.RECORDING


def test_metrics_are_known_by_part_of_their_name() -> None:
    assert field_of_metric("Tensor Active [Throughput %]").key == "tensor_active"
    assert field_of_metric("SM Active [Throughput %]").unit == "ratio"
    assert field_of_metric("Something [GB]").key == "Something [GB]"


def test_an_export_without_metrics_says_so(tmp_path: Path) -> None:
    export, _ = _steps()
    with pytest.raises(TraceError, match="no GPU_METRICS; record them with"):
        read_nsys_metrics(export.write(tmp_path / "a.sqlite"))


def _hostile(path: Path, *statements: str) -> Path:
    """An export that somebody changed."""
    export, _ = _steps()
    export.nvtx("a", 0, 1, 10)
    export.write(path)
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()
    return path


EVIL = "hex(zeroblob(100000000))"


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        ([f"UPDATE {KERNEL} SET start = 'soon' WHERE rowid = 2"],
         "CUPTI_ACTIVITY_KIND_KERNEL.start is 'soon' in row 2, not a whole number"),
        ([f"UPDATE {KERNEL} SET start = x'00'"], "start is .* not a whole number"),
        ([f"UPDATE {KERNEL} SET end = 1.5 WHERE rowid = 1"], "end is '1.5' in row 1"),
        ([f"UPDATE {KERNEL} SET streamId = 'seven'"], "streamId is 'seven'"),
        ([f"UPDATE {KERNEL} SET end = -5"], "an event ends at -5, before its start 0"),
        ([f"UPDATE {KERNEL} SET end = 9223372036854775807"], "is no time"),
        ([f"UPDATE {KERNEL} SET start = -9223372036854775808"], "is no time"),
        ([f"UPDATE {KERNEL} SET deviceId = 9223372036854775807"], "is no number of a device"),
        ([f"ALTER TABLE {KERNEL} RENAME COLUMN start TO begin"], "has no column start"),
        ([f"ALTER TABLE {KERNEL} RENAME TO k", f"CREATE VIEW {KERNEL} AS SELECT * FROM k"],
         f"{KERNEL} is a view; Nsight Systems writes plain tables"),
        ([f"CREATE VIEW TARGET_INFO_GPU AS SELECT {EVIL} AS id"], "TARGET_INFO_GPU is a view"),
        ([f"DROP TABLE {KERNEL}", f"CREATE VIRTUAL TABLE {KERNEL} USING fts5(start)"],
         f"{KERNEL} is a virtual table"),
        ([f"DROP TABLE {NVTX}", f"CREATE TABLE {NVTX} (start AS ({EVIL}), eventType INTEGER)",
          f"INSERT INTO {NVTX} VALUES (1)"], "NVTX_EVENTS has no column start"),
        ([f"DROP TABLE {KERNEL}", f"DROP TABLE {NVTX}"], "no event of CUDA or NVTX"),
        ([f"DELETE FROM {KERNEL}", f"DELETE FROM {NVTX}"], "no event of CUDA or NVTX"),
    ],
)  # fmt: skip
def test_a_hostile_export_is_refused(tmp_path: Path, statements: list[str], message: str) -> None:
    path = _hostile(tmp_path / "a.sqlite", *statements)
    with pytest.raises(TraceError, match=message):
        read_nsys(path)


def test_names_of_any_kind_do_no_harm(tmp_path: Path) -> None:
    path = _hostile(
        tmp_path / "a.sqlite",
        "UPDATE StringIds SET value = x'fffe' WHERE id = 1",
        "UPDATE StringIds SET value = CAST(x'41ff42' AS TEXT) WHERE id = 2",
        f"UPDATE {NVTX} SET text = 5",
        'CREATE TABLE "quo""ted; --" (a)',
        f"CREATE TRIGGER t AFTER INSERT ON {KERNEL} BEGIN DELETE FROM StringIds; END",
    )
    names = read_nsys(path)[0].names
    assert names == ("(no name)", "A�B", "5")


def test_the_file_is_never_changed(tmp_path: Path) -> None:
    path = _hostile(tmp_path / "with space?&#%.sqlite", "PRAGMA journal_mode=WAL")
    before = path.read_bytes()
    recording = read_nsys(path)[0]
    assert recording.args_of(0)
    assert path.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["home", path.name]
    packed = tmp_path / "packed.sqlite.gz"
    packed.write_bytes(gzip.compress(before))
    assert _events(read_nsys(packed)[0]) == _events(recording)


MAGIC = b"SQLite format 3\0"


@pytest.mark.parametrize(
    "content",
    [b"", MAGIC, MAGIC + bytes(5000), b"hello", gzip.compress(b"hello", mtime=0), b"\x1f\x8b\x08"],
)
def test_what_is_no_database_is_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.sqlite"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=str(path)):
        read_nsys(path)


def test_a_torn_packed_database_is_said(tmp_path: Path) -> None:
    content = gzip.compress(_hostile(tmp_path / "a.sqlite").read_bytes())
    path = tmp_path / "a.sqlite.gz"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(TraceError, match="a database cannot be read in part"):
        read_nsys(path)


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=40))
def test_a_damaged_database_is_read_or_refused(folder: Path, bytes_: list[tuple[int, int]]) -> None:
    whole = folder / "whole.sqlite"
    if not whole.exists():
        _hostile(whole)
    content = bytearray(whole.read_bytes())
    for place, value in bytes_:
        content[place % len(content)] = value
    path = folder / "damaged.sqlite"
    path.write_bytes(content)
    with suppress(TraceError):
        assert all(len(one) for one in read_nsys(path))


def test_every_table_we_read_is_in_the_generator() -> None:
    assert set(DEVICE_TABLES) | {RUNTIME, NVTX} <= set(DDL)
    assert global_pid(100) >> 24 & 0xFFFFFF == 100


@pytest.mark.parametrize(
    ("name", "num_kernels"),
    [("h100_2gpu_1s", 3442), ("mfu_2gpu_before", 4010), ("mfu_2gpu_after", 3587)],
)
def test_the_shared_recordings(shared_data: Path, name: str, num_kernels: int) -> None:
    recordings = read_nsys(shared_data / "nsys" / f"{name}.sqlite.gz")
    assert len(recordings) == 2
    assert sum(len(one.events.where(Kind.KERNEL)) for one in recordings) == num_kernels
    assert sum(len(one) for one in recordings) == recordings[0].metadata.num_recorded
    assert all(set(one.events.device[one.events.where(Kind.KERNEL)]) == {rank}
               for rank, one in enumerate(recordings))  # fmt: skip


HEADS = (
    "Start (ns),Duration (ns),CorrId,GrdX,GrdY,GrdZ,BlkX,BlkY,BlkZ,Reg/Trd,StcSMem (MB),"
    "DymSMem (MB),Bytes (MB),Throughput (MB/s),SrcMemKd,DstMemKd,Device,Ctx,GreenCtx,Strm,Name"
)
TRACE = f"""Processing [a.sqlite] with [cuda_gpu_trace.py]...

{HEADS}
"1,000",500,7,5,1,1,128,1,1,32,0.000,0.016,,,,,NVIDIA H100 (0),1,,7,"void f<int, 4>(int)"
1600,20,8,,,,,,,,,,4.000,12.5,Pinned,Device,NVIDIA H100 (0),1,,13,[CUDA memcpy Host-to-Device]
100,50,9,5,1,1,128,1,1,32,0.000,0.016,,,,,NVIDIA H100 (10),1,,7,k
50,5,9,,,,,,,,,,1,,Device,,NVIDIA H100 (2),1,,7,[CUDA memset]
"""
SUMS = """ Time (%),Total Time (ns),Instances,Avg (ns),Med (ns),Min (ns),Max (ns),StdDev (ns),Name
90.0,"1,500",2,750.0,750.0,500,1000,353.6,"void f<int, 4>(int)"
10.0,150,1,150.0,150.0,150,150,0.0,k
"""


def test_a_gpu_trace_of_nsys_stats(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE, encoding="utf-8")
    first, second, third = read_gpu_trace(path)
    assert _events(first) == {
        ("KERNEL", "void f<int, 4>(int)", 1000, 500, 7, 7): 1,
        ("MEMCPY", "Memcpy HtoD", 1600, 20, 13, 8): 1,
    }
    assert _events(second) == {("MEMSET", "Memset", 50, 5, 7, 9): 1}
    assert _events(third) == {("KERNEL", "k", 100, 50, 7, 9): 1}
    assert first.metadata.devices == (Device(id=0, name="NVIDIA H100"),)
    assert first.args_of(1)["SrcMemKd"] == "Pinned"


def test_times_in_other_units(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("Start (us),Duration (ms),Name\n1.5,0.25,k\n", encoding="utf-8")
    (only,) = read_gpu_trace(path)
    assert _events(only) == {("KERNEL", "k", 1500, 250_000, ABSENT, ABSENT): 1}


def test_kernel_sums_of_nsys_stats(tmp_path: Path) -> None:
    path = tmp_path / "sums.csv"
    path.write_text(SUMS, encoding="utf-8")
    first, second = kernel_sums(path)
    assert (first.name, first.instances, first.total_ns) == ("void f<int, 4>(int)", 2, 1500)
    assert (second.min_ns, second.max_ns, second.average_ns) == (150, 150, 150.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,b\n1,2\n", "has no table with Start, Duration, Name"),
        ("Start (ns),Duration (ns),Name\n", "has no rows"),
        ("Start (ns),Duration (ns),Name\nsoon,1,k\n", ":2: Start: 'soon' is no number"),
        ("Start (ns),Duration (ns),Name\n1e99,1,k\n", ":2: Start: 1e99 is out of range"),
        ("Start (ns),Duration (ns),Name\nnan,1,k\n", "out of range"),
        ("Start (fortnights),Duration (ns),Name\n1,1,k\n", "unknown unit 'fortnights'"),
        ("Start (ns),Duration (ns),Name\n1,-1,k\n", "ends before it starts"),
    ],
)
def test_a_broken_csv_is_said(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TraceError, match=message):
        read_gpu_trace(path)
