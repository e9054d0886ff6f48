"""`ridgeline.__all__` is exactly the list below, and costs nothing until a name is used."""

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ridgeline

PUBLIC_NAMES = {
    "BackendError",
    "CaptureError",
    "Estimate",
    "Graph",
    "FormatError",
    "GraphError",
    "Machine",
    "MachineError",
    "MissingExtra",
    "Phase",
    "Request",
    "RidgelineError",
    "TargetError",
    "TraceError",
    "UnsupportedOp",
    "__version__",
    "breakdown",
    "capture",
    "capture_target",
    "differentiate",
    "estimate",
    "load",
    "measure",
    "named_outputs",
    "normal_form",
    "optimize",
    "train_graph",
}


def _in_fresh_python(code: str) -> str:
    """What `code` prints in a new interpreter that treats warnings as errors."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_all_is_the_list_written_here() -> None:
    assert set(ridgeline.__all__) == PUBLIC_NAMES
    assert len(ridgeline.__all__) == len(PUBLIC_NAMES)


def test_dir_lists_every_public_name_before_it_is_used() -> None:
    listed = _in_fresh_python("import ridgeline; print(*dir(ridgeline))")
    assert set(listed.split()) >= PUBLIC_NAMES


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES - {"__version__"}))
def test_a_public_name_loads_and_is_documented(name: str) -> None:
    value = getattr(ridgeline, name)
    assert inspect.getdoc(value), f"ridgeline.{name} has no docstring"
    home = importlib.import_module(value.__module__)
    assert getattr(home, name) is value


def test_star_import_brings_every_public_name() -> None:
    names = _in_fresh_python("from ridgeline import *; print(*dir())")
    assert set(names.split()) >= PUBLIC_NAMES


def test_every_error_is_public_and_one_tree() -> None:
    errors = importlib.import_module("ridgeline.errors")
    classes = {name: value for name, value in vars(errors).items() if inspect.isclass(value)}
    assert set(classes) <= PUBLIC_NAMES
    for name, error in classes.items():
        assert issubclass(error, ridgeline.RidgelineError), name
        caught_as = next(base for base in error.__mro__ if base.__module__ == "builtins")
        assert caught_as is not Exception or name == "RidgelineError", f"{name} has no builtin base"


def test_a_misspelt_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'ridgeline' has no attribute 'captur'"):
        _ = ridgeline.captur


def test_import_loads_neither_torch_nor_transformers() -> None:
    loaded = _in_fresh_python("import sys, ridgeline; print(*sys.modules)").split()
    assert "ridgeline" in loaded
    assert not {"torch", "transformers", "numpy"} & set(loaded)


def test_the_version_has_a_changelog_entry(repository: Path) -> None:
    changelog = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(ridgeline.__version__)}\]", changelog, re.MULTILINE)
