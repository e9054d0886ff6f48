"""One thing to time, and how its operands are made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

from ridgeline.machines.tables import Route

if TYPE_CHECKING:
    import torch

Call = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One thing to time. `build` allocates operands and returns the call; `work` is what a call
    does, in FLOP, bytes or elements as KERNEL_UNITS has it; `features` as KERNEL_FEATURES has
    them."""

    route: Route
    kind: str
    dtype: str
    features: tuple[float, ...]
    work: float
    build: Callable[[], Call]


def floats(device: "torch.device") -> tuple[tuple[str, "torch.dtype"], ...]:
    """fp32 and bf16, and fp16 where it is not a trap: torch.mm is 1000 times slower in it on
    CPUs."""
    import torch

    both = (("fp32", torch.float32), ("bf16", torch.bfloat16))
    return both if device.type == "cpu" else (*both, ("fp16", torch.float16))


def filled(shape: tuple[int, ...], dtype: "torch.dtype", device: "torch.device") -> "torch.Tensor":
    """Operands: constant on a CPU, random on a GPU, whose clock rises when the bits do not
    toggle."""
    import torch

    if device.type == "cpu":
        return torch.full(shape, 0.5 if dtype.is_floating_point else 1, dtype=dtype)
    if not dtype.is_floating_point:
        return torch.randint(0, 127, shape, dtype=dtype, device=device)
    return torch.rand(shape, dtype=dtype, device=device)


class Flush:
    """Called, it reads `nbytes` of its own: what caches held before is behind them then."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._own: torch.Tensor | None = None

    def __call__(self) -> None:
        import torch

        if self._own is None:
            self._own = filled((self.nbytes // 4,), torch.float32, torch.device("cpu"))
        self._own.sum()


class InTurn:
    """Makes the calls, with weights of their own, one after the other, the first again after the
    last. `ready` sees to it that the next ones find theirs in no cache, and their input in one.
    """

    def __init__(self, calls: Sequence[Call], flush: Call) -> None:
        self._turns, self._count, self._flush = cycle(calls), len(calls), flush
        self._num_cold = 0

    def __call__(self) -> None:
        self._num_cold -= 1
        next(self._turns)()

    def ready(self, num_calls: int) -> None:
        """Flushes the caches, and calls once to have code and input back, unless as many calls as
        are to come have not had their turn since the last time.
        """
        if self._num_cold < num_calls:
            self._flush()
            self._num_cold = self._count
            self()


def eager(
    kind: str, dtype: str, features: tuple[float, ...], work: float, build: Callable[[], Call]
) -> Probe:
    return Probe(route="eager", kind=kind, dtype=dtype, features=features, work=work, build=build)
