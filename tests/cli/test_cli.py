"""The command line: what it prints where, its exit codes, and bad input as one sentence."""

import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from ridgeline.cli.main import run
from ridgeline.cli.readings import FALLBACK_MACHINE
from ridgeline.errors import MachineError
from ridgeline.machines import load, save_this, to_toml
from ridgeline.machines.threads import require_threads

SMALL = "zoo:deepadipose"
MODEL = """
import torch
from torch import nn

class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x

class Strange(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)

def branching():
    return Branching(), torch.ones(3)

def strange():
    return Strange(), torch.ones(3)

class Huge(nn.Module):
    def forward(self, x):
        return x.expand(2**45, 3).contiguous().sum()

def huge():
    return Huge(), torch.ones(3)

def wrong_shape():
    return nn.Linear(4, 3), torch.ones(2, 5)
"""

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "model.py"
    path.write_text(MODEL, encoding="utf-8")
    return path


def failure(arguments: list[str], capsys: Captured) -> str:
    """The message of a command that must fail: exit 2, nothing on stdout, no traceback."""
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert "fault in Ridgeline" not in err
    assert err.startswith("ridgeline: ")
    return err.removeprefix("ridgeline: ").strip()


def test_inspect_prints_the_verdict_first(capsys: Captured) -> None:
    assert run(["inspect", SMALL, "--machine", "H100"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("forward is bound by the start of kernels: ")
    assert err == ""


def test_json_stands_alone_on_stdout(capsys: Captured, tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    assert run(["inspect", SMALL, "--machine", "H100", "--json", "--html", str(page)]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    # 2 FLOPs per weight: 11-1024-512-256-128-64-2
    widths = [11, 1024, 512, 256, 128, 64, 2]
    products = sum(a * b for a, b in pairwise(widths))
    assert found["totals"]["flops"] == 2 * products
    assert found["machine"] == "h100-sxm"
    assert err == f"report: {page}\n"
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_language_model_is_shown_in_prefill_and_decode(capsys: Captured) -> None:
    assert run(["inspect", "zoo:llama-tiny", "--machine", "H100", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [found["phase"], *(o["phase"] for o in found["others"])] == ["prefill", "decode"]
    assert found["verdict"].startswith("prefill is ")
    assert "; decode is " in found["verdict"]


def test_a_config_of_a_language_model_is_too(capsys: Captured, tmp_path: Path) -> None:
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert run(["inspect", str(path), "--machine", "H100", "--json", "--seq", "16"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [found["phase"], *(o["phase"] for o in found["others"])] == ["prefill", "decode"]


def test_machines_and_targets_multiply(capsys: Captured) -> None:
    line = ["inspect", SMALL, "--compare", "zoo:crnn", "--machine", "H100,L4", "--json"]
    assert run(line) == 0
    found = json.loads(capsys.readouterr().out)
    pairs = [(r["target"], r["machine"]) for r in (found, *found["others"])]
    assert pairs == [(t, m) for t in (SMALL, "zoo:crnn") for m in ("h100-sxm", "l4")]


def test_a_machine_named_twice_stands_there_once(capsys: Captured) -> None:
    assert run(["inspect", SMALL, "--machine", "L4,h100,h100-sxm,L4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [r["machine"] for r in (found, *found["others"])] == ["l4", "h100-sxm"]


def test_options_change_what_they_say(capsys: Captured) -> None:
    def totals(*more: str) -> dict[str, float]:
        assert run(["inspect", SMALL, "--machine", "H100", "--json", *more]) == 0
        found: dict[str, float] = json.loads(capsys.readouterr().out)["totals"]
        return found

    plain = totals()
    assert totals("--batch", "8")["flops"] == 8 * plain["flops"]
    assert totals("--dtype", "bf16")["parameter_bytes"] == plain["parameter_bytes"] / 2
    assert totals("--ceiling", "datasheet")["time_s"] < plain["time_s"]
    assert totals("--execution", "eager")["time_s"] > plain["time_s"]
    adam, sgd = (totals("--phase", "train", "--optimizer", name) for name in ("adamw", "sgd"))
    assert adam["peak_memory_bytes"] - sgd["peak_memory_bytes"] == 8 * plain["parameters"]


def test_the_default_machine_is_the_calibrated_one(capsys: Captured, home: Path) -> None:
    save_this(load("l4"))
    assert run(["inspect", SMALL, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["machine"] == "l4"
    assert err == ""


def test_without_one_it_says_what_it_uses(capsys: Captured) -> None:
    assert run(["inspect", SMALL, "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    if found["machine"] == FALLBACK_MACHINE:
        assert "No --machine given" in err


def test_a_bad_target_is_all_that_is_said(capsys: Captured) -> None:
    assert run(["inspect", "zoo:resnet51"]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("ridgeline: ")


def test_control_characters_in_a_message_are_spelled_out(capsys: Captured, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    text = to_toml(load("l4")).replace('name = "GDDR6"', r'name = "\u001b[2J"')
    file.write_text(text.replace("bandwidth_bytes_per_s = 300e9", "bandwidth_bytes_per_s = -1.0"))
    assert r"memory \x1b[2J: " in failure(["machines", "show", str(file)], capsys)


def test_what_cannot_be_kept_is_not_measured(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def measure(**options: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr("ridgeline.machines.calibrate.calibrate", measure)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    message = failure(["machines", "calibrate"], capsys)
    place = tmp_path / "file" / "ridgeline"
    assert message.startswith(f"cannot keep a calibration in {place}: Not a directory. XDG_")


def test_an_op_without_a_rule_fails_or_is_listed(capsys: Captured, model_file: Path) -> None:
    target = f"{model_file}:strange"
    message = failure(["inspect", target, "--machine", "H100"], capsys)
    assert message.startswith("no cost rule for aten.special_bessel_j0.default (node ")
    assert "--allow-uncounted" in message
    assert run(["inspect", target, "--machine", "H100", "--allow-uncounted"]) == 0
    out = capsys.readouterr().out
    assert "at least" in out.splitlines()[0]
    assert "Not counted" in out
    assert "aten.special_bessel_j0.default x1" in out


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("zoo:resnet51", ["resnet51", "resnet50"]),
        ("nothing.pt2", ["nothing.pt2"]),
        ("nothing.py:make", ["nothing.py"]),
        ("nowhere/config.json", ["nowhere/config.json"]),
        ("what is this", ["what is this", "zoo:NAME"]),
        ("{model}:absent", ["absent", "branching"]),
        ("{model}:branching", ["branching", "does not export"]),
        ("{model}:wrong_shape", ["wrong_shape", "does not export"]),
        ("{corrupt}", ["config.json", "JSON"]),
        ("{folder}", ["holds no config.json"]),
    ],
)
def test_a_bad_target_is_one_sentence(
    target: str, names: list[str], capsys: Captured, model_file: Path
) -> None:
    corrupt = model_file.parent / "config.json"
    if "folder" not in target:
        corrupt.write_text('{"model_type": "llama", ')
    text = target.format(model=model_file, corrupt=corrupt, folder=model_file.parent)
    page = model_file.parent / "page.html"
    message = failure(["inspect", text, "--machine", "H100", "--html", str(page)], capsys)
    assert all(name in message for name in names), message
    assert not page.exists()


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--machine", "H1000"], ["H1000", "machines list"]),
        (["--machine", "none.toml"], ["none.toml"]),
        (["--machine", ","], ["names no machine"]),
        (["--machine", "this"], ["calibrate"]),
        (["--batch", "0"], ["--batch is 0"]),
        (["--dtype", "fp7"], ["fp7", "bf16"]),
        (["--phase", "decode"], ["decode", "it has forward"]),
        (["--phase", "sideways"], ["sideways", "--help"]),
        (["--top", "many"], ["--top", "--help"]),
        (["--html", "none/page.html"], ["cannot write none/page.html"]),
        (["--nonsense"], ["--nonsense"]),
    ],
)
def test_a_bad_option_is_one_sentence(
    arguments: list[str], names: list[str], capsys: Captured
) -> None:
    if "--machine" not in arguments:
        arguments = [*arguments, "--machine", "H100"]
    message = failure(["inspect", SMALL, *arguments], capsys)
    assert all(name in message for name in names), message


def test_a_machine_file_that_contradicts_itself(capsys: Captured, tmp_path: Path) -> None:
    run(["machines", "show", "H100", "--toml"])
    good = capsys.readouterr().out
    path = tmp_path / "mine.toml"
    path.write_text(good.replace('id = "h100-sxm"', 'id = "mine"'), encoding="utf-8")
    assert run(["inspect", SMALL, "--machine", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["machine"] == "mine"
    path.write_text(good + "\nspeed = 3\n", encoding="utf-8")
    assert "speed" in failure(["inspect", SMALL, "--machine", str(path)], capsys)
    path.write_text("[memory", encoding="utf-8")
    assert "is not TOML" in failure(["inspect", SMALL, "--machine", str(path)], capsys)


def test_an_unknown_command_names_the_nearest(capsys: Captured) -> None:
    assert failure(["inspekt"], capsys) == "no command 'inspekt'; did you mean inspect?"


def test_a_fault_of_ours_is_one_sentence_and_debug_shows_where(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(name: str) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("ridgeline.machines.load", breaks)
    line = ["inspect", SMALL, "--machine", "H100"]
    assert run(line) == 2
    err = capsys.readouterr().err
    assert err == (
        "ridgeline: unexpected ZeroDivisionError: by zero. This is a fault in Ridgeline; "
        "add --debug to see where.\n"
    )
    assert run([*line, "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_is_one_line(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ridgeline.machines.load", interrupted)
    assert run(["inspect", SMALL, "--machine", "H100"]) == 130
    assert capsys.readouterr().err == "ridgeline: stopped.\n"


# A library that catches what is raised while it loads. A shell without job control starts its
# background jobs with SIGINT ignored.
DEAF = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except BaseException:
    pass
os._exit(3)
"""
INTERRUPTED = """
import signal
signal.signal(signal.SIGINT, signal.{handler})
from ridgeline.cli.main import main
main()
"""


@pytest.mark.parametrize(
    ("handler", "code", "message"),
    [("default_int_handler", 130, "ridgeline: stopped.\n"), ("SIG_IGN", 3, "")],
)
def test_an_interrupt_is_heard_while_torch_loads(
    tmp_path: Path, handler: str, code: int, message: str
) -> None:
    (tmp_path / "torch.py").write_text(DEAF)
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(handler=handler), "inspect", SMALL],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (code, message)


def test_machines_are_listed_and_shown(capsys: Captured) -> None:
    assert run(["machines", "list"]) == 0
    out = capsys.readouterr().out
    assert any(line.startswith("h100-sxm ") for line in out.splitlines())
    assert run(["machines", "list", "--json"]) == 0
    found = {m["id"]: m for m in json.loads(capsys.readouterr().out)}
    assert found["h100-sxm"]["matrix_flops_per_s"]["bf16"] == 989.4e12
    assert run(["machines", "show", "H100"]) == 0
    out = capsys.readouterr().out
    (row,) = (line for line in out.splitlines() if line.startswith("matrix bf16"))
    assert row.split()[2:8] == ["989", "TFLOP/s", "794", "TFLOP/s", "80%", "[2]"]
    assert "[2] " in out


def test_the_zoo_is_listed_with_its_facts(capsys: Captured) -> None:
    assert run(["zoo", "--json"]) == 0
    found = {w["name"]: w for w in json.loads(capsys.readouterr().out)}
    assert found["resnet50"]["parameters"] == 25_557_032
    assert run(["zoo"]) == 0
    out = capsys.readouterr().out
    (row,) = (line for line in out.splitlines() if line.startswith("zoo:resnet50 "))
    assert "25.6 M" in row


def test_what_does_not_fit_into_memory_is_said_so(model_file: Path, capsys: Captured) -> None:
    assert run(["optimize", f"{model_file}:huge"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("ridgeline: this machine has not the memory for it; ")


@pytest.mark.parametrize(
    "command", ["inspect", "profile", "optimize", "place", "run", "bench", "machines", "zoo"]
)
def test_every_command_explains_itself_with_an_example(command: str, capsys: Captured) -> None:
    assert run([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"ridgeline {command}" in out


def test_the_overview_names_every_command_and_imports_none(capsys: Captured) -> None:
    code = (
        "import sys\nfrom ridgeline.cli.main import run\nrun(['--help'])\n"
        "print(*(m for m in ('torch', 'rich', 'ridgeline.cli.inspect') if m in sys.modules))"
    )
    lines = _python(code).splitlines()
    assert lines[-1] == ""
    listed = [line.strip() for line in lines[lines.index("Commands:") + 1 :] if line.strip()]
    commands = [line.partition("  ")[0] for line in listed]
    assert commands == [
        "inspect",
        "profile",
        "trace",
        "trace diff",
        "optimize",
        "place",
        "run",
        "bench",
        "machines",
        "zoo",
    ]


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout


@pytest.mark.parametrize("command", ["profile", "optimize"])
def test_a_model_that_does_nothing_is_one_sentence(
    command: str, tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "model.py"
    path.write_text(
        "import torch\nclass Silent(torch.nn.Module):\n    def forward(self, x):\n        pass\n"
        "def make():\n    return Silent(), torch.ones(3)\n"
    )
    save_this(load("cpu-epyc-9654"))
    assert re.search(r"nothing", failure([command, f"{path}:make"], capsys))


def test_a_name_longer_than_any_file_is_one_sentence(capsys: Captured) -> None:
    assert "name too long" in failure(
        ["inspect", f"{'x' * 5000}.onnx", "--machine", "h100"], capsys
    )


def test_a_reader_who_leaves_is_no_error() -> None:
    """As in `ridgeline machines list | head -1`."""
    code = "from ridgeline.cli.main import main; main(['machines', 'list', '--json'])"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 0


def ridgeline(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "ridgeline", *arguments],
        capture_output=True,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )


def test_the_package_is_the_command() -> None:
    done = ridgeline("--version")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"ridgeline ")


def test_a_terminal_of_plain_characters_gets_plain_characters() -> None:
    done = ridgeline("inspect", SMALL, "--machine", "H100", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert b" us (" in done.stdout.splitlines()[0]
    assert b"?" not in done.stdout


def test_a_closed_or_full_output_is_no_fault() -> None:
    command = f"{sys.executable} -m ridgeline machines show h100"
    closed = subprocess.run(f"{command} >&-", shell=True, capture_output=True, check=False)
    assert (closed.returncode, closed.stderr) == (0, b"")
    full = subprocess.run(f"{command} >/dev/full", shell=True, capture_output=True, check=False)
    assert full.returncode == 2
    assert full.stderr == b"ridgeline: cannot write the output: No space left on device.\n"


@pytest.mark.parametrize(
    "line", [f"inspect {SMALL} --html", f"profile {SMALL} --html", f"optimize {SMALL} -o"]
)
def test_a_place_that_takes_no_file_is_told_before_the_work(
    line: str, tmp_path: Path, capsys: Captured
) -> None:
    nowhere = str(tmp_path / "none" / "a")
    assert "there is no folder" in failure([*line.split(), nowhere], capsys)
    assert "it is a folder" in failure([*line.split(), str(tmp_path)], capsys)


def test_sizes_that_nothing_would_heed_are_refused(capsys: Captured) -> None:
    for line in (f"{SMALL} --cache 5", "zoo:llama-tiny --phase prefill --cache 5"):
        assert "decode alone" in failure(["inspect", *line.split(), "--machine", "H100"], capsys)
    assert "2147483647 at most" in failure(
        ["inspect", SMALL, "--machine", "H100", "--batch", str(10**20)], capsys
    )
    overflow = "inspect zoo:resnet50 --machine H100 --batch 2147483647 --seq 2147483647".split()
    assert "more than 2**63 elements" in failure(overflow, capsys)


def test_a_model_that_refuses_its_inputs_speaks_for_itself(capsys: Captured) -> None:
    for name, limit in (("bert-base", 512), ("gpt2", 1024)):
        line = ["inspect", f"zoo:{name}", "--seq", str(limit + 1), "--machine", "H100"]
        says = f"{name} refuses these inputs: {limit + 1} tokens exceed the {limit} positions."
        assert failure(line, capsys) == says


@pytest.mark.parametrize("command", ["profile", "optimize"])
def test_more_threads_than_make_sense_are_told_before_the_work(
    command: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ridgeline.machines.threads.num_logical_cores", lambda: 2)
    message = failure([command, "zoo:nothing", "--machine", "H100", "--threads", "9"], capsys)
    assert message == (
        "9 threads are too many: this machine has 2 logical cores; ask for 8 at most."
    )


def test_as_many_threads_as_make_sense_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ridgeline.machines.threads.num_logical_cores", lambda: 1)
    require_threads(4)
    with pytest.raises(MachineError, match="this machine has 1 logical core; ask for 4 at most"):
        require_threads(5)


CHATTY = """
print("imported")
import torch

class Loud(torch.nn.Linear):
    def forward(self, x):
        print("called")
        return super().forward(x)

def loud():
    print("made")
    return Loud(2, 2), torch.ones(1, 2)

def scripted():
    import warnings
    warnings.simplefilter("ignore")
    return torch.jit.script(torch.nn.Linear(2, 2)), torch.ones(1, 2)

def wants(width, depth=1):
    return torch.nn.Linear(width, depth)

def fails():
    raise OSError("no disk")
"""


def test_what_a_users_file_prints_stays_off_stdout(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "chatty.py").write_text(CHATTY)
    assert run(["inspect", f"{tmp_path}/chatty.py:loud", "--machine", "H100", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["totals"]["parameters"] == 6
    assert err == "imported\nmade\n"


def test_factories_that_do_not_fit_are_named(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "factories.py").write_text(CHATTY.replace('print("imported")', ""))
    monkeypatch.chdir(tmp_path)
    says = {
        "scripted": "TorchScript",
        "wants": "wants width;",
        "fails": "factories.py:23 raised",
    }
    for name, words in says.items():
        assert words in failure(["inspect", f"factories.py:{name}", "--machine", "H100"], capsys)
