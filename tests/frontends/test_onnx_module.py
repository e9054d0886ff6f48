"""OnnxModule: names, folding, composites, control flow, and com.microsoft beside onnxruntime."""

from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="needs the extra onnx: pip install 'ridgeline[onnx]'")

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from ridgeline.backends.reference import Reference
from ridgeline.errors import CaptureError
from ridgeline.frontends import Request, capture, capture_target, load_model
from ridgeline.frontends.onnx import OnnxModule, read_model
from ridgeline.graph import Graph, InputKind, verify

Floats = NDArray[np.float32]


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[int, ...]],
    weights: dict[str, NDArray[np.generic]] | None = None,
    *,
    outputs: Sequence[str] = ("y",),
    opset: int = 21,
    functions: Sequence[onnx.FunctionProto] = (),
) -> ModelProto:
    """A model of float inputs."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()],
    )
    sets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    sets += [helper.make_opsetid(f.domain, 1) for f in functions]
    return helper.make_model(graph, opset_imports=sets, functions=functions, ir_version=10)


def captured(proto: ModelProto, *inputs: Tensor) -> Graph:
    """The graph of a model, shown to agree with the interpreter."""
    module = OnnxModule(read_model(proto, name="small"))
    module.prepare(*inputs)
    graph = capture(module, inputs, is_trusted=True)
    verify(graph)
    with torch.no_grad():
        whole = module(*inputs)
    found = Reference().compile(graph)(*inputs)
    expected = whole if isinstance(whole, tuple) else (whole,)
    torch.testing.assert_close(found, tuple(expected))
    return graph


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def floats(*shape: int) -> Floats:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_weights_keep_their_names_and_nodes_their_places() -> None:
    nodes = [
        helper.make_node(
            "Conv", ["x", "layer1.0.conv.weight"], ["a"], "/layer1/layer1.0/conv/Conv"
        ),
        helper.make_node("Relu", ["a"], ["b"], "/layer1/layer1.0/act/Relu"),
        helper.make_node("Mul", ["b", "scale"], ["y"], "scaled"),
    ]
    weights = {"layer1.0.conv.weight": floats(4, 3, 3, 3), "scale": floats(1, 4, 1, 1)}
    graph = captured(model(nodes, {"x": (1, 3, 8, 8)}, weights), torch.randn(1, 3, 8, 8))
    assert {i.path for i in graph.of_kind(InputKind.PARAMETER)} == set(weights)
    assert [n.module for n in graph.nodes] == ["layer1.0.conv", "layer1.0.act", "scaled"]


def test_shapes_are_computed_ahead() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axis"], ["n1"]),
        helper.make_node("Concat", ["n1", "minus"], ["to"], axis=0),
        helper.make_node("Reshape", ["x", "to"], ["y"]),
    ]
    weights = {"zero": np.array(0), "axis": np.array([0]), "minus": np.array([-1])}
    graph = captured(model(nodes, {"x": (2, 3, 4)}, weights), torch.randn(2, 3, 4))
    assert ops(graph) == ["view"]


def test_a_product_by_weights_and_a_bias_is_one_linear() -> None:
    weights = {"w": floats(5, 7), "b": floats(7)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], "proj"),
        helper.make_node("Add", ["b", "p"], ["y"]),
    ]
    x = torch.randn(2, 3, 5)
    graph = captured(model(nodes, {"x": (2, 3, 5)}, weights), x)
    assert ops(graph) == ["linear"]
    expected = x @ torch.from_numpy(weights["w"]) + torch.from_numpy(weights["b"])
    torch.testing.assert_close(Reference().compile(graph)(x)[0], expected)
    assert graph.parameters == 5 * 7 + 7


def test_a_product_that_is_read_elsewhere_stays() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["y"]),
    ]
    proto = model(nodes, {"x": (3, 5)}, {"w": floats(5, 7), "b": floats(7)}, outputs=("y", "p"))
    assert ops(captured(proto, torch.randn(3, 5))) == ["linear", "add"]


def test_numbers_are_no_tensors() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "half"], ["a"]),
        helper.make_node("Sub", ["one", "a"], ["b"]),
        helper.make_node("Pow", ["b", "two"], ["y"]),
    ]
    numbers = {n: np.float32(v) for n, v in (("half", 0.5), ("one", 1.0), ("two", 2.0))}
    weights: dict[str, NDArray[np.generic]] = {n: np.asarray(v) for n, v in numbers.items()}
    graph = captured(model(nodes, {"x": (3,)}, weights), torch.randn(3))
    assert ops(graph) == ["mul", "rsub", "pow"]
    assert {i.kind for i in graph.inputs} == {InputKind.INPUT}


def lstm_weights(module: nn.LSTM, hidden: int) -> dict[str, NDArray[np.generic]]:
    """torch's weights in ONNX's layout, gates i, o, f, c."""
    order = np.concatenate([np.arange(hidden) + g * hidden for g in (0, 3, 1, 2)])
    names = [("", ""), ("_reverse", "")]
    state = {k: v.detach().numpy() for k, v in module.named_parameters()}
    ends = [end for end, _ in names]
    return {
        "w": np.stack([state[f"weight_ih_l0{e}"][order] for e in ends]),
        "r": np.stack([state[f"weight_hh_l0{e}"][order] for e in ends]),
        "b": np.stack(
            [np.concatenate([state[f"bias_{k}_l0{e}"][order] for k in ("ih", "hh")]) for e in ends]
        ),
    }


def test_an_lstm_stays_one_node() -> None:
    module, x = nn.LSTM(4, 8, bidirectional=True), torch.randn(9, 2, 4)
    node = helper.make_node(
        "LSTM", ["x", "w", "r", "b"], ["y", "h", "c"], hidden_size=8, direction="bidirectional"
    )
    graph = captured(
        model([node], {"x": (9, 2, 4)}, lstm_weights(module, 8), outputs=("y", "h")), x
    )
    assert ops(graph).count("lstm") == 1
    assert {"cat", "slice", "select"}.isdisjoint(ops(graph))
    y, h = Reference().compile(graph)(x)
    with torch.no_grad():
        expected, (state, _) = module(x)
    torch.testing.assert_close(y, expected.reshape(9, 2, 2, 8).transpose(1, 2))
    torch.testing.assert_close(h, state)


def branch(name: str, op: str) -> onnx.GraphProto:
    value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node(op, ["x"], [name])], name, [], [value])


def if_node() -> onnx.NodeProto:
    return helper.make_node(
        "If", ["on"], ["y"], then_branch=branch("a", "Sin"), else_branch=branch("b", "Cos")
    )


def test_a_branch_that_is_known_is_taken() -> None:
    proto = model([if_node()], {"x": (3,)}, {"on": np.array(False)})
    assert ops(captured(proto, torch.randn(3))) == ["cos"]


def test_a_branch_that_depends_on_data_is_a_cond() -> None:
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["on"]),
        if_node(),
    ]
    proto = model(nodes, {"x": (3,)}, {"zero": np.array(0, np.float32)})
    for sign in (1, -1):
        x = sign * torch.rand(3)
        graph = captured(proto, x)
        (cond,) = (n for n in graph.nodes if n.op == "cond")
        assert [[n.op for n in b] for b in cond.branches] == [["sin"], ["cos"]]
        torch.testing.assert_close(
            Reference().compile(graph)(x)[0], x.sin() if sign > 0 else x.cos()
        )


def loop(count: int) -> ModelProto:
    """y = x + 0 + 1 + ... and every partial sum."""
    body = helper.make_graph(
        [
            helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["v", "f"], ["w"]),
            helper.make_node("Identity", ["w"], ["s"]),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, ()),
            helper.make_tensor_value_info("go", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("on", "w", "s")],
    )
    node = helper.make_node("Loop", ["n", "go", "x"], ["y", "all"], body=body)
    weights: dict[str, NDArray[np.generic]] = {"n": np.array(count), "go": np.array(True)}
    return model([node], {"x": (2,)}, weights, outputs=("y", "all"))


def test_a_loop_is_unrolled() -> None:
    x = torch.randn(2)
    graph = captured(loop(4), x)
    assert ops(graph).count("add") == 4
    y, partial = Reference().compile(graph)(x)
    torch.testing.assert_close(y, x + 6)
    torch.testing.assert_close(partial, torch.stack([x, x + 1, x + 3, x + 6]))


def test_a_function_of_the_model_is_expanded() -> None:
    function = helper.make_function(
        "my.company",
        "Scaled",
        ["a"],
        ["c"],
        [
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("LeakyRelu", ["b"], ["c"]),
        ],
        [helper.make_opsetid("", 21)],
        ["alpha"],
    )
    reference = onnx.AttributeProto(
        name="alpha", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT
    )
    function.node[1].attribute.append(reference)
    node = helper.make_node("Scaled", ["x"], ["y"], domain="my.company", alpha=0.5)
    graph = captured(model([node], {"x": (3,)}, functions=[function]), torch.randn(3))
    assert ops(graph) == ["relu", "leaky_relu"]
    assert graph.nodes[1].arg("negative_slope") == 0.5


def test_what_depends_on_data_runs_and_is_refused_by_capture(tmp_path: Path) -> None:
    node = helper.make_node("NonZero", ["x"], ["y"], "find")
    proto = model([node], {"x": (4,)})
    module = OnnxModule(read_model(proto, name="small"))
    found = module(torch.tensor([0.0, 1.0, 0.0, 2.0]))
    assert isinstance(found, Tensor)
    assert found.tolist() == [[1, 3]]
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(CaptureError, match=r"node find \(NonZero\).*depends on the data") as caught:
        capture_target(Request(target=str(path)))
    assert "\n" not in str(caught.value)


def test_a_file_is_inspected_without_and_run_with_its_weights(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Relu", ["p"], ["y"])]
    weights: dict[str, NDArray[np.generic]] = {"w": floats(200, 100)}
    path = tmp_path / "net.onnx"
    path.write_bytes(model(nodes, {"x": (4, 200)}, weights).SerializeToString())
    graph = capture_target(Request(target=str(path)))
    assert (graph.name, graph.is_runnable, graph.parameters) == ("net", False, 20_000)
    loaded = load_model(Request(target=str(path)))
    (x,) = loaded.inputs
    assert isinstance(x, Tensor)
    torch.testing.assert_close(loaded.module(x), F.relu(x @ torch.from_numpy(weights["w"])))


# com.microsoft: node, inputs that vary, weights; each beside onnxruntime
def _ms(op: str, inputs: Sequence[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs, ["y"], domain="com.microsoft", **attributes)


PACKED = np.random.default_rng(1).integers(0, 256, (8, 2, 8), np.uint8)
MASK = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], np.int32)
ANGLES = np.random.default_rng(2).standard_normal((16, 4)).astype(np.float32)
CONTRIB: dict[
    str, tuple[onnx.NodeProto, dict[str, tuple[int, ...]], dict[str, NDArray[np.generic]]]
] = {
    "Gelu": (_ms("Gelu", ["x"]), {"x": (2, 8)}, {}),
    "FastGelu": (_ms("FastGelu", ["x", "b"]), {"x": (2, 8)}, {"b": floats(8)}),
    "BiasGelu": (_ms("BiasGelu", ["x", "b"]), {"x": (2, 8)}, {"b": floats(8)}),
    "QuickGelu": (_ms("QuickGelu", ["x"]), {"x": (2, 8)}, {}),
    "SkipLayerNormalization": (
        _ms("SkipLayerNormalization", ["x", "s", "g", "t", "b"], epsilon=1e-5),
        {"x": (2, 3, 8), "s": (2, 3, 8)},
        {"g": floats(8), "t": floats(8), "b": floats(8)},
    ),
    "SkipSimplifiedLayerNormalization": (
        _ms("SkipSimplifiedLayerNormalization", ["x", "s", "g"], epsilon=1e-5),
        {"x": (2, 3, 8), "s": (2, 3, 8)},
        {"g": floats(8)},
    ),
    "Attention": (
        _ms("Attention", ["x", "w", "b", "m"], num_heads=2),
        {"x": (2, 4, 8)},
        {"w": floats(8, 24), "b": floats(24), "m": MASK},
    ),
    "causal Attention": (
        _ms("Attention", ["x", "w", "b"], num_heads=2, unidirectional=1),
        {"x": (2, 4, 8)},
        {"w": floats(8, 24), "b": floats(24)},
    ),
    "MultiHeadAttention": (
        _ms("MultiHeadAttention", ["q", "k", "v", "b", "m"], num_heads=2),
        {"q": (2, 3, 8), "k": (2, 4, 8), "v": (2, 4, 8)},
        {"b": floats(24), "m": MASK},
    ),
    "GroupQueryAttention": (
        _ms(
            "GroupQueryAttention",
            ["q", "k", "v", "", "", "last", "total", "cos", "sin"],
            num_heads=4,
            kv_num_heads=2,
            do_rotary=1,
        ),
        {"q": (1, 5, 64), "k": (1, 5, 32), "v": (1, 5, 32)},
        {
            "last": np.array([4], np.int32),
            "total": np.array(5, np.int32),
            "cos": np.cos(np.tile(ANGLES, 2)),
            "sin": np.sin(np.tile(ANGLES, 2)),
        },
    ),
    "windowed GroupQueryAttention": (
        _ms(
            "GroupQueryAttention",
            ["q", "k", "v", "", "", "last", "total"],
            num_heads=4,
            kv_num_heads=2,
            local_window_size=2,
        ),
        {"q": (1, 5, 64), "k": (1, 5, 32), "v": (1, 5, 32)},
        {"last": np.array([4], np.int32), "total": np.array(5, np.int32)},
    ),
    "RotaryEmbedding": (
        _ms("RotaryEmbedding", ["x", "at", "cos", "sin"]),
        {"x": (1, 3, 16)},
        {"at": np.array([[0, 1, 5]]), "cos": np.cos(ANGLES), "sin": np.sin(ANGLES)},
    ),
    "FusedMatMul": (
        _ms("FusedMatMul", ["a", "b"], alpha=0.5, transB=1),
        {"a": (2, 3, 4), "b": (2, 5, 4)},
        {},
    ),
    "FusedConv": (
        _ms("FusedConv", ["x", "w", "b"], activation="Relu", pads=[1, 1, 1, 1]),
        {"x": (1, 3, 6, 6)},
        {"w": floats(4, 3, 3, 3), "b": floats(4)},
    ),
    "FusedGemm": (
        _ms("FusedGemm", ["x", "w", "b"], activation="LeakyRelu", activation_alpha=0.01),
        {"x": (2, 4)},
        {"w": floats(4, 3), "b": floats(3)},
    ),
    "MatMulNBits": (
        _ms("MatMulNBits", ["x", "w", "s"], K=32, N=8, bits=4, block_size=16),
        {"x": (2, 32)},
        {"w": PACKED, "s": np.abs(floats(16))},
    ),
}


@pytest.mark.parametrize("name", CONTRIB)
def test_fused_operators_agree_with_onnxruntime(name: str) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, a test extra")
    node, shapes, weights = CONTRIB[name]
    proto = model([node], shapes, weights)
    inputs = {n: floats(*s) for n, s in shapes.items()}
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(proto.SerializeToString(), options)
    (expected,) = session.run(None, inputs)
    tensors = [torch.from_numpy(a) for a in inputs.values()]
    (found,) = Reference().compile(captured(proto, *tensors))(*tensors)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-5, atol=1e-5)
