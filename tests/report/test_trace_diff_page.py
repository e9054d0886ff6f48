"""The page of `trace diff`: the verdict, bars from one span to the other, names that stay names."""

import re
from pathlib import Path

import pytest
from recordings import call, kernel, write
from report_helpers import probed
from test_trace_ranks_page import EVIL, PROBE, WIDTHS

from ridgeline.report.trace_diff_html import diff_page
from ridgeline.traces.diff import Difference, diff
from ridgeline.traces.rank import RankTrace
from ridgeline.traces.trace import trace


def recorded(path: Path, work_us: float, name: str) -> RankTrace:
    """Two kernels with 20 µs between them, of which the second takes 100 µs."""
    events = [
        call("cudaLaunchKernel", 0, 1, 1),
        kernel(name, 2, work_us, 1),
        call("cudaLaunchKernel", 15 + work_us, 1, 2),
        kernel("other", 22 + work_us, 100, 2),
    ]
    return trace([write(path, events)]).ranks[0]


def found(folder: Path, name: str = "gemm") -> Difference:
    before, after = (recorded(folder / f"{us}.json", us, name) for us in (200, 120))
    return diff(before, after)


def test_bars_lead_from_the_first_span_to_the_second(tmp_path: Path) -> None:
    page = diff_page(found(tmp_path))
    assert page.index("25% faster: 320 µs before, 240 µs after") < page.index("<main>")
    part = page.split('id="diff-waterfall"')[1].split("</section>")[0]
    bars = re.findall(r'class="fill ([\w-]+)" style="left:([\d.]+)%;width:([\d.]+)%', part)
    styles = [style for style, _, _ in bars]
    places = [(float(left), float(width)) for _, left, width in bars]
    assert (styles[0], *places[0]) == ("compute", 0, 100)
    assert "The axis begins at 160 µs, not at zero." in part
    assert (styles[-1], *places[-1]) == ("compute", 0, 50)
    moved = [(style, *place) for style, place in zip(styles, places, strict=True) if place[1]][1:-1]
    assert moved == [("talk", 50, 50)]


def test_what_changed_most_stands_on_its_side_of_the_middle(tmp_path: Path) -> None:
    part = diff_page(found(tmp_path)).split('id="diff-changes"')[1].split("</section>")[0]
    assert re.findall(r'fill (\w+)" style="left:([\d.]+)%;width:([\d.]+)%', part) == [
        ("talk", "0.00", "50.00")
    ]
    assert "-80.0 µs" in part


def test_operators_are_listed_with_both_times(tmp_path: Path) -> None:
    part = diff_page(found(tmp_path)).split('id="diff-operators"')[1].split("</section>")[0]
    first = re.findall(r"<td[^>]*>(.*?)</td>", part)[:5]
    assert first == ["-80.0 µs", "25%", "gemm", "200 µs", "120 µs"]


def test_names_stay_names_and_nothing_is_loaded(tmp_path: Path) -> None:
    page = diff_page(found(tmp_path, EVIL))
    assert page.count("<script") == 1
    assert "<img" not in page
    assert "&lt;img src=x onerror" in page
    assert not re.search(r"(?:src|href)=\"(?!#)|https?://|@import|url\(", page)


def test_an_unchanged_recording_has_no_picture_of_changes(tmp_path: Path) -> None:
    rank = recorded(tmp_path / "same.json", 200, "gemm")
    page = diff_page(diff(rank, rank))
    assert "No slower and no faster" in page
    assert 'id="diff-changes"' not in page


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_a_diff_fits_every_width(chromium: str, tmp_path: Path, width: int) -> None:
    probe, error = probed(diff_page(found(tmp_path)), PROBE, chromium, tmp_path, width)
    scroll, inner, wide, num_empty = probe.split("|")
    assert error == "undefined"
    assert int(scroll) <= int(inner) == width
    assert (wide, num_empty) == ("", "0")
