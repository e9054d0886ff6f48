"""HolisticTraceAnalysis on a folder of recordings: what `ridgeline trace` answers too, in tables.

    python benchmarks/trace_peers.py FOLDER     (a Python that has HolisticTraceAnalysis)

It needs a rank in every file, written `"rank": 0` with white space, and leaves the last step out
unless told. Prints as JSON the seconds that its import took, those from there to the last table,
and the rows of each table.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping


def main() -> None:
    """Runs the analyses over the folder named, of every rank in it."""
    start_s = time.perf_counter()
    from hta.trace_analysis import TraceAnalysis  # type: ignore[import-not-found]

    imported_s = time.perf_counter()
    found = TraceAnalysis(trace_dir=sys.argv[1], include_last_profiler_step=True)
    loaded_s = time.perf_counter()
    ranks = list(found.t.traces)
    tables: Mapping[str, Callable[[], object]] = {
        "temporal_breakdown": lambda: found.get_temporal_breakdown(visualize=False),
        "idle_time_breakdown": lambda: found.get_idle_time_breakdown(ranks, visualize=False)[0],
        "comm_comp_overlap": lambda: found.get_comm_comp_overlap(visualize=False),
        "gpu_kernel_breakdown": lambda: found.get_gpu_kernel_breakdown(visualize=False)[1],
    }
    rows = {name: len(table()) for name, table in tables.items()}  # type: ignore[arg-type]
    answer = {
        "import_s": imported_s - start_s,
        "load_s": loaded_s - imported_s,
        "analyses_s": time.perf_counter() - loaded_s,
        "ranks": len(ranks),
        "rows": rows,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
