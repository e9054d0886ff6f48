"""The page of the formats shows what the code says."""

import re
from pathlib import Path

import pytest

from ridgeline.compress.tables import element_table, scheme_table


def test_the_tables_are_those_of_the_code(repository: Path) -> None:
    page = (repository / "docs" / "formats.md").read_text(encoding="utf-8")
    assert f"\n{element_table()}\n" in page
    assert f"\n{scheme_table()}\n" in page


def test_the_example_prints_what_the_page_shows(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (repository / "docs" / "formats.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (shown,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    exec(compile(example, "docs/formats.md", "exec"), {"__name__": "example"})
    assert capsys.readouterr().out == shown
