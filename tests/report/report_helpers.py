"""Results as if measured, and pages as a browser shows them."""

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ridgeline.backends.result import Candidate, Optimized, Step
from ridgeline.graph import Graph
from ridgeline.passes.manager import PassStep

_RAN = {"samples": 10, "clean_samples": 9, "spread_s": 1e-4, "cosine": 1.0, "top1": 1.0}
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--virtual-time-budget=2000 --dump-dom --allow-file-access-from-files --window-size=2200,1000"
).split()


def measured(
    graph: Graph,
    passes: Sequence[PassStep] = (),
    *,
    machine: str = "this",
    files: Mapping[str, bytes] | None = None,
) -> Optimized:
    """8 ms eager, 2 ms with the best of two candidates, the other of which crashed."""
    best = Candidate(backend="aoti", dtype="bf16", time_s=0.002, max_error=0.0031, **_RAN)
    return Optimized(
        graph=graph,
        passes=tuple(passes),
        candidates=(Candidate(backend="inductor", dtype="fp32", skipped="crashed: SIGSEGV"), best),
        baseline=Candidate(
            backend="eager as captured", dtype="fp32", time_s=0.008, max_error=0.0, **_RAN
        ),
        best=best,
        waterfall=(
            Step(step="eager", measured_s=0.008, predicted_s=0.004),
            Step(step="bf16", measured_s=0.002, predicted_s=0.003),
            Step(step="roofline", measured_s=None, predicted_s=0.001),
        ),
        roofline_s=0.001,
        threads=2,
        machine=machine,
        files=files or {},
    )


def probed(page: str, probe: str, chromium: str, folder: Path, width: int) -> tuple[str, str]:
    """What the script `probe` leaves in data-probe and data-error of the page's body.

    A frame gives the page its width, since a headless window has a least width of its own.
    """
    inner = page.replace("<body>", f"<body>{probe}", 1)
    (folder / "inner.html").write_text(inner, encoding="utf-8")
    outer = folder / "outer.html"
    outer.write_text(
        f'<iframe src="inner.html" width="{width}" height="900" style="border:0"></iframe>'
        "<script>addEventListener('load', () => setTimeout(() => {"
        "const body = frames[0].document.body;"
        "document.title = body.dataset.probe + '#' + body.dataset.error;}, 200));</script>",
        encoding="utf-8",
    )
    command = [chromium, *_FLAGS, f"--user-data-dir={folder / 'profile'}", outer.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title, done.stdout[:300]
    found, _, error = title.group(1).partition("#")
    return found, error
