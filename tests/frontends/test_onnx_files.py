"""Bad ONNX files: one clear sentence each, and nothing large is allocated."""

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="needs the extra onnx: pip install 'ridgeline[onnx]'")

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

from ridgeline.errors import CaptureError, RidgelineError, TargetError, UnsupportedOp
from ridgeline.frontends import Request, capture_target, load_model

FLOAT = TensorProto.FLOAT
HUGE = 2**40


def model(
    *nodes: onnx.NodeProto,
    weights: tuple[TensorProto, ...] = (),
    shape: tuple[int | str | None, ...] | None = (2, 3),
    opset: int = 21,
) -> ModelProto:
    """A model from x to y."""
    graph = helper.make_graph(
        list(nodes) or [helper.make_node("Relu", ["x"], ["y"], "act")],
        "small",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        list(weights),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def external(location: str, *, offset: str = "0", length: str = "24") -> TensorProto:
    """A float[2, 3] whose values lie in another file."""
    tensor = TensorProto(name="w", data_type=FLOAT, dims=(2, 3))
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)
    return tensor


def error_of(path: Path, kind: type[RidgelineError] = TargetError, **sizes: int) -> str:
    """The one sentence that a file gives, for inspection and for running alike."""
    texts = set()
    for read in (capture_target, load_model):
        with pytest.raises(kind) as caught:
            read(Request(target=str(path), **sizes))  # type: ignore[arg-type]
        texts.add(str(caught.value))
    (text,) = texts
    assert "\n" not in text
    return text


@pytest.fixture
def write(tmp_path: Path) -> Callable[[ModelProto], Path]:
    def save(proto: ModelProto) -> Path:
        path = tmp_path / "m.onnx"
        path.write_bytes(proto.SerializeToString())
        return path

    return save


Write = Callable[[ModelProto], Path]
ADD = helper.make_node("Add", ["x", "w"], ["y"], "shift")


@pytest.mark.parametrize("content", [b"", b"not protobuf at all", b"\x00" * 64, b"\x08\x09"])
def test_what_is_no_onnx_says_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert "no ONNX" in error_of(path)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    assert error_of(tmp_path / "m.onnx").startswith("no file ")


def test_a_truncated_file_says_so(tmp_path: Path, write: Write) -> None:
    weight = helper.make_tensor("w", FLOAT, (2, 3), range(6))
    whole = write(model(ADD, weights=(weight,))).read_bytes()
    path = tmp_path / "cut.onnx"
    for length in range(1, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(RidgelineError):
            load_model(Request(target=str(path)))


def test_a_cycle_is_named(write: Write) -> None:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"], "first")]
    nodes += [helper.make_node("Relu", ["a"], ["b"], "second")]
    nodes += [helper.make_node("Relu", ["b"], ["y"], "third")]
    text = error_of(write(model(*nodes)))
    assert "cycle" in text
    assert "first" in text
    assert "second" in text


def test_nodes_in_another_order_are_sorted(write: Write) -> None:
    nodes = [helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Neg", ["x"], ["a"])]
    graph = capture_target(Request(target=str(write(model(*nodes)))))
    assert [n.op for n in graph.nodes] == ["neg", "relu"]


def test_a_value_from_nowhere_is_named(write: Write) -> None:
    assert "'w' is read" in error_of(write(model(ADD)))


def test_a_value_made_twice_is_named(write: Write) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["y"])]
    assert "'y' is made by two nodes" in error_of(write(model(*nodes)))


def test_an_unknown_operator_is_named(write: Write) -> None:
    node = helper.make_node("Frobnicate", ["x"], ["y"], "frob")
    text = error_of(write(model(node)), UnsupportedOp)
    assert "node frob (Frobnicate)" in text
    custom = helper.make_node("Frobnicate", ["x"], ["y"], domain="my.company")
    assert "my.company.Frobnicate" in error_of(write(model(custom)), UnsupportedOp)


def test_shapes_that_do_not_fit_are_named(write: Write) -> None:
    weight = helper.make_tensor("w", FLOAT, (5,), range(5))
    text = error_of(write(model(ADD, weights=(weight,))), CaptureError)
    assert "node shift (Add)" in text
    assert "float[2, 3], float[5]" in text


def test_a_newer_operator_set_is_named(write: Write) -> None:
    assert "operator set 999" in error_of(write(model(opset=999)))


@pytest.mark.parametrize("location", ["/etc/passwd", "../w.bin", "a/../../w.bin", "", "a\0b"])
def test_data_outside_the_folder_is_not_read(write: Write, location: str) -> None:
    assert "outside the model's folder" in error_of(
        write(model(ADD, weights=(external(location),)))
    )


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"\0" * 24)
    (folder / "w.bin").symlink_to(tmp_path / "secret.bin")
    path = folder / "m.onnx"
    path.write_bytes(model(ADD, weights=(external("w.bin"),)).SerializeToString())
    assert "a link out of the model's folder" in error_of(path)


def test_data_that_is_missing_or_no_file_is_named(tmp_path: Path, write: Write) -> None:
    path = write(model(ADD, weights=(external("w.bin"),)))
    assert "is no file" in error_of(path)
    (tmp_path / "w.bin").mkdir()
    assert "is no file" in error_of(path)


@pytest.mark.parametrize(
    ("offset", "length"),
    [("0", "24"), ("4", "20"), ("99999999999", "24"), ("-4", "24"), ("x", "1")],
)
def test_data_that_ends_too_early_is_named(
    tmp_path: Path, write: Write, offset: str, length: str
) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 20)
    path = write(model(ADD, weights=(external("w.bin", offset=offset, length=length),)))
    assert "tensor w" in error_of(path)


def test_external_data_is_read(tmp_path: Path, write: Write) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 4 + b"\x00\x00\x80\x3f" * 6)
    path = write(model(ADD, weights=(external("w.bin", offset="4"),)))
    loaded = load_model(Request(target=str(path)))
    (x,) = loaded.inputs
    assert (loaded.module(x) == x + 1).all()  # type: ignore[operator]


@pytest.mark.parametrize("dims", [(HUGE, HUGE), (3, 3), (-2, 3)])
def test_a_weight_that_declares_more_than_it_holds_is_named(
    write: Write, dims: tuple[int, int]
) -> None:
    weight = TensorProto(name="w", data_type=FLOAT, dims=dims, raw_data=b"\0" * 24)
    assert "tensor w declares" in error_of(write(model(ADD, weights=(weight,))))


def test_an_input_too_large_to_make_is_named(write: Write) -> None:
    assert "input x declares" in error_of(write(model(shape=(HUGE, 3))))
    assert "input x declares" in error_of(write(model(shape=(2**20, 2**20))))


def test_a_sparse_weight_too_large_to_make_is_named(write: Write) -> None:
    proto = model(ADD)
    values = helper.make_tensor("w", FLOAT, (1,), [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, (1,), [0])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [HUGE, HUGE]))
    assert "may be made at most" in error_of(write(proto))


def test_a_value_that_asks_for_too_much_is_not_computed_ahead(write: Write) -> None:
    shape = helper.make_tensor("s", TensorProto.INT64, (2,), [HUGE, HUGE])
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["w"], "fill"), ADD]
    with pytest.raises(RidgelineError):
        capture_target(Request(target=str(write(model(*nodes, weights=(shape,))))))


def test_known_values_that_broadcast_to_too_much_are_not_computed_ahead(write: Write) -> None:
    sides = [(4096, 1, 1), (1, 4096, 1), (1, 1, 4096)]
    weights = [
        helper.make_tensor(f"w{i}", FLOAT, side, np.zeros(side).reshape(-1))
        for i, side in enumerate(sides)
    ]
    nodes = [
        helper.make_node("Sum", ["w0", "w1", "w2"], ["big"]),
        helper.make_node("ReduceMax", ["big"], ["w"], keepdims=0),
        ADD,
    ]
    graph = capture_target(Request(target=str(write(model(*nodes, weights=tuple(weights))))))
    assert [n.op for n in graph.nodes] == ["add", "add", "amax", "add"]


def test_an_endless_loop_ends(write: Write) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Relu", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, ()),
            helper.make_tensor_value_info("go", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("v", FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("w", FLOAT, None),
        ],
    )
    always = helper.make_tensor("always", TensorProto.BOOL, (), [True])
    node = helper.make_node("Loop", ["", "always", "x"], ["y"], "spin", body=body)
    text = error_of(write(model(node, weights=(always,))), CaptureError)
    assert "node spin (Loop)" in text
    assert "more than 4096 times" in text


def test_sizes_left_open_are_chosen(write: Write) -> None:
    path = write(model(shape=("batch", "seq_len")))
    loaded = load_model(Request(target=str(path), batch=3, seq=7))
    assert [tuple(i.shape) for i in loaded.inputs] == [(3, 7)]  # type: ignore[attr-defined]
    assert "--seq does not apply" in error_of(write(model(shape=("batch", 4))), seq=7)
    assert "no known rank" in error_of(write(model(shape=None)))
