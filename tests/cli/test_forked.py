"""Jobs in forked children: same answers, same errors, nothing left behind."""

import os
import sys
import threading
import time

import pytest

from ridgeline.cli import forked
from ridgeline.cli.forked import map_forked
from ridgeline.errors import CaptureError, TargetError


@pytest.fixture
def forking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forks whatever threads earlier tests left behind; none of them is needed by these jobs."""
    if sys.platform != "linux":
        pytest.skip("jobs are forked on Linux only")
    monkeypatch.setattr(forked, "_can_fork", lambda: True)


def _process(job: int) -> tuple[int, int]:
    return job, os.getpid()


def _has_children() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG) != (0, 0)
    except ChildProcessError:
        return False


@pytest.mark.usefixtures("forking")
def test_results_come_in_order_and_only_the_first_ran_here() -> None:
    results = map_forked(_process, range(5))
    assert [job for job, _ in results] == list(range(5))
    assert results[0][1] == os.getpid()
    assert results[1][1] != os.getpid()
    assert not _has_children()


def test_with_threads_running_nothing_is_forked() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert {pid for _, pid in map_forked(_process, range(3))} == {os.getpid()}
    finally:
        done.set()
        thread.join()


def _fails_in_child(job: int) -> int:
    if job:
        raise TargetError("no such thing; look elsewhere.")
    return job


@pytest.mark.usefixtures("forking")
def test_an_error_of_a_child_is_raised_here() -> None:
    with pytest.raises(TargetError, match="no such thing; look elsewhere"):
        map_forked(_fails_in_child, range(2))
    assert not _has_children()


def _breaks_in_child(job: int) -> int:
    return 1 // (job - 1)


@pytest.mark.usefixtures("forking")
def test_a_fault_in_a_child_says_what_and_where() -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError") as caught:
        map_forked(_breaks_in_child, range(2))
    assert "_breaks_in_child" in "".join(caught.value.__notes__)
    assert not _has_children()


def _interrupted_here(job: int) -> int:
    if job:
        time.sleep(60)
    raise KeyboardInterrupt


@pytest.mark.usefixtures("forking")
def test_an_interrupt_leaves_no_child() -> None:
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        map_forked(_interrupted_here, range(2))
    assert time.monotonic() - started < 30
    assert not _has_children()


def _dies_in_child(job: int) -> int:
    if job:
        os._exit(3)
    return job


@pytest.mark.usefixtures("forking")
def test_a_child_that_dies_is_an_error_and_not_a_wait() -> None:
    with pytest.raises(CaptureError, match="ended before its answer"):
        map_forked(_dies_in_child, range(2))
    assert not _has_children()
