"""The pages of the passes: every pass has its section, and the examples run."""

import re
from pathlib import Path

import pytest

from ridgeline.passes.manager import DEFAULT_PASSES
from ridgeline.passes.normal import NORMAL_PASSES


def test_every_pass_has_a_section_and_the_example_runs(repository: Path) -> None:
    page = (repository / "docs" / "passes.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", page, re.MULTILINE)
    described = [name for heading in headings for name in heading.split(", ")]
    passes = dict.fromkeys((*DEFAULT_PASSES, *NORMAL_PASSES))
    assert [p.__name__ for p in passes] == [n for n in described if "_" in n or n == "canonicalise"]
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(example, "docs/passes.md", "exec"), {"__name__": "example"})


def test_the_example_of_autodiff_prints_what_the_page_shows(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (repository / "docs" / "autodiff.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(example, "docs/autodiff.md", "exec"), {"__name__": "example"})
    printed = capsys.readouterr().out.split()
    shown = re.findall(r"^ +[\d.]+ MiB +\d+ us$", page, re.MULTILINE)
    assert printed == " ".join(shown).split()
