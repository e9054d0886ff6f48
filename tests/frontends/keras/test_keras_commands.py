"""Keras models on the command line, and the examples of docs/keras.md."""

import json
import re
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("keras", reason="needs keras, a test extra")

import keras
import torch
from keras import layers, ops
from keras_oracle import error_of, randomise, run_keras, saved

import ridgeline
from ridgeline.cli.main import run

Captured = pytest.CaptureFixture[str]


def small() -> keras.Model:
    x = start = keras.Input((16, 16, 3))
    for width in (4, 8):
        x = layers.Conv2D(width, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(start, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("suffix", ["keras", "json"])
def test_inspect_counts(suffix: str, tmp_path: Path, capsys: Captured) -> None:
    model, path = small(), tmp_path / "model.json"
    path.write_text(model.to_json())
    target = str(path if suffix == "json" else saved(model, tmp_path))
    assert run(["inspect", target, "--machine", "H100", "--batch", "4", "--json"]) == 0
    totals = json.loads(capsys.readouterr().out)["totals"]
    macs = 8 * 8 * 4 * 27 + 4 * 4 * 8 * 36 + 8 * 5
    assert totals["flops"] == 4 * 2 * macs


def test_optimize_saves_what_keras_computes(tmp_path: Path, capsys: Captured) -> None:
    model = small()
    randomise(model)
    out = tmp_path / "fast.ridge"
    arguments = ["optimize", str(saved(model, tmp_path)), "--dtypes", "fp32", "--repeats", "2"]
    assert run([*arguments, "--backend", "eager", "--json", "-o", str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["best"]["backend"] == "eager"
    x = torch.randn(1, 16, 16, 3)
    assert error_of(list(ridgeline.load(out)(x)), run_keras(model, (x,))) < 1e-4


def test_a_wrong_one_is_one_sentence(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "m.keras"
    path.write_bytes(b"PK")
    assert run(["inspect", str(path), "--machine", "H100"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"ridgeline: .*m\.keras is no \.keras file, or a damaged one: .*\.\n", err)


@keras.saving.register_keras_serializable("my_package")
class Scale(layers.Layer):
    """The class that docs/keras.md gives a row for."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.weight = self.add_weight(shape=(shape[-1],))

    def call(self, x: object) -> object:
        return ops.multiply(x, self.weight)


def test_the_examples_run(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (repository / "docs" / "keras.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?:^    .*\n|^\n)+", page, re.MULTILINE)
    plain, custom = (textwrap.dedent(b) for b in blocks if "import KerasModule" in b)
    monkeypatch.chdir(tmp_path)
    image = torch.randn(1, 16, 16, 3)
    saved(small(), tmp_path).rename("net.keras")
    names: dict[str, object] = {"image": image, "__name__": "example"}
    exec(compile(plain, "docs/keras.md", "exec"), names)
    assert isinstance(names["graph"], ridgeline.Graph)
    start = keras.Input((3,))
    model = keras.Model(start, Scale()(start))
    randomise(model)
    saved(model, tmp_path).rename("net.keras")
    x = torch.randn(2, 3)
    names = {"Path": Path, "image": x, "__name__": "example"}
    exec(compile(custom, "docs/keras.md", "exec"), names)
    module = names["module"]
    assert isinstance(module, torch.nn.Module)
    assert error_of([module(x)], run_keras(model, (x,))) < 1e-6
