"""Children: one process per candidate, so that a crash, a hang or a leak costs only that one."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec

from ridgeline.backends.forkserver import WORKER, ForkServer, Process, environment
from ridgeline.backends.protocol import Job, Reply, Turn


@dataclass(eq=False, slots=True, kw_only=True)
class Child:
    """A running child. replies: what it said; None when it has gone."""

    process: Process
    log: Path
    requests: BinaryIO
    answers: BinaryIO
    replies: queue.Queue[Reply | None] = field(default_factory=queue.Queue)

    def ask(self, turn: Turn) -> None:
        """Sends a request; a child that is gone already answers with its end."""
        with contextlib.suppress(OSError):
            self.requests.write(msgspec.json.encode(turn) + b"\n")

    def wait(self, deadline: float) -> Reply:
        """Its next reply; a failed one when it ends or is silent until `deadline` (monotonic)."""
        try:
            reply = self.replies.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            self.kill()
            return Reply(kind="failed", reason="timed out")
        if reply is None:
            return Reply(kind="failed", reason=self._end())
        return reply

    def kill(self) -> None:
        """Ends it and everything that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            self.requests.close()  # of itself it ends at the end of its input
        self.process.wait()
        with contextlib.suppress(OSError):
            self.answers.close()

    def _end(self) -> str:
        code = self.process.wait()
        if code < 0:
            return f"crashed: {signal.Signals(-code).name}"
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return f"ended with code {code}: {lines[-1][:300] if lines else 'no message'}"


@contextmanager
def children(
    jobs: Sequence[Job], folder: Path, server: ForkServer | None = None
) -> Iterator["Nursery"]:
    """A place to start the children of `jobs` in; on leaving, whatever the reason, none is left."""
    nursery = Nursery(jobs, folder, server)
    try:
        yield nursery
    finally:
        for child in nursery.started.values():
            child.kill()


class Nursery:
    """Children by job number, forked by the server where there is one."""

    def __init__(self, jobs: Sequence[Job], folder: Path, server: ForkServer | None) -> None:
        self.jobs = list(jobs)
        self.folder = folder
        self.started: dict[int, Child] = {}
        self._server = server

    def start(self, number: int) -> Child:
        """Starts the child of job `number` in a session of its own, so that Ctrl-C reaches only
        us.
        """
        path = self.folder / f"job-{number}.json"
        path.write_bytes(msgspec.json.encode(self.jobs[number]))
        log = self.folder / f"log-{number}.txt"
        (its_input, requests), (answers, its_output) = os.pipe(), os.pipe()
        with contextlib.ExitStack() as on_failure:
            sending = on_failure.enter_context(os.fdopen(requests, "wb", buffering=0))
            receiving = on_failure.enter_context(os.fdopen(answers, "rb"))
            try:
                with log.open("wb") as stderr:
                    process = self._started(path, (its_input, its_output, stderr.fileno()))
            finally:
                os.close(its_input)
                os.close(its_output)
            on_failure.pop_all()
        child = Child(process=process, log=log, requests=sending, answers=receiving)
        self.started[number] = child
        threading.Thread(target=_collect, args=(child,), daemon=True).start()
        return child

    def _started(self, job: Path, streams: tuple[int, int, int]) -> Process:
        """A worker, from the server as long as there is one."""
        if self._server is not None:
            try:
                return self._server.start(job, streams)
            except OSError:  # killed, for example for its memory
                self._server = None
        stdin, stdout, stderr = streams
        return subprocess.Popen(
            [sys.executable, "-m", WORKER, str(job)],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            env=environment(),
        )


def _collect(child: Child) -> None:
    with contextlib.suppress(ValueError):  # closed by kill()
        for line in child.answers:
            child.replies.put(msgspec.json.decode(line, type=Reply))
    child.replies.put(None)
