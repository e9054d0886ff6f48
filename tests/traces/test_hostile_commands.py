"""The command line before hostile files, in children of bounded memory and time: an answer or one
sentence, never a traceback, a hang or a death."""

import gzip
import os
import sqlite3
import sys
import zlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from confined import Answer, answers
from nsys_exports import KERNEL, NVTX, RUNTIME, Export
from recordings import BASE_NS, call, kernel, training, write
from xplane_files import Event, PlaneFile, message

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="children are bounded on Linux")

Lines = dict[str, Sequence[str]]
EVIL = "evil\x1b]0;x\x07\x9b31m<img src=x onerror=alert(1)></script><script>"
ABSURD = ("-9223372036854775808", "9223372036854775807", "'text'", "1.5", "x'00ff'", "NULL", "-1")
COLUMNS = {
    KERNEL: ("start", "end", "deviceId", "streamId", "correlationId", "globalPid"),
    RUNTIME: ("start", "end", "globalTid", "correlationId"),
    NVTX: ("start", "end", "globalTid", "textId", "domainId", "eventType"),
}
DMON = "#Entity   SMACT        TENSO        \nID\n"
PROMETHEUS = (
    '{"data": {"result": [{"metric": {"__name__": "DCGM_FI_X", "gpu": "0"}, "values": %s}]}}'
)


def _export() -> Export:
    export = Export()
    for step in range(3):
        at = 200_000 * (step + 1)
        export.call("cudaLaunchKernel", at - 100, at, 10, step + 1)
        export.kernel("nvjet_tst", at, at + 100_000, 0, 10, correlationId=step + 1)
    export.nvtx("a", 0, 10, 10)
    return export


def _nsys(folder: Path) -> Lines:
    whole = _export().write(folder / "whole.sqlite").read_bytes()
    found = {f"nsys, {n}/12": whole[: len(whole) * n // 12] for n in range(12)}
    for table, columns in COLUMNS.items():
        for column in columns:
            for value in ABSURD:
                path = folder / "changed.sqlite"
                path.write_bytes(whole)
                with closing(sqlite3.connect(path)) as database:
                    try:
                        database.execute(f'UPDATE {table} SET "{column}" = {value} WHERE rowid = 2')
                        database.execute(f'UPDATE {table} SET "{column}" = {value} WHERE rowid = 1')
                    except sqlite3.IntegrityError:
                        continue  # the column must be set
                    database.commit()
                found[f"nsys, {table}.{column} = {value}"] = path.read_bytes()
    return _written(folder, found, ".sqlite")


def _xplane(folder: Path) -> Lines:
    plane, huge = PlaneFile("/device:GPU:0"), PlaneFile("/device:GPU:" + "9" * 30)
    event = Event(name="k", offset_ps=10**6, duration_ps=10**6)
    plane.line(1, "Stream #1(Kernel)", 0, [event])
    huge.line(1, "Stream #" + "9" * 30 + "(Kernel)", 0, [event])
    whole, deep = plane.encoded(), b""
    for _ in range(2000):
        deep = message(1, deep)
    found = {f"xplane, {n}/12": whole[: len(whole) * n // 12] for n in range(12)}
    found |= {
        "xplane, a length of 2**63": whole + b"\n" + b"\xff" * 8 + b"\x7f",
        "xplane, nested 2000 deep": whole + deep,
        "xplane, numbers beyond 64 bits": huge.encoded(),
        "xplane, names that are no text": whole.replace(b"GPU", b"\xff\xfeU"),
    }
    return _written(folder, found, ".xplane.pb")


def _bomb(head: bytes, fill: bytes) -> bytes:
    """2 GiB in 2 MB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = packer.compress(head) + b"".join(packer.compress(fill * 2**20) for _ in range(2048))
    return block + packer.flush()


def _others(folder: Path) -> Lines:
    found = {
        "empty": b"",
        "zeros": bytes(5000),
        "packed nothing": gzip.compress(b""),
        "nested lists": b'{"traceEvents": ' + b"[" * 200_000,
        "no kernel": b'{"schemaVersion": 1, "traceEvents": []}',
        "csv, a time of many digits": b"Start (ns),Duration (ns),Name\n1E+99999999,5,k\n",
        "csv, a large field": b"Start (ns),Duration (ns),Name\n1,5," + b"k" * 200_000 + b"\n",
        "bomb": _bomb(b'{"traceEvents":[', b" "),
    }
    lines = _written(folder, found, ".json")
    twice = folder / "twice"
    (folder / "pipes").mkdir()
    twice.mkdir()
    for name in ("a.json", "b.json"):
        write(twice / name, training(), distributedInfo={"rank": 0})
    os.mkfifo(folder / "pipe.json")
    os.mkfifo(folder / "pipes" / "pipe.json")
    (folder / "loop.json").symlink_to(folder / "loop.json")
    places = ("pipe.json", "pipes", "loop.json", "twice", "absent.json")
    paths = [*(folder / place for place in places), *map(Path, ("/dev/zero", "/dev/urandom"))]
    return lines | {str(path): ["trace", str(path)] for path in paths}


def _dcgm(folder: Path) -> Lines:
    """Each beside a good recording."""
    recording = str(write(folder / "good.json", training(), distributedInfo={"rank": 0}))
    metric = "DCGM_FI_PROF_SM_ACTIVE"
    found = {
        "a large negative": f"{DMON}GPU 0     -1e308       0.5\n",
        "a large gpu": DMON + "GPU " + "9" * 30 + " 1  1\n",
        "no row": DMON,
        "spaces": f"{metric}{' ' * 100_000}x y z w\n",
        "quotes": metric + '{a="' * 30_000 + "} 1\n",
        "a gpu of 5000 digits": metric + '{gpu="' + "9" * 5000 + '"} 1\n',
        "a value of no list": PROMETHEUS % "5",
        "a time of many digits": PROMETHEUS % '[["1e999999999", "1"]]',
        "a time beyond all": PROMETHEUS % '[["Infinity", "1"]]',
        "nested": '{"data": ' * 50_000,
    }
    start = ["--dcgm-start", str(BASE_NS * 1e-9)]
    lines: Lines = {}
    for number, (name, text) in enumerate(found.items()):
        path = folder / f"{number}.dcgm"
        path.write_text(text, encoding="utf-8")
        lines[f"dcgm, {name}"] = ["trace", recording, "--dcgm", str(path), *start]
    good = folder / "good.dcgm"
    good.write_text(f"{DMON}GPU 0     0.5          0.5\n", encoding="utf-8")
    for option in (("--dcgm-start", "1e300"), ("--dcgm-start", "nan"), ("--dcgm-period", "inf")):
        lines[" ".join(option)] = ["trace", recording, "--dcgm", str(good), *start, *option]
    return lines


def _written(folder: Path, found: Mapping[str, bytes], suffix: str) -> Lines:
    lines: Lines = {}
    for number, (name, content) in enumerate(found.items()):
        path = folder / f"{number}{suffix}"
        path.write_bytes(content)
        lines[name] = ["trace", str(path)]
    return lines


@pytest.mark.parametrize("kind", [_nsys, _xplane, _others, _dcgm])
def test_hostile_files_get_an_answer_or_a_sentence(kind, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    lines: Lines = kind(tmp_path)
    ends = dict(zip(lines, answers(list(lines.values()), tmp_path), strict=True))
    wrong = {name: end for name, end in ends.items() if not (end.code == 0 or end.is_sentence)}
    assert not wrong
    silent = [name for name, end in ends.items() if end.code == 0 and not end.out.strip()]
    assert not silent
    assert any(end.is_sentence for end in ends.values())


def _evil(folder: Path, *options: str) -> Answer:
    events = [call("cuda</script>\x1b[2J", 0, 2, 1), kernel(EVIL, 5, 10, 1)]
    path = write(folder / "evil.json", events, distributedInfo={"rank": 0})
    (answer,) = answers([["trace", str(path), *options]], folder)
    assert answer.code == 0
    return answer


def test_names_cannot_drive_the_terminal(tmp_path: Path) -> None:
    for answer in (_evil(tmp_path), _evil(tmp_path, "--json")):
        assert not {"\x1b", "\x07", "\x9b"} & set(answer.out + answer.err)


def test_names_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    _evil(tmp_path, "--html", str(tmp_path / "a.html"))
    page = (tmp_path / "a.html").read_text("utf-8")
    assert "onerror=alert(1)" in page  # the name is there, as a name
    assert "<img" not in page
    assert page.count("<script") == page.count("</script>") == 1


def test_a_name_that_is_no_text_is_spelled_out(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/rank\xff-0.json"))
    write(path, training())
    page, gaps = tmp_path / "a.html", tmp_path / "gaps.json"
    lines = [["trace", str(path), "--html", str(page), "--perfetto", str(gaps)]]
    (answer,) = answers(lines, tmp_path)
    assert answer.code == 0
    assert "rank\\udcff-0" in page.read_text("utf-8")
