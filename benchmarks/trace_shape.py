"""Large traces with the shape of a small one: its events again and again, later each time.

    python benchmarks/trace_shape.py SMALL.json.gz FOLDER --events 625000 --ranks 8

What belongs together stays so: correlations, external ids and times are shifted by the same amount
in every copy. Each rank is as fast as drawn (seed: the rank), by up to 2%, as ranks are.
"""

import argparse
import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

SEED, JITTER = 0, 0.02
_IDS = ("correlation", "External id")
Event = dict[str, object]


def main() -> None:
    """Writes one file per rank."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("small", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--events", type=int, default=1_000_000, help="Per rank, at least.")
    parser.add_argument("--ranks", type=int, default=1)
    options = parser.parse_args()
    opener = gzip.open if options.small.suffix == ".gz" else open
    with opener(options.small, "rt", encoding="utf-8") as file:
        document = json.load(file)
    options.folder.mkdir(parents=True, exist_ok=True)
    for rank in range(options.ranks):
        write(options.folder / f"rank-{rank}.json.gz", document, rank, options)


def write(path: Path, document: dict[str, object], rank: int, options: argparse.Namespace) -> None:
    """One rank's trace, compressed as torch.profiler does."""
    events = document["traceEvents"]
    assert isinstance(events, list)
    info = {"backend": "nccl", "rank": rank, "world_size": options.ranks}
    header = {k: v for k, v in document.items() if k != "traceEvents"} | {"distributedInfo": info}
    copies = -(-options.events // len(events))
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=6) as file:
        file.write(json.dumps(header)[:-1] + ', "traceEvents": [\n')
        for number, text in enumerate(copied(events, copies, random.Random(SEED + rank))):
            file.write(f",\n{text}" if number else text)
        file.write("\n]}")


def copied(events: list[Event], copies: int, random_: random.Random) -> Iterator[str]:
    """Every event `copies` times, as JSON."""
    timed = [e for e in events if e.get("ph") == "X"]
    start_us = min(number(e["ts"]) for e in timed)
    length_us = max(number(e["ts"]) + number(e.get("dur", 0)) for e in timed) - start_us
    step = 1 + max(number(args(e).get(key, 0)) for e in timed for key in _IDS)
    at_us = 0.0
    for copy in range(copies):
        speed = 1 + random_.uniform(-JITTER, JITTER)
        for event in events:
            yield json.dumps(moved(event, start_us, at_us, speed, int(copy * step)))
        at_us += length_us * speed


def moved(event: Event, start_us: float, at_us: float, speed: float, ids: int) -> Event:
    """An event later, longer by `speed`, and with other ids."""
    found = dict(event)
    if "ts" in event:
        elapsed_us = (number(event["ts"]) - start_us) * speed
        found["ts"] = round(start_us + at_us + elapsed_us, 3)
    if "dur" in event:
        found["dur"] = round(number(event["dur"]) * speed, 3)
    if "id" in event:
        found["id"] = int(number(event["id"])) + ids
    shifted = {k: int(number(args(event)[k])) + ids for k in _IDS if k in args(event)}
    return found | ({"args": args(event) | shifted} if shifted else {})


def args(event: Event) -> dict[str, object]:
    """Its arguments; none is an empty dictionary."""
    found = event.get("args")
    return found if isinstance(found, dict) else {}


def number(value: object) -> float:
    """A number; 0 where the file has none."""
    return value if isinstance(value, int | float) else 0


if __name__ == "__main__":
    main()
