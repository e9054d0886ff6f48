"""The networks of `networks.py` in ONNX, node by node, as other tools write them: old operator
sets, norms and attention in arithmetic, matrices on the right, one projection where torch's has
three and three where it has one.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import onnx
from networks import Decoder, DecoderBlock, Lstm, ResNet18, ViT, ViTBlock
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

IR_VERSION = 8


class Writer:
    """An ONNX graph under way; every method gives the name of a value."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        """The first output of a new node."""
        return self.ops(kind, *inputs, outputs=outputs, **attributes)[0]

    def ops(self, kind: str, *inputs: str, outputs: int, **attributes: object) -> tuple[str, ...]:
        """All outputs of a new node."""
        names = tuple(f"n{len(self.nodes)}_{k}" for k in range(outputs))
        self.nodes.append(helper.make_node(kind, list(inputs), list(names), **attributes))
        return names

    def weight(self, value: Tensor | np.ndarray | Sequence[float] | float, kind: str = "f") -> str:
        """A constant; kind "i" for integers."""
        array = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
        array = np.ascontiguousarray(array.astype(np.int64 if kind == "i" else np.float32))
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array.reshape(np.shape(value)), name))
        return name

    def model(
        self,
        given: tuple[str, int, Sequence[int]],
        made: str,
        shape: Sequence[int],
        opset: int,
    ) -> ModelProto:
        """The finished model."""
        inputs = [helper.make_tensor_value_info(*given)]
        outputs = [helper.make_tensor_value_info(made, TensorProto.FLOAT, list(shape))]
        graph = helper.make_graph(self.nodes, "written", inputs, outputs, self.weights)
        opsets = [helper.make_opsetid("", opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        return model

    def matmul(self, x: str, layer: nn.Linear, rows: slice = slice(None)) -> str:
        """A product with a matrix on the right, and a bias in front of the sum."""
        y = self.op("MatMul", x, self.weight(layer.weight[rows].T))
        if layer.bias is None:
            return y
        return self.op("Add", self.weight(layer.bias[rows]), y)

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, self.weight(shape, "i"))


# ---- ResNet-18 ----------------------------------------------------------------------------------


def resnet18(model: ResNet18) -> ModelProto:
    """As Caffe-like tools write it: explicit pads, batch norms, a global pool, a Gemm."""
    w = Writer()
    border = w.weight([0, 0, 3, 3, 0, 0, 3, 3], "i")
    x = _conv_norm(w, w.op("Pad", "image", border), model.conv1, model.bn1, pads=[0] * 4)
    x = w.op("Relu", x)
    x = w.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for block in (b for layer in model.layers for b in layer):
        y = w.op("Relu", _conv_norm(w, x, block.conv1, block.bn1, pads=[1] * 4))
        y = _conv_norm(w, y, block.conv2, block.bn2, pads=[1] * 4)
        if isinstance(block.downsample, nn.Sequential):
            x = _conv_norm(w, x, *block.downsample, pads=[0] * 4)
        x = w.op("Relu", w.op("Add", x, y))
    x = w.op("Flatten", w.op("GlobalAveragePool", x))
    made = w.op("Gemm", x, w.weight(model.fc.weight.T), w.weight(model.fc.bias))
    return w.model(("image", TensorProto.FLOAT, [2, 3, 64, 64]), made, [2, 10], 11)


def _conv_norm(w: Writer, x: str, conv: nn.Module, norm: nn.Module, *, pads: Sequence[int]) -> str:
    x = w.op(
        "Conv",
        x,
        w.weight(conv.weight),
        kernel_shape=list(conv.kernel_size),
        strides=list(conv.stride),
        pads=list(pads),
    )
    parts = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    return w.op("BatchNormalization", x, *(w.weight(p) for p in parts), epsilon=norm.eps)


# ---- ViT ----------------------------------------------------------------------------------------


def vit(model: ViT) -> ModelProto:
    """As older exporters write it: norms, GELU and attention in arithmetic, three projections."""
    w = Writer()
    width, batch, heads = model.token.shape[-1], 2, model.blocks[0].heads
    patch = model.patches.kernel_size
    x = w.op(
        "Conv",
        "image",
        w.weight(model.patches.weight),
        w.weight(model.patches.bias),
        strides=list(patch),
    )
    x = w.op("Transpose", x, perm=[0, 2, 3, 1])
    x = w.reshape(x, batch, -1, width)
    token = w.op("Tile", w.weight(model.token), w.weight([batch, 1, 1], "i"))
    x = w.op("Add", w.weight(model.positions), w.op("Concat", token, x, axis=1))
    for block in model.blocks:
        x = _vit_block(w, x, block, heads, width)
    x = _layer_norm(w, x, model.norm)
    x = w.op("Gather", x, w.weight(0, "i"), axis=1)
    made = w.op("Gemm", x, w.weight(model.head.weight), w.weight(model.head.bias), transB=1)
    return w.model(("image", TensorProto.FLOAT, [2, 3, 32, 32]), made, [2, 10], 13)


def _vit_block(w: Writer, x: str, block: ViTBlock, heads: int, width: int) -> str:
    y = _layer_norm(w, x, block.norm1)
    thirds = [slice(k * width, (k + 1) * width) for k in range(3)]
    q, k, v = (
        w.reshape(w.matmul(y, block.qkv, rows), 0, 0, heads, width // heads) for rows in thirds
    )
    q, v = (w.op("Transpose", t, perm=[0, 2, 1, 3]) for t in (q, v))
    k = w.op("Transpose", k, perm=[0, 2, 3, 1])
    scores = w.op("Div", w.op("MatMul", q, k), w.weight((width / heads) ** 0.5))
    y = w.op("MatMul", w.op("Softmax", scores, axis=-1), v)
    y = w.reshape(w.op("Transpose", y, perm=[0, 2, 1, 3]), 0, 0, width)
    x = w.op("Add", w.matmul(y, block.proj), x)
    y = w.matmul(_layer_norm(w, x, block.norm2), block.fc1)
    erf = w.op("Erf", w.op("Div", y, w.weight(2**0.5)))
    y = w.op("Mul", w.op("Mul", y, w.op("Add", erf, w.weight(1.0))), w.weight(0.5))
    return w.op("Add", x, w.matmul(y, block.fc2))


def _layer_norm(w: Writer, x: str, norm: nn.LayerNorm) -> str:
    centred = w.op("Sub", x, w.op("ReduceMean", x, axes=[-1]))
    variance = w.op("ReduceMean", w.op("Pow", centred, w.weight(2.0)), axes=[-1])
    root = w.op("Sqrt", w.op("Add", variance, w.weight(norm.eps)))
    y = w.op("Mul", w.op("Div", centred, root), w.weight(norm.weight))
    return w.op("Add", y, w.weight(norm.bias))


# ---- LSTM ---------------------------------------------------------------------------------------


def lstm(model: Lstm) -> ModelProto:
    """One node for each layer, gates in ONNX's order, states not said, the last step by Y_h."""
    w = Writer()
    x = w.op("Gather", w.weight(model.embedding.weight), "words")
    x = w.op("Transpose", x, perm=[1, 0, 2])
    y, hidden = x, model.lstm.hidden_size
    for layer in range(2):
        names = [f"{n}_l{layer}" for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        parts = [_as_iofc(getattr(model.lstm, n).detach().numpy()) for n in names]
        weights = [p[None] for p in (*parts[:2], np.concatenate(parts[2:]))]
        given = [w.weight(p) for p in weights]
        y, last = w.ops("LSTM", x, *given, outputs=2, hidden_size=hidden)
        x = w.op("Squeeze", y, w.weight([1], "i"))
    last = w.op("Squeeze", last, w.weight([0], "i"))
    made = w.matmul(last, model.head)
    return w.model(("words", TensorProto.INT64, [3, 7]), made, [3, 5], 14)


def _as_iofc(rows: np.ndarray) -> np.ndarray:
    """Torch's gates, input, forget, cell, output, in ONNX's order."""
    i, f, c, o = np.split(rows, 4)
    return np.concatenate([i, o, f, c])


# ---- decoder ------------------------------------------------------------------------------------


def decoder(model: Decoder) -> ModelProto:
    """As a person fuses it: one matrix for query, key and value, one for gate and up; a mask added
    to the scores; baked tables of angles.
    """
    w = Writer()
    c = model.c
    angles = np.outer(np.arange(c.length), model.rates.numpy())
    tables = [np.concatenate([f(angles), f(angles)], -1)[None, None] for f in (np.cos, np.sin)]
    cos, sin = (w.weight(t) for t in tables)
    later = np.triu(np.full((c.length, c.length), np.finfo(np.float32).min), 1)
    mask = w.weight(later[None, None])
    x = w.op("Gather", w.weight(model.embedding.weight), "words", axis=0)
    for block in model.blocks:
        x = _decoder_block(w, x, block, cos, sin, mask)
    made = w.matmul(_rms_norm(w, x, model.norm), model.head)
    shape = [2, c.length]
    return w.model(("words", TensorProto.INT64, shape), made, [*shape, c.words], 17)


def _decoder_block(w: Writer, x: str, block: DecoderBlock, cos: str, sin: str, mask: str) -> str:
    c = block.c
    d, batch = c.width // c.heads, 2
    y = w.reshape(_rms_norm(w, x, block.norm1), -1, c.width)
    packed = np.concatenate([p.weight.detach().numpy() for p in (block.q, block.k, block.v)])
    parts = w.ops(
        "Split",
        w.op("MatMul", y, w.weight(packed.T)),
        w.weight([c.width] * 3, "i"),
        outputs=3,
        axis=1,
    )
    q, k, v = (w.reshape(p, batch, c.length, c.heads, d) for p in parts)
    q, k, v = (w.op("Transpose", p, perm=[0, 2, 1, 3]) for p in (q, k, v))
    q, k = (_rotated(w, p, cos, sin, d) for p in (q, k))
    scores = w.op("MatMul", q, w.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = w.op("Add", w.op("Mul", scores, w.weight(d**-0.5)), mask)
    y = w.op("MatMul", w.op("Softmax", scores, axis=3), v)
    y = w.reshape(w.op("Transpose", y, perm=[0, 2, 1, 3]), batch * c.length, c.width)
    y = w.reshape(w.matmul(y, block.o), batch, c.length, c.width)
    x = w.op("Add", x, y)
    y = _rms_norm(w, x, block.norm2)
    packed = np.concatenate([p.weight.detach().numpy() for p in (block.gate, block.up)])
    y = w.op("MatMul", y, w.weight(packed.T))
    gate, up = w.ops("Split", y, w.weight([c.hidden] * 2, "i"), outputs=2, axis=-1)
    y = w.op("Mul", up, w.op("Mul", w.op("Sigmoid", gate), gate))
    return w.op("Add", w.matmul(y, block.down), x)


def _rotated(w: Writer, x: str, cos: str, sin: str, d: int) -> str:
    bounds = [[0], [d // 2], [d]]
    first, second = (
        w.op("Slice", x, w.weight(a, "i"), w.weight(b, "i"), w.weight([3], "i"))
        for a, b in pairwise(bounds)
    )
    turned = w.op("Concat", w.op("Neg", second), first, axis=-1)
    return w.op("Add", w.op("Mul", x, cos), w.op("Mul", turned, sin))


def _rms_norm(w: Writer, x: str, norm: nn.Module) -> str:
    mean = w.op("ReduceMean", w.op("Mul", x, x), axes=[-1])
    root = w.op("Sqrt", w.op("Add", mean, w.weight(norm.epsilon)))
    return w.op("Mul", w.weight(norm.weight), w.op("Div", x, root))


WRITTEN = {"resnet18": resnet18, "vit": vit, "lstm": lstm, "decoder": decoder}
