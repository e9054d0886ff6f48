"""DCGM logs: what was written comes back exactly; every dialect; what is broken is named."""

import contextlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from dcgm_logs import HEADS, SYMBOLS, Log, dmon, labels, scrape
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.errors import TraceError
from ridgeline.traces.dcgm import read_dcgm
from ridgeline.traces.dcgm_dmon import read_dmon
from ridgeline.traces.dcgm_fields import FIELDS, field_of_head, field_of_name
from ridgeline.traces.dcgm_prometheus import read_range, read_scrapes
from ridgeline.traces.sample_windows import average_over
from ridgeline.traces.samples import Clock, Entity, Samples

START_NS, PERIOD_NS = 1_718_000_000_123_456_789, 100_000_000
DMON_ENTITIES = ("GPU 0", "GPU 1", "GPU-I 3", "GPU-CI 12", "GPU 0 LINK 3", "CPU 1")
EXPORTER_ENTITIES = ("GPU 0", "GPU 1", "GPU 1 GPU-I 7")
VERBATIM = """#Entity   GRACT        SMACT        DRAMA        
ID                                               
GPU 1     N/A          N/A          N/A          
GPU 0     N/A          N/A          N/A          
GPU 1     0.500        0.400        0.300        
GPU 0     0.984        0.930        0.252        
"""
OLD = """# Entity  SMACT  TMPTR  PCITX
      Id           (C)   (KB)
    GPU 0    N/A     40      0
    GPU 0  0.984     41    512
"""


def _rows(samples: Samples) -> set[tuple[str, str, int, float]]:
    """Every sample as (entity, key, time, value)."""
    return {
        (samples.entities[entity].label, samples.fields[column].key, int(time), float(value))
        for entity, column, time, value in zip(
            samples.entity, samples.field, samples.time_ns, samples.value, strict=True
        )
    }


def _expected(log: Log, keys: dict[str, str], digits: int) -> set[tuple[str, str, int, float]]:
    return {
        (entity, keys[head], START_NS + index * PERIOD_NS, round(value, digits))
        for index, sweep in enumerate(log.sweeps)
        for (entity, head), value in sweep.items()
        if value is not None
    }


@st.composite
def _logs(draw: st.DrawFn, entities: tuple[str, ...], heads: tuple[str, ...]) -> Log:
    """A log of some of the entities and heads; any cell may be blank."""
    some = tuple(draw(st.lists(st.sampled_from(entities), min_size=1, unique=True)))
    columns = tuple(draw(st.lists(st.sampled_from(heads), min_size=1, unique=True)))
    value = st.none() | st.floats(0, 1) | st.integers(0, 10**11).map(float)
    cells = [(entity, head) for entity in some for head in columns]
    sweep = st.fixed_dictionaries(dict.fromkeys(cells, value))
    sweeps = draw(st.lists(sweep, min_size=1, max_size=31))
    return Log(entities=some, heads=columns, sweeps=tuple(sweeps))


@given(_logs(DMON_ENTITIES, tuple(HEADS)))
def test_dmon_gives_back_what_was_put_in(log: Log) -> None:
    samples = read_dmon(dmon(log), "log", start_ns=START_NS, period_ns=PERIOD_NS)
    assert _rows(samples) == _expected(log, HEADS, 3)
    assert len(samples) + samples.num_blank == len(log.sweeps) * len(log.sweeps[0])
    assert (samples.clock, samples.notes) == (Clock.EPOCH, ())


# one spelling of each field: both of one would be the same series twice
@pytest.mark.parametrize("spelling", [0, 1])
@given(data=st.data())
def test_scrapes_give_back_what_was_put_in(spelling: int, data: st.DataObject) -> None:
    symbols = (*tuple(SYMBOLS)[spelling:6:2], *tuple(SYMBOLS)[6:])
    log = data.draw(_logs(EXPORTER_ENTITIES, symbols))
    texts = [scrape(sweep) for sweep in log.sweeps]
    given_times = {"start_ns": START_NS, "period_ns": PERIOD_NS}
    expected = _expected(log, SYMBOLS, 6)
    assert _rows(read_scrapes(texts, "log", **given_times)) == expected
    assert _rows(read_scrapes(["".join(texts)], "log", **given_times)) == expected


@given(data=st.data())
def test_a_range_gives_back_what_was_put_in(data: st.DataObject) -> None:
    log = data.draw(_logs(EXPORTER_ENTITIES, tuple(SYMBOLS)[0::2]))
    results = []
    for cell in log.sweeps[0]:
        entity, symbol = cell
        pairs = [
            [
                round((START_NS + index * PERIOD_NS) / 1e9, 3),
                "NaN" if value is None else repr(value),
            ]
            for index, value in enumerate(sweep[cell] for sweep in log.sweeps)
        ]
        metric = {"__name__": symbol, "gpu": entity[4:5], "Hostname": "n"}
        if "GPU-I" in entity:
            metric["GPU_I_ID"] = entity.rpartition(" ")[2]
        results.append({"metric": metric, "values": pairs})
    text = json.dumps({"status": "success", "data": {"resultType": "matrix", "result": results}})
    samples = read_range(text, "log")
    found = {(label, key, time, value) for label, key, time, value in _rows(samples)}
    exact = {
        (entity, SYMBOLS[symbol], round((START_NS + k * PERIOD_NS) / 1e6) * 10**6, value)
        for k, sweep in enumerate(log.sweeps)
        for (entity, symbol), value in sweep.items()
        if value is not None
    }
    assert found == exact
    assert samples.clock is Clock.EPOCH


def test_the_log_in_the_manual() -> None:
    samples = read_dmon(VERBATIM, "log", start_ns=0, period_ns=PERIOD_NS)
    gpu = Entity(label="GPU 0", gpu=0)
    assert samples.entities == (Entity(label="GPU 1", gpu=1), gpu)
    assert samples.num_blank == 6
    times, values = samples.series(gpu, "sm_active")
    assert (times.tolist(), values.tolist()) == ([PERIOD_NS], [0.93])
    assert samples.fields[1].unit == "ratio"


def test_an_old_log_is_aligned_to_the_right() -> None:
    samples = read_dmon(OLD, "log", start_ns=0, period_ns=1)
    assert _rows(samples) == {
        ("GPU 0", "temperature", 0, 40.0),
        ("GPU 0", "pcie_tx", 0, 0.0),
        ("GPU 0", "sm_active", 1, 0.984),
        ("GPU 0", "temperature", 1, 41.0),
        ("GPU 0", "pcie_tx", 1, 512.0),
    }


def test_an_empty_cell_and_a_name_with_spaces_keep_their_columns() -> None:
    text = (
        "#Entity   DVNAM                     SMACT        POWER        \n"
        "ID                                               W            \n"
        "GPU 0     NVIDIA H100 80GB HBM3                  300.5        \n"
    )
    samples = read_dmon(text, "log", start_ns=0, period_ns=1)
    assert _rows(samples) == {("GPU 0", "power", 0, 300.5)}
    assert samples.num_blank == 1
    assert samples.notes == ("columns of text are left out: DVNAM.",)


def test_what_was_not_given_is_said() -> None:
    samples = read_dmon(VERBATIM, "log")
    assert samples.clock is Clock.START
    assert len(samples.notes) == 2
    assert "no start was given" in samples.notes[0]
    assert "1 s per sweep" in samples.notes[1]


def test_a_torn_last_row_is_left_out() -> None:
    text = VERBATIM + "GPU 1     0.500        0.4"
    samples = read_dmon(text, "log", start_ns=0, period_ns=1)
    assert len(samples) == 6
    assert "torn off" in samples.notes[0]


def test_a_scrape_may_carry_its_time() -> None:
    sweep = {("GPU 0", "DCGM_FI_PROF_SM_ACTIVE"): 0.5}
    text = scrape(sweep, time_ms=1718000000123) + scrape(sweep, time_ms=1718000001123)
    samples = read_scrapes([text], "log")
    assert samples.time_ns.tolist() == [1718000000123_000_000, 1718000001123_000_000]
    assert (samples.clock, samples.notes) == (Clock.EPOCH, ())
    mixed = scrape(sweep, time_ms=1) + scrape(sweep)
    with pytest.raises(TraceError, match="1 of 2 samples have a time"):
        read_scrapes([mixed], "log")


def test_labels_are_read_with_their_escapes() -> None:
    line = f"DCGM_FI_DEV_POWER_USAGE{{{labels('GPU 1')}}} 71.5\n"
    samples = read_scrapes([line, "go_goroutines 12\n"], "log", start_ns=0, period_ns=1)
    assert samples.entities == (Entity(label="GPU 1", gpu=1, host="node-1", uuid="GPU-1"),)
    assert samples.notes == ("1 metrics that are not DCGM's are left out.",)


def test_one_gpu_may_be_listed_once_per_pod() -> None:
    line = 'DCGM_FI_PROF_SM_ACTIVE{{gpu="0",pod="{pod}"}} 0.5\n'
    text = line.format(pod="a") + line.format(pod="b")
    samples = read_scrapes([text + text], "log", start_ns=0, period_ns=7)
    assert samples.time_ns.tolist() == [0, 0, 7, 7]


@pytest.mark.parametrize(
    "blank",
    ["9223372036854775792", "9223372036854775794", "9.223372036854776e+18", "140737488355328",
     "1.40737488355330e+14", "NaN", "+Inf"],
)  # fmt: skip
def test_sentinels_are_blank(blank: str) -> None:
    sweep = {("GPU 0", "DCGM_FI_PROF_SM_ACTIVE"): None, ("GPU 1", "DCGM_FI_PROF_SM_ACTIVE"): 0.5}
    samples = read_scrapes([scrape(sweep, blank=blank)], "log", start_ns=0, period_ns=1)
    assert (len(samples), samples.num_blank) == (1, 1)


def test_a_large_total_is_no_sentinel() -> None:
    line = 'DCGM_FI_DEV_NVLINK_TX_BYTES_TOTAL{gpu="0"} 140737488355400\n'
    samples = read_scrapes([line], "log", start_ns=0, period_ns=1)
    assert samples.value.tolist() == [140737488355400.0]


@pytest.mark.parametrize("number", sorted(FIELDS))
def test_a_field_is_known_by_its_id(number: int) -> None:
    assert field_of_name(str(number)).id == number


def test_links_are_numbered() -> None:
    assert (
        field_of_head("NVL17R").id == field_of_name("DCGM_FI_PROF_NVLINK_L17_RX_BYTES").id == 1075
    )
    assert field_of_head("NVL0T").id == 1040


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("GPU 0   0.5\n#Entity   SMACT\nID\n", "log:1: a row before any"),
        ("#Entity   SMACT        \nID\nGPU 0     zero         \n", "log:3: 'zero' is not a number"),
    ],
)
def test_a_broken_dmon_log_names_the_line(text: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        read_dmon(text, "log")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n", "no metric named DCGM_FI_"),
        ("up 1\n", "no metric named DCGM_FI_"),
        ("what is this?!", "is no Prometheus metric"),
        ("DCGM_FI_DEV_POWER_USAGE{gpu=\"0\"} much\n", "log:1: 'much' is not a number"),
        ("{", "not JSON"),
        ('{"data": 1}', "no Prometheus answer"),
        ('{"data": {"result": []}}', "no series named"),
        ('{"data": {"result": [{"metric": {"__name__": "DCGM_FI_X"}, "values": [[1]]}]}}',
         "is no .time, value."),
        ('{"data": {"result": [{"metric": {"__name__": "DCGM_FI_X"}, "values": [[1e30, "1"]]}]}}',
         "beyond year 2262"),
    ],
)  # fmt: skip
def test_what_is_no_log_is_said(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TraceError, match=message):
        read_dcgm(path)


def test_a_file_of_bytes_or_an_empty_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "folder").mkdir()
    with pytest.raises(TraceError, match="cannot be read as text"):
        read_dcgm(tmp_path / "binary")
    with pytest.raises(TraceError, match="an empty folder"):
        read_dcgm(tmp_path / "folder")
    with pytest.raises(TraceError, match="cannot read"):
        read_dcgm(tmp_path / "absent")


def test_a_folder_is_one_scrape_per_file(tmp_path: Path) -> None:
    for index, value in enumerate((0.25, 0.5, 0.75)):
        sweep = {("GPU 0", "DCGM_FI_PROF_SM_ACTIVE"): value}
        (tmp_path / f"scrape-{index}.txt").write_text(scrape(sweep), encoding="utf-8")
    samples = read_dcgm(tmp_path, start_ns=10, period_ns=5)
    assert samples.time_ns.tolist() == [10, 15, 20]
    assert samples.value.tolist() == [0.25, 0.5, 0.75]


@given(st.text(alphabet='#EntityIDGPU 0123.\n\t{}"=,NA/DCGM_FI_PROF', max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (read_dmon, read_range, lambda text, source: read_scrapes([text], source)):
        with contextlib.suppress(TraceError):
            assert len(read(text, "log")) >= 0


def _constant(value: float, num: int) -> Samples:
    sweep = {("GPU 0", "DCGM_FI_PROF_SM_ACTIVE"): value}
    return read_scrapes([scrape(sweep)] * num, "log", start_ns=START_NS, period_ns=100)


def test_a_step_averages_by_time() -> None:
    texts = [scrape({("GPU 0", "DCGM_FI_PROF_SM_ACTIVE"): value}) for value in (0.0, 1.0, 0.5)]
    samples = read_scrapes(texts, "log", start_ns=START_NS, period_ns=100)
    # the samples cover (-100, 0], (0, 100] and (100, 200] of the log's time
    starts, ends = np.array([0, -50, 50, 150, 300]), np.array([100, 50, 200, 400, 400])
    found = average_over(samples, starts, ends, offset_ns=START_NS)
    assert found.mean[:4, 0].tolist() == [1.0, 0.5, pytest.approx(2 / 3), 0.5]
    assert math.isnan(found.mean[4, 0])
    assert found.covered_ns[:, 0].tolist() == [100, 100, 150, 50, 0]


def test_a_missing_sample_covers_nothing() -> None:
    sweeps = [{("GPU 0", "DCGM_FI_PROF_SM_ACTIVE"): v} for v in (0.5, 0.5, None, None, 1.0, 1.0)]
    samples = read_scrapes([scrape(one) for one in sweeps], "log", start_ns=0, period_ns=100)
    found = average_over(samples, np.array([0, 100]), np.array([500, 300]))
    assert found.covered_ns[:, 0].tolist() == [300, 0]
    assert found.mean[0, 0] == pytest.approx((0.5 + 1.0 + 1.0) / 3)


@given(st.lists(st.tuples(st.integers(-500, 3000), st.integers(0, 2000)), min_size=1, max_size=20))
def test_an_average_of_a_constant_is_that_constant(windows: list[tuple[int, int]]) -> None:
    starts = np.array([start for start, _ in windows])
    ends = starts + np.array([length for _, length in windows])
    found = average_over(_constant(0.375, 20), starts, ends, offset_ns=START_NS)
    assert np.all(np.isnan(found.mean) == (found.covered_ns == 0))
    np.testing.assert_allclose(found.mean[found.covered_ns > 0], 0.375, rtol=1e-9)
    overlap = np.clip(np.minimum(ends, 1900) - np.maximum(starts, -100), 0, None)
    assert found.covered_ns[:, 0].tolist() == overlap.tolist()


def test_windows_that_end_before_they_start_are_refused() -> None:
    with pytest.raises(TraceError, match="windows need"):
        average_over(_constant(1.0, 2), np.array([5]), np.array([4]))
