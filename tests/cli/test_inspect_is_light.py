"""Inspecting a 405B config stays small: what it imports, traces and holds. No clock is read."""

import gc
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ridgeline.cli.collector import rare_collections

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "benchmarks" / "configs" / "llama-3.1-405b.json"
MAX_PEAK_BYTES = 700_000_000
# One layer of 126 and what stands around it; 126 layers would be thousands.
MAX_NODES = 80
# Importing either costs a second or more, and a decoder's config needs neither.
HEAVY = ("transformers", "torch._inductor.compile_fx", "triton", "pandas", "matplotlib")

# Runs the command line in a fresh interpreter, then says on stderr what that took. VmHWM is this
# program's own peak; ru_maxrss would also hold that of the process that started it.
_PROBE = """
import json, re, sys
from ridgeline.cli.main import run
code = run(sys.argv[1:])
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
print(json.dumps({"modules": list(sys.modules), "peak": int(peak[1]) * 1024}), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_a_405b_config_is_inspected_without_heavy_imports_or_memory() -> None:
    line = [sys.executable, "-W", "ignore", "-c", _PROBE]
    line += ["inspect", str(CONFIG), "--machine", "H100", "--json"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    answer, probe = json.loads(done.stdout), json.loads(done.stderr.splitlines()[-1])

    readings = [answer, *answer["others"]]
    assert [reading["phase"] for reading in readings] == ["prefill", "decode"]
    assert all(len(reading["nodes"]) <= MAX_NODES for reading in readings)
    assert all(reading["totals"]["parameters"] == 405_853_388_800 for reading in readings)
    assert not set(HEAVY) & set(probe["modules"])
    assert probe["peak"] < MAX_PEAK_BYTES


def test_the_collectors_thresholds_are_restored_also_after_an_error() -> None:
    before = gc.get_threshold()
    with rare_collections():
        assert gc.get_threshold()[0] > 100 * before[0]
    assert gc.get_threshold() == before

    @rare_collections()
    def fail() -> None:
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert gc.get_threshold() == before
