"""What a parent and the child process that holds one candidate say to each other: JSON lines."""

from typing import Literal

import msgspec

from ridgeline.backends.backend import Dtype


class Job(msgspec.Struct, forbid_unknown_fields=True):
    """What a child is to compile. backend: "module:Class". Paths are files that the parent wrote;
    calibration: a list of sets of inputs. folder: where the child leaves its outputs and files.
    tolerance: the error that its outputs may have, None for any.
    """

    backend: str
    dtype: Dtype
    graph: str
    inputs: str
    calibration: str
    folder: str
    threads: int
    memory_limit_bytes: int
    tolerance: float | None


class Turn(msgspec.Struct, forbid_unknown_fields=True):
    """The parent asks for this many timed samples, after one run that is not timed."""

    samples: int


class Reply(msgspec.Struct, forbid_unknown_fields=True):
    """A child's answer. "ready": compiled, outputs written. "timed": one entry per sample.

    is_clean: whether the sample ran without an involuntary context switch.
    """

    kind: Literal["ready", "timed", "failed"]
    times_s: list[float] = []
    is_clean: list[bool] = []
    reason: str = ""
