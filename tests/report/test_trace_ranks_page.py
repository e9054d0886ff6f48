"""The page's pictures of several ranks and of memory: bars are as long as what was put in."""

import re
from pathlib import Path

import pytest
from report_helpers import probed
from trace_sets import straggling, two_stages, with_memory

from ridgeline.report.trace_collectives import collective_sections
from ridgeline.report.trace_html import trace_page
from ridgeline.report.trace_pipeline import pipeline_sections
from ridgeline.traces.bubbles import Bubble, Phase, PipelineStep, StageTime
from ridgeline.traces.sampled import RankSamples, Sampled
from ridgeline.traces.skew import Arrival, Matched, Skew, Wait
from ridgeline.traces.trace import Trace

EVIL = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&"
WIDTHS = (390, 768, 1280, 1920)


def section(page: str, name: str) -> str:
    return page.split(f'id="run-{name}"')[1].split("</section>")[0]


def test_arrivals_show_transfer_apart_from_waiting(tmp_path: Path) -> None:
    page = trace_page(straggling(tmp_path, (100, 40, 0, 20)))
    part = section(page, "arrivals")
    assert "Ranks waited 160 µs in all in 1 collective." in part
    assert re.findall(r"<span>(rank \d)</span>", part) == ["rank 0", "rank 1", "rank 3", "rank 2"]
    waits = [float(w) for w in re.findall(r'fill wait" style="left:[\d.]+%;width:([\d.]+)%', part)]
    assert waits == pytest.approx([100 * w / 160 for w in (100, 40, 20)], abs=0.02)
    transfers = re.findall(r'fill talk" style="left:([\d.]+)%;width:([\d.]+)%', part)
    assert set(transfers) == {(f"{100 - 37.5:.2f}", "37.50")}
    assert part.count(">last<") == 1
    assert section(page, "waits").count("<td") == 3 * 4


def test_of_many_ranks_the_first_and_last_to_come_are_drawn(tmp_path: Path) -> None:
    part = section(trace_page(straggling(tmp_path, [*range(0, 80, 4)])), "arrivals")
    assert len(re.findall(r"<span>rank \d+</span>", part)) == 16
    assert "4 ranks between" in part
    assert "<span>rank 19</span>" in part
    assert "<span>rank 0</span>" in part


def test_even_ranks_need_no_picture_of_arrivals(tmp_path: Path) -> None:
    page = trace_page(straggling(tmp_path, (0, 0)))
    assert 'id="run-arrivals"' not in page
    assert 'id="run-waits"' not in page
    assert "2 of 2" in section(page, "collectives")


def test_bubbles_stand_where_the_schedule_puts_them(tmp_path: Path) -> None:
    page = trace_page(two_stages(tmp_path))
    part = section(page, "pipeline")
    assert "ProfilerStep#0: bubbles 33% of 900 µs; GPipe costs 33% (2 ranks, 2" in part
    stages = part.split("<svg")[1:]
    found = [
        re.findall(r'<rect x="(\d+)" y="0" width="(\d+)" height="18" class="(c-\w+)"', stage)
        for stage in stages
    ]
    (steady,), edges = found
    assert steady[2] == "c-host"
    assert [int(n) for n in steady[:2]] == pytest.approx([2222, 3333], abs=8)
    assert {style for _, _, style in edges} == {"c-latency", "c-graph"}
    assert sum(int(width) for _, width, _ in edges) == pytest.approx(3333, abs=8)


def test_nothing_of_a_device_is_shown_where_none_was_used(tmp_path: Path) -> None:
    page = trace_page(two_stages(tmp_path))
    for name in ("idle", "gaps", "paths", "matrix", "kernels", "launches", "memory"):
        assert f'id="run-{name}"' not in page
    assert "aten::work" in section(page, "host-operators")
    lanes = section(page, "timeline")
    assert ">memory<" not in lanes
    assert ">idle<" not in lanes


def test_the_curve_of_memory_peaks_where_it_did(tmp_path: Path) -> None:
    part = section(trace_page(with_memory(tmp_path)), "memory")
    assert "3.00 KiB allocated at the peak, 20.0 µs after the first" in part
    wide = part.split("<svg")[1]
    x, y = map(float, re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', wide)[0])
    left, right, top, bottom = 78, 1000 - 16, 14, 250 - 44
    assert x == pytest.approx((left + right) / 2, abs=0.1)
    assert (bottom - y) / (bottom - top) == pytest.approx(3 / (4 * 1.05), abs=0.005)
    assert re.search(r"aten::empty</span>.*?width:100.00%.*?3.00 KiB · 100%", part)


def test_samples_stand_beside_the_steps(tmp_path: Path) -> None:
    trace_ = straggling(tmp_path, (10, 0))
    step = Sampled(
        rank=1,
        device="0",
        step=EVIL,
        means={"GRACT": 0.75},
        tensor_core_share=0.25,
        covered_share=0.5,
    )
    sampled = (RankSamples(rank=1, tensor_core_share=0.25, steps=(step,)),)
    part = section(trace_page(trace_, sampled=sampled), "dcgm")
    assert "GRACT" in part
    assert ">0.750<" in part
    assert ">50%<" in part
    assert "<img" not in part
    assert 'id="run-dcgm"' not in trace_page(trace_)


def test_no_name_breaks_out_and_nothing_is_loaded(tmp_path: Path) -> None:
    for number, trace_ in enumerate(
        (straggling(tmp_path, (30, 0), EVIL), with_memory(tmp_path, EVIL))
    ):
        page = trace_page(trace_)
        assert page.count("<script") == 1, number
        assert "<img" not in page
        assert "&lt;img src=x onerror" in page
        assert not re.search(r"(?:src|href)=\"(?!#)|https?://|@import|url\(", page)


def test_many_ranks_stages_and_collectives_stay_small() -> None:
    """Beside the least rows of tables, pictures leave room below a megabyte."""
    arrivals = tuple(Arrival(rank=i, start_ns=i, end_ns=10**6, wait_ns=511 - i) for i in range(512))
    one = Matched(
        name=EVIL * 9, group=EVIL * 9, size=512, sequence=0, nbytes=2**20, transfer_ns=10**5,
        skew_ns=511, last=511, is_whole=True, arrivals=arrivals,
    )  # fmt: skip
    waits = tuple(Wait(rank=i, on=i + 1, wait_ns=9, num_collectives=1) for i in range(5000))
    skew = Skew(matched=(one,) * 2000, waits=waits, num_unmatched=0)
    sections = collective_sections(skew, 10)
    assert sum(len(section.body.encode()) for section in sections) < 200_000
    bubbles = tuple(
        Bubble(
            rank=i % 64, stage=i % 64, phase=Phase.STEADY, start_ns=i, duration_ns=1, peer=None,
            allocated_bytes=None, free_bytes=None,
        )
        for i in range(200_000)
    )  # fmt: skip
    stages = tuple(
        StageTime(rank=i, stage=i, compute_ns=1, bubble_ns=1, other_ns=0) for i in range(64)
    )
    step = PipelineStep(
        name=EVIL, pipeline=0, start_ns=0, span_ns=200_001, schedule=None, stages=stages,
        bubbles=bubbles,
    )  # fmt: skip
    (section,) = pipeline_sections((step,) * 3)
    assert len(section.body.encode()) < 400_000
    assert "Of each stage, the 37 longest bubbles are drawn." in section.lead
    assert "<img" not in section.body


PROBE = """
<script>
addEventListener("error", event => document.body.setAttribute("data-error", event.message));
for (const level of ["error", "warn"]) {
  const said = console[level];
  console[level] = (...words) => {
    document.body.setAttribute("data-error", words.join(" "));
    said(...words);
  };
}
addEventListener("load", () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
  const wide = [...document.querySelectorAll("main *")].filter(e => !e.closest(".scroll,.ticks")
    && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.className || e.tagName);
  document.body.setAttribute("data-probe", [
    document.documentElement.scrollWidth, innerWidth, wide.slice(0, 3).join(" "),
    document.querySelectorAll("section:empty, tbody:empty").length,
  ].join("|"));
});
</script>
"""


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("make", [straggling, two_stages, with_memory])
def test_every_picture_fits_every_width(
    chromium: str, tmp_path: Path, make: object, width: int, theme: str
) -> None:
    trace_: Trace = straggling(tmp_path, (30, 0, 5)) if make is straggling else make(tmp_path)
    page = trace_page(trace_).replace("<html", f'<html data-theme="{theme}"', 1)
    probe, error = probed(page, PROBE, chromium, tmp_path, width)
    scroll, inner, wide, num_empty = probe.split("|")
    assert error == "undefined"
    assert int(scroll) <= int(inner) == width
    assert wide == ""
    assert num_empty == "0"
