"""Whole models: sharing, nesting, operations, the graph that results, keras.applications."""

import json
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("keras", reason="needs keras, a test extra")

import keras
import numpy as np
import torch
from keras import layers, ops
from keras_oracle import TOLERANCE, check, error_of, keras_alone, run_keras, saved
from torch.utils._pytree import tree_leaves

from ridgeline.backends.reference import Reference
from ridgeline.cost.rules import cost_of
from ridgeline.frontends import LoadedModel, Request, capture, capture_target, load_model
from ridgeline.graph import Graph, verify
from ridgeline.passes.manager import run_passes


def graph_of(loaded: LoadedModel) -> Graph:
    """The graph of a model that was read, held against the reference backend."""
    graph = capture(loaded.module, loaded.inputs, is_trusted=True)
    verify(graph)
    wanted = tree_leaves(loaded.module(*loaded.inputs))
    assert error_of(list(Reference().compile(graph)(*loaded.inputs)), wanted) < TOLERANCE
    return graph


def ops_of(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def test_a_chain_with_channels_last_is_permuted_once_on_the_way_in(tmp_path: Path) -> None:
    x = start = keras.Input((16, 16, 3))
    x = layers.ZeroPadding2D(1)(x)
    x = layers.Conv2D(8, 3, use_bias=False)(x)
    y = layers.BatchNormalization()(x)
    y = layers.Activation("swish")(y)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(y)
    gate = layers.Conv2D(8, 1, activation="sigmoid")(gate)
    y = layers.Multiply()([y, gate])
    y = layers.DepthwiseConv2D(3, padding="same")(y)
    y = layers.Concatenate()([layers.Add()([x, y]), y])
    y = layers.AveragePooling2D(2)(layers.MaxPooling2D(2, padding="same")(y))
    y = layers.GlobalAveragePooling2D()(y * 2.0 - 1.0)
    loaded = check(keras.Model(start, layers.Dense(5, activation="softmax")(y)), tmp_path)
    assert ops_of(graph_of(loaded)) == [
        "permute",
        "pad",
        "convolution",
        "batch_norm",
        "silu",
        "adaptive_avg_pool",
        "convolution",
        "sigmoid",
        "mul",
        "convolution",
        "add",
        "cat",
        "max_pool",
        "avg_pool",
        "mul",
        "sub",
        "adaptive_avg_pool",
        "view",
        "linear",
        "softmax",
    ]


def test_channels_first_needs_no_permute(tmp_path: Path) -> None:
    x = start = keras.Input((3, 9, 9))
    options = {"data_format": "channels_first"}
    x = layers.Conv2D(4, 3, 2, padding="same", activation="relu", **options)(x)
    x = layers.MaxPooling2D(**options)(layers.BatchNormalization(axis=1)(x))
    loaded = check(keras.Model(start, layers.GlobalAveragePooling2D(**options)(x)), tmp_path)
    assert "permute" not in ops_of(graph_of(loaded))


def test_passes_fold_what_they_fold_in_torch(tmp_path: Path) -> None:
    x = start = keras.Input((9, 9, 3))
    x = layers.ZeroPadding2D(1)(x)
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3)(x)))
    loaded = check(keras.Model(start, layers.GlobalMaxPooling2D()(x)), tmp_path)
    after = run_passes(graph_of(loaded))[-1].graph
    assert ops_of(after) == ["permute", "convolution", "relu", "amax", "view"]
    assert (
        error_of(list(Reference().compile(after)(*loaded.inputs)), [loaded.module(*loaded.inputs)])
        < TOLERANCE
    )


def test_composites_stay_whole(tmp_path: Path) -> None:
    x = start = keras.Input((6,), dtype="int32")
    x = layers.Embedding(11, 8)(x)
    x = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)])
    x = layers.Dense(8, activation="gelu")(layers.RMSNormalization()(x))
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(x)
    x = layers.GRU(4)(layers.GroupNormalization(2)(x))
    loaded = check(keras.Model(start, x), tmp_path)
    counts = Counter(ops_of(graph_of(loaded)))
    for op in ("embedding", "layer_norm", "sdpa", "gelu", "rms_norm", "lstm", "group_norm", "gru"):
        assert counts[op] == 1, op


def test_a_layer_called_twice_has_one_weight(tmp_path: Path) -> None:
    x = start = keras.Input((8, 8, 3))
    conv = layers.Conv2D(3, 3, padding="same")
    graph = graph_of(check(keras.Model(start, conv(layers.ReLU()(conv(x)))), tmp_path))
    assert len(graph.inputs) == 3
    assert ops_of(graph).count("convolution") == 2


def test_models_in_models_and_several_outputs(tmp_path: Path) -> None:
    inner_in = [keras.Input((4,)), keras.Input((4,))]
    inner_sum = layers.Add()(inner_in)
    inner = keras.Model(inner_in, [layers.Dense(4)(inner_sum), inner_sum], name="inner")
    stack = keras.Sequential(
        [layers.Dense(4, activation="relu"), layers.Dropout(0.1)], name="stack"
    )
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    first, second = inner([stack(a), stack(b)])
    again, _ = inner([first, second])
    model = keras.Model([a, b], {"one": again, "two": [second, inner([a, b])[0]], "a": first})
    graph = graph_of(check(model, tmp_path))
    assert {n.module for n in graph.nodes if n.op == "linear"} == {
        "stack.dense",
        "inner.dense",
    } or (ops_of(graph).count("linear") == 5)


def test_a_nested_model_is_an_output(tmp_path: Path) -> None:
    start = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3)], name="inner")
    inside = keras.Input((4,))
    functional = keras.Model(inside, layers.Dense(2)(inside), name="functional")
    check(keras.Model(start, [functional(start), inner(start)]), tmp_path)


def test_layers_of_one_class_find_their_own_weights(tmp_path: Path) -> None:
    x = start = keras.Input((4,))
    for width in (5, 6, 7, 6):
        x = layers.Dense(width)(x)
    check(keras.Model(start, x), tmp_path)


def test_operations_between_layers(tmp_path: Path) -> None:
    x = start = keras.Input((6, 5, 4))
    y = layers.Conv2D(4, 1)(x)
    total = ops.mean(y, axis=(1, 2), keepdims=True) + ops.max(y, axis=-1, keepdims=True)
    y = ops.where(y > total, y, -ops.square(y) / 3.0)
    y = ops.concatenate([y[:, :, 1:], ops.flip(y, axis=1)[:, :, :-1]], axis=-1)
    y = ops.reshape(y, (-1, 24, 8)) @ ops.ones((8, 3))
    y = ops.einsum("bij,bkj->bik", y, y)[..., None, 2]
    y = ops.transpose(ops.pad(y, ((0, 0), (1, 0), (0, 2))), (0, 2, 1))
    parts = ops.split(ops.swapaxes(y, 1, 2), 5, axis=1)
    y = ops.stack([ops.logsumexp(p, axis=-1) for p in parts], axis=1)
    y = ops.maximum(ops.minimum(y, 2.0), ops.clip(ops.exp(-y), 0.1, 0.9))
    z = ops.take(ops.tile(y, (1, 1, 2)), [3, 1], axis=2) ** 2 % 3
    model = keras.Model(start, [y, z, ops.argmax(y, axis=-1), ops.cast(y > 0, "float32")])
    graph_of(check(model, tmp_path))


def test_written_out_constants_are_buffers(tmp_path: Path) -> None:
    start = keras.Input((3, 4))
    table = ops.convert_to_tensor([[1.0, 2.0, 3.0, 4.0]] * 3)
    graph = graph_of(check(keras.Model(start, start * table + 0.5), tmp_path))
    assert ops_of(graph) == ["mul", "add"]
    assert [str(i.spec) for i in graph.inputs] == ["fp32[3,4]", "fp32[1,3,4]"]


def test_json_has_the_same_graph_and_weights_of_its_own(tmp_path: Path) -> None:
    x = start = keras.Input((None, None, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, activation="relu")(x))
    model = keras.Model(start, layers.GlobalAveragePooling2D()(x))
    path = tmp_path / "model.json"
    path.write_text(model.to_json())
    request = {"batch": 2, "seq": 32}
    bare = capture_target(Request(target=str(path), **request))  # type: ignore[arg-type]
    full = capture_target(Request(target=str(saved(model, tmp_path)), **request))  # type: ignore[arg-type]
    assert bare.digest == full.digest
    assert bare.inputs[-1].spec.shape == (2, 32, 32, 3)
    loaded = load_model(Request(target=str(path), **request))  # type: ignore[arg-type]
    (y,) = tree_leaves(loaded.module(*loaded.inputs))
    assert torch.isfinite(y).all()
    assert float((y[0] - y[1]).abs().max()) > 0


def test_a_sequential_model_as_json(tmp_path: Path) -> None:
    model = keras.Sequential([layers.Dense(3, activation="relu"), layers.Dense(2)])
    model.build((None, 4))
    path = tmp_path / "model.json"
    path.write_text(model.to_json())
    graph = capture_target(Request(target=str(path), batch=7))
    assert ops_of(graph) == ["linear", "relu", "linear"]
    config = json.loads(model.to_json())
    config["config"]["layers"] = config["config"]["layers"][1:]
    path.write_text(json.dumps(config))
    assert capture_target(Request(target=str(path), batch=7)).digest == graph.digest


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "mixed_bfloat16"])
def test_other_dtypes(dtype: str, tmp_path: Path) -> None:
    start = keras.Input((8, 8, 3), dtype="float32")
    x = layers.Conv2D(4, 3, dtype=dtype)(start)
    model = keras.Model(start, layers.Dense(3, dtype=dtype)(layers.Flatten(dtype=dtype)(x)))
    check(model, tmp_path, tolerance=2e-2 if "16" in dtype else TOLERANCE)


def stir(model: keras.Model) -> None:
    """Weights of a whole network that keep its signals alive, none where it starts."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        name = variable.path.rsplit("/", 1)[-1]
        with keras_alone():
            if name in ("gamma", "moving_variance"):
                variable.assign(rng.uniform(0.8, 1.2, variable.shape))
            elif name in ("beta", "bias", "moving_mean"):
                variable.assign(rng.normal(size=variable.shape) * 0.1)


def application(name: str) -> keras.Model:
    """A network of keras.applications without its softmax, weights drawn here."""
    with keras_alone():
        model = getattr(keras.applications, name)(weights=None, classifier_activation=None)
    stir(model)
    return model


APPLICATIONS = (
    "ConvNeXtTiny",
    "DenseNet121",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "InceptionV3",
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "ResNet50",
    "ResNet50V2",
    "VGG16",
    "Xception",
)


# One of each family; the record of bench_keras.py holds all of them.
FAMILIES = ("ConvNeXtTiny", "EfficientNetB0", "InceptionV3", "MobileNetV3Small", "VGG16")


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_an_application_computes_what_keras_computes(name: str, tmp_path: Path) -> None:
    model = application(name)
    loaded = load_model(Request(target=str(saved(model, tmp_path))))
    (found,) = tree_leaves(loaded.module(*loaded.inputs))
    assert error_of([found], run_keras(model, loaded.inputs)) < TOLERANCE
    assert float(found.std()) > 1e-3, "outputs all alike would show nothing"
    graph = graph_of(loaded)
    if name != "ConvNeXtTiny":  # its norms and dense layers want channels last
        assert ops_of(graph).count("permute") == (2 if name == "VGG16" else 1)  # it flattens a map


def test_resnet50_has_the_flops_of_its_paper(tmp_path: Path) -> None:
    """By hand: Keras's has the stride on the first 1x1, as He et al. 2015 have it."""
    with keras_alone():
        model = keras.applications.ResNet50(weights=None)
    path = tmp_path / "resnet50.json"
    path.write_text(model.to_json())
    graph = capture_target(Request(target=str(path)))
    macs = 112**2 * 64 * 3 * 7**2
    for side, width, blocks in ((56, 64, 3), (28, 128, 4), (14, 256, 6), (7, 512, 3)):
        before = 64 if width == 64 else 2 * width
        inner = 9 * width**2 + 4 * width**2
        first = before * width + inner + before * 4 * width
        macs += side**2 * (first + (blocks - 1) * (4 * width**2 + inner))
    macs += 2048 * 1000
    assert macs == 3_857_973_248
    assert sum(cost_of(node).flops for node in graph.nodes) == 2 * macs
    assert graph.parameters == model.count_params() - 53_120, "running statistics are buffers"
