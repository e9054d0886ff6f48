"""Numbers that tell operators' inputs apart: equal where they are written alike, in any order."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.native.scan import has_scanner, inputs_digests

pytestmark = pytest.mark.skipif(not has_scanner(), reason="the scanner was not built")

_KEYS = ("Input Dims", "Input type", "Concrete Inputs", "External id", "Ev Idx")
_args = st.dictionaries(st.sampled_from(_KEYS), st.sampled_from([[], [[2, 3]], ["float"], 7]))


@given(st.lists(_args, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_they_are_equal_where_the_inputs_are(objects: list[dict[str, object]], rng: object) -> None:
    shuffle = rng.shuffle  # type: ignore[attr-defined]
    texts = []
    for one in objects:
        items = list(one.items())
        shuffle(items)
        texts.append(json.dumps(dict(items)).encode())
    nbytes = np.array([len(text) for text in texts])
    found = inputs_digests(b"".join(texts), np.cumsum(nbytes) - nbytes, nbytes)
    assert found is not None
    inputs = [{k: v for k, v in one.items() if "nput" in k} for one in objects]
    for i, a in enumerate(inputs):
        for j, b in enumerate(inputs):
            assert (found[i] == found[j]) == (a == b)
        assert (found[i] == 0) == (not a)


def test_objects_outside_the_text_are_refused() -> None:
    for start, nbytes in ((5, 9), (-1, 3), (0, 11), (0, -1), (2**62, 2**62)):
        with pytest.raises(ValueError, match="outside the text"):
            inputs_digests(b"{}        ", np.array([start]), np.array([nbytes]))


def test_damaged_objects_do_not_crash_it() -> None:
    text = b'{"Input Dims": [[2'
    found = inputs_digests(text, np.array([0, 3]), np.array([len(text), 4]))
    assert found is not None
    assert found.shape == (2,)
