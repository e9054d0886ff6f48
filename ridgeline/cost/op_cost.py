"""OpCost: what one node costs, independent of any machine."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce


@dataclass(frozen=True, slots=True, kw_only=True)
class OpCost:
    """What one node costs once. Multiply and add count as two.

    flops: matrix work (matmul, convolution, attention), attention counted full. causal_flops: the
    same with masked-out halves of causal attention left out. vector_ops: arithmetic outside matrix
    work. special_ops: transcendental evaluations among it (exp, erf, tanh ...).
    *_bytes: off-chip traffic with perfect reuse inside the node. executed_flops: what the kernel
    really multiplies when that is more than `flops` (flash attention's backward recomputes scores).
    """

    flops: int = 0
    causal_flops: int = 0
    executed_flops: int = 0
    vector_ops: int = 0
    special_ops: int = 0
    read_bytes: int = 0
    write_bytes: int = 0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; a cost is never negative")

    @property
    def nbytes(self) -> int:
        """Bytes read and written."""
        return self.read_bytes + self.write_bytes

    @property
    def intensity(self) -> float:
        """FLOPs per byte moved; 0 for a node that moves nothing."""
        return self.flops / self.nbytes if self.nbytes else 0.0

    def __add__(self, other: "OpCost") -> "OpCost":
        return OpCost(**{n: getattr(self, n) + getattr(other, n) for n in self.__slots__})

    def times(self, count: int) -> "OpCost":
        """The cost of `count` runs."""
        return OpCost(**{n: getattr(self, n) * count for n in self.__slots__})


def total(costs: Iterable[OpCost]) -> OpCost:
    """The sum of all costs."""
    return reduce(OpCost.__add__, costs, OpCost())


def matrix_cost(
    macs: int, read_bytes: int, write_bytes: int, *, causal_macs: int | None = None
) -> OpCost:
    """The cost of `macs` multiply-accumulates on a matrix unit."""
    causal = macs if causal_macs is None else causal_macs
    return OpCost(
        flops=2 * macs,
        causal_flops=2 * causal,
        executed_flops=2 * causal,
        read_bytes=read_bytes,
        write_bytes=write_bytes,
    )
