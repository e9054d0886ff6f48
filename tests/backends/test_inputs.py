"""Inputs from files and at random: what fits is read, what does not is one sentence."""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ridgeline.backends.inputs import calibration_sets, random_inputs, read_inputs, write_arrays
from ridgeline.errors import GraphError
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Graph

TABLE = torch.tensor([[1, 2], [3, 4]])


class Two(nn.Module):
    """A float and a whole-number input."""

    def forward(self, x: Tensor, picks: Tensor) -> Tensor:
        return x[picks]


@pytest.fixture
def graph() -> Graph:
    return capture(Two().eval(), (torch.randn(4, 3), TABLE.clone() % 4))


VALUES = (torch.arange(12.0).reshape(4, 3), torch.tensor([[0, 1], [2, 3]]))


def as_pt(content: object) -> Callable[[Path], None]:
    return lambda path: torch.save(content, path)


def as_npz(*arrays: np.ndarray, **named: np.ndarray) -> Callable[[Path], None]:
    return lambda path: np.savez(path, *arrays, **named)


X, PICKS = (v.numpy() for v in VALUES)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("list.pt", as_pt(list(VALUES))),
        ("dict.pt", as_pt({"picks": VALUES[1], "x": VALUES[0]})),
        ("order.npz", as_npz(X, PICKS)),
        ("named.npz", as_npz(picks=PICKS, x=X)),
        ("wide.npz", as_npz(x=X.astype(np.float64), picks=PICKS.astype(np.int32))),
    ],
)
def test_every_kind_of_file_is_read(
    name: str, write: Callable[[Path], None], graph: Graph, tmp_path: Path
) -> None:
    path = tmp_path / name
    write(path)
    found = read_inputs(path, graph)
    assert all(torch.equal(a, b) for a, b in zip(found, VALUES, strict=True))
    assert [v.dtype for v in found] == [v.dtype for v in VALUES]


def test_one_array_is_enough_for_one_input(tmp_path: Path) -> None:
    graph = capture(nn.ReLU().eval(), (torch.randn(2, 2),))
    np.save(tmp_path / "x.npy", np.eye(2, dtype=np.float32))
    assert torch.equal(read_inputs(tmp_path / "x.npy", graph)[0], torch.eye(2))
    torch.save(torch.eye(2), tmp_path / "x.pt")
    assert torch.equal(read_inputs(tmp_path / "x.pt", graph)[0], torch.eye(2))


class Evil:
    """Runs code when unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('unpickled')",))


def evil_npy(path: Path) -> None:
    np.save(path, np.array([Evil()], dtype=object), allow_pickle=True)


def evil_npz(path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Evil()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", buffer.getvalue())


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(2**24))


def huge_header(path: Path) -> None:
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (2**40,)}
    np.lib.format.write_array_header_1_0(buffer, header)
    path.write_bytes(buffer.getvalue())


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.npz", as_npz(x=X), "it lacks picks; the inputs are x, picks"),
        ("a.npz", as_npz(x=X, picks=PICKS, mask=X), "it has mask; the inputs are x, picks"),
        ("a.npz", as_npz(X), "takes 2 tensors"),
        ("a.npz", as_npz(X[:2], PICKS), r"input x of graph Two is fp32\[2,3\]"),
        ("a.npz", as_npz(PICKS.astype(np.int64), PICKS), r"input x of graph Two is int64\[2,2\]"),
        ("a.pt", as_pt([1.0, 2.0]), "is a float, not a tensor"),
        ("a.pt", lambda p: p.write_bytes(pickle.dumps(Evil())), "no readable file of arrays"),
        ("a.npy", evil_npy, "no readable file of arrays"),
        ("a.npz", evil_npz, "no readable file of arrays"),
        ("a.npz", lambda p: p.write_bytes(b"PK\x03\x04 cut short"), "no readable file of arrays"),
        ("a.npz", bomb, "holds 16777216 bytes; these inputs take at most"),
        ("a.npy", huge_header, "no readable file of arrays"),
        ("a.txt", lambda p: p.write_text("1 2"), "is no file of inputs; those end in"),
    ],
)
def test_a_file_that_does_not_fit_is_one_sentence(
    name: str, write: Callable[[Path], None], message: str, graph: Graph, tmp_path: Path
) -> None:
    path = tmp_path / name
    write(path)
    with pytest.raises(GraphError, match=message) as caught:
        read_inputs(path, graph)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_random_inputs_stay_in_range_and_repeat(graph: Graph) -> None:
    like = (torch.linspace(-2, 3, 12).reshape(4, 3), torch.tensor([[0, 3], [1, 1]]))
    x, picks = random_inputs(graph, like, seed=3)
    assert -2 <= x.min() < x.max() <= 3
    assert set(picks.flatten().tolist()) <= {0, 1, 2, 3}
    again = random_inputs(graph, like, seed=3)
    assert torch.equal(again[0], x)
    assert not torch.equal(random_inputs(graph, like, seed=4)[0], x)
    assert random_inputs(graph, (torch.zeros(4, 3), like[1]))[0].std() > 0


def test_calibration_is_a_folder_or_random(graph: Graph, tmp_path: Path) -> None:
    folder = tmp_path / "inputs"
    folder.mkdir()
    with pytest.raises(GraphError, match=r"holds no \.npz, \.npy or \.pt file"):
        calibration_sets(str(folder), graph, VALUES)
    as_npz(X + 1, PICKS)(folder / "b.npz")
    as_pt(list(VALUES))(folder / "a.pt")
    (folder / "notes.md").write_text("not an input")
    first, second = calibration_sets(str(folder), graph, VALUES)
    assert torch.equal(second[0], first[0] + 1)
    assert len(calibration_sets("random", graph, VALUES)) == 8
    with pytest.raises(GraphError, match="no folder none; --calibrate takes a folder"):
        calibration_sets("none", graph, VALUES)


def test_arrays_are_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.npz"
    write_arrays(path, (torch.eye(2), torch.eye(2, dtype=torch.bfloat16)))
    with np.load(path) as found:
        assert [found[n].dtype for n in found.files] == [np.float32, np.float32]
        assert np.array_equal(found["arr_1"], np.eye(2))
