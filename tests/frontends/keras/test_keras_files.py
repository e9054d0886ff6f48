"""Bad Keras files: one clear sentence each, and nothing large is allocated."""

import contextlib
import copy
import io
import itertools
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("h5py", reason="needs the extra keras: pip install 'ridgeline[keras]'")

import h5py
import numpy as np

from ridgeline.errors import CaptureError, RidgelineError, TargetError, UnsupportedOp
from ridgeline.frontends import Request, capture_target, load_model
from ridgeline.frontends.keras_file import is_keras

HUGE = 2**40
Json = dict[str, Any]
Write = Callable[..., Path]


def layer(kind: str, name: str, reads: str | None = None, **config: object) -> Json:
    """One layer of a functional model, as Keras writes it."""
    tensor = {"class_name": "__keras_tensor__", "config": {"keras_history": [reads, 0, 0]}}
    return {
        "module": "keras.layers",
        "class_name": kind,
        "config": {"name": name, **config},
        "registered_name": None,
        "name": name,
        "inbound_nodes": [] if reads is None else [{"args": [tensor], "kwargs": {}}],
    }


def functional(*layers: Json, last: str = "y", shape: tuple[int | None, ...] = (None, 3)) -> Json:
    """A model from x to `last`."""
    start = layer("InputLayer", "x", batch_shape=list(shape), dtype="float32")
    config = {
        "name": "small",
        "layers": [start, *layers],
        "input_layers": [["x", 0, 0]],
        "output_layers": [[last, 0, 0]],
    }
    return {"module": "keras", "class_name": "Functional", "config": config}


DENSE = layer("Dense", "y", "x", units=2, use_bias=True, activation="relu")


def weights(**arrays: object) -> bytes:
    """An HDF5 file of arrays by path, "/" written "__"."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, value in arrays.items():
            file[name.replace("__", "/")] = value
    return buffer.getvalue()


GOOD = weights(
    layers__dense__vars__0=np.ones((3, 2), "f4"), layers__dense__vars__1=np.ones(2, "f4")
)


def error_of(path: Path, kind: type[RidgelineError] = TargetError, **sizes: int) -> str:
    """The one sentence that a file gives when it is to run."""
    with pytest.raises(kind) as caught:
        load_model(Request(target=str(path), **sizes))  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 1000
    return text


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def save(
        config: object = None, data: bytes | None = GOOD, *, compression: int = zipfile.ZIP_STORED
    ) -> Path:
        path = tmp_path / "m.keras"
        text = (
            config if isinstance(config, str | bytes) else json.dumps(config or functional(DENSE))
        )
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("config.json", text)
            if data is not None:
                archive.writestr("model.weights.h5", data)
        return path

    return save


def test_a_good_file_is_read(write: Write) -> None:
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        loaded = load_model(Request(target=str(write(compression=compression)), batch=5))
        (x,) = loaded.inputs
        wanted = (x.sum(1, keepdim=True) + 1).relu().expand(5, 2)  # type: ignore[attr-defined]
        assert (loaded.module(x) - wanted).abs().max() < 1e-5


def test_calls_as_keras_2_writes_them(write: Write) -> None:
    old = {**DENSE, "inbound_nodes": [[["x", 0, 0, {}]]]}
    del old["module"]
    both = [capture_target(Request(target=str(write(functional(d))))) for d in (DENSE, old)]
    assert both[0].digest == both[1].digest


def test_weights_where_keras_2_puts_them(write: Write) -> None:
    data = weights(
        _layer_checkpoint_dependencies__dense__vars__0=np.ones((3, 2), "f4"),
        _layer_checkpoint_dependencies__dense__vars__1=np.ones(2, "f4"),
    )
    loaded = load_model(Request(target=str(write(data=data))))
    assert [float(p.min()) for p in loaded.module.parameters()] == [1, 1]


def test_without_h5py_the_extra_is_named(write: Write) -> None:
    code = (
        "import sys; sys.modules['h5py'] = None\n"
        "from ridgeline.frontends import Request, load_model\n"
        f"load_model(Request(target={str(write())!r}))"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    last = child.stderr.strip().splitlines()[-1]
    assert last.startswith("ridgeline.errors.MissingExtra: ")
    assert "needs the extra keras: pip install 'ridgeline[keras]'" in last


@pytest.mark.parametrize("content", [b"", b"not a zip at all", b"PK\x03\x04" + b"\0" * 64])
def test_what_is_no_archive_says_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.keras"
    path.write_bytes(content)
    assert "no .keras file" in error_of(path)


@pytest.mark.parametrize("name", ["m.h5", "m.hdf5"])
def test_the_format_of_keras_2_is_named(tmp_path: Path, name: str) -> None:
    assert "Keras 2's format" in error_of(tmp_path / name)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    assert error_of(tmp_path / "m.keras").startswith("no file ")


def test_a_truncated_file_says_so(tmp_path: Path, write: Write) -> None:
    whole = write().read_bytes()
    path = tmp_path / "cut.keras"
    for length in range(1, len(whole) - 1, 97):
        path.write_bytes(whole[:length])
        error_of(path)


def test_weights_that_are_damaged_say_so(write: Write) -> None:
    for length in (0, 7, 100, len(GOOD) // 2):
        error_of(write(data=GOOD[:length]))


@pytest.mark.parametrize("place", range(0, len(GOOD), 211))
def test_bytes_that_flip_crash_nothing(write: Write, place: int) -> None:
    data = bytearray(GOOD)
    data[place] ^= 0xFF
    path = write(data=bytes(data))
    with contextlib.suppress(RidgelineError):
        loaded = load_model(Request(target=str(path)))
        assert loaded.module(*loaded.inputs).shape == (1, 2)


def test_an_archive_without_its_members_says_which(tmp_path: Path, write: Write) -> None:
    assert "model.weights.h5" in error_of(write(data=None))
    path = tmp_path / "empty.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
    assert "config.json" in error_of(path)


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../b", "a\\..\\b"])
def test_a_member_outside_of_the_archive_is_refused(write: Write, name: str) -> None:
    path = write()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "x")
    assert "outside of itself" in error_of(path)


def test_a_zip_bomb_is_refused(write: Write) -> None:
    bomb = json.dumps(functional(DENSE)).encode() + b" " * 2**25
    assert "declares" in error_of(write(bomb, compression=zipfile.ZIP_DEFLATED))
    data = GOOD + b"\0" * 2**25
    assert "declares" in error_of(write(data=data, compression=zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("text", ["", "[]", "{", "3", "null", '"x"', "\x00", "{}", '{"config": 3}'])
def test_what_is_no_config_says_so(write: Write, text: str) -> None:
    error_of(write(text or " "))


def test_deep_nesting_is_refused(write: Write) -> None:
    assert "nested too deeply" in error_of(write("[" * 100_000 + "]" * 100_000))
    deep: object = 1
    for _ in range(700):
        deep = [deep]
    config = functional(layer("Dense", "y", "x", units=2))
    config["config"]["layers"][1]["inbound_nodes"][0]["kwargs"] = {"mask": deep}
    with pytest.raises(RidgelineError):
        load_model(Request(target=str(write(config))))


def test_models_in_models_in_models_are_refused(write: Write) -> None:
    config = functional(DENSE)
    for _ in range(70):
        inner = {**copy.deepcopy(config), "name": "y", "inbound_nodes": DENSE["inbound_nodes"]}
        config = functional(inner)
    assert "models deep" in error_of(write(config))


def test_an_unknown_layer_is_named(write: Write) -> None:
    text = error_of(write(functional(layer("Frobnicate", "y", "x"))), UnsupportedOp)
    assert "layer y (Frobnicate)" in text
    assert "ONNX" in text


def test_custom_classes_and_python_code_are_refused_by_name(write: Write) -> None:
    custom = {**DENSE, "class_name": "Mine", "module": None, "registered_name": "my_package>Mine"}
    text = error_of(write(functional(custom)), UnsupportedOp)
    assert "layer y (my_package>Mine)" in text
    assert "ONNX" in text
    code = {"class_name": "__lambda__", "config": {"value": "4wAAAAA="}}
    assert "Python code" in error_of(
        write(functional(layer("Lambda", "y", "x", function=code))), UnsupportedOp
    )
    text = error_of(
        write(functional(layer("Dense", "y", "x", units=2, activation=code))), UnsupportedOp
    )
    assert "layer y (Dense) holds Python code" in text
    outside = {"module": "os", "class_name": "system", "config": {}, "name": "y"}
    assert "(system)" in error_of(write(functional(outside)), UnsupportedOp)
    function = {"class_name": "function", "module": "mine", "config": "f", "registered_name": "f"}
    text = error_of(
        write(functional(layer("Dense", "y", "x", units=2, activation=function))), UnsupportedOp
    )
    assert "activation f" in text


def test_a_subclassed_model_is_refused_by_name(write: Write) -> None:
    config = {"module": None, "class_name": "MyNet", "config": {}, "registered_name": "MyNet"}
    assert "MyNet" in error_of(write(config), UnsupportedOp)


def test_quantised_layers_are_refused(write: Write) -> None:
    policy = {"class_name": "QuantizedDTypePolicy", "config": {"mode": "int8"}}
    assert "quantised" in error_of(
        write(functional(layer("Dense", "y", "x", units=2, dtype=policy))), UnsupportedOp
    )


def test_a_cycle_is_named(write: Write) -> None:
    first, second = layer("ReLU", "a", "b"), layer("ReLU", "b", "a")
    text = error_of(write(functional(first, second, layer("ReLU", "y", "b"))))
    assert "cycle" in text
    assert "a" in text
    assert "b" in text


def test_calls_of_nothing_are_named(write: Write) -> None:
    assert "'nowhere'" in error_of(write(functional(layer("ReLU", "y", "nowhere"))))
    late = copy.deepcopy(layer("ReLU", "y", "x"))
    history = late["inbound_nodes"][0]["args"][0]["config"]["keras_history"]
    history[1] = 3
    assert "call 3 of 'x'" in error_of(write(functional(late)))
    history[1:] = [0, 2]
    assert "fewer outputs" in error_of(write(functional(late)), CaptureError)


def test_two_layers_of_one_name_are_refused(write: Write) -> None:
    assert "two layers" in error_of(write(functional(DENSE, DENSE)))


def test_ends_that_are_none_are_refused(write: Write) -> None:
    assert "no inputs or no outputs" in error_of(
        write({**functional(DENSE), "config": {**functional(DENSE)["config"], "input_layers": []}})
    )
    error_of(write(functional(DENSE, last="nowhere")))


@pytest.mark.parametrize("shape", [[HUGE, 3], [2**20, 2**20], [-1, 3], ["a"], None, [True, 3]])
def test_inputs_of_no_size_are_refused(write: Write, shape: object) -> None:
    config = functional(DENSE)
    config["config"]["layers"][0]["config"]["batch_shape"] = shape
    assert "input x" in error_of(write(config))


@pytest.mark.parametrize("units", [0, -1, "2", 2.5, None, True, [2]])
def test_configs_of_no_size_are_refused(write: Write, units: object) -> None:
    text = error_of(write(functional(layer("Dense", "y", "x", units=units))))
    assert "layer y (Dense)" in text
    assert "units" in text


def test_sizes_that_no_memory_holds_are_refused_before_they_are_made(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    for units in (2**33, 2**62):
        path.write_text(json.dumps(functional(layer("Dense", "y", "x", units=units))))
        with pytest.raises(RidgelineError):
            load_model(Request(target=str(path)))


def test_a_description_without_weights_is_inspected_at_any_size(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(functional(layer("Dense", "y", "x", units=2**33))))
    (node,) = capture_target(Request(target=str(path))).nodes
    assert node.op == "linear"


def test_weights_of_another_shape_are_named(write: Write) -> None:
    data = weights(layers__dense__vars__0=np.ones((2, 3), "f4"))
    text = error_of(write(data=data))
    assert "weight of layer y (Dense) is [2, 3] in the file" in text
    assert "[3, 2]" in text
    assert "not in the file" in error_of(write(data=weights(other=np.ones(1))))
    assert "no array" in error_of(write(data=weights(layers__dense__vars__0__deep=np.ones(1))))


def linked(link: object) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["layers/dense/vars/1"] = np.ones(2, "f4")
        file["layers/dense/vars/0"] = link
    return buffer.getvalue()


def test_links_are_not_followed(write: Write, tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["w"] = np.ones((3, 2), "f4")
    for link in (h5py.ExternalLink(str(secret), "w"), h5py.SoftLink("/layers/dense/vars/1")):
        assert "links are not followed" in error_of(write(data=linked(link)))


def test_arrays_outside_of_the_file_are_not_read(write: Write, tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(b"\0" * 24)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        group = file.create_group("layers/dense/vars")
        group.create_dataset("0", (3, 2), "f4", external=[(str(secret), 0, 24)])
    assert "outside the file" in error_of(write(data=buffer.getvalue()))


def test_an_array_that_declares_more_than_it_holds_is_not_read(write: Write) -> None:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        group = file.create_group("layers/dense/vars")
        group.create_dataset("0", (3, 2**28), "f4", chunks=(1, 2**20), fillvalue=1.0)
    config = functional(layer("Dense", "y", "x", units=2**28))
    assert "of which the file holds 0" in error_of(write(config, data=buffer.getvalue()))


def test_arrays_that_declare_more_than_the_file_holds_together_are_not_read(write: Write) -> None:
    buffer, width = io.BytesIO(), 1024
    with h5py.File(buffer, "w") as file:
        for number in range(5):
            name = f"dense_{number}" if number else "dense"
            group = file.create_group(f"layers/{name}/vars")
            group.create_dataset("0", (width, width), "f4", chunks=(width, width))
    assert len(buffer.getvalue()) < 2**15
    names = ["x", "a", "b", "c", "d", "y"]
    chain = [
        layer("Dense", name, before, units=width, use_bias=False)
        for before, name in itertools.pairwise(names)
    ]
    text = error_of(write(functional(*chain, shape=(None, width)), data=buffer.getvalue()))
    assert "weight of layer y (Dense)" in text, "the first four make 16 MiB"
    assert "more than 16777216 bytes" in text


def test_one_array_at_many_places_is_stored_once(write: Write) -> None:
    buffer, width = io.BytesIO(), 1536
    with h5py.File(buffer, "w") as file:
        file["layers/dense/vars/0"] = np.ones((width, width), "f4")
        for number in (1, 2):
            file[f"layers/dense_{number}/vars/0"] = file["layers/dense/vars/0"]
    chain = [
        layer("Dense", name, before, units=width, use_bias=False)
        for before, name in itertools.pairwise(["x", "a", "b", "y"])
    ]
    text = error_of(write(functional(*chain, shape=(None, width)), data=buffer.getvalue()))
    assert "weight of layer y (Dense)" in text
    assert "of which the file holds 0" in text


@pytest.mark.parametrize("dtype", ["S4", "c8", "V2", h5py.string_dtype()])
def test_arrays_of_no_numbers_are_refused(write: Write, dtype: object) -> None:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_group("layers/dense/vars").create_dataset("0", (3, 2), dtype)
    assert "which is no number" in error_of(write(data=buffer.getvalue()))


def called_twice(config: Json) -> Json:
    """A model around one that calls it on its own output."""
    first, second = (layer("Functional", "y", reads)["inbound_nodes"][0] for reads in ("x", "y"))
    return functional({**config, "name": "y", "inbound_nodes": [first, second]})


def test_calls_that_double_at_every_level_are_refused(write: Write) -> None:
    config = functional(layer("ReLU", "y", "x"))
    for level in range(40):
        config = called_twice(config)
        config["config"]["output_layers"] = [["y", 2, 0]]
        if level == 3:
            loaded = load_model(Request(target=str(write(config))))
            assert (loaded.module(*loaded.inputs) >= 0).all()
    assert "calls more than 100000 layers" in error_of(write(config))


def test_tensors_that_nothing_reads_are_refused(write: Write) -> None:
    spare = {"class_name": "__keras_tensor__", "config": {"keras_history": ["x", 0, 0]}}
    config = functional(DENSE)
    config["config"]["layers"][1] = copy.deepcopy(DENSE)
    config["config"]["layers"][1]["inbound_nodes"][0]["kwargs"] = {"scale": spare}
    text = error_of(write(config), UnsupportedOp)
    assert "layer y (Dense): the tensor scale of its call is not read" in text
    node = {**DENSE["inbound_nodes"][0], "kwargs": {"mask": spare}}
    config = functional({**functional(DENSE), "name": "y", "inbound_nodes": [node]})
    config["config"]["output_layers"] = [["y", 1, 0]]
    text = error_of(write(config), UnsupportedOp)
    assert "model small is called with the tensor mask, which is not read" in text


def test_shapes_that_do_not_fit_are_named(write: Write) -> None:
    config = functional(layer("Conv2D", "y", "x", filters=2, kernel_size=3, strides=1))
    assert "layer y (Conv2D)" in error_of(write(config), CaptureError)
    reshape = functional(layer("Reshape", "y", "x", target_shape=[7]))
    text = error_of(write(reshape), CaptureError)
    assert "layer y (Reshape) does not fit its inputs [1, 3]" in text


def test_sizes_left_open_are_chosen(write: Write) -> None:
    path = write(functional(layer("ReLU", "y", "x"), shape=(None, None, 4)))
    loaded = load_model(Request(target=str(path), batch=3, seq=7))
    assert [tuple(i.shape) for i in loaded.inputs] == [(3, 7, 4)]  # type: ignore[attr-defined]
    assert "--seq does not apply" in error_of(write(), seq=7)


def test_json_of_another_kind_is_no_keras_model(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"model_type": "llama"}')
    assert not is_keras(str(path))
    path.write_text(json.dumps(functional(DENSE)))
    assert is_keras(str(path))
    assert not is_keras(str(tmp_path / "none.json"))
