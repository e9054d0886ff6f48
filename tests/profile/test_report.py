"""The reports of a profile: terminal, JSON, page; and the command."""

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from ridgeline import machines
from ridgeline.cli.main import run as run_command
from ridgeline.frontends import capture
from ridgeline.machines import to_toml
from ridgeline.profile import Profile, breakdown, measure
from ridgeline.report.profile import print_profile, split
from ridgeline.report.profile_html import profile_page
from ridgeline.report.profile_record import record
from ridgeline.report.profile_words import missing, notes, signed_time, verdict

TOTALS = (
    "measured_s whole_s spread_s num_samples num_clean predicted_s error median_absolute_error "
    "nodes_sum_s coverage glue_s release_s state_s interruptions_s unexplained_s roofline_s "
    "achievable_fraction datasheet_fraction flops moved_bytes achieved_flops_per_s "
    "achieved_bytes_per_s peak_memory_bytes predicted_peak_memory_bytes is_lower_bound"
).split()
NODE = (
    "name op module measured_s spread_s predicted_s error achieved_flops_per_s "
    "achieved_bytes_per_s share bound dtype num_samples num_clean achievable_fraction "
    "datasheet_fraction"
).split()


class Odd(nn.Module):
    """A module whose path would break a careless page."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("<script>alert(1)</script>", nn.Linear(32, 64))
        self.act = nn.GELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.get_submodule("<script>alert(1)</script>")
        found: torch.Tensor = self.act(inner(x))
        return found


@pytest.fixture
def profile() -> Profile:
    graph = capture(Odd().eval(), (torch.randn(16, 32),))
    return breakdown(graph, measure(graph, repeats=3), machines.load("cpu-epyc-9654"))


def undisturbed(profile: Profile, *, nodes_share: float) -> Profile:
    """The profile as if the nodes took this share of a whole that nobody disturbed, and Python a
    fifth of it.
    """
    run = profile.run
    whole_s = run.nodes_s / nodes_share
    whole = replace(run.whole, time_s=whole_s, num_clean=run.whole.num_samples)
    run = replace(run, whole=whole, glue_s=0.2 * whole_s, release_s=0.0, state_s=0.0)
    return replace(profile, run=run)


def test_the_verdict_comes_first_and_names_time_share_and_loss(profile: Profile) -> None:
    text = verdict(profile)
    assert re.match(
        r"Odd takes [\d.]+ .?s, [\d.]+% of the achievable roofline \([\d.]+ .?s\); "
        r"the largest loss is [\d.]+ .?s: ",
        text,
    )
    assert text.endswith(profile.gaps[0].what)
    out = io.StringIO()
    print_profile(out, profile, top=5)
    assert out.getvalue().startswith(text)


def test_the_terminal_has_every_part_and_no_escape(profile: Profile) -> None:
    out = io.StringIO()
    print_profile(out, profile, top=5)
    text = out.getvalue()
    for part in ("measured", "By op kind", "Longest nodes", "at the roofline", "together"):
        assert part in text
    assert "\x1b" not in text


def test_a_sum_that_falls_short_says_what_is_missing(profile: Profile) -> None:
    complete = undisturbed(profile, nodes_share=0.95)
    assert missing(complete) == ""
    short = undisturbed(profile, nodes_share=0.5)
    text = missing(short)
    assert text.startswith("The nodes add up to ")
    assert "less than the whole program" in text
    assert "Python between the nodes" in text
    assert text in notes(short)
    assert "more than the whole program" in missing(undisturbed(profile, nodes_share=1.5))


def test_a_busy_machine_is_said(profile: Profile) -> None:
    run = profile.run
    busy = replace(
        run,
        whole=replace(run.whole, time_s=9 * run.parts_s, num_clean=0),
        stepped=replace(run.stepped, time_s=8 * run.parts_s),
    )
    assert any("A busy machine" in note for note in notes(replace(profile, run=busy)))
    assert not any("A busy machine" in n for n in notes(undisturbed(profile, nodes_share=1.0)))


def test_other_thread_counts_than_calibrated_are_said(profile: Profile) -> None:
    threads = profile.run.num_threads
    this = replace(profile.machine, id="this", num_units=threads + 1)
    assert any("calibrated with" in n for n in notes(replace(profile, machine=this)))
    same = replace(this, num_units=threads)
    assert not any("calibrated with" in n for n in notes(replace(profile, machine=same)))


def test_split_keeps_the_largest_amounts(profile: Profile) -> None:
    gaps = [replace(profile.gaps[0], what=str(t), time_s=t) for t in (5.0, 2.0, 1.0, -3.0)]
    shown, rest = split(gaps, 2)
    assert [g.time_s for g in shown] == [5.0, -3.0]
    assert [g.time_s for g in rest] == [2.0, 1.0]


def test_signs_are_kept() -> None:
    assert signed_time(-0.0012) == "-1.20 ms"
    assert signed_time(0.0012) == "1.20 ms"


def test_the_record_has_its_stable_keys(profile: Profile) -> None:
    found = record(profile)
    for key in ("schema", "verdict", "machine", "threads", "gaps", "memory", "ops", "notes"):
        assert key in found
    totals, nodes, gaps = found["totals"], found["nodes"], found["gaps"]
    assert isinstance(totals, dict)
    assert isinstance(nodes, list)
    assert isinstance(gaps, list)
    assert list(totals) == TOTALS
    assert [n["name"] for n in nodes] == ["linear", "gelu"]
    assert all(set(NODE) <= set(n) for n in nodes)
    assert all(set(g) == {"what", "time_s", "kind", "nodes"} for g in gaps)
    between_s = totals["measured_s"] - totals["roofline_s"]
    assert sum(g["time_s"] for g in gaps) == pytest.approx(between_s)
    assert totals["error"] == pytest.approx(totals["predicted_s"] / totals["measured_s"] - 1)
    assert totals["flops"] == 2 * 16 * 32 * 64


def test_the_page_is_whole_offline_and_escaped(profile: Profile) -> None:
    page = profile_page(profile)
    assert page.startswith("<!doctype html>")
    assert len(page) < 1_000_000
    assert "<script>alert(1)" not in page
    assert not re.search(r"(?:src|href)=[\"'](?:https?:)?//", page)
    for part in ("run-gaps", "run-roofline", "run-memory", "run-ops", "run-nodes", "definitions"):
        assert f'id="{part}"' in page
    widths = [float(w) for w in re.findall(r"left:[\d.]+%;width:([\d.]+)%", page)]
    assert len(widths) == len(profile.gaps) + 2
    assert all(0 <= w <= 100 for w in widths)


@pytest.fixture
def machine_file(tmp_path: Path) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(machines.load("cpu-epyc-9654")), encoding="utf-8")
    return str(path)


def test_the_command(machine_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "report.html"
    line = ["profile", "zoo:deepadipose", "--machine", machine_file, "--threads", "1"]
    threads = torch.get_num_threads()
    assert run_command([*line, "--repeats", "2", "--json", "--html", str(page)]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["target"], found["threads"], found["repeats"]) == ("deepadipose", 1, 2)
    assert str(page) in err
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert torch.get_num_threads() == threads
    assert run_command([*line, "--repeats", "2", "--dtype", "bf16", "--batch", "4"]) == 0
    out, _ = capsys.readouterr()
    assert out.startswith("deepadipose takes ")
    assert "bf16" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["zoo:deepadipose"], "not calibrated yet"),
        (["zoo:deepadipose", "--machine", "nothing-like-it"], "no machine 'nothing-like-it'"),
        (["zoo:nothing"], "not calibrated yet"),
        (["zoo:nothing", "--machine", "H100"], "zoo has no"),
        (["zoo:deepadipose", "--machine", "H100", "--threads", "0"], "threads"),
        (["zoo:deepadipose", "--machine", "H100", "--phase", "train"], "train"),
        (["zoo:deepadipose", "--machine", "H100", "--batch", "0"], "--batch is 0"),
    ],
)
def test_bad_input_is_one_sentence_and_two(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["profile", *options]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""
    assert "Traceback" not in err


def test_help_loads_no_torch() -> None:
    code = (
        "import sys\nfrom ridgeline.cli.main import run\n"
        "run(['profile', '--help'])\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
