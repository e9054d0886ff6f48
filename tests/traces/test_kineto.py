"""What the reader makes of torch.profiler's dialects, and of files that are none."""

import gzip
import json
import sys
from pathlib import Path

import pytest
from recordings import BASE_NS, call, document, frame, kernel, op, training, write

from ridgeline.errors import TraceError
from ridgeline.traces.columns import ABSENT, Kind, Thread
from ridgeline.traces.kineto import read_kineto

EVENTS = [
    op("aten::mm", 1.5, 10, External_id=4, Input_Dims=[[2, 3], [3, 4]]),
    call("cudaLaunchKernel", 2.25, 3, 9),
    kernel("gemm", 6.001, 7.999, 9),
]


def test_an_event_becomes_a_row(tmp_path: Path) -> None:
    found = read_kineto(write(tmp_path / "a.json", EVENTS, distributedInfo={"rank": 2}))
    events = found.events
    assert events.start_ns.tolist() == [1_500, 2_250, 6_001]
    assert events.duration_ns.tolist() == [10_000, 3_000, 7_999]
    assert [Kind(k) for k in events.kind] == [Kind.CPU_OP, Kind.RUNTIME, Kind.KERNEL]
    assert [found.name_of(r) for r in range(3)] == ["aten::mm", "cudaLaunchKernel", "gemm"]
    assert events.stream.tolist() == [ABSENT, ABSENT, 7]
    assert events.correlation.tolist() == [ABSENT, 9, 9]
    assert events.external_id.tolist() == [4, ABSENT, ABSENT]
    assert found.thread_of(2) == Thread(process="0", thread="7")
    assert found.args_of(0)["Input Dims"] == [[2, 3], [3, 4]]
    assert (found.metadata.rank, found.metadata.base_time_ns) == (2, BASE_NS)
    assert found.metadata.devices[0].num_multiprocessors == 132
    assert found.notes == ()


@pytest.fixture(params=["isal", "zlib"])
def inflater(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of inflating, the second as where the first is not installed."""
    if request.param == "isal":
        pytest.importorskip("isal", reason="needs the extra `isal`")
    else:
        monkeypatch.setitem(sys.modules, "isal", None)
    return str(request.param)


@pytest.mark.usefixtures("inflater")
def test_compressed_is_the_same(tmp_path: Path) -> None:
    plain = read_kineto(write(tmp_path / "a.json", training()))
    packed = read_kineto(write(tmp_path / "a.json.gz", training()))
    members = tmp_path / "b.json.gz"
    text = (tmp_path / "a.json").read_bytes()
    members.write_bytes(gzip.compress(text[:300]) + gzip.compress(text[300:]))
    for other in (packed, read_kineto(members)):
        assert other.events.start_ns.tolist() == plain.events.start_ns.tolist()
        assert other.names == plain.names
        assert other.args_of(1) == plain.args_of(1)


@pytest.mark.parametrize("text", ['{"rank":3}', '{"rank": 3}', '{ "rank"\n:\n3 }'])
def test_the_rank_is_read_however_it_is_spaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(f'{{"distributedInfo":{text},"traceEvents":{json.dumps(EVENTS)}}}')
    assert read_kineto(path).metadata.rank == 3


def test_the_rank_may_stand_in_the_name(tmp_path: Path) -> None:
    assert read_kineto(write(tmp_path / "rank-12.json", EVENTS)).metadata.rank == 12


def test_absolute_whole_microseconds(tmp_path: Path) -> None:
    event = kernel("k", 1_661_203_462_598_738, 75_473)
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"traceEvents": [event]}))
    found = read_kineto(path)
    assert found.events.start_ns.tolist() == [1_661_203_462_598_738_000]
    assert found.metadata.base_time_ns == 0


@pytest.mark.parametrize(
    ("category", "kind"),
    [
        ("cuda_driver", Kind.RUNTIME),
        ("Kernel", Kind.KERNEL),
        ("gpu_memset", Kind.MEMSET),
        ("gpu_user_annotation", Kind.DEVICE_ANNOTATION),
        ("mtia_ccp_events", Kind.KERNEL),
        ("mtia_runtime", Kind.RUNTIME),
        ("something new", Kind.OTHER),
    ],
)
def test_categories(tmp_path: Path, category: str, kind: Kind) -> None:
    event = kernel("k", 1, 2) | {"cat": category, "pid": "Spans", "tid": "PyTorch Profiler"}
    found = read_kineto(write(tmp_path / "a.json", [event]))
    assert Kind(int(found.events.kind[0])) is kind
    assert found.thread_of(0) == Thread(process="Spans", thread="PyTorch Profiler")


def test_instants_counters_and_transfers_of_mtia(tmp_path: Path) -> None:
    events = [
        {"ph": "i", "cat": "cpu_instant_event", "name": "[memory]", "ts": 1, "args": {"Bytes": 8}},
        {"ph": "i", "name": "Record Window End", "ts": 2},
        {"ph": "C", "name": "GPU 0 Utilization", "ts": 3, "args": {"value": 1}},
        {"ph": "X", "cat": "mtia_ccp_events", "name": "dma_request", "ts": 4, "dur": 1},
    ]
    found = read_kineto(write(tmp_path / "a.json", events))
    kinds = [Kind.MEMORY, Kind.INSTANT, Kind.COUNTER, Kind.MEMCPY]
    assert [Kind(k) for k in found.events.kind] == kinds


def test_python_functions_are_read_where_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [*EVENTS, frame("train.py(3): step", 0, 9)])
    assert len(read_kineto(path)) == 3
    assert read_kineto(path).metadata.num_python == 1
    assert Kind.PYTHON in read_kineto(path, keeps_python=True).events.kind


def test_one_name_written_in_two_ways_is_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(
        '[{"ph":"X","name":"caf\\u00e9","ts":1},{"ph":"X","name":"café","ts":2}]', "utf-8"
    )
    found = read_kineto(path)
    assert found.names == ("café",)
    assert found.events.name.tolist() == [0, 0]


def test_a_file_cut_off_gives_what_is_there(tmp_path: Path) -> None:
    whole = json.dumps(document(training())).encode()
    path = tmp_path / "cut.json"
    path.write_bytes(whole[: len(whole) * 2 // 3])
    found = read_kineto(path)
    assert 0 < len(found) < len(training())
    (note,) = found.notes
    assert note.startswith("the file is cut off at byte ")
    assert f"of the {len(found)} events before that" in note


@pytest.mark.usefixtures("inflater")
def test_a_compressed_file_cut_off_gives_what_is_there(tmp_path: Path) -> None:
    packed = write(tmp_path / "a.json.gz", training(num_steps=300)).read_bytes()
    path = tmp_path / "cut.json.gz"
    path.write_bytes(packed[: len(packed) // 2])
    found = read_kineto(path)
    assert len(found) > 100
    assert "the compressed file is cut off" in found.notes[0]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\x00\x01\x02\x03" * 9, "is no trace: it starts with"),
        (b"\x7fELF\x02\x01\x01", "is no trace: it starts with"),
        (b"hello", "is no trace"),
        (b"{}", "records no event"),
        (b'{"a": 1}', "has no traceEvents"),
        (b'{"traceEvents": []}', "records no event"),
        (b'{"traceEvents": [{"ph": "M"}]}', "no event with a name and a time"),
        (b'{"traceEvents": [{"ph": "X", "na', "ends at byte 32, before its first event"),
        (b'{"traceEvents": [7]}', "is damaged at byte 17"),
        (b"\x1f\x8b\x08", "holds nothing"),
        (b"\x1f\x8bnot gzip at all", "holds nothing"),
    ],
)
@pytest.mark.usefixtures("inflater")
def test_what_is_no_recording_is_one_sentence(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=sentence):
        read_kineto(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"cannot read .*none\.json: No such file"):
        read_kineto(tmp_path / "none.json")


def test_arguments_with_inf_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"ph":"X","name":"k","ts":1,"args":{"GB/s": inf, "x": "a, nan]", "n":-nan}}]')
    assert read_kineto(path).args_of(0) == {"GB/s": None, "x": "a, nan]", "n": None}
