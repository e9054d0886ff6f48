"""Which products stay in bf16: the choice itself, on made-up errors, and through the backend."""

import dataclasses
from collections.abc import Collection
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ridgeline.backends.agreement import compare
from ridgeline.backends.artifact import load, save
from ridgeline.backends.choose import optimize
from ridgeline.backends.native.backend import Native
from ridgeline.backends.native.builder import Size
from ridgeline.backends.native.mixture import kept_wide
from ridgeline.errors import BackendError
from ridgeline.frontends import capture
from ridgeline.native import library
from ridgeline.native.library import Library

A, B, C = (1, 256, 64), (1, 512, 64), (1, 256, 512)
WORK: dict[Size, float] = {A: 1.0, B: 2.0, C: 4.0}
EXACT = [(torch.tensor([1.0, 0.0]),)]


def outputs_of(errors: dict[Size, float]) -> object:
    """Outputs whose error is that of the rounded sizes, as if they were independent."""

    def outputs(kept: Collection[Size]) -> list[tuple[Tensor]]:
        rounded = sum(errors[size] ** 2 for size in WORK if size not in kept)
        return [(torch.tensor([1.0, rounded**0.5]),)]

    return outputs


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ({A: 0.01, B: 0.01, C: 0.01}, set()),
        ({A: 0.01, B: 0.01, C: 0.2}, {C}),
        ({A: 0.2, B: 0.2, C: 0.05}, {A, B}),
        ({A: 0.06, B: 0.06, C: 0.06}, {A}),  # most work for the same error is rounded
    ],
)
def test_what_brings_most_error_for_its_work_stays(
    errors: dict[Size, float], expected: set[Size]
) -> None:
    assert kept_wide(WORK, outputs_of(errors), EXACT, 0.1, "m") == expected  # type: ignore[arg-type]


def test_errors_that_come_together_are_measured_together() -> None:
    def outputs(kept: Collection[Size]) -> list[tuple[Tensor]]:
        rounded = [size for size in WORK if size not in kept]
        return [(torch.tensor([1.0, 0.05 * len(rounded) ** 2]),)]  # not independent at all

    assert kept_wide(WORK, outputs, EXACT, 0.1, "m") == {A, B}


def test_the_error_that_bf16_has_already_counts() -> None:
    def outputs(kept: Collection[Size]) -> list[tuple[Tensor]]:
        rounded = sum(0.015 for size in WORK if size not in kept)
        return [(torch.tensor([1.0, 0.05 + rounded]),)]

    assert kept_wide(WORK, outputs, EXACT, 0.1, "m") == {A}


def test_where_every_product_breaks_the_tolerance_that_is_said() -> None:
    with pytest.raises(BackendError, match="whichever products are rounded"):
        kept_wide(WORK, outputs_of(dict.fromkeys(WORK, 0.5)), EXACT, 0.1, "m")  # type: ignore[arg-type]


def test_without_products_nothing_is_run() -> None:
    assert kept_wide({}, pytest.fail, [], 0.1, "m") == frozenset()


class Uneven(nn.Module):
    """A harmless product, and one whose rows hold an outlier: eight bits lose the rest of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(128, 512), nn.Linear(512, 256)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).tanh()
        return (
            self.second(torch.cat([y[:, :-1], y[:, -1:] + 300.0], 1))
            - 300 * self.second.weight[:, -1]
        )


HAS_INT8 = library.library_path() is not None and Library().has_int8


@pytest.mark.skipif(not HAS_INT8, reason="no products of int8")
def test_a_tolerance_is_kept_by_leaving_a_product_in_bf16_also_when_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Uneven().eval(), torch.randn(40, 128)
    graph = capture(model, (x,))
    plain = compare(model(x).unsqueeze(0), Native().compile(graph, "int8")(x)).max_error
    mixed = Native().compile(graph, "int8", keep=tmp_path, calibration=[(x,)], tolerance=0.2)
    error = compare(model(x).unsqueeze(0), mixed(x)).max_error
    assert error < 0.2 < plain
    loaded = Native().load(graph, tmp_path, "int8")
    assert torch.equal(mixed(x)[0], loaded(x)[0])


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"\xff": 1}', b'{"rounded": [[1, 2]]}', b'{"rounded": [], "more": 1}']
)
def test_a_damaged_list_of_products_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    graph = capture(nn.Linear(4, 4), (torch.ones(2, 4),))
    (tmp_path / "products.json").write_bytes(content)
    with pytest.raises(BackendError, match="does not say which products"):
        Native().load(graph, tmp_path, "fp32")


def test_without_the_units_a_saved_model_runs_eagerly_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, x = capture(nn.Linear(4, 4), (torch.ones(2, 4),)), torch.ones(2, 4)
    found = optimize(graph, (x,), backends=["native"], dtypes=["fp32"], repeats=2)
    save(found, tmp_path / "m.ridge")
    assert load(tmp_path / "m.ridge").note is None

    def lacking(cls: type[Native], dtype: str) -> None:
        raise BackendError("no kernels here")

    monkeypatch.setattr(Native, "require", classmethod(lacking))
    loaded = load(tmp_path / "m.ridge")
    assert loaded.backend == "eager"
    assert "no kernels here" in (loaded.note or "")
    assert torch.equal(loaded(x)[0], graph.program.module()(x))


@pytest.mark.skipif(not HAS_INT8, reason="no products of int8")
def test_what_was_rounded_is_not_guessed_where_a_file_does_not_say(
    tmp_path: Path,
) -> None:
    graph, x = capture(nn.Linear(768, 512).eval(), (torch.randn(128, 768),)), torch.randn(128, 768)
    found = optimize(graph, (x,), backends=["native"], dtypes=["int8"], repeats=2)
    save(found, tmp_path / "m.ridge")
    assert load(tmp_path / "m.ridge").backend == "native"
    files = {**found.files, "products.json": b'{"wide": []}'}
    save(dataclasses.replace(found, files=files), tmp_path / "older.ridge")
    with pytest.raises(BackendError, match=r"is refused: .* does not say which products"):
        load(tmp_path / "older.ridge")
