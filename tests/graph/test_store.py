"""Graph files: what is saved comes back; what a stranger planted never runs."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from ridgeline.errors import GraphError
from ridgeline.frontends import Request, capture, capture_target
from ridgeline.graph import Graph, Phase, load, save, to_text
from ridgeline.graph.ops import OPS
from ridgeline.graph.store import OPERATORS, _is_arithmetic, register_operators, write_atomically


def graph() -> Graph:
    """A folded graph with a phase and a name of its own."""
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(5)))
    return capture(model, (torch.ones(2, 4),), phase=Phase.PREFILL, name="stack", fold_layers=True)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A file as `save` writes it."""
    path = tmp_path / "files" / "model.pt2"
    path.parent.mkdir()
    save(graph(), path)
    return path


def test_round_trip_keeps_everything(saved: Path) -> None:
    before, after = graph(), load(saved)
    assert after.digest == before.digest
    assert (after.name, after.phase, after.repeats) == ("stack", Phase.PREFILL, {"0": 5})
    assert to_text(after) == to_text(before)


def test_a_plain_export_becomes_a_forward_graph_that_runs(tmp_path: Path) -> None:
    model, x = nn.Linear(4, 3), torch.randn(2, 4)
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "plain.pt2")
    loaded = load(tmp_path / "plain.pt2")
    assert (loaded.name, loaded.phase, loaded.is_runnable) == ("plain", Phase.FORWARD, True)
    torch.testing.assert_close(loaded.program.module()(x), model(x))


def test_a_graph_of_our_own_operators_loads_where_nothing_has_registered_them(
    tmp_path: Path,
) -> None:
    graph = capture_target(Request(target="zoo:mixtral-tiny", seq=4))
    assert "ridgeline.grouped_mm.default" in {node.target for node in graph.nodes}
    save(graph, tmp_path / "experts.pt2")
    code = "import sys; from ridgeline.graph import load; print(load(sys.argv[1]).digest)"
    line = [sys.executable, "-c", code, str(tmp_path / "experts.pt2")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == graph.digest, done.stderr


def test_every_operator_of_ours_is_registered_by_the_module_that_the_table_names() -> None:
    assert set(OPERATORS) == {packet for packet in OPS if packet.startswith("ridgeline.")}
    register_operators()
    for packet in OPERATORS:
        assert torch._C._dispatch_has_kernel(packet.replace(".", "::"))


def test_saving_leaves_nothing_beside_the_file(saved: Path) -> None:
    assert [p.name for p in saved.parent.iterdir()] == ["model.pt2"]
    with pytest.raises(GraphError, match="cannot write"):
        save(graph(), saved.parent / "missing" / "model.pt2")


class Canary:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self.path,))


def rewrite(path: Path, change: Callable[[str, bytes], bytes]) -> None:
    """Writes the archive anew with each entry changed."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(name, change(name, data))


def test_pickled_sample_inputs_are_refused_and_never_run(saved: Path, tmp_path: Path) -> None:
    canary = tmp_path / "ran"
    rewrite(saved, lambda n, d: pickle.dumps(Canary(canary)) if "sample_inputs/" in n else d)
    with pytest.raises(GraphError, match="pickled objects"):
        load(saved)
    assert not canary.exists()


def test_an_unpickler_would_have_run_the_canary(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Canary(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def test_pickled_weights_are_refused(saved: Path, tmp_path: Path) -> None:
    canary = tmp_path / "ran"

    def plant(name: str, data: bytes) -> bytes:
        if "weights" in name and name.endswith(".json"):
            return data.replace(b'"use_pickle": false', b'"use_pickle": true').replace(
                b'"use_pickle":false', b'"use_pickle":true'
            )
        return pickle.dumps(Canary(canary)) if "/weight_" in name else data

    rewrite(saved, plant)
    with pytest.raises(GraphError, match="pickled weights"):
        load(saved)
    assert not canary.exists()


def test_a_size_expression_that_is_code_is_refused(tmp_path: Path) -> None:
    canary, path = tmp_path / "ran", tmp_path / "dynamic.pt2"
    batch = torch.export.Dim("batch", min=2, max=64)
    save(capture(nn.Linear(4, 3), (torch.ones(5, 4),), dynamic={"input": {0: batch}}), path)
    assert load(path).inputs[-1].spec.symbols[0]

    def plant(content: object) -> object:
        if isinstance(content, list):
            return [plant(c) for c in content]
        if not isinstance(content, dict):
            return content
        evil = f"__import__('pathlib').Path('{canary}').touch()"
        return {k: evil if k == "expr_str" else plant(v) for k, v in content.items()}

    rewrite(
        path,
        lambda n, d: json.dumps(plant(json.loads(d))).encode() if n.endswith(".json") else d,
    )
    with pytest.raises(GraphError, match="not arithmetic"):
        load(path)
    assert not canary.exists()


@pytest.mark.parametrize("where", ["name", "from_node"])
def test_a_name_that_is_code_is_refused(saved: Path, where: str) -> None:
    """torch pastes the names of inputs into the source of the function that it compiles."""
    evil = "input): pass\n__import__('os').abort()\ndef other(x"

    def plant(content: object) -> object:
        if isinstance(content, list):
            return [plant(c) for c in content]
        if not isinstance(content, dict):
            return content
        nested = json.dumps([{"name": evil}]) if where == "from_node" else evil
        return {k: nested if k == where else plant(v) for k, v in content.items()}

    def change(name: str, data: bytes) -> bytes:
        is_model = name.endswith("model.json")
        return json.dumps(plant(json.loads(data))).encode() if is_model else data

    load(saved)
    rewrite(saved, change)
    with pytest.raises(GraphError, match=r'holds the name "input\): pass.*which could be code'):
        load(saved)


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_a_truncated_file_is_one_clear_error(saved: Path, kept: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(kept if kept >= 1 else kept * len(data))])
    with pytest.raises(GraphError, match=r"model\.pt2 is no readable export archive"):
        load(saved)


def test_other_files_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="no file"):
        load(tmp_path / "missing.pt2")
    (tmp_path / "text.pt2").write_text("not a zip")
    with pytest.raises(GraphError, match="no readable export archive"):
        load(tmp_path / "text.pt2")
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as archive:
        archive.writestr("readme.txt", "a zip of something else")
    with pytest.raises(GraphError, match="no readable export archive"):
        load(tmp_path / "other.pt2")
    buffer = io.BytesIO()
    torch.save(nn.Linear(2, 2), buffer)
    (tmp_path / "module.pt2").write_bytes(buffer.getvalue())
    with pytest.raises(GraphError):
        load(tmp_path / "module.pt2")


def test_a_damaged_header_is_one_clear_error(saved: Path) -> None:
    rewrite(saved, lambda n, d: b'{"format": 1}' if n.endswith("ridgeline.json") else d)
    with pytest.raises(GraphError, match=r"damaged ridgeline\.json"):
        load(saved)


def test_writing_to_a_link_or_a_pipe_keeps_it(tmp_path: Path) -> None:
    link, real = tmp_path / "link", tmp_path / "real"
    link.symlink_to(real)
    write_atomically(link, b"1")
    assert link.is_symlink()
    assert real.read_bytes() == b"1"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomically(pipe, b"2")
        assert os.read(reader, 9) == b"2"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


@pytest.mark.parametrize(
    ("expression", "is_fine"),
    [
        ("Symbol('s0', integer=True)**2 + 1", True),
        ("PowByNatural(s0, 2)", True),
        ("Mod(s0, 8)", True),
        ("9**9**9**9", False),
        ("9**99999999", False),
        ("(((((9**9)**9)**9)**9)**9)**9", False),
        ("2**(9*9*9*9*9*9*9*9*9*9)", False),
        ("PowByNatural(9, PowByNatural(9, 9999))", False),
        ("PowByNatural(9, 999999999)", False),
        ("1" * 20, False),
    ],
)
def test_a_size_that_would_take_for_ever_is_refused(expression: str, is_fine: bool) -> None:
    assert _is_arithmetic(expression) is is_fine
