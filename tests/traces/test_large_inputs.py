"""What holds more than there is memory for ends in a sentence, and takes no memory before that."""

import gzip
import subprocess
import sys
from pathlib import Path

import pytest
from recordings import training, write

from ridgeline.errors import TraceError
from ridgeline.traces import files
from ridgeline.traces.files import read_file
from ridgeline.traces.trace import trace

LIMIT_BYTES = 8 * 2**20


def test_a_file_that_holds_more_than_there_is_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.json", training(num_steps=2))
    nbytes = path.stat().st_size
    monkeypatch.setattr(files, "free_memory_bytes", lambda: nbytes)
    assert len(trace([path]).ranks) == 1
    monkeypatch.setattr(files, "free_memory_bytes", lambda: nbytes - 1)
    with pytest.raises(TraceError, match=r"a\.json holds .* more than the .* of memory"):
        trace([path])


@pytest.mark.parametrize("num_members", [1, 3])
def test_what_inflates_to_more_is_refused(tmp_path: Path, num_members: int) -> None:
    path = tmp_path / "bomb.json.gz"
    path.write_bytes(num_members * gzip.compress(b" " * (LIMIT_BYTES // num_members + 1)))
    with pytest.raises(TraceError, match=r"bomb\.json\.gz inflates to more than half of the 16"):
        read_file(path, free_bytes=2 * LIMIT_BYTES)
    assert len(read_file(path, free_bytes=2 * (LIMIT_BYTES + num_members)).data) > LIMIT_BYTES


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads /proc")
def test_a_bomb_is_refused_before_it_fills_memory(tmp_path: Path) -> None:
    """A gigabyte in a megabyte, read by a process that may not have half of that."""
    path = tmp_path / "bomb.json.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(256):
            file.write(bytes(4 * 2**20))
    code = (
        "import sys; from pathlib import Path; from ridgeline.errors import TraceError\n"
        "from ridgeline.traces.files import read_file\n"
        "try: read_file(Path(sys.argv[1]), free_bytes=int(sys.argv[2]))\n"
        "except TraceError as error: print(error, file=sys.stderr)\n"
        "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path, str(LIMIT_BYTES)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "inflates to more than" in done.stderr
    assert int(done.stdout) * 1024 < 200 * 2**20
