"""Where the time really goes: every node measured, beside its estimate and its bound.

run = measure(capture(model, inputs))
found = breakdown(graph, run, machines.load("this"))
"""

from ridgeline.profile.breakdown import Profile, breakdown
from ridgeline.profile.clock import Timing
from ridgeline.profile.compare import Comparison, ErrorRow, compare, median_absolute_error
from ridgeline.profile.gaps import Gap, GapKind
from ridgeline.profile.interpret import Interpreter
from ridgeline.profile.measure import Measurement, Run, measure
from ridgeline.profile.nodes import KindProfile, MemoryPoint, NodeProfile
from ridgeline.profile.timeline import MemoryStep

__all__ = [
    "Comparison",
    "ErrorRow",
    "Gap",
    "GapKind",
    "Interpreter",
    "KindProfile",
    "Measurement",
    "MemoryPoint",
    "MemoryStep",
    "NodeProfile",
    "Profile",
    "Run",
    "Timing",
    "breakdown",
    "compare",
    "measure",
    "median_absolute_error",
]
