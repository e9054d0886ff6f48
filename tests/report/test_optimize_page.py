"""The page of `optimize`: verdict, bars, candidates, diffs; escaped, small, whole in a browser."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from report_helpers import measured, probed
from torch import nn

from ridgeline.backends.result import Optimized
from ridgeline.frontends import capture
from ridgeline.machines import Machine
from ridgeline.passes.manager import run_passes
from ridgeline.report.optimize_html import optimize_page

EVIL = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&"


def result(machine_name: str = "this") -> Optimized:
    """A convolution and its norm, folded into one; times as if measured."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()).eval()
    graph = capture(model, (torch.randn(1, 3, 8, 8),), name="net", is_trusted=True)
    steps = run_passes(graph, skip=["canonicalise"])
    return measured(
        steps[-1].graph, steps, machine=machine_name, files={"package.pt2": b"x" * 2048}
    )


def rows_of(page: str, section: str) -> list[list[str]]:
    """The cells of the table in the section of that id."""
    body = page.split(f'id="{section}"')[1].split("</section>")[0]
    return [
        re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", body)[1:]
    ]


def test_the_verdict_comes_first(machine: Machine) -> None:
    page = optimize_page(result(), machine)
    verdict = (
        "net runs in 2.00 ms with aoti bf16: 4.00x eager, 50% of the achievable roofline; "
        "outputs within 0.003 of the reference."
    )
    assert verdict in page
    assert page.index(verdict) < page.index("<main>")


def test_bars_are_measured_and_marks_predicted_on_one_scale() -> None:
    page = optimize_page(result())
    bars = page.split('class="bars steps"')[1].split("</section>")[0]
    assert re.findall(r'class="fill" style="width:([\d.]+)%', bars) == ["100.00", "25.00"]
    assert re.findall(r'class="tick" style="left:([\d.]+)%', bars) == ["50.00", "37.50", "12.50"]
    assert re.findall(r"<span>([-+]\d+%|–)</span></div>", bars) == ["-50%", "+50%", "–"]
    assert "4.00x eager, measured" in bars


def test_every_candidate_has_its_row_and_its_reason() -> None:
    rows = rows_of(optimize_page(result()), "run-candidates")
    assert rows[0] == [
        "aoti", "bf16", "chosen", "2.00 ms", "4.00", "100 µs", "9 of 10", "3.1e-03", "1.000000",
        "100%",
    ]  # fmt: skip
    assert [row[2] for row in rows[1:]] == ["baseline", "skipped: crashed: SIGSEGV"]
    assert rows[2][3:6] == ["–", "–", "–"]


def test_every_pass_says_what_it_did_and_shows_its_diff() -> None:
    page = optimize_page(result())
    rows = {row[0]: row[1:] for row in rows_of(page, "run-passes")}
    assert rows["canonicalise"][2] == "left out, as asked"
    before, after, effect = rows["fold_batch_norm"]
    assert int(after) < int(before)
    assert re.fullmatch(r"\d+ lines of the graph replaced by \d+", effect)
    changed = [step.name for step in result().passes if step.diff]
    assert changed[-1] == "fold_batch_norm"
    assert page.count("<details>") == len(changed)
    assert 'class="removed">-' in page
    assert 'class="added">+' in page


def test_with_a_machine_the_graph_has_its_roofline_and_without_it_does_not(
    machine: Machine,
) -> None:
    ids = ('id="run-roofline"', 'id="run-treemap"', 'id="run-nodes"')
    page = optimize_page(result(), machine)
    assert all(name in page for name in ids)
    page = optimize_page(result())
    assert not any(name in page for name in ids)
    assert "no machine: this one is not calibrated" in page


def test_a_page_refers_to_nothing_outside_and_names_cannot_break_out(machine: Machine) -> None:
    evil = result()
    lost = replace(evil.candidates[0], skipped=EVIL, backend=EVIL)
    step = replace(evil.passes[-1], name=EVIL, diff=f"+{EVIL}\n-{EVIL}")
    page = optimize_page(
        replace(evil, candidates=(lost, evil.best), passes=(*evil.passes, step)), machine
    )
    assert EVIL not in page
    assert page.count("<script>") == 1
    assert "<img" not in page
    for outside in ("http://", "https://", "@import", "<link", "src="):
        assert outside not in page.replace("&lt;img src=x", "")


def test_long_diffs_stay_below_a_megabyte_and_say_what_is_left_out() -> None:
    long = result()
    diff = "\n".join(f'+ "line" {i} {"<" * 400}' for i in range(20_000))
    steps = tuple(replace(step, diff=diff) for step in long.passes)
    page = optimize_page(replace(long, passes=steps))
    assert len(page.encode()) < 1_000_000
    assert len(re.findall(r"[\d,]+ more lines\.", page)) == len(steps)


def test_noise_is_told_first() -> None:
    quiet = result()
    noisy = replace(quiet, baseline=replace(quiet.baseline, clean_samples=1))
    assert "Other programs use this machine" not in optimize_page(quiet)
    assert '<p class="note">Other programs use this machine' in optimize_page(noisy)


PROBE = """
<script>
addEventListener("error", event => document.body.setAttribute("data-error", event.message));
addEventListener("load", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
  document.querySelector("#run-candidates th button").click();
  document.body.setAttribute("data-probe", document.documentElement.scrollWidth);
});
</script>
"""


@pytest.mark.parametrize("width", [400, 2000])
def test_a_browser_shows_it_without_errors_or_sideways_scrolling(
    machine: Machine, chromium: str, tmp_path: Path, width: int
) -> None:
    page = optimize_page(result(), machine)
    scroll_width, error = probed(page, PROBE, chromium, tmp_path, width)
    assert error == "undefined"
    assert int(scroll_width) <= width
