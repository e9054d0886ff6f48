"""From a target to its profile: loaded with weights, captured whole, measured, broken down."""

import torch

from ridgeline.errors import TargetError
from ridgeline.frontends import Request, capture, load_model
from ridgeline.graph import Phase
from ridgeline.machines import Machine
from ridgeline.profile.breakdown import Profile, breakdown
from ridgeline.profile.measure import Progress, measure


def profile_target(
    request: Request,
    machine: Machine,
    *,
    threads: int | None = None,
    repeats: int | None = None,
    allow_uncounted: bool = False,
    progress: Progress | None = None,
) -> Profile:
    """The target measured on this computer's first CUDA device, else its processor, beside what
    `machine` should need for it. Weights are random where the target brings none.

    Raises TargetError for phase train, and whatever loading, capturing and estimating raise.
    """
    if request.phase is Phase.TRAIN:
        raise TargetError(
            "phase train cannot be profiled: backward and the optimizer are not in the graph. "
            "Profile the phase forward, or `ridgeline inspect --phase train`."
        )
    loaded = load_model(request, "cuda" if torch.cuda.is_available() else "cpu")
    graph = capture(
        loaded.module,
        loaded.inputs,
        kwargs=loaded.kwargs,
        phase=request.phase,
        name=loaded.name,
        is_trusted=loaded.is_trusted,
    )
    if not graph.nodes:
        raise TargetError(f"{loaded.name} computes nothing: it has no operation to measure.")
    run = measure(graph, threads=threads, repeats=repeats, progress=progress)
    return breakdown(graph, run, machine, allow_uncounted=allow_uncounted)
