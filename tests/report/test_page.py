"""The HTML page: self-contained, escaped, small, and whole in a real browser."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_helpers import probed

from ridgeline.cost import NodeEstimate
from ridgeline.errors import RidgelineError
from ridgeline.report.files import write_text
from ridgeline.report.html import inspect_page
from ridgeline.report.markup import Html, element
from ridgeline.report.reading import Reading
from ridgeline.report.treemap import squarify

EVIL = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&"
MEGABYTE = 1_000_000
_NO_END = {"meta", "input", "br"}


class Tags(HTMLParser):
    """Every start tag, and whether each is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in _NO_END:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def tags_of(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(page)
    assert parser.open == []
    return parser.found


def with_nodes(reading: Reading, nodes: tuple[NodeEstimate, ...]) -> Reading:
    return replace(reading, estimate=replace(reading.estimate, nodes=nodes))


def with_names(reading: Reading, name: str) -> Reading:
    """`reading` with `name` wherever a model can put a name of its own."""
    run = reading.estimate
    nodes = tuple(replace(n, name=name, op=name, module=name) for n in run.nodes)
    live = tuple(replace(t, name=name, module=name) for t in run.memory.live_at_peak)
    curve = tuple((name, nbytes) for _, nbytes in run.memory.curve)
    memory = replace(run.memory, live_at_peak=live, curve=curve, peak_at=name)
    run = replace(run, nodes=nodes, memory=memory, graph=name, uncounted={name: 2})
    return replace(reading, target=name, estimate=run, inputs=((name, name),))


def test_a_page_refers_to_nothing_outside(reading: Reading) -> None:
    page = inspect_page([reading])
    assert "http://" not in page
    assert "https://" not in page
    assert "@import" not in page
    for tag, attributes in tags_of(page):
        assert tag not in {"link", "iframe", "img", "object", "embed", "base"}
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")


def test_the_page_shows_the_verdict_both_ceilings_and_every_part(reading: Reading) -> None:
    page = inspect_page([reading])
    assert "forward is compute-bound: 2.63 ms (2.58 ms at the roofline)" in page
    assert "achievable fp32: 10.0 TFLOP/s, 1.00 TB/s" in page
    assert "datasheet fp32: 20.0 TFLOP/s, 2.00 TB/s" in page
    ids = {attributes["id"] for _, attributes in tags_of(page) if "id" in attributes}
    parts = ("totals", "advice", "roofline", "treemap", "memory", "ops", "nodes")
    assert ids >= {f"r1-{part}" for part in parts} | {"definitions"}
    assert page.count('class="dot compute"') == 2  # linear, wide and narrow; add moves nothing
    assert page.count('class="dot memory"') == 2  # relu


def test_names_cannot_break_out(reading: Reading) -> None:
    page = inspect_page([with_names(reading, EVIL)])
    tags = [tag for tag, _ in tags_of(page)]
    assert tags.count("script") == 1
    assert "img" not in tags
    assert EVIL not in page
    assert not any(key.startswith("on") for _, attributes in tags_of(page) for key in attributes)


def test_markup_escapes_all_but_markup() -> None:
    assert element("b", "<i>", title='"') == '<b title="&quot;">&lt;i&gt;</b>'
    assert element("b", Html("<i>x</i>"), data_v=1, hidden=True, class_=None) == (
        '<b data-v="1" hidden><i>x</i></b>'
    )


@pytest.mark.parametrize("count", [1, 6, 20])
def test_a_large_graph_stays_below_a_megabyte_and_says_what_it_left_out(
    reading: Reading, count: int
) -> None:
    (first, *_) = reading.estimate.nodes
    nodes = tuple(
        replace(first, name=f"convolution_{i}", module=f"encoder.stages.{i % 40}.block_{i}.conv")
        for i in range(6000)
    )
    curve = tuple((n.name, i * 1000) for i, n in enumerate(nodes))
    large = with_nodes(reading, nodes)
    memory = replace(reading.estimate.memory, curve=curve)
    large = replace(large, estimate=replace(large.estimate, memory=memory))
    page = inspect_page([large] * count)
    assert len(page.encode()) < MEGABYTE
    detailed = count if count <= 6 else 1
    assert page.count(f"The {1000 // detailed} longest of 6000 nodes") == detailed


def test_long_names_leave_less_room_for_rows(reading: Reading) -> None:
    (first, *_) = reading.estimate.nodes
    nodes = tuple(
        replace(first, name=f"{i}{'n' * 5000}", op=f"{i}{'o' * 5000}", module=f"m{i}.{'m' * 5000}")
        for i in range(1500)
    )
    page = inspect_page([with_nodes(reading, nodes)])
    assert len(page.encode()) < MEGABYTE
    assert re.search(r"The \d+ longest of 1500 nodes", page)


def test_boxes_of_a_treemap_fill_it_in_proportion() -> None:
    values = [6.0, 6.0, 4.0, 3.0, 2.0, 2.0, 1.0]
    boxes = squarify(values, 0, 0, 600, 400)
    assert [round(w * h) for _, _, w, h in boxes] == [round(v * 10_000) for v in values]
    assert max(max(w / h, h / w) for _, _, w, h in boxes) < 3
    assert all(x > -1e-9 and y > -1e-9 for x, y, _, _ in boxes)
    assert all(x + w < 600 + 1e-6 and y + h < 400 + 1e-6 for x, y, w, h in boxes)


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.html", "new")
    assert path.read_text() == "new"
    with pytest.raises(RidgelineError, match="cannot write"):
        write_text(tmp_path / "none" / "a.html", "x")
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["a.html"]


PROBE = """
<script>
addEventListener("error", event => document.body.setAttribute("data-error", event.message));
addEventListener("load", () => {
  const cell = document.querySelector(".treemap button[data-filter]");
  cell.click();
  const rows = [...document.querySelectorAll("#r1-nodes tbody tr")];
  document.querySelector("#r1-nodes th button").click();
  document.getElementById("theme").click();
  document.body.setAttribute("data-probe", [
    document.documentElement.scrollWidth, innerWidth,
    rows.filter(r => !r.hidden).length, rows.length,
    document.documentElement.dataset.theme, document.title,
  ].join("|"));
});
</script>
"""


@pytest.mark.parametrize("width", [400, 2000])
def test_a_browser_shows_it_without_errors_or_sideways_scrolling(
    reading: Reading, chromium: str, tmp_path: Path, width: int
) -> None:
    page = inspect_page([with_names(reading, EVIL)])
    probe, error = probed(page, PROBE, chromium, tmp_path, width)
    scroll, inner_width, shown, rows, theme, name = probe.split("|", 5)
    assert error == "undefined"
    assert int(scroll) <= int(inner_width) == width
    assert int(shown) >= 1
    assert int(rows) == 3
    assert theme in ("dark", "light")
    assert name.startswith("ridgeline inspect")


def test_control_characters_are_spelled_out() -> None:
    """ESC acts on the terminal of whoever prints the file, and no HTML may hold it."""
    made = element("p", "\x1b[31mred\x00\x9b", data_tip="a\x07b\nc")
    assert made == '<p data-tip="a\\x07b\nc">\\x1b[31mred\\x00\\x9b</p>'
