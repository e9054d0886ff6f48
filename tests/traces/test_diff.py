"""Two recordings side by side: parts make up spans, work is made equal, matching is by name."""

from pathlib import Path

import pytest
from recordings import Event, call, kernel, op, training, write

from ridgeline.traces.diff import Basis, Difference, diff
from ridgeline.traces.kineto import read_kineto
from ridgeline.traces.rank import RankTrace, analyse


def rank(folder: Path, name: str, events: list[Event]) -> RankTrace:
    return analyse(read_kineto(write(folder / f"{name}.json", events), keeps_python=True))


def runs(count: int, kernel_us: float, gap_us: float, name: str = "sgemm") -> list[Event]:
    """`count` products, each after a wait for its launch, and no steps."""
    events = []
    for i in range(count):
        at = 10 + (kernel_us + gap_us) * i
        events += [op("aten::mm", at - 3, 3), call("cudaLaunchKernel", at - 2, 1, i + 1)]
        events.append(kernel(name, at, kernel_us, i + 1))
    return events


def check_sums(found: Difference) -> None:
    before = sum(part.before_ns for part in found.categories)
    after = sum(part.after_ns for part in found.categories)
    assert before == pytest.approx(found.before_ns)
    assert after == pytest.approx(found.after_ns)


def test_the_same_recording_does_not_differ(tmp_path: Path) -> None:
    one = rank(tmp_path, "a", training())
    found = diff(one, one)
    assert found.slowdown == 0
    assert found.work_ratio == 1
    assert all(part.change_ns == 0 for part in (*found.categories, *found.operators))
    check_sums(found)


def test_steps_make_the_work_equal(tmp_path: Path) -> None:
    found = diff(
        rank(tmp_path, "a", training(num_steps=2)), rank(tmp_path, "b", training(num_steps=4))
    )
    assert (found.basis, found.work_ratio) == (Basis.STEPS, 2.0)
    assert (found.before_ns, found.after_ns) == (340_000, 370_000)
    check_sums(found)


def test_without_steps_the_number_of_runs_does(tmp_path: Path) -> None:
    before = rank(tmp_path, "a", runs(10, kernel_us=40, gap_us=10))
    after = rank(tmp_path, "b", runs(5, kernel_us=40, gap_us=60))
    found = diff(before, after)
    assert (found.basis, found.work_ratio) == (Basis.CALLS, 0.5)
    assert found.after_ns == 2 * (5 * 100 - 60) * 1000
    (mm,) = found.operators
    assert (mm.op, mm.before_count, mm.after_count) == ("aten::mm", 10, 10)
    assert mm.change_ns == 0
    assert found.categories[0].what == "idle: host-bound launch"
    assert found.categories[0].change_ns == found.after_ns - found.before_ns
    check_sums(found)


def test_as_recorded_leaves_the_spans(tmp_path: Path) -> None:
    before = rank(tmp_path, "a", runs(10, kernel_us=40, gap_us=10))
    after = rank(tmp_path, "b", runs(5, kernel_us=40, gap_us=10))
    found = diff(before, after, is_as_recorded=True)
    assert (found.work_ratio, found.basis) == (1.0, Basis.RECORDED)
    assert found.after_ns == 240_000
    check_sums(found)


def test_an_operator_is_matched_though_its_kernel_is_another(tmp_path: Path) -> None:
    before = rank(tmp_path, "a", runs(10, kernel_us=40, gap_us=10))
    after = rank(tmp_path, "b", runs(10, kernel_us=20, gap_us=10, name="nvjet_tst_64x8"))
    (mm,) = diff(before, after).operators
    assert (mm.before_kernel, mm.after_kernel) == ("sgemm", "nvjet_tst_64x8")
    assert (mm.before_ns, mm.after_ns) == (400_000, 200_000)


def test_nothing_in_common_is_compared_as_recorded(tmp_path: Path) -> None:
    before = rank(tmp_path, "a", [kernel("one", 0, 10)])
    after = rank(tmp_path, "b", [kernel("two", 0, 30)])
    found = diff(before, after)
    assert found.work_ratio == 1
    assert [(o.op, o.change_ns) for o in found.operators] == [("two", 30_000), ("one", -10_000)]
