"""dcgm-exporter's metrics: the text of one or many scrapes, and Prometheus's answer to a range
query."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from ridgeline.errors import TraceError
from ridgeline.traces.dcgm_fields import field_of_name
from ridgeline.traces.dcgm_values import value_of
from ridgeline.traces.samples import Clock, Entity, SampleRows, Samples

DEFAULT_PERIOD_NS = 30_000_000_000  # dcgm-exporter collects every 30 s unless told (-c)

_NS_PER_S, _NS_PER_MS = 10**9, 10**6
_OURS = "DCGM_FI_"
_LINE = re.compile(r"^([A-Za-z_:][\w:]*)\s*(?:\{(.*)\})?\s+(\S+)(?:\s+(-?\d+))?\s*$")
_HELP = re.compile(r"^#\s*HELP\s+(DCGM_FI_\w+)")
_MAX_LINE = 16_384  # characters; labels of pods are hundreds. Bounds what a search may cost
_IS_HELP = "\n"  # no labels of one line hold a line's end
_LABEL = re.compile(r'([A-Za-z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"')
_NUMBER = re.compile(r"[0-9]{1,9}")
_ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


def _labels(text: str) -> dict[str, str]:
    """The labels of one line, their escapes resolved."""
    return {
        name: re.sub(r'\\[\\"n]', lambda m: _ESCAPES[m[0]], value)
        for name, value in _LABEL.findall(text)
    }


def entity_of(labels: Mapping[str, str]) -> Entity:
    """What a metric's labels say was sampled: a GPU, a MIG instance on it, or a link of it."""
    gpu = labels.get("gpu", "")
    instance = labels.get("GPU_I_ID", "")
    link = labels.get("nvlink", labels.get("link", ""))
    parts = (("GPU", gpu), ("GPU-I", instance), ("LINK", link))
    return Entity(
        label=" ".join(f"{word} {value}" for word, value in parts if value) or "host",
        gpu=int(gpu) if _NUMBER.fullmatch(gpu) else None,
        instance=instance,
        host=labels.get("Hostname", labels.get("hostname", "")),
        uuid=labels.get("UUID", labels.get("uuid", "")),
    )


@dataclass(slots=True)
class _Scrapes:
    """The scrapes read so far. A series, or the help of a metric, that comes again opens the next
    scrape. seen: both kinds, of this scrape; a series is its name and all its labels, as one GPU
    may be listed once per pod."""

    source: str
    start_ns: int
    period_ns: int
    rows: SampleRows = field(default_factory=SampleRows)
    scrape: int = 0
    seen: set[tuple[str, str]] = field(default_factory=set)
    num_timed: int = 0
    num_other: int = 0

    def open_next(self) -> None:
        """Begins a scrape, if the last one has anything in it."""
        self.scrape += bool(self.seen)
        self.seen.clear()

    def _meet(self, name: str, labels: str) -> None:
        if (name, labels) in self.seen:
            self.open_next()
        self.seen.add((name, labels))

    def take(self, line: str, number: int) -> None:
        """Reads one line; comments and metrics that are not DCGM's are passed over."""
        text = line.strip()
        if not text or text.startswith("#"):
            if found := _HELP.match(text):
                self._meet(found[1], _IS_HELP)
            return
        found = _LINE.match(text) if len(text) <= _MAX_LINE else None
        if not found:
            raise TraceError(f"{self.source}:{number}: {text[:60]!r} is no Prometheus metric.")
        if not found[1].startswith(_OURS):
            self.num_other += 1
            return
        self._sample(found, f"{self.source}:{number}")

    def _sample(self, found: re.Match[str], where: str) -> None:
        entity = entity_of(_labels(found[2] or ""))
        self._meet(found[1], found[2] or "")
        time_ns = self.start_ns + self.scrape * self.period_ns
        if found[4]:
            self.num_timed += 1
            time_ns = int(found[4]) * _NS_PER_MS
        self.rows.add(entity, field_of_name(found[1]), time_ns, value_of(found[3], where))

    def clock(self, start_ns: int | None) -> Clock:
        """The clock of the times. Raises TraceError where some lines have times and some not."""
        total = len(self.rows.rows) + self.rows.num_blank
        if 0 < self.num_timed < total:
            raise TraceError(
                f"{self.source}: {self.num_timed} of {total} samples have a time and the others"
                " not; keep one kind."
            )
        return Clock.EPOCH if start_ns is not None or self.num_timed else Clock.START

    def notes(self) -> Iterator[str]:
        """What was passed over, in sentences."""
        if self.num_other:
            yield f"{self.num_other} metrics that are not DCGM's are left out."


def _assumed(start_ns: int | None, period_ns: int | None) -> Iterator[str]:
    if start_ns is None:
        yield "scrapes have no times and no start was given: time 0 is the first scrape."
    if period_ns is None:
        yield "no period was given: 30 s per scrape, dcgm-exporter's default, is assumed."


def read_scrapes(
    texts: Sequence[str],
    source: str,
    *,
    start_ns: int | None = None,
    period_ns: int | None = None,
) -> Samples:
    """The samples of dcgm-exporter's text: each of `texts` holds one scrape or several, in order.
    A line's own timestamp (ms) is taken; without one, scrape k is at start_ns + k * period_ns, as
    in `read_dmon`; the default period is 30 s."""
    scrapes = _Scrapes(
        source=source, start_ns=start_ns or 0, period_ns=period_ns or DEFAULT_PERIOD_NS
    )
    for text in texts:
        scrapes.open_next()
        for number, line in enumerate(text.splitlines(), start=1):
            scrapes.take(line, number)
    if not scrapes.rows.fields:
        raise TraceError(f"{source}: no metric named {_OURS}..., so this is no DCGM log.")
    clock = scrapes.clock(start_ns)
    assumed = () if scrapes.num_timed else _assumed(start_ns, period_ns)
    return scrapes.rows.samples(source, clock, (*assumed, *scrapes.notes()))


def _points(result: Mapping[str, Any], source: str) -> Iterator[tuple[int, str]]:
    """Times since 1970 in ns and values as text, of one series of an answer."""
    pairs = result.get("values") or [result[key] for key in ("value",) if key in result]
    if not isinstance(pairs, list):
        raise TraceError(f"{source}: {str(pairs)[:60]!r} is no list of [time, value].")
    for pair in pairs:
        try:
            time_s, text = pair
            yield int(Decimal(time_s) * _NS_PER_S), str(text)
        except (TypeError, ValueError, ArithmeticError):
            raise TraceError(f"{source}: {str(pair)[:60]!r} is no [time, value].") from None


def read_range(text: str, source: str) -> Samples:
    """The samples of Prometheus's JSON answer to a query or a range query."""
    try:
        answer = json.loads(text, parse_float=Decimal)
        results = [(dict(one["metric"]), one) for one in answer["data"]["result"]]
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{source}: not JSON: {error}.") from None
    except (KeyError, TypeError):
        raise TraceError(f"{source}: no data.result[].metric, so no Prometheus answer.") from None
    rows, num_other = SampleRows(), 0
    for labels, result in results:
        name = str(labels.get("__name__", ""))
        num_other += not name.startswith(_OURS)
        if name.startswith(_OURS):
            entity = entity_of({str(key): str(value) for key, value in labels.items()})
            for time_ns, value in _points(result, source):
                rows.add(entity, field_of_name(name), time_ns, value_of(value, source))
    if not rows.fields:
        raise TraceError(f"{source}: no series named {_OURS}... in the answer.")
    notes = [f"{num_other} series that are not DCGM's are left out."] if num_other else []
    return rows.samples(source, Clock.EPOCH, notes)
