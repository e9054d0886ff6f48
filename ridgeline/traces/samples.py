"""What a monitor sampled: values of fields over time, per device. DCGM logs and the metrics of an
Nsight export are read into it; `sample_windows.py` joins it to a recording's steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import TraceError

Times = NDArray[np.int64]


class Clock(Enum):
    """What time 0 of the samples is. EPOCH: 1970; RECORDING: the zero of the recording they came
    with; START: the first sample, for a log without times whose start nobody gave."""

    EPOCH = "epoch"
    RECORDING = "recording"
    START = "start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """What was sampled. label: as the log names it ("GPU 0", "GPU-I 1", "GPU 0 LINK 3"); gpu: the
    index of the device, where the log says it; instance: the MIG instance on it."""

    label: str
    gpu: int | None = None
    instance: str = ""
    host: str = ""
    uuid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One sampled quantity. key: our word for it, the same for old and new spellings; unit: of its
    values as they are kept, "" where the log does not say; id: DCGM's, where it has one."""

    key: str
    unit: str = ""
    id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Samples as columns, in the order of the log: entity and field are rows of the two tables.
    Values are float64; a blank one (N/A, not supported) has no row and is counted in `num_blank`.
    A sample of a rate or a ratio is the average over the period that ends at its time."""

    source: str
    clock: Clock
    entities: tuple[Entity, ...]
    fields: tuple[Field, ...]
    entity: NDArray[np.int32]
    field: NDArray[np.int32]
    time_ns: NDArray[np.int64]
    value: NDArray[np.float64]
    num_blank: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len({len(self.entity), len(self.field), len(self.time_ns), len(self.value)}) != 1:
            raise TraceError(f"{self.source}: columns of samples differ in length.")

    def __len__(self) -> int:
        return len(self.value)

    def all_series(self) -> Iterator[tuple[Entity, Field, Times, NDArray[np.float64]]]:
        """Times in ns and values of every field of every entity that was sampled, by time."""
        key = self.entity.astype(np.int64) * len(self.fields) + self.field
        order = np.lexsort((self.time_ns, key))
        firsts = np.flatnonzero(np.diff(key[order], prepend=-1))
        for rows in np.split(order, firsts[1:]) if len(order) else ():
            entity, field = divmod(int(key[rows[0]]), len(self.fields))
            yield self.entities[entity], self.fields[field], self.time_ns[rows], self.value[rows]

    def series(self, entity: Entity, key: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Times in ns and values of one field of one entity, by time; empty if never sampled."""
        wanted = [row for row, one in enumerate(self.fields) if one.key == key]
        of_entity = [row for row, one in enumerate(self.entities) if one == entity]
        rows = np.flatnonzero(np.isin(self.field, wanted) & np.isin(self.entity, of_entity))
        rows = rows[np.argsort(self.time_ns[rows], kind="stable")]
        return self.time_ns[rows], self.value[rows]


@dataclass(slots=True)
class SampleRows:
    """Samples as they are read, row by row."""

    entities: dict[Entity, int] = field(default_factory=dict)
    fields: dict[Field, int] = field(default_factory=dict)
    rows: list[tuple[int, int, int, float]] = field(default_factory=list)
    num_blank: int = 0

    def add(self, entity: Entity, sampled: Field, time_ns: int, value: float | None) -> None:
        """Appends one sample; None is a blank."""
        row = self.entities.setdefault(entity, len(self.entities))
        column = self.fields.setdefault(sampled, len(self.fields))
        if value is None:
            self.num_blank += 1
        else:
            self.rows.append((row, column, time_ns, value))

    def samples(self, source: str, clock: Clock, notes: Sequence[str] = ()) -> Samples:
        """What was appended, as columns. Raises TraceError where a time does not fit 64 bits."""
        entity, column, time_ns, value = zip(*self.rows, strict=True) if self.rows else [()] * 4
        try:
            times = np.array(time_ns, np.int64)
        except OverflowError:
            raise TraceError(
                f"{source}: a time of {max(time_ns)} ns is beyond year 2262."
            ) from None
        return Samples(
            source=source,
            clock=clock,
            entities=tuple(self.entities),
            fields=tuple(self.fields),
            entity=np.array(entity, np.int32),
            field=np.array(column, np.int32),
            time_ns=times,
            value=np.array(value, np.float64),
            num_blank=self.num_blank,
            notes=tuple(notes),
        )
