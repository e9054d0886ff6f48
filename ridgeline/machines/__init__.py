"""What machines can do: the type, the shipped descriptions, finding one. Imports no torch."""

from ridgeline.machines.machine import Cache, Ceiling, Kernel, Link, Machine, Memory, Rate
from ridgeline.machines.registry import (
    ALIASES,
    load,
    match_device,
    names,
    save_this,
    this_path,
)
from ridgeline.machines.tables import (
    ASSUMED_VECTOR_SHARE,
    CONFIDENCE,
    DEFAULT_ACHIEVABLE,
    DTYPES,
    KERNEL_FEATURES,
    KERNEL_UNITS,
    MATRIX_FALLBACK,
    VECTOR_FALLBACK,
    Assumption,
)
from ridgeline.machines.toml import parse, to_toml

__all__ = [
    "ALIASES",
    "ASSUMED_VECTOR_SHARE",
    "CONFIDENCE",
    "DEFAULT_ACHIEVABLE",
    "DTYPES",
    "KERNEL_FEATURES",
    "KERNEL_UNITS",
    "MATRIX_FALLBACK",
    "VECTOR_FALLBACK",
    "Assumption",
    "Cache",
    "Ceiling",
    "Kernel",
    "Link",
    "Machine",
    "Memory",
    "Rate",
    "load",
    "match_device",
    "names",
    "parse",
    "save_this",
    "this_path",
    "to_toml",
]
