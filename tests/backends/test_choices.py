"""What an earlier race tells the next one, and what it does not."""

import datetime
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ridgeline
from ridgeline.backends.backend import Backend, Dtype, Runnable, Setting
from ridgeline.backends.choices import Choices, Outcome, Past, key_of
from ridgeline.backends.choose import optimize
from ridgeline.backends.eager import Eager
from ridgeline.backends.result import Candidate
from ridgeline.graph import Graph

X = torch.randn(2, 8)
SLOW_LAYERS = 400


class Slow(Eager):
    """Computes the same many times over."""

    name = "slow"

    def build(self, graph: Graph, setting: Setting) -> Runnable:
        """The eager callable, with work before it."""
        run = super().build(graph, setting)

        def late(*inputs: Tensor) -> tuple[Tensor, ...]:
            for _ in range(SLOW_LAYERS):
                run(*inputs)
            return run(*inputs)

        return late


PAIRS: list[tuple[type[Backend], Dtype]] = [(Eager, "fp32"), (Slow, "fp32"), (Eager, "bf16")]


def graph_of(model: nn.Module | None = None) -> Graph:
    return ridgeline.capture(model or nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval(), (X,))


DAY = datetime.date(2026, 1, 2)


def outcome(*past: Past) -> Outcome:
    return Outcome(DAY, past)


def test_the_slower_of_a_dtype_are_refused_with_times_and_a_way_out() -> None:
    before = outcome(
        Past("eager", "fp32", 0.001), Past("slow", "fp32", 0.4), Past("eager", "bf16", 0.9)
    )
    first, second, third = before.refusals(PAIRS)
    assert (first, third) == (None, None)
    assert second == "slower on 2026-01-02: 400 ms, eager 1.00 ms; --fresh tries it again"


def test_the_close_and_the_unknown_are_tried() -> None:
    before = outcome(Past("eager", "fp32", 1.0), Past("slow", "fp32", 1.09))
    assert before.refusals(PAIRS) == [None, None, None]


def test_a_second_run_spares_what_was_slower(tmp_path: Path) -> None:
    choices, graph = Choices(tmp_path / "choices"), graph_of()

    def run(*, is_fresh: bool = False) -> dict[str, str | None]:
        found = optimize(
            graph,
            (X,),
            dtypes=("fp32",),
            backends=(Eager, Slow),
            repeats=2,
            choices=choices,
            is_fresh=is_fresh,
        )
        assert found.best.backend == "eager"
        assert found.best.max_error is not None
        return {c.backend: c.skipped for c in found.candidates}

    assert run() == {"eager": None, "slow": None}
    for _ in range(2):  # nothing is forgotten by a run that did not try it
        again = run()
        assert again["eager"] is None
        assert str(again["slow"]).startswith("slower on ")
    assert run(is_fresh=True) == {"eager": None, "slow": None}


def test_where_the_winner_is_gone_all_are_raced_again(tmp_path: Path) -> None:
    choices, graph = Choices(tmp_path), graph_of()
    given = {"dtypes": ("fp32",), "backends": (Eager, Slow), "repeats": 2, "choices": choices}
    optimize(graph, (X,), **given)  # type: ignore[arg-type]
    (file,) = tmp_path.glob("*.json")
    kept = file.read_text()
    assert '"eager"' in kept
    # as if another one, which does not run now, had beaten both
    file.write_text(kept.replace('"ran":[', '"ran":[{"backend":"x","dtype":"fp32","time_s":1e-9},'))
    found = optimize(graph, (X,), **given)  # type: ignore[arg-type]
    assert found.best.backend == "eager"
    assert all(c.skipped is None for c in found.candidates)


NO_OUTCOMES = {
    "empty": b"",
    "torn": b"{",
    "another kind": b"[1]",
    "no date": b'{"date": 3}',
    "no text": b"\xff\xfe",
    "no text within": b'{"date":"\xff","ran":[]}',
    "no time": b'{"date":"2026-01-02","ran":[{"backend":"x","dtype":"fp32","time_s":-1}]}',
}


@pytest.mark.parametrize("content", NO_OUTCOMES.values(), ids=NO_OUTCOMES)
def test_a_file_that_is_none_of_ours_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    choices = Choices(tmp_path)
    (tmp_path / "key.json").write_bytes(content)
    assert choices.recall("key") is None


def test_where_nothing_can_be_kept_nothing_happens(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    Choices(file).keep("key", [Candidate(backend="eager", dtype="fp32", time_s=1.0)], None)
    assert Choices(file).recall("key") is None


def test_an_old_outcome_counts_no_more(tmp_path: Path) -> None:
    choices, today = Choices(tmp_path), datetime.date.today()
    for days, is_known in ((30, True), (31, False)):
        before = Outcome(today - datetime.timedelta(days=days), ())
        choices.keep("key", [Candidate(backend="eager", dtype="fp32", time_s=1.0)], before)
        assert (choices.recall("key") is not None) is is_known


def test_a_user_without_a_home_has_no_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert Choices.of_user() is None


def test_an_outcome_holds_while_the_fastest_of_every_dtype_runs() -> None:
    before = outcome(Past("a", "fp32", 1.0), Past("b", "fp32", 2.0), Past("a", "bf16", 0.5))
    spared = Candidate(backend="b", dtype="fp32", skipped="slower on 2026-01-02: …")
    fast, low = Candidate(backend="a", dtype="fp32"), Candidate(backend="a", dtype="bf16")
    assert before.holds([fast, spared, low])
    assert before.holds([fast, spared, replace(low, skipped="cannot win: the roofline …")])
    assert not before.holds([replace(fast, skipped="timed out"), spared, low])
    assert not before.holds([fast, spared])


def test_one_that_fails_now_loses_its_time(tmp_path: Path) -> None:
    choices, today = Choices(tmp_path), datetime.date.today()
    before = Outcome(today, (Past("a", "fp32", 1.0), Past("b", "fp32", 2.0)))
    failed = Candidate(backend="a", dtype="fp32", skipped="timed out")
    spared = Candidate(backend="b", dtype="fp32", skipped="slower on …")
    choices.keep("key", [failed, spared], before)
    kept = choices.recall("key")
    assert kept is not None
    assert kept.ran == (Past("b", "fp32", 2.0),)


def test_what_did_not_run_is_not_kept(tmp_path: Path) -> None:
    choices = Choices(tmp_path)
    ran = Candidate(backend="eager", dtype="fp32", time_s=1.0)
    choices.keep("key", [ran, replace(ran, backend="bad", skipped="wrong")], None)
    kept = choices.recall("key")
    assert kept is not None
    assert kept.ran == (Past("eager", "fp32", 1.0),)


def test_the_key_depends_on_all_that_decides() -> None:
    graph, pairs = graph_of(), PAIRS
    key = key_of(graph, pairs, 2, "")
    assert key == key_of(graph_of(), pairs, 2, "")
    other = graph_of(nn.Sequential(nn.Linear(8, 8), nn.GELU()).eval())
    keys = {
        key,
        key_of(other, pairs, 2, ""),
        key_of(graph, pairs[:1], 2, ""),
        key_of(graph, pairs, 1, ""),
        key_of(graph, pairs, 2, "tolerance 0.1"),
    }
    assert len(keys) == 5


def test_a_mixture_keeps_its_two_in_the_race() -> None:
    ran = [Past("eager+slow", "fp32", 0.001), Past("eager", "fp32", 0.002)]
    before = outcome(*ran, Past("slow", "fp32", 0.4))
    assert before.refusals(PAIRS) == [None, None, None]
    assert before.was_close("eager+slow", "fp32")
    assert not before.was_close("eager+slow", "bf16")
    lost = outcome(Past("eager", "fp32", 0.001), Past("eager+slow", "fp32", 0.002))
    assert not lost.was_close("eager+slow", "fp32")
    assert not lost.was_close("never tried", "fp32")
