"""What a machine is: peak rates per dtype, memories, links, overheads and, where measured, kernel
speeds.

Every rate has two ceilings, `Ceiling.DATASHEET` and `Ceiling.ACHIEVABLE`; a percentage must say
which one it is of.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from ridgeline.errors import MachineError
from ridgeline.machines.tables import (
    AMD_GPU_MATRIX,
    ASSUMED_VECTOR_SHARE,
    CONFIDENCE,
    DEFAULT_ACHIEVABLE,
    DTYPES,
    KERNEL_FEATURES,
    MATRIX_FALLBACK,
    VECTOR_FALLBACK,
    Assumption,
    Kind,
    Limit,
    Route,
)


class Ceiling(Enum):
    """Which bound a rate is: what the vendor prints, or what the best kernel anyone measured
    reaches."""

    DATASHEET = "datasheet"
    ACHIEVABLE = "achievable"


def _fail(where: str, problem: str) -> MachineError:
    return MachineError(f"{where}: {problem}")


def _check_positive(where: str, **values: float | None) -> None:
    for key, value in values.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise _fail(where, f"{key} must be a finite number above zero, not {value}.")


def _check_text(where: str, **values: str) -> None:
    for key, value in values.items():
        if not value.strip():
            raise _fail(where, f"{key} is empty; say something a reader can use.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How many operations per second a unit does in one dtype; multiply and add count as two,
    sparsity never counts."""

    flops_per_s: float
    source: str
    achievable_flops_per_s: float | None = None
    achievable_source: str | None = None

    def __post_init__(self) -> None:
        _check_positive(
            "rate", flops_per_s=self.flops_per_s, achievable_flops_per_s=self.achievable_flops_per_s
        )
        _check_text("rate", source=self.source)
        if (self.achievable_flops_per_s is None) != (not self.achievable_source):
            raise _fail("rate", "achievable_flops_per_s and achievable_source come together.")
        if (self.achievable_flops_per_s or 0.0) > self.flops_per_s:
            raise _fail(
                "rate",
                f"achievable_flops_per_s {self.achievable_flops_per_s:g} is above"
                f" flops_per_s {self.flops_per_s:g}; one of the two is wrong.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The main memory. capacity_bytes is None where the buyer chooses it (a CPU socket's DIMMs)."""

    name: str
    bandwidth_bytes_per_s: float
    source: str
    capacity_bytes: int | None = None
    achievable_bandwidth_bytes_per_s: float | None = None
    achievable_source: str | None = None

    def __post_init__(self) -> None:
        where = f"memory {self.name}"
        _check_text(where, name=self.name, source=self.source)
        _check_positive(
            where,
            bandwidth_bytes_per_s=self.bandwidth_bytes_per_s,
            capacity_bytes=self.capacity_bytes,
            achievable_bandwidth_bytes_per_s=self.achievable_bandwidth_bytes_per_s,
        )
        achievable = self.achievable_bandwidth_bytes_per_s
        if (achievable is None) != (not self.achievable_source):
            raise _fail(
                where, "achievable_bandwidth_bytes_per_s and achievable_source come together."
            )
        if (achievable or 0.0) > self.bandwidth_bytes_per_s:
            raise _fail(
                where,
                f"achievable bandwidth {achievable:g} is above the datasheet's; one is wrong.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """On-chip memory, all units together. Vendors seldom print its bandwidth: it is known only
    where measured."""

    name: str
    capacity_bytes: int
    source: str
    achievable_bandwidth_bytes_per_s: float | None = None

    def __post_init__(self) -> None:
        where = f"cache {self.name}"
        _check_text(where, name=self.name, source=self.source)
        _check_positive(
            where,
            capacity_bytes=self.capacity_bytes,
            achievable_bandwidth_bytes_per_s=self.achievable_bandwidth_bytes_per_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """All links of one kind that leave the device, together; bandwidth is per direction."""

    name: str
    bandwidth_bytes_per_s: float
    source: str

    def __post_init__(self) -> None:
        _check_text(f"link {self.name}", name=self.name, source=self.source)
        _check_positive(f"link {self.name}", bandwidth_bytes_per_s=self.bandwidth_bytes_per_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """Measured speed of one kernel kind on one route. A sample is the features' values, then the
    rate in KERNEL_UNITS[kind]."""

    route: Route
    kind: str
    dtype: str
    features: tuple[str, ...]
    samples: tuple[tuple[float, ...], ...]
    source: str

    def __post_init__(self) -> None:
        where = f"kernel {self.route}/{self.kind}/{self.dtype}"
        if self.kind not in KERNEL_FEATURES:
            raise _fail(where, f"unknown kind {self.kind!r}; known: {', '.join(KERNEL_FEATURES)}.")
        _check_dtypes(where, [self.dtype])
        if self.features != KERNEL_FEATURES[self.kind]:
            raise _fail(
                where,
                f"features must be {list(KERNEL_FEATURES[self.kind])}, not {list(self.features)}.",
            )
        _check_text(where, source=self.source)
        for sample in self.samples:
            if len(sample) != len(self.features) + 1:
                raise _fail(
                    where, f"sample {list(sample)} needs {len(self.features)} features and a rate."
                )
            _check_positive(where, **dict(zip((*self.features, "rate"), sample, strict=True)))
        if not self.samples:
            raise _fail(where, "has no samples.")


def _check_dtypes(where: str, dtypes: Sequence[str]) -> None:
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise _fail(where, f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One device as software sees it: what it can do per second, what it holds, and how sure we
    are.

    launch_overhead_s is the least time between two kernels of a compiled program,
    dispatch_overhead_s what one eager op costs on the host. num_units counts SMs, CUs or cores;
    confidence is a key of CONFIDENCE. cold_nbytes: what passed by before each sample of a cold
    kernel, so that its operands came from as far away as a working set of that size.
    """

    id: str
    name: str
    vendor: str
    arch: str
    kind: Kind
    match: str
    memory: Memory
    launch_overhead_s: float
    dispatch_overhead_s: float
    overhead_source: str
    confidence: str
    source: str
    notes: str = ""
    num_units: int | None = None
    tdp_w: float | None = None
    cold_nbytes: int | None = None
    matrix: Mapping[str, Rate] = field(default_factory=dict, hash=False)
    vector: Mapping[str, Rate] = field(default_factory=dict, hash=False)
    caches: tuple[Cache, ...] = ()
    links: tuple[Link, ...] = ()
    kernels: tuple[Kernel, ...] = ()

    def __post_init__(self) -> None:
        where = f"machine {self.id}"
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", self.id):
            raise _fail(
                f"machine {self.id!r}", "id must be lower-case letters, digits, '.', '_' and '-'."
            )
        _check_text(where, name=self.name, vendor=self.vendor, arch=self.arch, source=self.source)
        _check_text(where, match=self.match, overhead_source=self.overhead_source)
        _check_positive(
            where,
            launch_overhead_s=self.launch_overhead_s,
            dispatch_overhead_s=self.dispatch_overhead_s,
            num_units=self.num_units,
            tdp_w=self.tdp_w,
            cold_nbytes=self.cold_nbytes,
        )
        _check_dtypes(where, [*self.matrix, *self.vector])
        if self.confidence not in CONFIDENCE:
            raise _fail(
                where, f"confidence {self.confidence!r} is not one of {', '.join(CONFIDENCE)}."
            )
        try:
            re.compile(self.match)
        except re.error as error:
            raise _fail(where, f"match is not a regular expression: {error}.") from None

    @property
    def is_low_confidence(self) -> bool:
        """Whether output must say that these figures are not first-hand."""
        return CONFIDENCE[self.confidence]

    def matrix_rate(self, dtype: str) -> Rate:
        """The rate a matrix product in `dtype` runs at here, converted as MATRIX_FALLBACK says
        where the dtype is missing."""
        _check_dtypes(f"machine {self.id}", [dtype])
        for candidate in (dtype, *MATRIX_FALLBACK[dtype]):
            for table in (self.matrix, self.vector):
                if candidate in table:
                    return table[candidate]
        raise self._lacks("matrix", dtype)

    def vector_rate(self, dtype: str) -> Rate:
        """The rate of pointwise work in `dtype`; assumed from the bf16 matrix rate where no vector
        rate is published."""
        _check_dtypes(f"machine {self.id}", [dtype])
        for candidate in (dtype, *VECTOR_FALLBACK[dtype]):
            if candidate in self.vector:
                return self.vector[candidate]
        basis = self.matrix.get("bf16") or self.matrix.get("fp16")
        if dtype == "fp64" or basis is None:
            raise self._lacks("vector", dtype)
        share = ASSUMED_VECTOR_SHARE
        return Rate(flops_per_s=basis.flops_per_s * share.value, source=share.source)

    def matrix_flops_per_s(self, dtype: str, ceiling: Ceiling) -> float:
        """`matrix_rate` at one ceiling; DEFAULT_ACHIEVABLE of the datasheet where nothing was
        measured."""
        return self._at(self.matrix_rate(dtype), "matrix", ceiling)

    def vector_flops_per_s(self, dtype: str, ceiling: Ceiling) -> float:
        """`vector_rate` at one ceiling; DEFAULT_ACHIEVABLE of the datasheet where nothing was
        measured."""
        return self._at(self.vector_rate(dtype), "vector", ceiling)

    def bandwidth_bytes_per_s(self, ceiling: Ceiling) -> float:
        """Main memory bandwidth at one ceiling; DEFAULT_ACHIEVABLE of the datasheet where nothing
        was measured."""
        if ceiling is Ceiling.DATASHEET:
            return self.memory.bandwidth_bytes_per_s
        measured = self.memory.achievable_bandwidth_bytes_per_s
        return (
            measured or self.memory.bandwidth_bytes_per_s * self.default_achievable("memory").value
        )

    def default_achievable(self, limit: Limit) -> Assumption:
        """The share of a datasheet ceiling assumed achievable here where nothing was measured."""
        if (self.vendor, self.kind, limit) == ("AMD", "gpu", "matrix"):
            return AMD_GPU_MATRIX
        return DEFAULT_ACHIEVABLE[self.kind, limit]

    def ridge_flops_per_byte(self, dtype: str, ceiling: Ceiling) -> float:
        """Arithmetic intensity above which a matrix product is bound by compute instead of
        memory."""
        return self.matrix_flops_per_s(dtype, ceiling) / self.bandwidth_bytes_per_s(ceiling)

    def find_kernel(self, route: Route, kind: str, dtype: str) -> Kernel | None:
        """The measured samples of a kernel kind, the other route's where this one has none of its
        own (memory and pointwise kernels are alike on both); None: not calibrated for it."""
        found = {k.route: k for k in self.kernels if (k.kind, k.dtype) == (kind, dtype)}
        return found.get(route) or next(iter(found.values()), None)

    def _at(self, rate: Rate, unit: Limit, ceiling: Ceiling) -> float:
        if ceiling is Ceiling.DATASHEET:
            return rate.flops_per_s
        if rate.achievable_flops_per_s is not None:
            return rate.achievable_flops_per_s
        return rate.flops_per_s * self.default_achievable(unit).value

    def _lacks(self, unit: str, dtype: str) -> MachineError:
        have = ", ".join(dict.fromkeys([*self.matrix, *self.vector])) or "no compute rate at all"
        return MachineError(
            f"machine {self.id} has no {unit} rate for {dtype}, nor for what it would be "
            f"converted to; it has {have}."
            f" Add [{unit}.{dtype}] to its TOML, or choose another --dtype."
        )
