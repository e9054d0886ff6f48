"""A fleet: two or more devices that work on one model, and the links between them.

A file of one is TOML. The first device is the host: inputs start there and outputs return there.

    [[devices]]
    name = "cpu"
    machine = "this"                 # a name that `ridgeline machines list` shows, or a file

    [[devices]]
    name = "gpu"
    machine = "l4"
    unsupported = ["lstm"]           # op kinds that it cannot run

    [[links]]
    between = ["cpu", "gpu"]
    bandwidth_bytes_per_s = 25e9     # per direction
    latency_s = 10e-6
    source = "PCIe 4.0 x16, four fifths of 31.5 GB/s"
"""

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ridgeline.errors import MachineError
from ridgeline.machines.files import read_text
from ridgeline.machines.machine import Machine
from ridgeline.machines.registry import load

MAX_DEVICES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One place where work can run. unsupported: op kinds that cannot run there."""

    name: str
    machine: Machine
    unsupported: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """What joins two devices: a copy of n bytes takes latency_s + n / bandwidth_bytes_per_s. Each
    direction carries one copy at a time.
    """

    between: tuple[str, str]
    bandwidth_bytes_per_s: float
    latency_s: float
    source: str

    def __post_init__(self) -> None:
        where = f"link {' - '.join(self.between)}"
        if not (math.isfinite(self.bandwidth_bytes_per_s) and self.bandwidth_bytes_per_s > 0):
            raise MachineError(f"{where}: bandwidth_bytes_per_s must be a number above zero.")
        if not (math.isfinite(self.latency_s) and self.latency_s >= 0):
            raise MachineError(f"{where}: latency_s must be zero or more.")
        if not self.source.strip():
            raise MachineError(f"{where}: source is empty; say where the figures come from.")

    def copy_s(self, nbytes: int) -> float:
        """How long a copy of so many bytes takes."""
        return self.latency_s + nbytes / self.bandwidth_bytes_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Devices, the first of which is the host, and one link between every two of them."""

    devices: tuple[Device, ...]
    links: tuple[Wire, ...]

    def __post_init__(self) -> None:
        names = [device.name for device in self.devices]
        if not 1 <= len(names) <= MAX_DEVICES:
            raise MachineError(f"a fleet has 1 to {MAX_DEVICES} devices, not {len(names)}.")
        if len(set(names)) < len(names):
            raise MachineError(f"two devices have one name among {', '.join(names)}.")
        for wire in self.links:
            for end in wire.between:
                if end not in names:
                    raise MachineError(f"a link ends at {end!r}; there are {', '.join(names)}.")
        for i, one in enumerate(names):
            for other in names[i + 1 :]:
                self._wire(one, other)

    def copy_s(self, source: int, target: int, nbytes: int) -> float:
        """How long `nbytes` take from device number `source` to number `target`."""
        if source == target:
            return 0.0
        return self._wire(self.devices[source].name, self.devices[target].name).copy_s(nbytes)

    def _wire(self, one: str, other: str) -> Wire:
        found = [wire for wire in self.links if set(wire.between) == {one, other}]
        if len(found) != 1:
            count = "no link" if not found else f"{len(found)} links"
            raise MachineError(f"there must be one link between {one} and {other}, not {count}.")
        return found[0]


class _DeviceEntry(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    machine: str
    unsupported: list[str] = []


class _LinkEntry(msgspec.Struct, forbid_unknown_fields=True):
    between: tuple[str, str]
    bandwidth_bytes_per_s: float
    latency_s: float
    source: str


class _FleetFile(msgspec.Struct, forbid_unknown_fields=True):
    devices: list[_DeviceEntry]
    links: list[_LinkEntry] = []


def load_fleet(path: Path) -> Fleet:
    """The fleet that a TOML file describes. Raises MachineError, naming what is wrong."""
    try:
        entries = msgspec.convert(tomllib.loads(read_text(path, "fleet file")), _FleetFile)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise MachineError(f"{path} is not TOML: {error}.") from None
    except msgspec.ValidationError as error:
        raise MachineError(f"{path}: {error}.") from None
    return Fleet(
        devices=tuple(
            Device(
                name=entry.name,
                machine=load(entry.machine),
                unsupported=frozenset(entry.unsupported),
            )
            for entry in entries.devices
        ),
        links=tuple(
            Wire(
                between=entry.between,
                bandwidth_bytes_per_s=entry.bandwidth_bytes_per_s,
                latency_s=entry.latency_s,
                source=entry.source,
            )
            for entry in entries.links
        ),
    )
