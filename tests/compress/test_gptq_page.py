"""docs/gptq.md: its example prints what it says."""

import contextlib
import io
from pathlib import Path


def test_the_example_prints_what_stands_below_it(repository: Path) -> None:
    _, _, rest = (repository / "docs" / "gptq.md").read_text().partition("```python\n")
    code, _, rest = rest.partition("```")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/gptq.md", "exec"), {})
    assert printed.getvalue() == rest.partition("```\n")[2].partition("```")[0]
