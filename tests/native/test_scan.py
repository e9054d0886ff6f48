"""The trace scanner against the same in Python: on what is whole, cut off, damaged or hostile."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recordings import document, mutations, training

from ridgeline.native import scan as native
from ridgeline.native.scan import COLUMNS, TABLES, End, Scan
from ridgeline.traces.scan import scan_in_python

pytestmark = pytest.mark.skipif(not native.has_scanner(), reason="the scanner was not built")

NUM_MUTATIONS = 1500


def scanned(text: bytes, *, keeps_python: bool = False) -> Scan:
    found = native.scan(text, keeps_python=keeps_python)
    assert found is not None
    return found


def assert_same(a: Scan, b: Scan) -> None:
    for name in COLUMNS:
        np.testing.assert_array_equal(a.columns[name], b.columns[name], err_msg=name)
        assert a.columns[name].dtype == b.columns[name].dtype
    for name in TABLES:
        assert a.tables[name] == b.tables[name]
    fields = ("header", "end", "offset", "num_recorded", "num_python", "num_flows")
    for name in (*fields, "num_untimed", "num_unread"):
        assert getattr(a, name) == getattr(b, name), name


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
_times = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.just(None) | st.text()
_numbers = st.integers(-5, 2**64) | st.just("0x7f") | st.just(None) | st.floats(allow_nan=False)
_events = st.fixed_dictionaries(
    {},
    optional={
        "ph": st.sampled_from(["X", "i", "C", "M", "s", "B", "", "XX"]),
        "cat": st.sampled_from(["cpu_op", "kernel", "python_function"]) | st.text(max_size=5),
        "name": st.text(max_size=12),
        "pid": st.integers() | st.text(max_size=5),
        "tid": st.integers() | st.text(max_size=5),
        "ts": _times | st.floats(0, 1e13),
        "dur": _times | st.floats(0, 1e9),
        "id": st.integers(),
        "args": st.dictionaries(
            st.sampled_from(
                ["device", "stream", "correlation", "External id", "external id", "Input Dims"]
            ),
            _numbers | _json,
        )
        | _json,
    },
)
_documents = st.builds(
    lambda header, events: {**header, "traceEvents": events},
    st.dictionaries(st.sampled_from(["distributedInfo", "baseTimeNanoseconds", "x"]), _json),
    st.lists(_events, max_size=6),
)


@given(_documents | st.lists(_events, max_size=4), st.booleans(), st.integers(0, 2))
def test_both_read_the_same(content: object, keeps_python: bool, indent: int) -> None:
    text = json.dumps(content, indent=indent or None).encode()
    found = scanned(text, keeps_python=keeps_python)
    assert_same(found, scan_in_python(text, keeps_python=keeps_python))
    assert found.end is End.WHOLE
    assert found.offset == len(text)


@given(_documents, st.floats(0, 1))
def test_both_read_the_same_of_a_file_cut_off(content: object, where: float) -> None:
    text = json.dumps(content).encode()
    cut = text[: int(where * (len(text) - 1))]
    found = scanned(cut)
    assert_same(found, scan_in_python(cut))
    assert found.end is End.CUT


def test_damaged_files_never_crash_it_and_both_read_the_same() -> None:
    text = json.dumps(document(training(num_steps=2)), indent=1).encode()
    ends = set()
    for damaged in mutations(text, NUM_MUTATIONS):
        found = scanned(damaged)
        assert_same(found, scan_in_python(damaged))
        ends.add(found.end)
    assert ends == set(End)


@pytest.mark.slow
def test_many_damaged_files_never_crash_it() -> None:
    text = json.dumps(document(training(num_steps=2))).encode()
    for damaged in mutations(text, 200_000):
        assert 0 <= scanned(damaged).offset <= len(damaged)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0", 0),
        ("12", 12_000),
        ("4458676522690.655", 4_458_676_522_690_655),
        ("1661203462598738", 1_661_203_462_598_738_000),
        ("1.5", 1_500),
        ("0.0005", 1),
        ("0.00049999", 0),
        ("1e3", 1_000_000),
        ("12.25E-1", 1_225),
        ("-2.5", -2_500),
        ("1661203462598738.123499", 1_661_203_462_598_738_123),
        ("1661203462598738.1235", 1_661_203_462_598_738_124),
        ("0.000000000000000000000000000000000000000000001e45", 1_000),
    ],
)
def test_microseconds_become_nanoseconds_exactly(text: str, ns: int) -> None:
    found = scanned(b'[{"ph":"X","name":"a","ts":%s}]' % text.encode())
    assert found.columns["start_ns"].tolist() == [ns]
    assert_same(found, scan_in_python(b'[{"ph":"X","name":"a","ts":%s}]' % text.encode()))


@pytest.mark.parametrize("text", ["9e99", "null", '"5"', "1e", "nan", "2305843009213694", "[]"])
def test_what_is_no_time_is_counted_not_kept(text: str) -> None:
    found = scanned(b'[{"ph":"X","name":"a","ts":%s}]' % text.encode())
    assert (len(found.columns["start_ns"]), found.num_untimed, found.num_recorded) == (0, 1, 1)


def test_brackets_without_end_are_refused_not_followed() -> None:
    for text in (b'{"a":' + b"[" * 10**6, b"[" * 10**6, b'[{"args":' + b'{"a":' * 10**5):
        found = scanned(text)
        assert found.end is not End.WHOLE
        assert_same(found, scan_in_python(text))


def test_numbers_that_json_has_not_do_not_stop_it() -> None:
    text = b'[{"ph":"X","name":"a","ts":1,"args":{"GB/s":inf,"stream":7}},' + (
        b'{"ph":"X","name":"b","ts":2}]'
    )
    found = scanned(text)
    assert found.end is End.WHOLE
    assert found.columns["stream"].tolist() == [7, -1]
    assert_same(found, scan_in_python(text))


def test_arguments_lie_where_it_says() -> None:
    text = json.dumps(document(training())).encode()
    found = scanned(text)
    places = zip(found.columns["args_start"], found.columns["args_nbytes"], strict=True)
    args = [json.loads(text[start : start + n]) for start, n in places]
    assert [a.get("correlation", -1) for a in args] == found.columns["correlation"].tolist()


def test_events_that_come_in_two_arrays() -> None:
    """A dictionary would hold the second alone."""
    one, two = (json.dumps(document(training(num_steps=n))["traceEvents"]) for n in (1, 2))
    text = f'{{"traceEvents": {one}, "traceEvents": {two}}}'.encode()
    found = scanned(text)
    assert found.num_recorded == len(json.loads(one)) + len(json.loads(two))
    assert_same(found, scan_in_python(text))
