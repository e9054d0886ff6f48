"""Every format is known by its first bytes, whatever the file is called."""

import gzip
from pathlib import Path

import pytest
from dcgm_logs import scrape
from hypothesis import given
from hypothesis import strategies as st
from nsys_exports import Export
from xplane_files import PlaneFile

from ridgeline.errors import TraceError
from ridgeline.traces.recognise import Format, format_of

SWEEP = {("GPU 0", "DCGM_FI_PROF_SM_ACTIVE"): 0.5}
TEXTS = {
    Format.KINETO: ['{"schemaVersion": 1, "traceEvents": []}', '[{"ph": "X"}]', "\ufeff {\n}"],
    Format.DCGM_DMON: ["#Entity   SMACT\nID\nGPU 0   0.5\n", "# Entity  SMACT\n      Id\n"],
    Format.DCGM_SCRAPE: [scrape(SWEEP), 'up 1\nDCGM_FI_DEV_POWER_USAGE{gpu="0"} 1\n'],
    Format.DCGM_RANGE: ['{"status":"success","data":{"resultType":"matrix","result":[]}}'],
    Format.NSYS_TRACE: ["Processing [a]\n\nStart (ns),Duration (ns),CorrId,Name\n"],
    Format.NSYS_KERNELS: [
        " Time (%),Total Time (ns),Instances,Name\n",
        '"Time(%)","Total Time (ns)","Instances","Name"\n',
    ],
}


@pytest.mark.parametrize(
    ("expected", "text"), [(one, text) for one, texts in TEXTS.items() for text in texts]
)
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_text(tmp_path: Path, expected: Format, text: str, is_packed: bool) -> None:
    path = tmp_path / "file.bin"
    content = text.encode()
    path.write_bytes(gzip.compress(content) if is_packed else content)
    assert format_of(path) is expected


def test_a_database_and_a_profile(tmp_path: Path) -> None:
    export = Export()
    export.nvtx("a", 0, 1, 10)
    assert format_of(export.write(tmp_path / "report.json")) is Format.NSYS
    profile = tmp_path / "profile.txt"
    profile.write_bytes(PlaneFile("/host:CPU").encoded())
    assert format_of(profile) is Format.XPLANE


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"", "is empty"),
        ("a.json", b"hello", "starts with b'hello'; known are Kineto"),
        ("a.json", b"\n\x05hello", "no trace we know"),
        ("a.json", b"\n", "no trace we know"),
        ("a.parquet", b"PAR1....", "it is Parquet; export SQLite"),
        ("a.zip", b"PK\x03\x04....", "it is a zip file; unpack it"),
        ("a.nsys-rep", b"\x00\x01\x02", "nsys export --type sqlite"),
        ("a.json.gz", b"\x1f\x8b\x08\xff broken", "cannot read"),
    ],
)
def test_what_is_none_of_them(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TraceError, match=message):
        format_of(path)


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(TraceError, match="cannot read"):
            format_of(path)


@given(content=st.binary(max_size=100))
def test_any_bytes_are_known_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    try:
        found = format_of(path)
    except TraceError:
        return
    assert isinstance(found, Format)


def test_samples_are_told_from_events() -> None:
    assert {one for one in Format if one.is_samples} == {
        Format.DCGM_DMON,
        Format.DCGM_SCRAPE,
        Format.DCGM_RANGE,
    }


@pytest.mark.parametrize(
    ("folder", "expected"),
    [("kineto", Format.KINETO), ("nsys", Format.NSYS), ("xplane", Format.XPLANE)],
)
def test_the_shared_recordings(shared_data: Path, folder: str, expected: Format) -> None:
    paths = list((shared_data / folder).iterdir())
    assert paths
    assert {format_of(path) for path in paths} == {expected}
