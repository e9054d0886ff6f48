"""Runs the command line in children that may take so much memory and time, and no more."""

import json
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MEMORY_BYTES = 1 << 30  # above what the interpreter has mapped when it starts a case
CPU_SECONDS = 20
# Of the clock on the wall, for what waits and takes no processor. Generous: machines are busy.
WALL_SECONDS = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How one command line ended. code: negative for the signal that ended it."""

    code: int
    out: str
    err: str

    @property
    def is_sentence(self) -> bool:
        """Whether it ended as a refusal should: exit code 2, one line that names no fault of
        ours, and nothing printed.
        """
        is_one = self.err.startswith("ridgeline: ") and len(self.err.splitlines()) == 1
        return self.code == 2 and is_one and not self.is_fault

    @property
    def is_fault(self) -> bool:
        """Whether it was ended from outside, or owns up to a fault."""
        words = ("Traceback", "fault in Ridgeline")
        return self.code not in (0, 1, 2) or any(word in self.err for word in words)


def answers(lines: Sequence[Sequence[str]], folder: Path) -> tuple[Answer, ...]:
    """The end of every command line, each in a child of its own. All are forked from one
    interpreter that has loaded the package, which takes a second.
    """
    asked = json.dumps({"lines": lines, "folder": str(folder)})
    done = subprocess.run(
        [sys.executable, __file__], input=asked, capture_output=True, text=True, check=True
    )
    return tuple(Answer(**one) for one in json.loads(done.stdout))


def _mapped_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _child(line: Sequence[str], out: Path, err: Path) -> None:
    """Becomes the command; never returns."""
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    limit = _mapped_bytes() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    from ridgeline.cli.main import main

    main([os.fsdecode(word.encode("utf-8", "surrogateescape")) for word in line])


def _run(line: Sequence[str], folder: Path) -> dict[str, object]:
    out, err = folder / "stdout", folder / "stderr"
    if (pid := os.fork()) == 0:
        try:
            _child(line, out, err)
        except SystemExit as end:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(str(end.code)))
        os._exit(99)
    watched = os.pidfd_open(pid)
    if not select.select([watched], [], [], WALL_SECONDS)[0]:
        os.kill(pid, signal.SIGKILL)
    os.close(watched)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {
        "code": code,
        "out": out.read_text("utf-8", "backslashreplace"),
        "err": err.read_text("utf-8", "backslashreplace"),
    }


def _serve() -> None:
    """Answers the command lines on stdin."""
    import ridgeline.cli.trace
    import ridgeline.report.trace_html
    import ridgeline.report.trace_record
    import ridgeline.traces.kineto
    import ridgeline.traces.nsys
    import ridgeline.traces.trace
    import ridgeline.traces.xplane  # noqa: F401

    asked = json.load(sys.stdin)
    print(json.dumps([_run(line, Path(asked["folder"])) for line in asked["lines"]]))


if __name__ == "__main__":
    sys.path[:] = [str(Path(__file__).resolve().parents[2]), *sys.path]
    _serve()
