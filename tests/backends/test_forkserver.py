"""The fork server: its workers are forks, and without it there are workers all the same."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fakes
import msgspec
import pytest
import torch
from small_models import MODELS

from ridgeline import graph as graphs
from ridgeline.backends.child import Child, Nursery, children
from ridgeline.backends.forkserver import WORKER, ForkServer, Start, environment, fork_server
from ridgeline.backends.protocol import Job, Turn
from ridgeline.frontends.torch_export import capture

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")
LIMIT_S = 120.0


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    """One that works and three that do not."""
    folder = tmp_path_factory.mktemp("jobs")
    model, inputs = MODELS["lstm"]()
    graphs.save(capture(model, inputs), folder / "graph.pt2")
    torch.save(list(inputs), folder / "inputs.pt")
    torch.save([], folder / "calibration.pt")
    found = []
    for fake in (fakes.Eager, fakes.Crashing, fakes.Hanging, fakes.Raising):
        own = folder / fake.__name__
        own.mkdir()
        found.append(
            Job(
                backend=f"{fake.__module__}:{fake.__qualname__}",
                dtype="fp32",
                graph=str(folder / "graph.pt2"),
                inputs=str(folder / "inputs.pt"),
                calibration=str(folder / "calibration.pt"),
                folder=str(own),
                threads=1,
                memory_limit_bytes=2**36,
                tolerance=None,
            )
        )
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with fork_server() as started:
        assert started is not None
        yield started


@pytest.fixture
def nursery(jobs: list[Job], server: ForkServer, tmp_path: Path) -> Iterator[Nursery]:
    with children(jobs, tmp_path, server) as started:
        yield started


def _wait(child: Child) -> str:
    reply = child.wait(time.monotonic() + LIMIT_S)
    return reply.reason or reply.kind


def _parent_of(child: Child) -> int:
    text = Path(f"/proc/{child.process.pid}/stat").read_text()
    return int(text.rpartition(")")[2].split()[1])


def test_a_worker_is_a_fork_that_works(nursery: Nursery, server: ForkServer) -> None:
    """So is the first: what NumPy keeps threads for ends with a fork."""
    child = nursery.start(0)
    assert _parent_of(child) == server.pid
    line = Path(f"/proc/{child.process.pid}/cmdline").read_text()
    assert WORKER not in line
    assert _wait(child) == "ready"
    child.ask(Turn(samples=2))
    assert len(child.wait(time.monotonic() + LIMIT_S).times_s) == 2
    assert os.getsid(child.process.pid) == child.process.pid


def test_the_server_has_one_thread_after_its_imports(nursery: Nursery, server: ForkServer) -> None:
    """Else every worker would begin anew, and nobody would notice but by the time."""
    assert _wait(nursery.start(0)) == "ready"
    assert len(list(Path(f"/proc/{server.pid}/task").iterdir())) == 1
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    assert "libtorch_cpu" in maps


def test_how_a_worker_ended_is_known(nursery: Nursery) -> None:
    assert _wait(nursery.start(1)) == "crashed: SIGSEGV"
    assert "KeyError: a fault" in _wait(nursery.start(3)).replace("'", "").replace('"', "")
    hanging = nursery.start(2)
    assert hanging.wait(time.monotonic() + 0.5).reason == "timed out"
    with pytest.raises(ProcessLookupError):
        os.kill(hanging.process.pid, 0)


def test_a_job_that_is_none_is_told(jobs: list[Job], nursery: Nursery) -> None:
    nursery.jobs = (msgspec.structs.replace(jobs[0], threads="two"),)  # type: ignore[arg-type]
    assert "ValidationError" in _wait(nursery.start(0))


def test_without_its_server_a_nursery_starts_workers_itself(
    jobs: list[Job], tmp_path: Path
) -> None:
    with fork_server() as own, children(jobs, tmp_path, own) as nursery:
        assert own is not None
        first = nursery.start(2)
        os.kill(own.pid, signal.SIGKILL)
        second = nursery.start(0)
        assert _wait(second) == "ready"
        assert _parent_of(second) == os.getpid()
        assert first.wait(time.monotonic() + 0.2).reason == "timed out"
    for child in (first, second):
        assert _is_gone(child.process.pid)


def test_a_worker_can_be_ended_as_soon_as_it_is_there(nursery: Nursery) -> None:
    for _ in range(5):
        child = nursery.start(2)
        child.kill()
        assert _is_gone(child.process.pid)


def test_a_server_with_threads_starts_workers_anew(jobs: list[Job], tmp_path: Path) -> None:
    """What a fork of several threads would lack cannot be told, so none is used."""
    script = (
        "import sys, threading\n"
        "from ridgeline.backends import forkserver\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "forkserver._IMPORTS = ()\n"
        "forkserver.main()\n"
    )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        started = subprocess.Popen(
            [sys.executable, "-c", script, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment(),
        )
        path = tmp_path / "job.json"
        path.write_bytes(msgspec.json.encode(jobs[2]))
        silence, writing = os.pipe()  # at the end of its input a worker ends
        with (tmp_path / "log.txt").open("wb") as log:
            request = msgspec.json.encode(Start(job=str(path)))
            socket.send_fds(ours, [request], [silence, log.fileno(), log.fileno()])
            pid = msgspec.json.decode(ours.recv(99), type=int)
        os.close(silence)
        assert _until(lambda: WORKER in Path(f"/proc/{pid}/cmdline").read_text())
        os.close(writing)
        assert _is_gone(pid)
    assert started.wait(LIMIT_S) == 0


def test_an_interrupted_request_ends_the_server(jobs: list[Job], tmp_path: Path) -> None:
    """Else its late answer would be taken for that to the next request."""
    with fork_server() as own, children(jobs, tmp_path, own) as nursery:
        assert own is not None
        own._requests.settimeout(1e-4)
        child = nursery.start(0)
        assert _parent_of(child) == os.getpid()
        assert _is_gone(own.pid)
        assert _wait(child) == "ready"


def test_a_parent_that_is_gone_takes_the_server_along() -> None:
    script = (
        "import os\n"
        "from ridgeline.backends.forkserver import ForkServer\n"
        "print(ForkServer().pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert _is_gone(int(done.stdout))


def _until(probe: Callable[[], bool]) -> bool:
    """Whether `probe` becomes true."""
    end_s = time.monotonic() + LIMIT_S
    while time.monotonic() < end_s:
        if probe():
            return True
        time.sleep(0.05)
    return False


def _is_gone(pid: int) -> bool:
    """Whether it ends soon; a zombie that nobody fetches counts as gone."""
    return _until(lambda: _state(pid) in ("", "Z"))


def _state(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""
