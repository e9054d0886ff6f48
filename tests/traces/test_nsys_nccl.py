"""What NCCL wrote into an Nsight export comes back: collectives, bytes, groups, ranks."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nccl_exports import Call, describe, join, launch
from nsys_exports import Export

from ridgeline.traces.nsys import read_nsys
from ridgeline.traces.rank import analyse

GROUP, SIZE = 0xFEED_F00D_1234_5678, 8
KINDS = {  # call -> kernel, our word, the message over what NCCL counts
    "ncclAllReduce": ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", "all_reduce", 1),
    "ncclAllGather": ("ncclDevKernel_AllGather_RING_LL", "all_gather", SIZE),
    "ncclReduceScatter": ("ncclDevKernel_ReduceScatter_Sum_f32_RING_LL", "reduce_scatter", SIZE),
    "ncclBroadcast": ("ncclDevKernel_Broadcast_RING_LL", "broadcast", 1),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nccl") / "a.sqlite"


@settings(max_examples=40)
@given(
    calls=st.lists(
        st.tuples(st.sampled_from(list(KINDS)), st.integers(0, 2**40)), min_size=1, max_size=12
    ),
    first=st.integers(0, SIZE - 2),
    is_hex=st.booleans(),
)
def test_collectives_come_back(
    path: Path, calls: list[tuple[str, int]], first: int, is_hex: bool
) -> None:
    export = Export()
    for device in (0, 1):
        pid = 100 + device
        describe(export, pid)
        join(export, pid, rank=first + device, size=SIZE, device=device, group=GROUP)
        for number, (name, nbytes) in enumerate(calls, 1):
            call = Call(name=name, kernel=KINDS[name][0], nbytes=nbytes, start_ns=number * 20_000)
            launch(export, pid, call, device=device, group=GROUP, number=number, is_hex=is_hex)
    path.unlink(missing_ok=True)
    ranks = [analyse(one) for one in read_nsys(export.write(path))]
    assert [(rank.rank, rank.world_size) for rank in ranks] == [(first, 8), (first + 1, 8)]
    for rank in ranks:
        assert [(one.name, one.nbytes, one.group, one.size) for one in rank.collectives] == [
            (KINDS[name][1], nbytes * KINDS[name][2], f"{GROUP:#x}", SIZE) for name, nbytes in calls
        ]


def test_without_payloads_ranks_are_by_device(tmp_path: Path) -> None:
    export = Export()
    for device in (0, 1):
        export.kernel("ncclDevKernel_AllReduce", device, 100, device, 50 + device)
    ranks = read_nsys(export.write(tmp_path / "a.sqlite"))
    assert [(one.metadata.rank, one.metadata.world_size) for one in ranks] == [(0, None), (1, None)]
    assert [device.id for device in ranks[0].metadata.devices] == [0, 1]
    assert "--machine" in ranks[0].notes[-1]


def test_calls_of_two_kinds_in_a_group_are_told_of_no_kernel(tmp_path: Path) -> None:
    export = Export()
    describe(export, 100)
    call = Call(name="ncclAllReduce", kernel=KINDS["ncclAllReduce"][0], nbytes=64, start_ns=1000)
    launch(export, 100, call, device=0, group=GROUP, number=1, is_hex=False)
    blob = export.rows["NVTX_EVENTS"][-2]["binaryData"]
    export.nvtx("ncclBroadcast", 1320, 1350, 100, domainId=1, binaryData=blob)
    (rank,) = (analyse(one) for one in read_nsys(export.write(tmp_path / "a.sqlite")))
    assert [(one.name, one.nbytes) for one in rank.collectives] == [("all_reduce", None)]


@pytest.mark.parametrize("table", ["META_DATA_EXPORT", "EXPORT_META_DATA"])
@pytest.mark.parametrize(
    ("version", "is_newer"),
    [("3.25.0", False), ("2.7.1", False), ("3.26.0", True), ("4.0.0", True), ("soon", False),
     ("9" * 5000, False)],
)  # fmt: skip
def test_a_newer_schema_is_said(tmp_path: Path, table: str, version: str, is_newer: bool) -> None:
    export = Export()
    export.kernel("k", 0, 1, 0, 50)
    export.add(table, name="EXPORT_SCHEMA_VERSION", value=version)
    (recording,) = read_nsys(export.write(tmp_path / "a.sqlite"))
    assert any("newer than 3.25" in note for note in recording.notes) == is_newer
