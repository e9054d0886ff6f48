"""DCGM logs of any kind -> samples: `dcgmi dmon` text, dcgm-exporter's scrapes, Prometheus JSON."""

from pathlib import Path

from ridgeline.errors import TraceError
from ridgeline.traces.dcgm_dmon import HEADER, read_dmon
from ridgeline.traces.dcgm_prometheus import read_range, read_scrapes
from ridgeline.traces.files import read_file
from ridgeline.traces.samples import Samples


def _text(path: Path) -> str:
    """The text of one log, unpacked. Raises TraceError for a file that is none."""
    text = read_file(path)
    if text.notes:
        raise TraceError(f"{path}: {text.notes[0]}.")
    try:
        return bytes(text.data).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: cannot be read as text: {error}.") from None


def _read_text(text: str, source: str, start_ns: int | None, period_ns: int | None) -> Samples:
    if HEADER.search(text):
        return read_dmon(text, source, start_ns=start_ns, period_ns=period_ns)
    if text.lstrip().startswith("{"):
        return read_range(text, source)
    return read_scrapes([text], source, start_ns=start_ns, period_ns=period_ns)


def read_dcgm(path: Path, *, start_ns: int | None = None, period_ns: int | None = None) -> Samples:
    """The samples of one DCGM log; a folder is read as one scrape or more per file, in the order
    of their names. start_ns and period_ns: when the first sample was taken, since 1970, and how
    far apart they are; used only where the log has no times."""
    if not path.is_dir():
        return _read_text(_text(path), str(path), start_ns, period_ns)
    files = sorted(one for one in path.iterdir() if one.is_file())
    if not files:
        raise TraceError(f"{path}: an empty folder; it should hold one scrape per file.")
    texts = [_text(one) for one in files]
    return read_scrapes(texts, str(path), start_ns=start_ns, period_ns=period_ns)
