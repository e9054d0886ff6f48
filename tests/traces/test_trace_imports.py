"""What `trace --json` imports: starting is a large part of its time."""

import subprocess
import sys


def test_the_record_needs_nothing_that_prints_tables() -> None:
    code = "import sys, ridgeline.report.trace_record; print('rich.console' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
