"""The page of `trace`: verdict, lanes, boxes, tables; escaped, small, whole in a browser."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from recordings import training, write
from report_helpers import probed

from ridgeline.report.trace_html import trace_page
from ridgeline.traces.paths import Path as Way
from ridgeline.traces.trace import Trace, trace

EVIL = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&"
MEGABYTE = 1_000_000


def found(folder: Path, num_ranks: int = 1) -> Trace:
    files = [
        write(folder / f"{i}.json", training(rank=i), distributedInfo={"rank": i})
        for i in range(num_ranks)
    ]
    return trace(files)


def test_the_verdict_comes_first(tmp_path: Path) -> None:
    page = trace_page(found(tmp_path))
    verdict = "540 µs: device busy 67%, compute 39%, exposed communication 11%"
    assert page.index(verdict) < page.index("<main>")
    assert re.findall(r'<section id="run-(\w+)"', page) == [
        *("fixes", "timeline", "idle", "gaps", "collectives", "ranks", "steps", "paths"),
        *("matrix", "kernels", "operators", "launches"),
    ]


def test_every_rank_has_its_lanes(tmp_path: Path) -> None:
    page = trace_page(found(tmp_path, 3))
    lanes = page.split('id="run-timeline"')[1].split("</section>")[0]
    assert re.findall(r"<p>rank (\d) · NVIDIA H100", lanes) == ["0", "1", "2"]
    for style in ("compute", "talk", "memory", "c-host"):
        assert len(re.findall(rf'<path d="M[^"]+" class="{style}"', lanes)) == 3


def test_a_lane_is_as_high_as_the_share_that_ran(tmp_path: Path) -> None:
    page = trace_page(found(tmp_path))
    (d,) = re.findall(r'<path d="([^"]+)" class="compute"', page)
    shapes = re.findall(r"M(\d+) ([\d.]+)V([\d.]+)H(\d+)V[\d.]+Z", d)
    area = sum((int(right) - int(x)) * (float(y) - float(top)) for x, y, top, right in shapes)
    assert area / (10_000 * 16) == pytest.approx(210 / 540, abs=0.002)


def test_kernels_have_unit_precision_and_what_could_move(tmp_path: Path) -> None:
    page = trace_page(found(tmp_path)).split('id="run-kernels"')[1]
    row = next(row for row in re.findall(r"<tr>(.*?)</tr>", page) if ">sgemm_128x64_nn" in row)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
    assert cells[3:8] == ["gemm", "CUDA core", "fp32", "aten::mm", "[64, 32] [32, 16]"]
    assert cells[-1] == "fp32 without TF32"


def test_the_share_on_tensor_cores_and_the_fix_are_told(tmp_path: Path) -> None:
    part = trace_page(found(tmp_path)).split('id="run-matrix"')[1].split("</section>")[0]
    assert "0.0% of that on tensor or matrix cores. 150 µs (36%) could move there." in part
    assert "set_float32_matmul_precision" in part


def test_names_cannot_break_out_and_leave_room(tmp_path: Path) -> None:
    trace_ = found(tmp_path)
    (rank,) = trace_.ranks
    kernels = tuple(
        replace(use, name=EVIL * 20 + str(i), op=EVIL * 9, module=EVIL, shapes=EVIL)
        for i in range(500)
        for use in rank.kernels[:1]
    )
    ways = tuple(
        Way(module=f"{EVIL}{i}", op=EVIL, kernel=use.name, count=1, total_ns=10)
        for i, use in enumerate(kernels)
    )
    gaps = tuple(replace(gap, line=EVIL, call=EVIL) for gap in rank.gaps)
    rank = replace(rank, kernels=kernels, paths=ways, gaps=gaps, source=EVIL, notes=(EVIL,))
    page = trace_page(Trace(ranks=(rank,)))
    assert page.count("<script") == 1
    assert "<img" not in page
    assert len(page.encode()) < MEGABYTE
    assert re.search(r"The first \d+ of 500", page)


def test_many_ranks_stay_below_a_megabyte(tmp_path: Path) -> None:
    (rank,) = found(tmp_path).ranks
    page = trace_page(Trace(ranks=tuple(replace(rank, rank=i) for i in range(512))))
    assert len(page.encode()) < MEGABYTE
    assert "The first 64 of 512 ranks." in page


PROBE = """
<script>
addEventListener("error", event => document.body.setAttribute("data-error", event.message));
addEventListener("load", () => {
  const rows = id => [...document.querySelectorAll(id + " tbody tr")];
  const shown = id => rows(id).filter(r => !r.hidden).length;
  const all = [shown("#run-kernels"), shown("#run-gaps")];
  document.querySelector("#run-idle [data-filter]").click();
  document.querySelector(".icicle [data-table]").click();
  document.body.setAttribute("data-probe", [
    document.documentElement.scrollWidth, innerWidth, ...all,
    shown("#run-kernels"), shown("#run-gaps"),
    document.querySelector(".timeline svg").getBoundingClientRect().width > 150,
  ].join("|"));
});
</script>
"""


@pytest.mark.parametrize("width", [400, 2000])
def test_a_browser_shows_it_without_errors_or_sideways_scrolling(
    chromium: str, tmp_path: Path, width: int
) -> None:
    page = trace_page(found(tmp_path, 2))
    probe, error = probed(page, PROBE, chromium, tmp_path, width)
    scroll, inner, kernels, gaps, kernels_left, gaps_left, is_wide = probe.split("|")
    assert error == "undefined"
    assert int(scroll) <= int(inner) == width
    assert (int(kernels), int(gaps)) == (4, 5)
    assert int(kernels_left) == 1
    assert int(gaps_left) == 5  # all of one cause
    assert is_wide == "true"
