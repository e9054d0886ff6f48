"""Targets: each kind loads; each wrong one is a sentence that names the thing and the way out."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from ridgeline import zoo
from ridgeline.errors import CaptureError, GraphError, TargetError
from ridgeline.frontends import Request, capture, capture_target, load_model
from ridgeline.graph import InputKind, Phase, save

MODEL = """
import torch
from torch import nn

def mlp():
    return nn.Linear(4, 3), torch.ones(2, 4)

def with_kwargs():
    return nn.Bilinear(4, 4, 2), (torch.ones(2, 4),), {"input2": torch.ones(2, 4)}

def by_name():
    return nn.Bilinear(4, 4, 2), {"input1": torch.ones(2, 4), "input2": torch.ones(2, 4)}

def listed():
    return nn.Bilinear(4, 4, 2), [torch.ones(2, 4), torch.ones(2, 4)]

def text():
    return nn.Linear(4, 3), "ones"

def bare():
    return nn.Linear(4, 3)

def number():
    return 3

def fails():
    return {}["missing key"]

def leaves():
    raise SystemExit(3)

SIZE = 4
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A user's file of factories."""
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


def error_of(target: str, **options: object) -> str:
    """The one sentence that a wrong target gives."""
    with pytest.raises(TargetError) as caught:
        capture_target(Request(target=target, **options))  # type: ignore[arg-type]
    return str(caught.value)


def test_zoo_models_are_captured_without_weights() -> None:
    graph = capture_target(Request(target="zoo:llama-3.1-8b", seq=128))
    assert graph.parameters == 8_030_261_248
    assert list(graph.repeats.values()) == [32]
    assert graph.name == "llama-3.1-8b"


def test_zoo_models_run_in_the_sizes_and_dtype_asked_for() -> None:
    request = Request(target="zoo:llama-tiny", phase=Phase.DECODE, batch=2, cache=7, dtype="bf16")
    loaded = load_model(request)
    assert loaded.module(*loaded.inputs).shape == (2, 1, 512)
    assert {p.dtype for p in loaded.module.parameters()} == {torch.bfloat16}
    shapes = {b.shape[2] for _, b in loaded.module.named_buffers()}
    assert shapes == {8}


def test_training_captures_the_training_form() -> None:
    train = capture_target(Request(target="zoo:resnet50", phase=Phase.TRAIN, seq=64))
    assert train.phase is Phase.TRAIN
    assert any(i.is_mutated for i in train.of_kind(InputKind.BUFFER))
    assert not any(
        i.is_mutated for i in capture_target(Request(target="zoo:resnet50", seq=64)).inputs
    )


def test_full_captures_every_layer() -> None:
    folded, full = (
        capture_target(Request(target="zoo:llama-tiny", seq=16, full=f)) for f in (False, True)
    )
    assert folded.repeats
    assert not full.repeats
    assert folded.parameters == full.parameters


def test_wrong_zoo_names_get_close_ones() -> None:
    assert "did you mean resnet50" in error_of("zoo:resnet5O")
    assert zoo.names()[0] in error_of("zoo:qqqq")


def test_phases_and_sizes_that_do_not_exist() -> None:
    assert "has no phase decode; it has forward, train" in error_of(
        "zoo:resnet50", phase=Phase.DECODE
    )
    for name in ("batch", "seq", "cache"):
        assert f"--{name} is 0; it must be at least 1" in error_of("zoo:resnet50", **{name: 0})
    assert "one of fp32, bf16, fp16" in error_of("zoo:resnet50", dtype="int3")
    with pytest.raises(TargetError, match="too large to run here"):
        load_model(Request(target="zoo:llama-3.1-405b"))


def test_factories_give_modules_inputs_and_kwargs(file: Path) -> None:
    assert [n.op for n in capture_target(Request(target=f"{file}:mlp")).nodes] == ["linear"]
    half = capture_target(Request(target=f"{file}:mlp", dtype="bf16"))
    assert {i.spec.dtype for i in half.inputs} == {"bf16"}


@pytest.mark.parametrize(
    ("factory", "count", "names"),
    [("listed", 2, []), ("with_kwargs", 1, ["input2"]), ("by_name", 0, ["input1", "input2"])],
)
def test_factories_give_inputs_in_a_row_by_name_or_both(
    file: Path, factory: str, count: int, names: list[str]
) -> None:
    loaded = load_model(Request(target=f"{file}:{factory}"))
    assert (len(loaded.inputs), sorted(loaded.kwargs)) == (count, names)
    assert loaded.module(*loaded.inputs, **loaded.kwargs).shape == (2, 2)
    graph = capture_target(Request(target=f"{file}:{factory}"))
    assert [node.op for node in graph.nodes] == ["bilinear"]


def test_files_that_do_not_give_a_model(file: Path) -> None:
    assert "no file missing.py" in error_of("missing.py:mlp")
    assert f"give {file}:FUNCTION" in error_of(str(file))
    assert (
        "it defines bare, by_name, fails, leaves, listed, mlp, number, text, with_kwargs"
        in error_of(f"{file}:mpl")
    )
    assert "returned inputs of type str" in error_of(f"{file}:text")
    assert "'SIZE' is not a function" in error_of(f"{file}:SIZE")
    assert "returned (int); it must return module" in error_of(f"{file}:number")
    assert "returned no inputs for Linear" in error_of(f"{file}:bare")
    line = MODEL.splitlines().index('    return {}["missing key"]') + 1
    assert f"{file}:{line} raised KeyError: 'missing key'" in error_of(f"{file}:fails")
    assert "raised SystemExit" in error_of(f"{file}:leaves")
    assert "the file makes its own inputs" in error_of(f"{file}:mlp", batch=2)
    assert "has no phase decode" in error_of(f"{file}:mlp", phase=Phase.DECODE)


def test_a_file_with_a_syntax_error_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("x = 1\ndef f(:\n")
    assert f"{path}:2 raised SyntaxError" in error_of(f"{path}:f")


def test_a_failing_forward_is_a_capture_error(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text("import torch\ndef f():\n    return torch.nn.Linear(4, 3), torch.ones(2, 5)\n")
    with pytest.raises(CaptureError, match="f does not export"):
        capture_target(Request(target=f"{path}:f"))


def test_exported_programs_keep_their_phase(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    model = nn.Linear(4, 3)
    save(capture(model, (torch.ones(2, 4),), phase=Phase.PREFILL), path)
    graph = capture_target(Request(target=str(path)))
    assert graph.phase is Phase.PREFILL
    loaded = load_model(Request(target=str(path)))
    torch.testing.assert_close(loaded.module(*loaded.inputs), model(torch.ones(2, 4)))
    assert "has no phase decode; it has prefill" in error_of(str(path), phase=Phase.DECODE)
    assert "shapes are fixed in the file" in error_of(str(path), seq=4)
    assert "fixed in the file" in error_of(str(path), dtype="bf16")


def test_exported_programs_that_are_none(tmp_path: Path) -> None:
    assert "no file missing.pt2" in error_of("missing.pt2")
    (tmp_path / "bad.pt2").write_text("no zip")
    with pytest.raises(GraphError, match="no readable export archive"):
        capture_target(Request(target=str(tmp_path / "bad.pt2")))


@pytest.mark.parametrize(
    "target", ["", "resnet50", "model.tflite", "/missing/folder", "../../no-such-folder/x"]
)
def test_targets_of_no_kind_list_the_kinds(target: str) -> None:
    message = error_of(target)
    assert "zoo:NAME" in message
    assert "FILE.py:FUNCTION" in message


def test_a_hub_id_without_network_says_what_to_do() -> None:
    message = error_of("some-org/some-model")
    assert "some-org/some-model is no file or folder here" in message
    assert "give its folder or config.json" in message


LLAMA: dict[str, object] = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "is no JSON"),
        ("[1]", "holds a JSON list"),
        ("[" * 100_000, "is no JSON"),
        ("{}", "has no model_type"),
        ('{"model_type": 3}', "has no model_type"),
        ('{"model_type": "nothing-known"}', "'nothing-known' is unknown"),
        ('{"model_type": "llama"}', "lacks the key"),
        (json.dumps({**LLAMA, "hidden_size": -64}), "hidden_size is -64"),
        (json.dumps({**LLAMA, "hidden_size": "big"}), "hidden_size is 'big'"),
        (json.dumps({**LLAMA, "num_hidden_layers": 0}), "num_hidden_layers is 0"),
        (json.dumps({**LLAMA, "vocab_size": True}), "vocab_size is True"),
        (json.dumps({**LLAMA, "num_key_value_heads": 3}), "multiple"),
        (json.dumps({**LLAMA, "tie_word_embeddings": "yes"}), "must be true or false"),
        (json.dumps({**LLAMA, "quantization_config": {"bits": 4}}), "quantised weights"),
        (json.dumps({"model_type": "bert", "hidden_size": -3}), "BertFor"),
        (json.dumps({"model_type": "bert", "architectures": ["Nothing"]}), "'Nothing'"),
        (json.dumps({"model_type": "wav2vec2"}), "only text and image models"),
    ],
)
def test_corrupt_configs_are_one_sentence(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    message = error_of(str(path))
    assert part in message
    assert "Traceback" not in message
    assert message.count("\n") == 0


def test_folders_and_files_that_are_missing(tmp_path: Path) -> None:
    assert "holds no config.json" in error_of(str(tmp_path))
    assert "no file" in error_of(str(tmp_path / "config.json"))
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    assert "is no JSON" in error_of(str(tmp_path))


def test_lengths_beyond_the_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert "needs 65 positions" in error_of(str(tmp_path), seq=65)
    assert "needs 65 positions" in error_of(str(tmp_path), cache=64, phase=Phase.DECODE)
    capture_target(Request(target=str(tmp_path), cache=63, phase=Phase.DECODE))
