"""The child process: compiles one candidate, runs it, and times it whenever it is its turn.

    python -m ridgeline.backends.worker JOB.json

Replies go to the original standard output; whatever libraries print goes to standard error.
"""

import importlib
import os
import queue
import resource
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec
import torch
from torch import Tensor

from ridgeline import graph as graphs
from ridgeline.backends.backend import Backend, Runnable, first_line
from ridgeline.backends.protocol import Job, Reply, Turn
from ridgeline.backends.sample import take_samples
from ridgeline.errors import RidgelineError
from ridgeline.native.large_pages import enlarge, regions


def run(path: Path) -> None:
    """Runs the job in this file to its end: until the parent closes our standard input."""
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    turns: queue.Queue[Turn] = queue.Queue()
    threading.Thread(target=_listen, args=(turns,), daemon=True).start()
    try:
        job = msgspec.json.decode(path.read_bytes(), type=Job)
        resource.setrlimit(resource.RLIMIT_AS, (job.memory_limit_bytes,) * 2)
        torch.set_num_threads(job.threads)
        runnable, inputs = _prepare(job)
        _say(replies, Reply(kind="ready"))
        while True:
            _say(replies, _timed(runnable, inputs, turns.get().samples))
    except RidgelineError as error:
        _say(replies, Reply(kind="failed", reason=str(error)))
    except MemoryError:
        _say(replies, Reply(kind="failed", reason="out of memory"))
    except Exception as error:  # a candidate may fail in any way; its reason is its result
        _say(replies, Reply(kind="failed", reason=first_line(error)))
    sys.stderr.flush()
    os._exit(1)  # a normal exit would wait for the thread that listens


def _listen(turns: queue.Queue[Turn]) -> None:
    """Passes the parent's requests on; when the parent is gone, so are we and what we started."""
    for line in sys.stdin.buffer:
        turns.put(msgspec.json.decode(line, type=Turn))
    if os.getpid() == os.getpgrp():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def _say(replies: BinaryIO, reply: Reply) -> None:
    replies.write(msgspec.json.encode(reply) + b"\n")


def _prepare(job: Job) -> tuple[Runnable, tuple[Tensor, ...]]:
    """Compiles the job's graph, runs it once on its inputs and leaves the outputs in its folder."""
    before = regions()
    folder = Path(job.folder)
    graph = graphs.load(job.graph)
    inputs = tuple(torch.load(job.inputs, weights_only=True))
    calibration = torch.load(job.calibration, weights_only=True)
    backend = _backend(job.backend)
    run = backend.compile(
        graph, job.dtype, keep=folder, calibration=calibration, tolerance=job.tolerance
    )
    outputs = [o.detach().clone() for o in run(*inputs)]
    torch.save(outputs, folder / "outputs.pt")
    if backend.large_pages:
        enlarge(before)
    return run, inputs


def _backend(path: str) -> Backend:
    module, _, name = path.partition(":")
    backend: Backend = getattr(importlib.import_module(module), name)()
    return backend


def _timed(run: Runnable, inputs: Sequence[Tensor], samples: int) -> Reply:
    times_s, is_clean = take_samples(run, inputs, samples)
    return Reply(kind="timed", times_s=times_s, is_clean=is_clean)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
