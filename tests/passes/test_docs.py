"""The page of the passes: every pass has its section, and its example runs."""

import re
from pathlib import Path

from ridgeline.passes.manager import DEFAULT_PASSES


def test_every_pass_has_a_section_and_the_example_runs(repository: Path) -> None:
    page = (repository / "docs" / "passes.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", page, re.MULTILINE)
    described = [name for heading in headings for name in heading.split(", ")]
    assert [p.__name__ for p in DEFAULT_PASSES] == [
        n for n in described if "_" in n or n == "canonicalise"
    ]
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(example, "docs/passes.md", "exec"), {"__name__": "example"})
