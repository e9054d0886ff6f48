"""GPTQ's inner loop on one block of columns, by the built library or in torch.

O: outputs, I: inputs, G: groups, B: columns of the block.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ridgeline.native.optional import POINTER, WORD, Signature, functions

_VERSION = 1
_SIGNATURES: Mapping[str, Signature] = {
    "rl_gptq_most_columns": (WORD, ()),
    "rl_gptq_block": (
        None,
        (WORD, WORD, WORD, *[POINTER] * 4, WORD, *[POINTER] * 4, WORD, WORD, *[POINTER] * 3),
    ),
}
_library = cache(lambda: functions(_SIGNATURES, "rl_gptq_version", _VERSION))
MOST_COLUMNS = 128
"""Of a block."""


def has_gptq() -> bool:
    """Whether it was built; GPTQ works without, slower."""
    return _library() is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """A weight on its way to codes. Positions count the columns last to first, as they are
    rounded: a block is rounded when all positions from its end on are.

    factor_II: L, lower, with L L^T the Hessian by position, its columns contiguous. place_I: the
    column at each position. group_I: its group. importance_I: of its squared change in the loss.
    Written to: codes_OI int8, errors_IO (by position: weight less its value), loss_O fp64.
    """

    weight_OI: Tensor
    factor_II: Tensor
    place_I: Tensor
    group_I: Tensor
    importance_I: Tensor
    scales_GO: Tensor
    zeros_GO: Tensor
    low: int
    high: int
    codes_OI: Tensor
    errors_IO: Tensor
    loss_O: Tensor

    def __post_init__(self) -> None:
        floats = (self.weight_OI, self.importance_I, self.scales_GO, self.zeros_GO, self.errors_IO)
        others = (self.place_I, self.group_I, self.codes_OI, self.loss_O)
        if not all(t.is_contiguous() for t in (*floats, *others, self.factor_II.T)):
            raise ValueError("a rounding needs contiguous tensors, the factor by column")
        if not all(t.dtype is torch.float32 for t in (*floats, self.factor_II)):
            raise ValueError("a rounding needs fp32")

    def taken(self, first: int, end: int) -> Tensor:
        """(B, O): errors of all positions from `end` on, times their entries of the factor."""
        if end == self.errors_IO.shape[0]:
            return torch.zeros(end - first, self.errors_IO.shape[1])
        return self.factor_II[end:, first:end].T @ self.errors_IO[end:]


def round_block(rounding: Rounding, first: int, end: int) -> None:
    """Rounds positions first to end, at most MOST_COLUMNS, and writes what came of it."""
    library = _library()
    if library is None:
        round_block_in_torch(rounding, first, end)
        return
    r, taken_BO = rounding, rounding.taken(first, end)
    outputs, inputs = r.weight_OI.shape
    parts = (r.group_I[first:end], r.importance_I[first:end], r.errors_IO[first:end])
    group, importance, errors = (t.data_ptr() for t in parts)
    library.rl_gptq_block(
        *(end - first, inputs, outputs, r.weight_OI.data_ptr(), r.place_I[first:end].data_ptr()),
        *(taken_BO.data_ptr(), r.factor_II[first:, first:].data_ptr(), r.factor_II.stride(1)),
        *(r.scales_GO.data_ptr(), r.zeros_GO.data_ptr(), group, importance, r.low, r.high),
        *(r.codes_OI.data_ptr(), errors, r.loss_O.data_ptr()),
    )


def round_block_in_torch(rounding: Rounding, first: int, end: int) -> None:
    """As `round_block`, without the built library."""
    r, taken_BO = rounding, rounding.taken(first, end)
    for k in range(end - 1, first - 1, -1):
        place, group, factor = r.place_I[k], r.group_I[k], r.factor_II[k:end, k]
        weight_O, scale_O, zero_O = r.weight_OI[:, place], r.scales_GO[group], r.zeros_GO[group]
        sum_O = taken_BO[k - first] + factor[1:] @ r.errors_IO[k + 1 : end]
        now_O = weight_O + sum_O / factor[0]
        code_O = (now_O / scale_O + zero_O).clamp_(r.low, r.high).round_()
        value_O = (code_O - zero_O) * scale_O
        r.codes_OI[:, place] = code_O.to(torch.int8)
        r.errors_IO[k] = weight_O - value_O
        r.loss_O.add_((now_O - value_O).square_() * r.importance_I[k])
