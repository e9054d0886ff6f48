"""Which products of an int8 program stay in bf16, for its outputs to stay within a tolerance.

Each kind of product, all of one size, is rounded alone first; then one after the other, those first
that save most for the error they bring, as long as the outputs stay within the tolerance.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

from torch import Tensor

from ridgeline.backends.agreement import compare
from ridgeline.backends.native.builder import Size
from ridgeline.errors import BackendError

# Outputs of a program that keeps these sizes of products in bf16, on every set of inputs.
Outputs = Callable[[Collection[Size]], Sequence[Sequence[Tensor]]]
# Inputs to come differ from those that are measured: so much of the tolerance is used.
_SHARE = 0.9


def kept_wide(
    work: Mapping[Size, float],
    outputs: Outputs,
    expected: Sequence[Sequence[Tensor]],
    tolerance: float,
    name: str,
) -> frozenset[Size]:
    """The sizes of products to be kept in bf16, few operations of them, by a greedy choice. work:
    the operations of each size that eight bits may take. expected: what the outputs should be.

    Raises BackendError where the outputs leave the tolerance whichever product is rounded.
    """
    if not work:
        return frozenset()

    def error_of(kept: Collection[Size]) -> float:
        pairs = zip(expected, outputs(kept), strict=True)
        return max((compare(r, o).max_error for r, o in pairs), default=0.0)

    limit = _SHARE * tolerance
    if error_of(frozenset()) <= limit:
        return frozenset()
    errors = {size: error_of(frozenset(work) - {size}) for size in work}
    kept = frozenset(work)
    for size in sorted(work, key=lambda s: errors[s] / work[s]):
        if error_of(kept - {size}) <= limit:
            kept -= {size}
    if kept == frozenset(work):
        raise BackendError(
            f"{name} leaves the tolerance of {tolerance:g} whichever products are rounded to eight "
            f"bits (error {min(errors.values()):.2g} at least, {error_of(kept):.2g} in bf16)."
        )
    return kept
