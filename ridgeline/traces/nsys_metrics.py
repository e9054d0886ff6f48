"""The hardware counters that Nsight Systems sampled (`--gpu-metrics-devices`), as samples."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import TraceError
from ridgeline.traces.nsys_database import Database, store
from ridgeline.traces.samples import Clock, Entity, Field, Samples
from ridgeline.units import counted

METRICS, METRIC_NAMES = "GPU_METRICS", "TARGET_INFO_GPU_METRICS"
_GPU_MASK = 0xFF  # the lowest byte of a typeId is the device; source: NVIDIA's nsys2prv

# Names differ by chip and version: what a name holds -> our key, first match wins.
_KEYS = (
    (r"^SMs? Active", "sm_active"),
    (r"^SM Issue", "sm_issue"),
    (r"^Tensor Active", "tensor_active"),
    (r"^GR Active", "engine_active"),
    (r"^(DRAM|VRAM) Read", "dram_read"),
    (r"^(DRAM|VRAM) Write", "dram_write"),
    (r"^NVLink RX", "nvlink_rx_ratio"),
    (r"^NVLink TX", "nvlink_tx_ratio"),
    (r"^PCIe RX", "pcie_rx_ratio"),
    (r"^PCIe TX", "pcie_tx_ratio"),
    (r"^GPC Clock", "sm_clock"),
    (r"^SYS Clock", "system_clock"),
    (r"Warps [Ii]n [Ff]light", "warps_in_flight"),
)


def field_of_metric(name: str) -> Field:
    """The field of a metric, as "SMs Active [Throughput %]": percents become ratios, so that they
    compare with DCGM's. One we have no row for keeps its name as key."""
    unit = re.search(r"\[([^\]]*)\]", name)
    words = unit[1] if unit else ""
    key = next((key for pattern, key in _KEYS if re.search(pattern, name)), name)
    return Field(key=key, unit="ratio" if "%" in words else words)


def _fields(database: Database) -> Mapping[tuple[int, int], Field]:
    """The field of every metric, by the type of its device and its number there."""
    if METRIC_NAMES not in database.tables():
        return {}
    table = database.integers(METRIC_NAMES, ("typeId", "metricId"))
    names = database.texts(METRIC_NAMES, "rowid", "metricName")
    columns = (table[name].tolist() for name in ("rowid", "typeId", "metricId"))
    return {
        (device, metric): field_of_metric(names.get(row, f"metric {metric}"))
        for row, device, metric in zip(*columns, strict=True)
    }


def _numbered(
    pairs: NDArray[np.int64], fields: Mapping[tuple[int, int], Field]
) -> tuple[tuple[Entity, ...], tuple[Field, ...], NDArray[np.int32], NDArray[np.int32]]:
    """Entities and fields, and the numbers of those of each (typeId, metricId)."""
    entities: dict[Entity, int] = {}
    columns: dict[Field, int] = {}
    rows = []
    for kind, metric in pairs.tolist():
        gpu = kind & _GPU_MASK
        sampled = fields.get((kind, metric), Field(key=f"metric {metric}"))
        row = entities.setdefault(Entity(label=f"GPU {gpu}", gpu=gpu), len(entities))
        rows.append((row, columns.setdefault(sampled, len(columns))))
    numbers = np.array(rows, np.int32).reshape(-1, 2)
    return tuple(entities), tuple(columns), numbers[:, 0], numbers[:, 1]


def has_metrics(path: Path) -> bool:
    """Whether an export holds samples."""
    with store(path).open() as database:
        return METRICS in database.tables()


def read_nsys_metrics(path: Path) -> Samples:
    """The samples of one export; times are ns since the session's start, as its recordings' are.
    Raises TraceError where it holds none."""
    with store(path).open() as database:
        if METRICS not in database.tables():
            raise TraceError(
                f"{path} has no {METRICS}; record them with --gpu-metrics-devices=all."
            )
        table = database.integers(METRICS, ("timestamp", "typeId", "metricId", "value"))
        fields = _fields(database)
    kept = np.flatnonzero(table["timestamp"] >= 0)
    num_early = len(table["timestamp"]) - len(kept)
    pairs = np.column_stack((table["typeId"][kept], table["metricId"][kept]))
    distinct, inverse = np.unique(pairs, axis=0, return_inverse=True)
    entities, columns, entity, column = _numbered(distinct, fields)
    is_ratio = np.array([one.unit == "ratio" for one in columns], np.bool_)
    scale = np.where(is_ratio, 100.0, 1.0)
    which = column[inverse.ravel()]
    return Samples(
        source=str(path),
        clock=Clock.RECORDING,
        entities=entities,
        fields=columns,
        entity=entity[inverse.ravel()],
        field=which,
        time_ns=table["timestamp"][kept],
        value=table["value"][kept] / scale[which],
        notes=(f"{counted(num_early, 'sample')} before the start are left out.",)
        if num_early
        else (),
    )
