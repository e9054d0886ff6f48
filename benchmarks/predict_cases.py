"""What bench_predict runs: zoo models that fit a small machine, and why a prediction misses."""

from dataclasses import dataclass, field
from typing import Literal

from ridgeline.zoo import Sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One model at one size in one dtype."""

    key: str
    model: str
    phase: Literal["forward", "prefill"] = "forward"
    sizes: Sizes = field(default_factory=Sizes)
    dtype: Literal["fp32", "bf16"] = "fp32"


CASES: tuple[Case, ...] = (
    Case(key="resnet50", model="resnet50"),
    Case(key="mobilenetv3-large", model="mobilenetv3-large"),
    Case(key="vit-b-16", model="vit-b-16"),
    Case(key="bert-base", model="bert-base", sizes=Sizes(seq=128)),
    Case(key="gpt2", model="gpt2", sizes=Sizes(seq=128)),
    Case(key="llama-small", model="llama-small", phase="prefill", sizes=Sizes(seq=128)),
    Case(key="llama-tiny", model="llama-tiny", phase="prefill", sizes=Sizes(seq=128)),
    Case(key="mixtral-tiny", model="mixtral-tiny", phase="prefill", sizes=Sizes(seq=128)),
    Case(key="resnext50-32x4d", model="resnext50-32x4d"),
    Case(key="yolox-s", model="yolox-s", sizes=Sizes(seq=416)),
    Case(key="bcnn", model="bcnn"),
    Case(key="deepadipose", model="deepadipose"),
    Case(key="crnn", model="crnn", sizes=Sizes(batch=1, seq=280)),
    Case(key="covid-mtl", model="covid-mtl", sizes=Sizes(seq=96)),
    Case(key="resnet50-b8", model="resnet50", sizes=Sizes(batch=8)),
    Case(key="resnet50-bf16", model="resnet50", dtype="bf16"),
    Case(key="bert-base-bf16", model="bert-base", sizes=Sizes(seq=128), dtype="bf16"),
    Case(key="llama-small-bf16", model="llama-small", phase="prefill", sizes=Sizes(seq=128),
         dtype="bf16"),
)  # fmt: skip

TOO_FAST: dict[str, str] = {
    "mixtral-tiny": "Expert stacks run as a loop of unpacked products of about 32 rows, each over"
    " 0.5 to 1 MB of weights that no cache kept (13 M parameters pass by per run): MKL reads those"
    " at 7 GB/s, a fifth of the stream rate. The model takes rows as spread evenly over the"
    " experts; random weights route them unevenly, and products of fewer rows are slower still."
    " Sorting and gathering the routed rows are counted by their bytes alone.",
    "llama-tiny": "About 150 nodes of 3 to 80 us: starts in place (a second thread to wake, code"
    " out of the nearest cache) cost 5 to 40 us more than in calibration's loops.",
    "mobilenetv3-large": "64 convolutions of 30 to 200 us, a third of which is the start of the"
    " call; where malloc places inputs and outputs moves the whole by 40% between processes"
    " (4.7 or 6.5 ms, each steady within its process).",
}
"""Case -> why its time is more than 30% above its prediction, where that was looked into."""

TOO_SLOW: dict[str, str] = {}
"""Case -> why its time is more than 30% below its prediction, where that was looked into."""
