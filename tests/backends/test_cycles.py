"""What products take in tiles: which of them eight bits make faster."""

import pytest

from ridgeline.backends.native.cycles import Work, product, rounding


@pytest.mark.parametrize(
    ("rows", "columns", "depth", "is_leaner"),
    [
        (3136, 256, 64, False),  # the way of the sums to the output counts
        (784, 512, 128, False),
        (49, 2048, 512, True),  # the way of the weights
        (1, 1000, 2048, True),
        (128, 3072, 768, True),  # the products
        (128, 768, 3072, True),
        (1024, 64, 1024, False),  # few columns over values that were rounded
    ],
)
def test_eight_bits_pay_where_products_or_weights_count(
    rows: int, columns: int, depth: int, is_leaner: bool
) -> None:
    lean, wide = (product(rows, columns, depth, n).cycles for n in (1, 2))
    assert (lean < wide) == is_leaner


def test_the_longest_of_what_goes_on_side_by_side_counts() -> None:
    work = Work(rows=100, columns=32, steps=50, weight_nbytes=4000, laid=7)
    assert work.cycles == 100 * 50 + 7
    assert Work(rows=100, columns=32, steps=5, weight_nbytes=4000).cycles == 100 * 2 * 8
    assert Work(rows=1, columns=32, steps=5, weight_nbytes=4000).cycles == 1000


def test_a_row_costs_something_by_itself() -> None:
    assert rounding(320, 1) < rounding(320, 10)
    assert rounding(320, 1) < rounding(640, 1)
