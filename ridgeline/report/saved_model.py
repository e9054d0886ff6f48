"""What `run` and `bench` print of a saved model."""

from collections.abc import Sequence
from typing import TextIO, TypedDict

import torch
from torch import Tensor

from ridgeline.backends.bench import Bench
from ridgeline.backends.measure import ENOUGH_CLEAN
from ridgeline.graph import dtype_name
from ridgeline.units import format_time, significant


class OutputDict(TypedDict):
    """One output, as JSON; smallest, largest and mean are those of its finite values, None where
    there is none.
    """

    dtype: str
    shape: list[int]
    smallest: float | None
    largest: float | None
    mean: float | None


def describe(output: Tensor) -> OutputDict:
    """What an output is, in a few numbers."""
    values = output.detach().double().flatten()
    finite = values[torch.isfinite(values)]
    has_any = finite.numel() > 0
    return {
        "dtype": dtype_name(output.dtype),
        "shape": list(output.shape),
        "smallest": finite.min().item() if has_any else None,
        "largest": finite.max().item() if has_any else None,
        "mean": finite.mean().item() if has_any else None,
    }


def print_outputs(stream: TextIO, outputs: Sequence[Tensor]) -> None:
    """One line per output: number, type, shape, and its range."""
    for number, output in enumerate(outputs):
        found = describe(output)
        shape = ",".join(map(str, found["shape"]))
        line = f"output {number}: {found['dtype']}[{shape}]"
        if found["smallest"] is not None:
            line += f" from {found['smallest']:.4g} to {found['largest']:.4g}"
            line += f", mean {found['mean']:.4g}"
        print(line, file=stream)


def print_bench(stream: TextIO, found: Bench) -> None:
    """One sentence, and one more where the samples are few."""
    time_s, eager_s, loaded = found.timing.time_s, found.eager.time_s, found.loaded
    assert time_s
    assert eager_s
    clean = sum(found.timing.is_clean)
    print(
        f"{loaded.manifest.name} runs in {format_time(time_s)} with {loaded.backend} "
        f"{loaded.dtype}: {significant(eager_s / time_s)}x eager fp32 ({format_time(eager_s)}); "
        f"{clean} of {len(found.timing.times_s)} samples clean.",
        file=stream,
    )
    if clean < ENOUGH_CLEAN:
        print("Other programs use this machine; run it again when it is quiet.", file=stream)
