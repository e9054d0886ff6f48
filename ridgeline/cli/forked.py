"""Two captures at once: all but the first of a few jobs run in forked children of this process."""

import os
import pickle
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ridgeline.errors import CaptureError, RidgelineError

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Child:
    """A forked process and the pipe that brings its result, or its error, back."""

    process_id: int
    results: int


def map_forked(function: Callable[[Job], Result], jobs: Sequence[Job]) -> tuple[Result, ...]:
    """`function` of each job, in order, as many at once as there are cores.

    A child starts as a copy of this process, so it has everything imported already and sends back
    nothing but its result. Where forking is not safe (elsewhere than on Linux, or with threads
    running) the jobs run here, one after the other. A job's RidgelineError is raised here, any
    other as a RuntimeError that names it.
    """
    if len(jobs) < 2 or not _can_fork():
        return tuple(function(job) for job in jobs)
    at_once = max(1, (os.cpu_count() or 1) - 1)
    ahead, rest = jobs[1 : 1 + at_once], jobs[1 + at_once :]
    children = [_start(function, job) for job in ahead]
    try:
        first = function(jobs[0])
        waited = [_result(child) for child in children]
    except BaseException:
        for child in children:
            _stop(child)
        raise
    return (first, *waited, *(map_forked(function, rest)))  # type: ignore[arg-type]


def _can_fork() -> bool:
    return sys.platform == "linux" and threading.active_count() == 1


def _start(function: Callable[[Job], Result], job: Job) -> _Child:
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    process_id = os.fork()
    if process_id:
        os.close(writing)
        return _Child(process_id=process_id, results=reading)
    code = 1
    try:
        os.close(reading)
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(_outcome(function, job), pipe)
        code = 0
    finally:
        os._exit(code)  # never into the parent's code, whatever happened


@dataclass(frozen=True, slots=True)
class _Fault:
    """An error that no user caused, and the lines that say where; it may not travel itself."""

    what: str
    where: str


def _outcome(function: Callable[[Job], Result], job: Job) -> Result | RidgelineError | _Fault:
    try:
        return function(job)
    except RidgelineError as error:
        return type(error)(*error.args)  # without the traceback, which does not travel
    except Exception as error:
        return _Fault(f"{type(error).__name__}: {error}", traceback.format_exc())


def _result(child: _Child) -> object:
    """What the child sent. The bytes come from this very program, so unpickling them is safe."""
    with os.fdopen(os.dup(child.results), "rb") as pipe:
        data = pipe.read()
    _reap(child)
    if not data:
        raise CaptureError("a capture ended before its answer; run the phases apart with --phase.")
    outcome = pickle.loads(data)
    if isinstance(outcome, RidgelineError):
        raise outcome
    if isinstance(outcome, _Fault):
        fault = RuntimeError(outcome.what)
        fault.add_note(outcome.where)
        raise fault
    return outcome


def _reap(child: _Child) -> None:
    try:
        os.waitpid(child.process_id, 0)
        os.close(child.results)
    except (ChildProcessError, OSError):
        return  # already reaped


def _stop(child: _Child) -> None:
    try:
        os.kill(child.process_id, 9)
    except ProcessLookupError:
        return
    _reap(child)
