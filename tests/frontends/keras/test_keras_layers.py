"""Every layer of the table beside Keras's own, in more than one configuration."""

from pathlib import Path

import pytest

pytest.importorskip("keras", reason="needs keras, a test extra")

from keras_cases import FAMILIES
from keras_oracle import check

CASES = {name: build for cases in FAMILIES.values() for name, build in cases.items()}


@pytest.mark.parametrize("name", CASES)
def test_a_layer_computes_what_keras_computes(name: str, tmp_path: Path) -> None:
    check(CASES[name](), tmp_path)


def test_no_case_hides_another() -> None:
    assert len(CASES) == sum(len(cases) for cases in FAMILIES.values())
