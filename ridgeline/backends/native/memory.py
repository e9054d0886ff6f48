"""Where every buffer of the arena lies: those that are not in use together share memory."""

from collections.abc import Sequence

from ridgeline.backends.native.builder import Instruction, TorchCall
from ridgeline.backends.native.value import Buffer, Kind
from ridgeline.native.pages import ALIGNMENT

# Kernels may prefetch beyond the end of what they read.
_SLACK_NBYTES = 4096


def plan(steps: Sequence[Instruction | TorchCall]) -> int:
    """Gives every buffer of the arena its offset; returns the arena's size in bytes.

    The largest first, each at the lowest offset free in all the steps in which it is in use
    (greedy by size; Pisarchyk and Lee, 2020, arXiv:2001.03288, section 5).
    """
    buffers: dict[int, Buffer] = {}
    for number, step in enumerate(steps):
        for place in step.places:
            buffer = place.buffer
            if buffer.kind is Kind.ARENA:
                if id(buffer) not in buffers:
                    buffers[id(buffer)], buffer.first = buffer, number
                buffer.last = number
    placed: list[Buffer] = []
    for buffer in sorted(buffers.values(), key=lambda b: -b.nbytes):
        rivals = sorted(
            (b for b in placed if b.first <= buffer.last and buffer.first <= b.last),
            key=lambda b: b.offset,
        )
        at = 0
        for rival in rivals:
            if at + buffer.nbytes <= rival.offset:
                break
            at = max(at, _rounded(rival.offset + rival.nbytes))
        buffer.offset = at
        placed.append(buffer)
    return max((b.offset + b.nbytes for b in placed), default=0) + _SLACK_NBYTES


def _rounded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
