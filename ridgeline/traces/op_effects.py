"""What an operator does to its operands, by its schema: reads, writes, or views.

`add_.Tensor(Tensor(a!) self, Tensor other, *, Scalar alpha=1) -> Tensor(a!)`: what has a `!` is
written, what an output shares without one is a view. What no schema says stands in tables here.
"""

from dataclasses import dataclass
from functools import lru_cache

from ridgeline.traces.execution_trace import Operand, OpNode

OVERWRITES = frozenset(
    "copy_ fill_ zero_ normal_ uniform_ bernoulli_ random_ exponential_ set_ resize_ recv_ "
    "allgather_ _allgather_base_ allgather_into_tensor_coalesced_ reduce_scatter_ "
    "_reduce_scatter_base_ alltoall_ alltoall_base_ scatter_ gather_".split()
)
"""In-place operators that do not read what they write over."""

ALLOCATES = frozenset(
    "empty empty_like empty_strided empty_quantized new_empty new_empty_strided resize_ set_ "
    "_local_scalar_dense_like detach detach_ alias".split()
)
"""Operators that neither read nor write an element."""

SHAPE_ONLY = frozenset(
    "zeros_like ones_like full_like rand_like randn_like randint_like new_zeros new_ones new_full "
    "size stride numel dim is_same_size result_type can_cast".split()
)
"""Operators that read no element of what they are given."""

ABSORBED = frozenset("copy_ fill_ zero_ resize_".split())
"""Steps of the operator around them where that gives or writes the same storage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """Storages by what the operator itself may do to them; given: all of its inputs."""

    given: frozenset[int]
    reads: tuple[Operand, ...]
    writes: tuple[Operand, ...]
    fresh: tuple[Operand, ...]


def effects_of(node: OpNode) -> Effects:
    """What an operator does to its operands, were nothing done within it. fresh: those of its
    outputs that are none of its inputs, which it also writes.
    """
    name = base_name(node.name)
    given = frozenset(one.storage for part in node.inputs for one in part)
    changed, out_only = _mutated(node)
    shared = {one.storage for one in node.outputs} & given - {one.storage for one in changed}
    untouched = name in ALLOCATES or name in SHAPE_ONLY
    reads = [
        one
        for index, part in enumerate(node.inputs)
        for one in part
        if not untouched
        and one.storage not in shared
        and index not in out_only
        and not (one in changed and name in OVERWRITES)
    ]
    fresh = tuple(one for one in node.outputs if one.storage not in given)
    writes = () if name in ALLOCATES else (*changed, *fresh)
    return Effects(given=given, reads=tuple(reads), writes=writes, fresh=fresh)


def base_name(name: str) -> str:
    """ "add_" of "aten::add_"."""
    return name.rpartition("::")[2].partition(".")[0]


def is_overwrite(node: OpNode, reads: bool) -> bool:
    """Whether a write of this operator leaves nothing of what was there: it neither read it, nor
    wrote in place but by a fill or copy."""
    return not reads and base_name(node.name) in OVERWRITES


def _mutated(node: OpNode) -> tuple[list[Operand], frozenset[int]]:
    """The operands that it writes in place, and the arguments that it only writes (`out=`)."""
    marked, keyword = _marks(node.schema)
    if not marked and base_name(node.name).endswith("_"):
        # c10d's collectives write their first argument, and do not mark it
        marked = frozenset(index for index, part in enumerate(node.inputs[:1]) if part)
    changed = [
        one for index in sorted(marked) if index < len(node.inputs) for one in node.inputs[index]
    ]
    return changed, marked & keyword


@lru_cache(maxsize=4096)
def _marks(schema: str) -> tuple[frozenset[int], frozenset[int]]:
    """The arguments that are marked `!`, and those that are given by keyword only."""
    marked, keyword, index, is_keyword = set(), set(), 0, False
    for argument in _arguments(schema):
        if argument == "*":
            is_keyword = True
            continue
        if "!" in argument.rpartition(" ")[0]:
            marked.add(index)
        if is_keyword:
            keyword.add(index)
        index += 1
    return frozenset(marked), frozenset(keyword)


def _arguments(schema: str) -> list[str]:
    """What stands between commas within the outer brackets."""
    found, depth, start = [], 0, schema.find("(") + 1
    for at in range(start, len(schema)):
        letter = schema[at]
        if depth == 0 and letter in ",)":
            found.append(schema[start:at].strip())
            start = at + 1
            if letter == ")":
                break
        depth += (letter in "[(") - (letter in "])")
    return [one for one in found if one]
