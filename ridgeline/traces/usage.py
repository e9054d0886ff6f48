"""What took the device's time: by kernel, and by the operators that launched them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ridgeline.traces.columns import ABSENT, Digests, Json, Kind, Recording
from ridgeline.traces.intervals import Times
from ridgeline.traces.kernel_kinds import KernelOp
from ridgeline.traces.kernel_time import is_amd_device
from ridgeline.traces.kernels import Kernel, classify
from ridgeline.traces.launches import Launches
from ridgeline.traces.nesting import Rows, innermost
from ridgeline.traces.precision import Precision, precision_of_name
from ridgeline.traces.steps import Step
from ridgeline.traces.tensor_cores import Eligibility, eligibility

_TRANSFER = re.compile(r"Memcpy (?:HtoD|DtoH)|CopyHostToDevice|CopyDeviceToHost")
_ENDS = ("start_ns", "end_ns")
MODULE_PREFIX = "nn.Module: "
"""How torch.profiler calls the ranges of modules, with_modules or with_stack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelUse:
    """All runs of the kernels of one name. what: what it is, by its name and the operator's types;
    tensor_core: whether a tensor core does its work, or could. share: of the time of all events on
    the device. op, shapes, module: of the operator that spent most on it; "" where they were not
    recorded.
    """

    name: str
    what: Kernel
    tensor_core: Eligibility
    kind: Kind
    count: int
    total_ns: int
    min_ns: int
    max_ns: int
    share: float
    op: str
    shapes: str
    module: str

    @property
    def mean_ns(self) -> float:
        """The time of one run."""
        return self.total_ns / self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """An argument of an operator as it was recorded. shape: empty of a number as well; type: of a
    tensor in the recorder's words, Scalar and ScalarList of others, "" of None; value: of those.
    """

    shape: tuple[int, ...]
    type: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorUse:
    """All runs of one operator on inputs of the same shapes and types. num_kernels: events on the
    device that they launched, total_ns: their time, share: of that of all events on the device.
    num_transfers: copies between host and device among them; tf32_ns: of total_ns, what kernels
    took that multiply in TF32 by their names. by_step: of `count`, the runs whose first event on
    the device starts in each step; empty without steps.
    """

    name: str
    inputs: tuple[Input, ...]
    count: int
    num_kernels: int
    num_transfers: int
    total_ns: int
    share: float
    tf32_ns: int = 0
    by_step: tuple[int, ...] = ()

    @property
    def shapes(self) -> str:
        """Of the tensors among the inputs: "[64, 512] [512, 128]"."""
        return shapes_words(self.inputs)


def kernel_uses(
    recording: Recording,
    found: Launches,
    modules: Rows,
    capability: tuple[int, int] | None = None,
) -> tuple[KernelUse, ...]:
    """Every kernel, copy and fill by name, the one that took longest first. modules: the row of the
    module around each launch. capability: the device's compute capability.
    """
    events = recording.events
    duration = events.duration_ns[found.rows]
    names = events.name[found.rows]
    order = np.lexsort((duration, names))
    firsts = np.flatnonzero(np.diff(names[order], prepend=ABSENT))
    lasts = np.append(firsts[1:], len(order)) - 1
    totals = np.add.reduceat(duration[order], firsts) if len(order) else duration
    whole_ns = max(1, int(duration.sum()))
    is_amd = is_amd_device(recording, [recording.names[n] for n in names[order[firsts]].tolist()])
    uses = []
    for first, last, total_ns in zip(firsts.tolist(), lasts.tolist(), totals.tolist(), strict=True):
        mine = order[first : last + 1]
        op = _dearest(recording, found, mine, duration)
        row = int(found.rows[mine[0]])
        op_name = "" if op == ABSENT else recording.name_of(int(found.ops[op]))
        inputs = () if op == ABSENT else inputs_of(recording, int(found.ops[op]))
        types = [one.type for one in inputs]
        what = classify(recording.name_of(row), input_types=types, is_amd=is_amd)
        uses.append(
            KernelUse(
                name=what.name,
                what=what,
                tensor_core=eligibility(
                    what,
                    operator=op_name,
                    shapes=[one.shape for one in inputs],
                    input_types=types,
                    capability=capability,
                ),
                kind=Kind(int(events.kind[row])),
                count=len(mine),
                total_ns=total_ns,
                min_ns=int(duration[mine[0]]),
                max_ns=int(duration[mine[-1]]),
                share=total_ns / whole_ns,
                op=op_name,
                shapes=shapes_words(inputs),
                module="" if op == ABSENT else module_name(recording, int(modules[op])),
            )
        )
    return tuple(sorted(uses, key=lambda use: -use.total_ns))


def _dearest(recording: Recording, found: Launches, mine: Rows, duration: Times) -> int:
    """Of these events, the longest one of the operator that spent most on them; ABSENT where none
    has an operator.
    """
    known = mine[found.ops[mine] != ABSENT]
    if not len(known):
        return ABSENT
    names, place = np.unique(recording.events.name[found.ops[known]], return_inverse=True)
    spent = np.bincount(place, weights=duration[known], minlength=len(names))
    of_dearest = known[place == int(spent.argmax())]
    return int(of_dearest[duration[of_dearest].argmax()])


def modules_of(recording: Recording, found: Launches) -> Rows:
    """The row of the nn.Module around each launch; ABSENT where none was recorded."""
    events = recording.events
    is_module = np.array([name.startswith(MODULE_PREFIX) for name in recording.names], bool)
    calls = events.where(Kind.PYTHON)
    calls = calls[is_module[events.name[calls]]]
    modules = np.full(len(found.rows), ABSENT, np.intp)
    known = found.calls != ABSENT
    if len(calls):
        modules[known] = innermost(events, calls, found.calls[known])
    return modules


def module_name(recording: Recording, row: int) -> str:
    """The name of the module whose range is in that row; "" of ABSENT."""
    return "" if row == ABSENT else recording.name_of(row).removeprefix(MODULE_PREFIX)


def operator_uses(
    recording: Recording, found: Launches, steps: Sequence[Step] = ()
) -> tuple[OperatorUse, ...]:
    """Every operator that launched work, by the shapes and types of its inputs, the one whose work
    took longest first; how many of its runs fall into which of the steps.
    """
    known = found.ops != ABSENT
    ops, place = np.unique(found.ops[known], return_inverse=True)
    duration = recording.events.duration_ns[found.rows]
    names = recording.events.name[found.rows[known]]
    per_op = np.stack(
        [
            np.ones(len(ops), np.int64),
            np.bincount(place, minlength=len(ops)),
            *(
                np.bincount(place, weights=weights, minlength=len(ops)).astype(np.int64)
                for weights in (
                    _named(recording, names, _is_transfer),
                    duration[known],
                    duration[known] * _named(recording, names, _is_tf32),
                )
            ),
            *_in_steps(recording, found.rows[known], place, len(ops), steps),
        ],
        axis=1,
    )
    alike, first = _alike(recording, ops)
    groups = np.zeros((len(first), per_op.shape[1]), np.int64)
    np.add.at(groups, alike, per_op)
    sums: dict[tuple[str, tuple[Input, ...]], list[int]] = {}
    for op, added in zip(ops[first].tolist(), groups.tolist(), strict=True):
        key = recording.name_of(op), inputs_of(recording, op)
        total = sums.setdefault(key, [0] * len(added))
        for index, value in enumerate(added):
            total[index] += value
    whole_ns = max(1, int(duration.sum()))
    uses = [
        OperatorUse(
            name=name,
            inputs=inputs,
            count=count,
            num_kernels=num,
            num_transfers=moved_count,
            total_ns=total_ns,
            share=total_ns / whole_ns,
            tf32_ns=tf32_ns,
            by_step=tuple(by_step),
        )
        for (name, inputs), (count, num, moved_count, total_ns, tf32_ns, *by_step) in sums.items()
    ]
    return tuple(sorted(uses, key=lambda use: -use.total_ns))


def _is_transfer(name: str) -> bool:
    return _TRANSFER.search(name) is not None


def _is_tf32(name: str) -> bool:
    return precision_of_name(name, KernelOp.GEMM) is Precision.TF32


def _named(
    recording: Recording, names: NDArray[np.intp], is_one: Callable[[str], bool]
) -> NDArray[np.bool_]:
    """Whether each name is one of those; asked once for each that occurs."""
    occurring, place = np.unique(names, return_inverse=True)
    answers = [is_one(recording.names[index]) for index in occurring.tolist()]
    found: NDArray[np.bool_] = np.array(answers, bool)[place]
    return found


def _in_steps(
    recording: Recording, rows: Rows, place: Rows, num_ops: int, steps: Sequence[Step]
) -> NDArray[np.int64]:
    """For every step, 1 where an operator's first event starts in it. rows: on the device; place:
    the operator of each.
    """
    began = np.full(num_ops, np.iinfo(np.int64).max)
    np.minimum.at(began, place, recording.events.start_ns[rows])
    starts, ends = (np.array([getattr(s, key) for s in steps], np.int64) for key in _ENDS)
    found: NDArray[np.int64] = ((starts[:, None] <= began) & (began < ends[:, None])).astype(
        np.int64
    )
    return found


def _alike(recording: Recording, ops: Rows) -> tuple[Rows, Rows]:
    """The group of each operator: those in one have the same name and inputs, though there may be
    two groups of one kind; and one member of each group.
    """
    events = recording.events
    has_args = events.args_start[ops] != ABSENT
    digest = np.arange(len(ops), dtype=np.uint64)
    if isinstance(recording.arguments, Digests):
        start, nbytes = events.args_start[ops[has_args]], events.args_nbytes[ops[has_args]]
        found = recording.arguments.digests(start, nbytes)
        if found is not None:
            digest[has_args], digest[~has_args] = found, 0
    order = np.lexsort((digest, events.name[ops]))
    is_new = np.ones(len(ops), bool)
    is_new[1:] = np.diff(events.name[ops][order]) != 0
    is_new[1:] |= digest[order][1:] != digest[order][:-1]
    group = np.empty(len(ops), np.intp)
    group[order] = np.cumsum(is_new) - 1
    return group, order[is_new]


def inputs_of(recording: Recording, row: int) -> tuple[Input, ...]:
    """The arguments of an operator; empty where they were not recorded."""
    args = recording.args_of(row)
    shapes, types = _listed(args.get("Input Dims")), _listed(args.get("Input type"))
    values = [*_listed(args.get("Concrete Inputs")), *[""] * len(shapes)]
    return tuple(
        Input(shape=_shape(shape), type=str(kind), value=str(value))
        for shape, kind, value in zip(shapes, types, values, strict=False)
    )


def _shape(dims: Json) -> tuple[int, ...]:
    return tuple(size for size in _listed(dims) if isinstance(size, int))


def shapes_words(inputs: Sequence[Input]) -> str:
    """The shapes of those that have some: "[64, 512] [512, 128]"."""
    return " ".join(str([*one.shape]) for one in inputs if one.shape)


def _listed(value: Json) -> Sequence[Json]:
    return value if isinstance(value, list) else ()
