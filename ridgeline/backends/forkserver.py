"""A process that has imported what every candidate imports, and forks one child for each.

Importing torch and what exports graphs takes seconds, forking a process that has them milliseconds;
and it imports them while its parent rewrites the graph.

    python -m ridgeline.backends.forkserver SOCKET
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import NoReturn, Protocol

import msgspec

WORKER = "ridgeline.backends.worker"
# Whose import starts no thread; libraries with a runtime of their own are left to the candidates.
_IMPORTS = (WORKER, "ridgeline.backends.registry", "torch.export", "torch._inductor.compile_fx")
_STREAMS = 3
# How long an answer may take, its imports before the first included.
_PATIENCE_S = 120.0
_LONGEST_NBYTES = 8192


class Process(Protocol):
    """What is needed of a running process, whoever started it."""

    pid: int

    def wait(self) -> int:
        """Its exit code, once it has ended; negative: the signal that ended it."""


class Start(msgspec.Struct, tag=True):
    """A worker for the job in this file is asked for; its three streams come along."""

    job: str


class End(msgspec.Struct, tag=True):
    """The exit code of this process is asked for, as soon as there is one."""

    pid: int


class ForkServer:
    """The parent's side: starts the server at once, and asks it for workers.

    One caller at a time. A server that is gone or silent raises OSError, and from then on always.
    """

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._requests.settimeout(_PATIENCE_S)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[theirs.fileno()],
                env=environment(),
            )

    @property
    def pid(self) -> int:
        """The server's own."""
        return self._process.pid

    def start(self, job: Path, streams: Sequence[int]) -> Process:
        """A worker on `job` in a session of its own, with copies of these three streams."""
        return Forked(pid=self._ask(Start(job=str(job)), streams), server=self)

    def end(self, pid: int) -> int:
        """The exit code of a worker, once it has ended."""
        return self._ask(End(pid=pid), ())

    def close(self) -> None:
        """Ends the server, not its workers."""
        self._requests.close()
        self._process.kill()
        self._process.wait()

    def _ask(self, request: Start | End, streams: Sequence[int]) -> int:
        try:
            socket.send_fds(self._requests, [msgspec.json.encode(request)], streams)
            answer = self._requests.recv(_LONGEST_NBYTES)
        except BaseException:  # a late answer would be taken for that to the next request
            self.close()
            raise
        if not answer:
            raise ConnectionResetError("the fork server is gone")
        return msgspec.json.decode(answer, type=int)


@dataclass(eq=False, slots=True, kw_only=True)
class Forked:
    """A worker of a server's."""

    pid: int
    server: ForkServer
    _code: int | None = field(default=None, init=False)

    def wait(self) -> int:
        """Its exit code, once it has ended; with its server gone too, that of one killed."""
        if self._code is None:
            try:
                self._code = self.server.end(self.pid)
            except OSError:
                self._code = -signal.SIGKILL
        return self._code


@contextmanager
def fork_server() -> Iterator[ForkServer | None]:
    """A server for as long as the block lasts; None where forking is not what a platform does."""
    if sys.platform != "linux":
        yield None
        return
    server = ForkServer()
    try:
        yield server
    finally:
        server.close()


def environment() -> dict[str, str]:
    """This process's, with the places that it imports from."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p or "." for p in sys.path)}


def main() -> None:
    """The server: imports, then answers until the parent's side of the socket is closed."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    for name in _IMPORTS:
        with contextlib.suppress(Exception):  # a worker that needs it says what is wrong
            import_module(name)
    _end_idle_threads()
    with contextlib.suppress(OSError):  # the parent left while it was answered
        while (answer := _answered(requests)) is not None:
            requests.send(msgspec.json.encode(answer))


def _end_idle_threads() -> None:
    """Forks once for nothing: a library that keeps threads and can be forked, as NumPy's OpenBLAS,
    ends them before a fork and starts them when they are needed.
    """
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _answered(requests: socket.socket) -> int | None:
    """Does what the next request asks for; None when there is none to come."""
    message, streams, _, _ = socket.recv_fds(requests, _LONGEST_NBYTES, _STREAMS)
    if not message:
        return None
    request = msgspec.json.decode(message, type=Start | End)
    if isinstance(request, End):
        return os.waitstatus_to_exitcode(os.waitpid(request.pid, 0)[1])
    is_alone = len(os.listdir("/proc/self/task")) == 1
    waiting, started = os.pipe()
    pid = os.fork()
    if pid == 0:
        requests.close()
        os.close(waiting)
        _become_worker(request.job, streams, started, is_complete=is_alone)
    for stream in (*streams, started):
        os.close(stream)
    os.read(waiting, 1)  # its session must exist before anyone may want to end it
    os.close(waiting)
    return pid


def _become_worker(
    job: str, streams: Sequence[int], started: int, *, is_complete: bool
) -> NoReturn:
    """Never returns to the server's loop, whatever happens. started: is closed when it has a
    session of its own. is_complete: whether a fork has all
    that the server had; of several threads it has one, and what the others held stays locked.
    """
    try:
        os.setsid()
        os.close(started)
        for place, stream in enumerate(streams):
            os.dup2(stream, place)
            os.close(stream)
        if not is_complete:
            os.execv(sys.executable, [sys.executable, "-m", WORKER, job])
        import_module(WORKER).run(Path(job))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    main()
