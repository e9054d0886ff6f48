"""The pool: threads that share a core part, and may run where they might before."""

import os
import subprocess
import sys

import pytest
from programs import LIBRARIES

from ridgeline.backends.forkserver import environment

# In a process of its own: both threads are held on one core, then the worker is let go.
SHARED = """
import os, sys
import torch
from pathlib import Path
from ridgeline.backends.native.backend import Native
from ridgeline.frontends.torch_export import capture

def core(task):
    text = Path(f"/proc/self/task/{task}/stat").read_text()
    return int(text.rpartition(")")[2].split()[36])

one, two = sorted(os.sched_getaffinity(0))[:2]
torch.set_num_threads(2)
graph = capture(torch.nn.Linear(256, 256).eval(), (torch.randn(64, 256),), is_trusted=True)
before = set(os.listdir("/proc/self/task"))
os.sched_setaffinity(0, {one})
run = Native().compile(graph)
x = torch.randn(64, 256)
run(x)
tasks = [int(t) for t in set(os.listdir("/proc/self/task")) - before]
workers = [t for t in tasks if os.sched_getaffinity(t) == {one}]
for task in workers:
    os.sched_setaffinity(task, {one, two})
has_left = False
for _ in range(200):
    run(x)
    has_left |= core(workers[0]) == two
print(len(workers), has_left, end=" ")
print([sorted(os.sched_getaffinity(t)) == [one, two] for t in workers])
"""


@pytest.mark.skipif(
    not LIBRARIES or sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2,
    reason="needs the kernels and two cores",
)
def test_a_worker_leaves_a_core_that_the_caller_has() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHARED],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.stdout == "1 True [True]\n", done.stderr


# In a process of its own: what its worker burns while the caller sleeps between two calls.
GAPS = """
import time
import torch
from ridgeline.backends.native.backend import Native
from ridgeline.frontends.torch_export import capture

torch.set_num_threads(2)
graph = capture(torch.nn.Linear(256, 256).eval(), (torch.randn(64, 256),), is_trusted=True)
run, x = Native().compile(graph), torch.randn(64, 256)

def burnt_in(gaps):
    used = 0.0
    for _ in range(gaps):
        run(x)
        start = time.process_time()
        time.sleep(0.02)
        used += time.process_time() - start
    return used

burnt_in(5)
rested = burnt_in(40)
for _ in range(2000):
    run(x)  # calls that follow each other wake it for good
print(burnt_in(2) / 2 > 4 * rested / 40)
"""


@pytest.mark.skipif(
    not LIBRARIES or sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2,
    reason="needs the kernels and two cores",
)
def test_a_worker_rests_where_calls_are_far_apart() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GAPS],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.stdout == "True\n", done.stderr
