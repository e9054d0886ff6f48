"""Writes `xplane.pb` files from known events: the few messages of xplane.proto, encoded by hand."""

from collections.abc import Sequence
from dataclasses import dataclass, field


def varint(value: int) -> bytes:
    """A number as protocol buffers write it; negative ones in 64 bits."""
    value &= 2**64 - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def number(key: int, value: int) -> bytes:
    """A field that is a number."""
    return varint(key << 3) + varint(value)


def message(key: int, content: bytes) -> bytes:
    """A field that is a message or a text."""
    return varint(key << 3 | 2) + varint(len(content)) + content


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event, in ps from its line's time."""

    name: str
    offset_ps: int
    duration_ps: int
    correlation: int | None = None


@dataclass(slots=True)
class PlaneFile:
    """One plane, with its tables filled as events come."""

    name: str
    names: dict[str, int] = field(default_factory=dict)
    lines: list[bytes] = field(default_factory=list)

    def line(self, id_: int, name: str, time_ns: int, events: Sequence[Event]) -> None:
        """Appends a line of events."""
        body = number(1, id_) + message(2, name.encode()) + number(3, time_ns)
        self.lines.append(body + b"".join(message(4, self._event(one)) for one in events))

    def _event(self, event: Event) -> bytes:
        metadata = self.names.setdefault(event.name, len(self.names) + 1)
        body = number(1, metadata) + number(2, event.offset_ps) + number(3, event.duration_ps)
        if event.correlation is not None:
            body += message(4, number(1, 9) + message(5, b"not this"))
            body += message(4, number(1, 7) + number(3, event.correlation))
        return body

    def encoded(self) -> bytes:
        """The plane as a field of the file."""
        body = number(1, 0) + message(2, self.name.encode())
        body += b"".join(message(3, line) for line in self.lines)
        for name, key in self.names.items():
            body += message(
                4, number(1, key) + message(2, number(1, key) + message(2, name.encode()))
            )
        for name, key in (("correlation_id", 7), ("details", 9), ("memory_size", 11)):
            body += message(
                5, number(1, key) + message(2, number(1, key) + message(2, name.encode()))
            )
        if self.name.startswith("/device"):
            body += message(6, number(1, 11) + number(3, 1 << 37))
        return message(1, body)
