"""Inspecting a 405B config stays small: what it imports, traces and holds. No clock is read."""

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ridgeline.cli import main, preload
from ridgeline.cli.collector import rare_collections

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "benchmarks" / "configs" / "llama-3.1-405b.json"
# torch's CUDA build alone takes twice as much as the CPU build to load.
MAX_PEAK_BYTES = 700_000_000 if torch.version.cuda is None else 900_000_000
# One layer of 126 and what stands around it; 126 layers would be thousands.
MAX_NODES = 80
# Importing either costs a second or more, and a decoder's config needs neither.
HEAVY = (
    "transformers",
    "torch._inductor.compile_fx",
    "torch.distributed.fsdp",
    "torch.distributed.tensor._ops",
    "networkx.algorithms",
    "torch._dynamo.polyfills.itertools",
    "torch._inductor.codegen.common",
    "pandas",
    "matplotlib",
)

T5 = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "decoder_start_token_id": 0,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_heads": 4,
    "num_layers": 2,
    "vocab_size": 100,
}

# Runs the command line in a fresh interpreter, then says on stderr what that took. VmHWM is this
# program's own peak; ru_maxrss would also hold that of the process that started it.
_PROBE = """
import json, re, sys
from ridgeline.cli.main import run
code = run(sys.argv[2:], is_alone=sys.argv[1] == "alone")
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
print(json.dumps({"modules": list(sys.modules), "peak": int(peak[1]) * 1024}), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_a_405b_config_is_inspected_without_heavy_imports_or_memory() -> None:
    answer, probe = _inspected(CONFIG, "alone")

    readings = [answer, *answer["others"]]
    assert [reading["phase"] for reading in readings] == ["prefill", "decode"]
    assert all(len(reading["nodes"]) <= MAX_NODES for reading in readings)
    assert all(reading["totals"]["parameters"] == 405_853_388_800 for reading in readings)
    assert not set(HEAVY) & set(probe["modules"])
    assert probe["peak"] < MAX_PEAK_BYTES


def _inspected(target: Path, company: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The answer on the target, and what the process held at its end."""
    line = [sys.executable, "-W", "ignore", "-c", _PROBE, company]
    line += ["inspect", str(target), "--machine", "H100", "--json"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), json.loads(done.stderr.splitlines()[-1])


def test_a_model_that_transformers_builds_finds_the_modules_that_were_spared(
    tmp_path: Path,
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(T5))
    alone, probe = _inspected(config, "alone")
    in_company, _ = _inspected(config, "in company")
    assert alone == in_company
    assert {"transformers", "torch.distributed.tensor._ops"} <= set(probe["modules"])


def test_leaving_at_once_loses_no_output_in_a_pipe() -> None:
    line = [sys.executable, "-W", "ignore", "-m", "ridgeline", "inspect", "zoo:deepadipose"]
    done = subprocess.run(
        [*line, "--machine", "H100", "--json"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["totals"]["parameters"] > 0


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["inspect", "zoo:gpt2"], True),
        (["inspect", "model.py:make"], False),
        (["inspect", "zoo:gpt2", "--compare", "model.py:make"], False),
        (["optimize", "zoo:gpt2"], False),
        ([], False),
    ],
)
def test_only_an_inspection_without_the_users_code_leaves_at_once(
    args: list[str], expected: bool
) -> None:
    assert main._reads_only(args) is expected


def test_the_collectors_thresholds_are_restored_also_after_an_error() -> None:
    before = gc.get_threshold()
    inside: list[int] = []
    with pytest.raises(ValueError, match="inside"):
        _fail_with_rare_collections(inside)
    assert inside[0] > 100 * before[0]
    assert gc.get_threshold() == before


def _fail_with_rare_collections(thresholds: list[int]) -> None:
    with rare_collections():
        thresholds.append(gc.get_threshold()[0])
        raise ValueError("inside")


_LOADED = """
import sys
from ridgeline.cli.preload import load_torch_beside
load_torch_beside()
mapped = "libtorch_cpu.so" in open("/proc/self/maps").read()
assert "sympy" in sys.modules and "torch" not in sys.modules
import torch
assert (torch.ones(2) @ torch.ones(2)).item() == 2
print(mapped)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads what is mapped from /proc")
def test_torchs_library_is_there_before_torch_is_imported() -> None:
    line = [sys.executable, "-W", "ignore", "-c", _LOADED]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_without_the_library_torch_is_imported_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(preload, "_LIBRARY", "no-such-library.so")
    monkeypatch.setattr(preload, "_load", pytest.fail)
    preload.load_torch_beside()
