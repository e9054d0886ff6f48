"""Numbers as text: three significant digits, also where rounding adds one before the point."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.units import counted, format_count, format_time, significant


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (99.96, "100"),
        (9.996, "10.0"),
        (0.9996, "1.00"),
        (-99.96, "-100"),
        (99.94, "99.9"),
        (0.718, "0.718"),
        (0.0417, "0.0417"),
        (1234567, "1,234,567"),
    ],
)
def test_three_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


@given(st.floats(1e-6, 1e3, exclude_max=True))
def test_what_is_printed_is_the_value_to_three_digits(value: float) -> None:
    text = significant(value).replace(",", "")
    assert float(text) == float(f"{value:.2e}")
    digits = text.replace(".", "").lstrip("0")
    assert len(digits) == 3 or text == "1000"


@pytest.mark.parametrize(
    ("time_s", "text"),
    [
        (0.09996, "100 ms"),
        (0.0099996, "10.0 ms"),
        (0.00099996, "1.00 ms"),
        (0.99996, "1.00 s"),
        (99.96e-9, "100 ns"),
        (0, "0 s"),
    ],
)
def test_a_time_rounds_into_the_next_unit(time_s: float, text: str) -> None:
    assert format_time(time_s) == text


def test_a_count_rounds_into_the_next_prefix() -> None:
    assert format_count(999_960, "FLOP") == "1.00 MFLOP"
    assert format_count(999_400, "FLOP") == "999 kFLOP"


def test_one_is_singular() -> None:
    assert [counted(n, "thread") for n in (0, 1, 2, 1024)] == [
        "0 threads", "1 thread", "2 threads", "1,024 threads",
    ]  # fmt: skip
