"""Imports point one way, files stay short.

The order, lowest first; a package may import what stands on a lower level than its own:

    errors, units, native < graph, machines, random < frontends, cost < passes, traces
    < profile, plan, compress < backends < search < train, serve < report < cli

- Packages on one level may import each other as long as no cycle of packages results.
- `zoo` imports torch, the standard library and itself; frontends and all above may import it.
- `ridgeline/__init__.py` and `ridgeline/__main__.py` stand above all: they may import everything,
  and nothing may import them, except for the constant `__version__`.
- Every import counts: inside functions, under TYPE_CHECKING, relative, and calls such as
  `import_module("ridgeline.cost")`. Names in a table are data: who registers one of our operators
  (`graph/store.py`) is looked up, not depended on.
- A package that has no place in the order is an error: add it to `ORDER` (and to the design) first.
"""

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

ORDER = (
    ("errors", "units", "native", "writing"),
    ("graph", "machines", "random"),
    ("frontends", "cost"),
    ("passes", "traces"),
    ("profile", "plan", "compress"),
    ("backends",),
    ("search",),
    ("train", "serve"),
    ("report",),
    ("cli",),
)
LEVELS = {package: level for level, packages in enumerate(ORDER) for package in packages}
ZOO, ZOO_MAY_USE, LOWEST_USER_OF_ZOO = "zoo", "torch", "frontends"
ROOT, ROOT_FILES, ROOT_CONSTANT = "ridgeline", ("__init__", "__main__"), "ridgeline.__version__"
MAX_LINES = 600
ARROWS = "Imports point one way: " + " < ".join(",".join(packages) for packages in ORDER) + "."


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One import. target: the full dotted name; imported: our package it lies in, if any."""

    path: Path
    line: int
    importer: str
    target: str
    imported: str | None

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.importer} imports {self.target}"


def _package_of(target: str, folder: Path) -> str | None:
    """The package of ours that holds `target`: ROOT for its public face, None if not ours."""
    root, _, rest = target.partition(".")
    if root != ROOT:
        return None
    name = rest.partition(".")[0]
    return name if name in LEVELS or name == ZOO or _exists(folder, name) else ROOT


def _exists(folder: Path, name: str) -> bool:
    return bool(name) and ((folder / name).is_dir() or (folder / f"{name}.py").is_file())


def _absolute(node: ast.ImportFrom, module: Sequence[str]) -> str:
    """The full dotted name after `from`, in a file of the package `module`."""
    if node.level == 0:
        return node.module or ""
    base = module[: len(module) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _targets(node: ast.AST, module: Sequence[str]) -> Iterator[str]:
    """Every dotted name that one syntax node, in a file of the package `module`, imports."""
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(names=names):
            start = _absolute(node, module)
            yield from (f"{start}.{alias.name}" for alias in names)
        case ast.Call(
            func=ast.Name(id=called) | ast.Attribute(attr=called),
            args=[ast.Constant(value=str(name)), *_],
        ):
            if called in ("import_module", "__import__") and not name.startswith("."):
                yield name


def _imports_of(path: Path, folder: Path) -> Iterator[Import]:
    """Every import in one file of the package at `folder`."""
    inner = path.relative_to(folder).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.stmt | ast.expr):
            for target in _targets(node, (ROOT, *inner[:-1])):
                yield Import(
                    path=path,
                    line=node.lineno,
                    importer=inner[0],
                    target=target,
                    imported=_package_of(target, folder),
                )


def imports(folder: Path) -> tuple[Import, ...]:
    """Every import in the package at `folder`, by file and line; its name is taken as ridgeline."""
    found = (edge for path in folder.rglob("*.py") for edge in _imports_of(path, folder))
    return tuple(sorted(found, key=lambda edge: (edge.path, edge.line)))


def _zoo_fault(edge: Import) -> str | None:
    """Why an import inside the zoo is wrong, or None."""
    top = edge.target.partition(".")[0]
    if edge.imported == ZOO or top == ZOO_MAY_USE or top in sys.stdlib_module_names:
        return None
    return f"the zoo imports {ZOO_MAY_USE}, the standard library and itself only"


def _order_fault(importer: str, imported: str) -> str | None:
    """Why one package of ours, not the zoo, may not import another; None if it may."""
    for package in (importer, imported):
        if package not in LEVELS and package != ZOO:
            return f"`{package}` has no place in the order; give it one in ORDER"
    level = LEVELS[importer]
    if imported == ZOO:
        is_low = level < LEVELS[LOWEST_USER_OF_ZOO]
        return f"only {LOWEST_USER_OF_ZOO} and above may import the zoo" if is_low else None
    return f"{importer} stands below {imported}" if level < LEVELS[imported] else None


def fault(edge: Import) -> str | None:
    """Why `edge` points against the order, or None; cycles on one level are for `cycle` to find."""
    if edge.importer in ROOT_FILES or edge.importer == edge.imported:
        return None
    if edge.importer == ZOO:
        return _zoo_fault(edge)
    if edge.imported is None or edge.target == ROOT_CONSTANT:
        return None
    if edge.imported == ROOT:
        return "the public face is for users; import from the module that defines the name"
    return _order_fault(edge.importer, edge.imported)


def cycle(edges: Sequence[Import]) -> list[str]:
    """The imports that close a cycle among packages, one per arrow; empty if there is none."""
    first: dict[tuple[str, str], Import] = {}
    for edge in edges:
        if edge.imported in LEVELS and edge.importer in LEVELS and edge.importer != edge.imported:
            first.setdefault((edge.importer, edge.imported), edge)
    try:
        TopologicalSorter({a: {y for x, y in first if x == a} for a in LEVELS}).prepare()
    except CycleError as error:
        loop: list[str] = error.args[1]  # each name is imported by the next
        return [str(first[importer, imported]) for imported, importer in pairwise(loop)]
    return []


def violations(folder: Path) -> list[str]:
    """Every arrow against the order in the package at `folder`; if none, the cycle, if any."""
    edges = imports(folder)
    wrong = [f"{edge}, but {reason}." for edge in edges if (reason := fault(edge))]
    loop = [] if wrong else cycle(edges)
    return [*wrong, *(f"{line}, which closes a cycle." for line in loop)]


def test_imports_point_one_way(repository: Path) -> None:
    wrong = violations(repository / ROOT)
    assert not wrong, "\n".join([*wrong, ARROWS])


def test_no_file_is_too_long(repository: Path) -> None:
    paths = sorted((repository / ROOT).rglob("*.py"))
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    too_long = {path: lines for path, lines in lengths.items() if lines > MAX_LINES}
    assert lengths
    assert not too_long, f"{MAX_LINES} lines at most; split {too_long}"


def _planted(folder: Path, files: Mapping[str, str]) -> Path:
    """A package at `folder`/ridgeline that holds `files`, path -> source."""
    for name, source in files.items():
        path = folder / ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return folder / ROOT


@pytest.mark.parametrize(
    ("name", "source", "line", "reason"),
    [
        ("graph/graph.py", "import ridgeline.cost.rules\n", 1, "graph stands below cost"),
        ("graph/graph.py", "def f():\n    from ridgeline.cli import x\n", 2, "below cli"),
        ("graph/graph.py", "from ridgeline import backends\n", 1, "graph stands below backends"),
        ("graph/graph.py", "from ..cost import rules\n", 1, "graph stands below cost"),
        ("graph/deep/text.py", "from ...cost import rules\n", 1, "graph stands below cost"),
        ("graph/graph.py", "from .. import report\n", 1, "graph stands below report"),
        ("units.py", "from .graph import Graph\n", 1, "units stands below graph"),
        ("graph/graph.py", "if X:\n    from ridgeline.cost import x\n", 2, "below cost"),
        ("graph/graph.py", "\nf.import_module('ridgeline.cost')\n", 2, "graph stands below cost"),
        ("cost/rules.py", "from ridgeline import capture\n", 1, "public face"),
        ("cost/rules.py", "import ridgeline\n", 1, "public face"),
        ("machines/machine.py", "from ridgeline.zoo import x\n", 1, "only frontends and above"),
        ("zoo/gpt2.py", "import numpy\n", 1, "the zoo imports torch"),
        ("zoo/gpt2.py", "from ridgeline.units import GIB\n", 1, "the zoo imports torch"),
        ("helpers/misc.py", "from ridgeline.units import GIB\n", 1, "`helpers` has no place"),
        ("helpers.py", "from ridgeline.units import GIB\n", 1, "`helpers` has no place"),
        ("cli/main.py", "from ridgeline.helpers import x\n", 1, "`helpers` has no place"),
    ],
)
def test_an_arrow_against_the_order_is_found(
    tmp_path: Path, name: str, source: str, line: int, reason: str
) -> None:
    folder = _planted(tmp_path, {"helpers/__init__.py": "", name: source})
    (found,) = violations(folder)
    assert found.startswith(f"{folder / name}:{line}: ")
    assert reason in found


def test_arrows_with_the_order_pass(tmp_path: Path) -> None:
    files = {
        "__init__.py": "from ridgeline.cli import main\nfrom ridgeline import graph\n",
        "errors.py": "import os\n",
        "graph/graph.py": "import torch\nfrom ridgeline.errors import x\nfrom . import spec\n",
        "graph/__init__.py": "from .graph import Graph\n",
        "frontends/zoo.py": "from ridgeline.zoo import find\nfrom ridgeline.cost import rules\n",
        "zoo/gpt2.py": "import math\nimport torch.nn.functional as F\nfrom .workload import x\n",
        "cli/main.py": "from ridgeline import __version__, graph, report\nimport typer\n",
    }
    assert violations(_planted(tmp_path, files)) == []


def test_a_cycle_on_one_level_is_found(tmp_path: Path) -> None:
    files = {
        "profile/measure.py": "from ridgeline.plan import space\n",
        "plan/space.py": "from ridgeline.compress import rtn\n",
        "compress/rtn.py": "from ridgeline.profile import measure\n",
    }
    folder = _planted(tmp_path, files)
    found = violations(folder)
    assert {line.partition(":")[0] for line in found} == {str(folder / name) for name in files}
    assert all(line.endswith("closes a cycle.") for line in found)
