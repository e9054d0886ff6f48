"""Bubbles of a pipeline: those of a schedule written out by hand, and of a real run."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from recordings import Event, op, write

from ridgeline.errors import TraceError
from ridgeline.traces.bubbles import Phase, PipelineStep, pipeline_steps
from ridgeline.traces.schedule import schedule_share
from ridgeline.traces.trace import trace

FORWARD_US, BACKWARD_US = 100, 200
RUN = Path(__file__).with_name("pipeline_run.py")
TRIES = 4


def annotation(name: str, start_us: float, dur_us: float) -> Event:
    return op(name, start_us, dur_us) | {"cat": "user_annotation"}


def transfer(way: str, peer: int, start_us: float, end_us: float) -> list[Event]:
    """A send or receive from when it is asked for to when it is complete."""
    name = {"send": "c10d::send", "recv": "c10d::recv_"}[way]
    around = op(name, start_us, 0.2, Concrete_Inputs=["", "", str(peer), "0"])
    return [around, annotation(f"gloo:{way}", start_us + 0.1, end_us - start_us - 0.1)]


def gpipe(num_stages: int, num_microbatches: int) -> list[list[Event]]:
    """The events of every stage: all forwards, then all backwards; links take no time."""
    p, m = num_stages, num_microbatches
    turn = (m + p - 1) * FORWARD_US  # when the last stage is done with all forwards
    stages = []
    for stage in range(p):
        events = [annotation("ProfilerStep#0", 0, turn + (m + p - 1) * BACKWARD_US)]
        forward = [(stage + i) * FORWARD_US for i in range(m)]
        backward = [turn + (p - 1 - stage + i) * BACKWARD_US for i in range(m)]
        asked_us = 0.0
        for starts, dur_us, source, target in (
            (forward, FORWARD_US, stage - 1, stage + 1),
            (backward, BACKWARD_US, stage + 1, stage - 1),
        ):
            for start_us in starts:
                if 0 <= source < p:
                    events += transfer("recv", source, asked_us, start_us + 0.5)
                events.append(op("aten::work", start_us, dur_us))
                asked_us = start_us + dur_us
                if 0 <= target < p:
                    events += transfer("send", target, asked_us, asked_us + 0.2)
        stages.append(events)
    return stages


def steps_of(folder: Path, stages: list[list[Event]]) -> tuple[PipelineStep, ...]:
    for rank, events in enumerate(stages):
        write(folder / f"rank-{rank}.json", events, distributedInfo={"rank": rank})
    return pipeline_steps(trace([folder]).ranks)


@pytest.mark.parametrize(("p", "m"), [(2, 4), (4, 8), (3, 5)])
def test_a_schedule_gives_back_its_bubbles(tmp_path: Path, p: int, m: int) -> None:
    (step,) = steps_of(tmp_path, gpipe(p, m))
    assert step.schedule is not None
    assert step.schedule.num_microbatches == m
    assert step.span_ns == 1000 * (m + p - 1) * (FORWARD_US + BACKWARD_US)
    assert step.schedule.share == pytest.approx((p - 1) / (m + p - 1))
    assert step.bubble_share == pytest.approx((p - 1) / (m + p - 1), rel=0.02)
    for stage in step.stages:
        assert stage.compute_ns + stage.bubble_ns + stage.other_ns == step.span_ns
    drains = {one.stage: one.duration_ns for one in step.bubbles if one.phase is Phase.DRAIN}
    assert drains == {stage: 1000 * stage * BACKWARD_US for stage in range(1, p)}
    warm_ups = {one.stage: one.duration_ns for one in step.bubbles if one.phase is Phase.WARM_UP}
    assert warm_ups == {stage: 1000 * stage * FORWARD_US for stage in range(1, p)}


def test_a_bubble_names_the_rank_that_is_waited_for(tmp_path: Path) -> None:
    (step,) = steps_of(tmp_path, gpipe(2, 4))
    (steady,) = (one for one in step.bubbles if one.phase is Phase.STEADY)
    assert (steady.rank, steady.peer) == (0, 1)
    assert steady.start_ns == 1000 * 4 * FORWARD_US


def test_own_time_is_no_bubble(tmp_path: Path) -> None:
    """Where a stage stands still without waiting for another, no schedule asked for it."""
    stages = gpipe(2, 4)
    last = max(stages[0], key=lambda event: float(str(event["ts"])))
    stages[0].append(op("aten::work", float(str(last["ts"])) + 600, 100))
    stages[0][0] = annotation("ProfilerStep#0", 0, 5000)
    (step,) = steps_of(tmp_path, stages)
    assert step.stages[0].other_ns > 350_000


def test_one_rank_is_no_pipeline(tmp_path: Path) -> None:
    assert steps_of(tmp_path, gpipe(2, 4)[:1]) == ()


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(TraceError, match="no pipeline has 0 stages"):
        schedule_share(0, 4)


@pytest.mark.slow
def test_a_real_run_shows_its_bubbles_where_the_schedule_puts_them(tmp_path: Path) -> None:
    """1F1B: stage s waits s forwards first, (p-1-s) forwards and backwards in between, and s
    backwards at the end; together (p-1)/(m+p-1) of the step."""
    for attempt in range(TRIES):  # on a busy machine a sleep takes as long as others let it
        folder = tmp_path / str(attempt)
        folder.mkdir()
        subprocess.run(
            [sys.executable, str(RUN), str(folder), "8"], check=True, capture_output=True
        )
        try:
            return _check_schedule(pipeline_steps(trace([folder]).ranks))
        except AssertionError:
            if attempt == TRIES - 1:
                raise


def _check_schedule(steps: Sequence[PipelineStep]) -> None:
    from pipeline_run import BACKWARD_S, FORWARD_S, NUM_STAGES, NUM_STEPS

    assert len(steps) == NUM_STEPS
    for step in steps:
        assert step.schedule is not None
        assert step.schedule.num_microbatches == 8
        assert step.bubble_share == pytest.approx(3 / 11, rel=0.1)
        for stage in range(NUM_STAGES):
            spent = dict.fromkeys(Phase, 0.0)
            for one in step.bubbles:
                if one.stage == stage:
                    spent[one.phase] += one.duration_ns * 1e-9
            slack_s = 0.25 * (FORWARD_S + BACKWARD_S)
            rest_s = (NUM_STAGES - 1 - stage) * (FORWARD_S + BACKWARD_S)
            assert spent[Phase.WARM_UP] == pytest.approx(stage * FORWARD_S, abs=slack_s)
            assert spent[Phase.STEADY] == pytest.approx(rest_s, abs=slack_s + 0.1 * rest_s)
            assert spent[Phase.DRAIN] == pytest.approx(stage * BACKWARD_S, abs=slack_s)
