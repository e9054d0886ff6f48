"""Writes DCGM logs as the tools do, from known samples, for tests to read back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# head or symbol -> our key; both spellings of a field, as its tools print them
HEADS = {
    "GRACT": "engine_active",
    "SMACT": "sm_active",
    "TENSO": "tensor_active",
    "DRAMA": "dram_active",
    "POWER": "power",
    "FBUSD": "memory_used",
    "NVL3R": "nvlink_rx_of_link_3",
    "XYZZY": "XYZZY",
}
SYMBOLS = {
    "DCGM_FI_PROF_SM_ACTIVE": "sm_active",
    "DCGM_FI_PROF_SM_UTIL_RATIO": "sm_active",
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": "tensor_active",
    "DCGM_FI_PROF_TENSOR_UTIL_RATIO": "tensor_active",
    "DCGM_FI_DEV_POWER_USAGE": "power",
    "DCGM_FI_DEV_BOARD_POWER_WATTS": "power",
    "DCGM_FI_PROF_NVLINK_L3_RX_BYTES": "nvlink_rx_of_link_3",
    "DCGM_FI_DEV_SOMETHING_NEW": "DCGM_FI_DEV_SOMETHING_NEW",
}
COLUMN = 28  # characters, of a field of bytes: 20 + 6 + 2
HEADER_EVERY = 14  # lines, MAX_PRINT_HEADER_COUNT of dcgmi
Sweep = Mapping[tuple[str, str], float | None]
"""(entity, head or symbol) -> value; None for a blank one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What was sampled: sweeps in order, of the same entities and heads."""

    entities: tuple[str, ...]
    heads: tuple[str, ...]
    sweeps: tuple[Sweep, ...]


def _padded(cells: Sequence[str], first_width: int, width: int) -> str:
    first, *others = cells
    return first.ljust(first_width) + "".join(cell.ljust(width) for cell in others)


def dmon(log: Log, *, blank: str = "N/A") -> str:
    """The log as `dcgmi dmon` prints it: entities in reverse, the header every few lines."""
    header = [_padded(["#Entity", *log.heads], 16, COLUMN), _padded(["ID", ""], 16, COLUMN)]
    lines = list(header)
    for index, sweep in enumerate(log.sweeps):
        if index and index % HEADER_EVERY == 0:
            lines += header
        for entity in reversed(log.entities):
            values = [sweep[entity, head] for head in log.heads]
            cells = [blank if value is None else f"{value:.3f}" for value in values]
            lines.append(_padded([entity, *cells], 16, COLUMN))
    return "\n".join(lines) + "\n"


def labels(entity: str) -> str:
    """The labels dcgm-exporter gives "GPU 1" and "GPU 1 GPU-I 7"."""
    number, _, instance = entity.removeprefix("GPU ").partition(" GPU-I ")
    mig = f',GPU_I_PROFILE="1g.10gb",GPU_I_ID="{instance}"' if instance else ""
    return (
        f'gpu="{number}",UUID="GPU-{number}",pci_bus_id="00000000:0{number}:00.0",'
        f'device="nvidia{number}",modelName="NVIDIA \\"H100\\", 80GB"{mig},Hostname="node-1"'
    )


def scrape(sweep: Sweep, *, blank: str = "NaN", time_ms: int | None = None) -> str:
    """One scrape as dcgm-exporter answers it."""
    stamp = "" if time_ms is None else f" {time_ms}"
    lines = []
    for symbol in dict.fromkeys(symbol for _, symbol in sweep):
        lines += [f"# HELP {symbol} Something (in %).", f"# TYPE {symbol} gauge"]
        for (entity, name), value in sweep.items():
            if name == symbol:
                text = blank if value is None else f"{value:.6f}"
                lines.append(f"{symbol}{{{labels(entity)}}} {text}{stamp}")
    return "\n".join(lines) + "\n"
