"""What `optimize` would give, without the measuring."""

from collections.abc import Mapping

from small_models import MODELS

from ridgeline.backends.result import Candidate, Optimized
from ridgeline.frontends.torch_export import capture
from ridgeline.passes.manager import run_passes


def chosen(
    name: str, backend: str = "eager", files: Mapping[str, bytes] | None = None
) -> Optimized:
    """The small model of that name after the passes, with one candidate, the best."""
    model, inputs = MODELS[name]()
    steps = run_passes(capture(model, inputs))
    best = Candidate(backend=backend, dtype="fp32", time_s=1.0)
    return Optimized(
        graph=steps[-1].graph,
        passes=steps,
        candidates=(best,),
        baseline=best,
        best=best,
        waterfall=(),
        roofline_s=None,
        threads=1,
        machine="this",
        files=files or {},
    )
