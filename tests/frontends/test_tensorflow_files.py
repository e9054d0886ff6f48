"""TensorFlow's own files: converted in a child, read as ONNX; one sentence where that fails."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("onnx", reason="needs the extra onnx: pip install 'ridgeline[onnx]'")

import numpy as np
import torch

from ridgeline.errors import MissingExtra, TargetError
from ridgeline.frontends import Request, capture_target, load_model
from ridgeline.frontends.tensorflow_child import ends
from ridgeline.frontends.tensorflow_file import is_tensorflow

HAS_TENSORFLOW = all(find_spec(name) for name in ("tensorflow", "tf2onnx"))
needs_tensorflow = pytest.mark.skipif(
    not HAS_TENSORFLOW, reason="needs the extra tf: pip install 'ridgeline[tf]'"
)
# Writes a SavedModel, the same frozen, an input and its output.
WRITER = """
import sys
import keras, numpy as np, tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
folder = sys.argv[1]
keras.utils.set_random_seed(0)
model = keras.Sequential([
    keras.Input((16, 16, 3)),
    keras.layers.Conv2D(4, 3, 2, padding="same", activation="relu"),
    keras.layers.AveragePooling2D(3, 2, padding="same"),
    keras.layers.GlobalAveragePooling2D(),
    keras.layers.Dense(3),
])
model.export(folder + "/saved")
x = np.random.default_rng(0).normal(size=(1, 16, 16, 3)).astype("float32")
np.savez(folder + "/io.npz", x=x, y=model(x).numpy())
spec = tf.TensorSpec((1, 16, 16, 3), tf.float32)
frozen = convert_variables_to_constants_v2(tf.function(model).get_concrete_function(spec))
open(folder + "/frozen.pb", "wb").write(frozen.graph.as_graph_def().SerializeToString())
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tensorflow")
    subprocess.run([sys.executable, "-P", "-c", WRITER, str(folder)], check=True)
    return folder


@needs_tensorflow
@pytest.mark.slow
@pytest.mark.parametrize("name", ["saved", "frozen.pb"])
def test_what_tensorflow_writes_is_read(written: Path, name: str) -> None:
    loaded = load_model(Request(target=str(written / name)))
    arrays = np.load(written / "io.npz")
    found = loaded.module(torch.from_numpy(arrays["x"]))
    assert np.abs(found.numpy() - arrays["y"]).max() < 1e-5
    graph = capture_target(Request(target=str(written / name)))
    assert [n.op for n in graph.nodes].count("convolution") == 1


@needs_tensorflow
def test_a_damaged_graph_says_so(tmp_path: Path) -> None:
    path = tmp_path / "m.pb"
    path.write_bytes(b"\xff" * 64)
    with pytest.raises(TargetError, match=r"m\.pb does not convert to ONNX: "):
        load_model(Request(target=str(path)))


@pytest.mark.skipif(HAS_TENSORFLOW, reason="tensorflow is installed")
def test_without_tensorflow_the_extra_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.pb"
    path.write_bytes(b"")
    with pytest.raises(MissingExtra, match=r"needs the extra tf: .*\[tf\]") as caught:
        load_model(Request(target=str(path)))
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="no file "):
        load_model(Request(target=str(tmp_path / "m.pb")))


def test_a_saved_model_comes_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\xff" * 64)
    with pytest.raises((TargetError, MissingExtra)):
        load_model(Request(target=str(tmp_path)))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "runs TensorFlow's own code for it (its initialisers); load only files you trust" in err


def test_the_child_has_no_more_than_the_memory_of_the_machine() -> None:
    code = (
        "import resource\n"
        "from ridgeline.frontends.tensorflow_child import limit_memory\n"
        "limit_memory()\n"
        "print(*resource.getrlimit(resource.RLIMIT_AS))"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert all(0 < int(limit) <= memory for limit in child.stdout.split())


def test_a_folder_is_told_by_what_lies_in_it(tmp_path: Path) -> None:
    assert not is_tensorflow(str(tmp_path))
    (tmp_path / "saved_model.pb").write_bytes(b"")
    assert is_tensorflow(str(tmp_path))


def test_a_frozen_graph_ends_where_nothing_reads() -> None:
    nodes = [
        SimpleNamespace(op="Placeholder", name="x", input=[]),
        SimpleNamespace(op="Const", name="w", input=[]),
        SimpleNamespace(op="NoOp", name="nothing", input=[]),
        SimpleNamespace(op="MatMul", name="product", input=["x", "w:0"]),
        SimpleNamespace(op="Relu", name="act", input=["product:0", "^nothing"]),
        SimpleNamespace(op="Neg", name="minus", input=["product"]),
    ]
    assert ends(nodes) == (["x:0"], ["act:0", "minus:0"])
