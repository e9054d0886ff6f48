"""Pipelines from who sends to whom: order, several side by side, schedules, bubbles to the ns."""

import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_schedules import TORCH, Run, run, table, write_run
from recordings import op, write

from ridgeline.traces.bubbles import PipelineStep, pipeline_steps
from ridgeline.traces.process_groups import process_groups
from ridgeline.traces.schedule import schedule_share
from ridgeline.traces.trace import trace

PLAIN = ("GPipe", "1F1B")


def steps_in(folder: Path) -> tuple[PipelineStep, ...]:
    return pipeline_steps(trace([folder]).ranks)


def require_bubbles(step: PipelineStep, made: Run, ranks: Sequence[int]) -> None:
    """Every stretch in which a rank stands still is found, and nothing else."""
    assert [one.rank for one in step.stages] == list(ranks)
    assert step.span_ns == 1000 * made.span_us
    for place in range(len(ranks)):
        mine = [one for one in step.bubbles if one.stage == place]
        found = [(one.start_ns, one.start_ns + one.duration_ns) for one in mine]
        assert found == [(1000 * a, 1000 * b) for a, b in made.idle_us(place)]
        assert step.stages[place].other_ns == 0
    assert step.bubble_share == pytest.approx(made.idle_share, abs=1e-12)


@st.composite
def runs(draw: st.DrawFn) -> tuple[str, int, int, int, Run]:
    """A schedule of torch with stages as uneven as may be."""
    kind = draw(st.sampled_from(sorted(TORCH)))
    num_ranks = draw(st.integers(2, 4))
    num_virtual = 1 if kind in PLAIN else 2
    num_microbatches = num_ranks * draw(st.integers(1, 3))
    seed = draw(st.integers(0, 10**6))
    rng = random.Random(seed)
    spent = {(s, w): 1000 * rng.randint(1, 5) for s in range(8) for w in "FBIW"}
    ranks = table(kind, num_ranks, num_virtual, num_microbatches)
    made = run(ranks, lambda stage, work: spent[stage, work])
    return kind, num_ranks, num_virtual, num_microbatches, made


@settings(max_examples=60)
@given(drawn=runs(), seed=st.integers(0, 99))
def test_the_bubbles_of_any_schedule_come_back_exactly(
    drawn: tuple[str, int, int, int, Run], seed: int
) -> None:
    kind, num_ranks, num_virtual, num_microbatches, made = drawn
    ranks = random.Random(seed).sample(range(num_ranks), num_ranks)
    with TemporaryDirectory() as folder:
        write_run(Path(folder), made, ranks, is_marked=True)
        (step,) = steps_in(Path(folder))
    require_bubbles(step, made, ranks)
    assert step.schedule is not None
    assert step.schedule.num_virtual == num_virtual
    assert step.schedule.num_microbatches == num_microbatches
    assert step.schedule.uneven_share == pytest.approx(made.idle_share, abs=1e-12)
    assert step.schedule.kind.value == kind


@pytest.mark.parametrize("kind", ["GPipe", "1F1B", "interleaved 1F1B"])
@pytest.mark.parametrize("is_marked", [True, False])
@pytest.mark.parametrize(("p", "m"), [(3, 6), (4, 8)])
def test_equal_stages_cost_what_the_formula_says(
    tmp_path: Path, kind: str, is_marked: bool, p: int, m: int
) -> None:
    v = 1 if kind in PLAIN else 2
    made = run(table(kind, p, v, m), lambda _, work: {"F": 1000, "B": 2000}[work])
    write_run(tmp_path, made, range(p), is_marked=is_marked)
    (step,) = steps_in(tmp_path)
    assert step.schedule is not None
    assert step.schedule.kind.value == kind
    assert (step.schedule.num_virtual, step.schedule.num_microbatches) == (v, m)
    assert step.schedule.share == pytest.approx(schedule_share(p, m, v), abs=1e-12)
    assert step.bubble_share == pytest.approx((p - 1) / (v * m + p - 1), abs=1e-12)


def test_a_zero_bubble_schedule_costs_less_than_its_plain_kin(tmp_path: Path) -> None:
    """With F = I = W torch's leaves (p-1) F of 1F1B's (p-1)(F+I+W), Qi et al., 2023, section 2."""
    p, m = 4, 8
    made = run(table("zero bubble", p, 1, m), lambda stage, work: 1000)
    write_run(tmp_path, made, range(p), is_marked=True)
    (step,) = steps_in(tmp_path)
    assert step.schedule is not None
    assert step.schedule.share == pytest.approx(made.idle_share, abs=1e-12)
    assert made.idle_share == pytest.approx((p - 1) / (3 * m + p - 1), abs=1e-12)
    assert step.schedule.share < schedule_share(p, m) / 2


def test_pipelines_side_by_side_have_a_share_each(tmp_path: Path) -> None:
    """Data parallel: ranks 0, 2 and 1, 3 are pipelines of their own; peers are places in groups,
    so that what rank 1 calls 1 is rank 3."""
    fast = run(table("1F1B", 2, 1, 4), lambda stage, work: 1000)
    slow = run(table("1F1B", 2, 1, 4), lambda stage, work: 1000 * (1 + 2 * stage))
    write_run(tmp_path, fast, [0, 2], is_marked=False, is_grouped=True)
    write_run(tmp_path, slow, [1, 3], is_marked=False, is_grouped=True)
    first, second = steps_in(tmp_path)
    assert (first.pipeline, second.pipeline) == (0, 1)
    require_bubbles(first, fast, [0, 2])
    require_bubbles(second, slow, [1, 3])
    assert first.bubble_share < second.bubble_share
    peers = {one.rank: one.peer for one in second.bubbles if one.peer is not None}
    assert peers in ({1: 3, 3: 1}, {1: 3})
    for step in (first, second):
        assert step.schedule is not None
        assert (step.schedule.num_ranks, step.schedule.num_microbatches) == (2, 4)


def test_ranks_that_pass_around_a_ring_are_no_pipeline(tmp_path: Path) -> None:
    """Ring attention: every rank sends what it has before it receives."""
    for rank in range(3):
        events = []
        for turn in range(4):
            at = 100.0 * turn
            after, before = str((rank + 1) % 3), str((rank - 1) % 3)
            events += [
                op("aten::work", at, 80),
                op("c10d::send", at + 80, 0.1, Concrete_Inputs=["", "", after, "0"]),
                op("gloo:send", at + 80, 1) | {"cat": "user_annotation"},
                op("c10d::recv_", at + 82, 0.1, Concrete_Inputs=["", "", before, "0"]),
                op("gloo:recv", at + 82, 15) | {"cat": "user_annotation"},
            ]
        write(tmp_path / f"rank-{rank}.json", events, distributedInfo={"rank": rank})
    assert steps_in(tmp_path) == ()


def test_a_part_of_a_pipeline_has_bubbles_and_no_schedule(tmp_path: Path) -> None:
    made = run(table("1F1B", 4, 1, 8), lambda stage, work: 1000)
    write_run(tmp_path, made, range(4), is_marked=False)
    for rank in (2, 3):
        (tmp_path / f"rank-{rank}.json").unlink()
    (step,) = steps_in(tmp_path)
    assert [one.rank for one in step.stages] == [0, 1]
    assert step.bubbles
    assert step.schedule is None


def test_marks_that_do_not_fit_together_count_for_nothing(tmp_path: Path) -> None:
    """One stage is misnamed; the transfers still say what ran."""
    made = run(table("1F1B", 3, 1, 6), lambda stage, work: 1000)
    write_run(tmp_path, made, range(3), is_marked=True)
    path = tmp_path / "rank-1.json"
    path.write_text(path.read_text().replace("PP:1F3", "PP:9F3"))
    (step,) = steps_in(tmp_path)
    assert step.schedule is not None
    assert step.schedule.uneven_share is None
    assert step.schedule.share == pytest.approx(schedule_share(3, 6), abs=1e-12)


def test_groups_in_a_header_that_are_none() -> None:
    assert process_groups({"pg_config": [{"ranks": [0, "1"]}, 7, {"ranks": [3, 1]}]}) == ((3, 1),)
    assert process_groups({"pg_config": "world"}) == ()
