"""What operators had to do, from their recorded shapes through the cost table, beside how long the
device took for it."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ridgeline.cost.op_cost import OpCost
from ridgeline.cost.roofline import Bound, compute_dtype, roofline_times
from ridgeline.cost.rules import cost_of
from ridgeline.errors import MachineError, RidgelineError, TraceError
from ridgeline.graph.node import Argument, Node, Ref
from ridgeline.graph.ops import row_of
from ridgeline.graph.spec import DTYPES, TensorSpec, spec_of
from ridgeline.machines import Ceiling, Machine, load
from ridgeline.traces.rank import RankTrace, StepSplit
from ridgeline.traces.usage import Input, OperatorUse

TYPES: Mapping[str, str] = {
    "float": "fp32",
    "double": "fp64",
    "c10::Half": "fp16",
    "c10::BFloat16": "bf16",
    "c10::Float8_e4m3fn": "fp8_e4m3fn",
    "c10::Float8_e4m3fnuz": "fp8_e4m3fnuz",
    "c10::Float8_e5m2": "fp8_e5m2",
    "c10::Float8_e5m2fnuz": "fp8_e5m2fnuz",
    "long int": "int64",
    "long": "int64",
    "int": "int32",
    "short": "int16",
    "short int": "int16",
    "signed char": "int8",
    "unsigned char": "uint8",
    "bool": "bool",
}
"""Types of tensors as torch.profiler writes them (the C++ compiler's names) -> as we do."""

_CONVOLUTIONS = {"cudnn_convolution": 2, "miopen_convolution": 3}
"""Convolutions of one library -> where their padding stands; stride, dilation and groups follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorWork:
    """An operator and what it had to do. cost: of one run; dtype: that it computes in.
    *_fraction: how near to the roofline of the datasheet, and of the best that anyone has measured;
    bound: what the latter's roofline waits for.
    """

    use: OperatorUse
    cost: OpCost
    dtype: str
    datasheet_fraction: float
    achievable_fraction: float
    bound: Bound

    @property
    def time_s(self) -> float:
        """What one run took on the device."""
        return self.use.total_ns * 1e-9 / self.use.count

    @property
    def flops_per_s(self) -> float:
        """The rate of its matrix work."""
        return self.cost.flops / self.time_s

    @property
    def bytes_per_s(self) -> float:
        """The rate at which it would have moved everything once."""
        return self.cost.nbytes / self.time_s


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWork:
    """The matrix work of one step: of the operators whose first kernel starts in it.
    mfu: the share of the step that it would take at the datasheet's peak of each dtype.
    """

    name: str
    span_ns: int
    flops: int
    mfu: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """All operators of a rank that could be counted, in their order; `uncounted_ns` is the time on
    the device of those that could not: no shapes, no row in the table, or copies from and to the
    host, which the link bounds and not the device.
    """

    machine: Machine
    operators: tuple[OperatorWork, ...]
    uncounted_ns: int
    counted_ns: int
    span_ns: int
    steps: tuple[StepWork, ...] = ()

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation of the span, of what was counted."""
        return self.peak_fraction(Ceiling.DATASHEET)

    @property
    def flops(self) -> int:
        """Matrix work of all runs that were counted."""
        return sum(work.cost.flops * work.use.count for work in self.operators)

    def peak_fraction(self, ceiling: Ceiling) -> float:
        """The share of the span that the matrix work would take at the peak of each dtype: MFU of
        what was counted, where the ceiling is the datasheet's.
        """
        at_peak_s = sum(
            work.cost.flops * work.use.count / self.machine.matrix_flops_per_s(work.dtype, ceiling)
            for work in self.operators
            if work.cost.flops
        )
        return at_peak_s / (self.span_ns * 1e-9)


def machine_of(rank: RankTrace, name: str | None = None) -> Machine:
    """The machine of that name, else the one that the recording names. Raises TraceError where it
    names none that is known.
    """
    if name is not None:
        return load(name)
    names = [device.name for device in rank.devices if device.name]
    try:
        return load(names[0])
    except (MachineError, IndexError):
        which = repr(names[0]) if names else "no device"
        raise TraceError(
            f"{rank.source} names {which}, which is no known machine; name one with --machine."
        ) from None


def work_of(rank: RankTrace, machine: Machine) -> Work:
    """What the operators of a rank had to do, beside both ceilings of a machine."""
    counted, missed_ns = [], 0
    for use in rank.operators:
        if use.num_transfers:
            missed_ns += use.total_ns
            continue
        try:
            node = node_of(use)
            cost = cost_of(node)
        except _UNCOUNTED:
            missed_ns += use.total_ns
            continue
        counted.append(_beside(use, node, cost, machine))
    return Work(
        machine=machine,
        operators=tuple(counted),
        uncounted_ns=missed_ns,
        counted_ns=sum(work.use.total_ns for work in counted),
        span_ns=rank.split.span_ns,
        steps=tuple(
            _step(step, [(one, one.use.by_step[index]) for one in counted], machine)
            for index, step in enumerate(rank.steps)
        ),
    )


def _step(
    step: StepSplit, counted: Sequence[tuple[OperatorWork, int]], machine: Machine
) -> StepWork:
    """counted: every operator with its runs in the step."""
    at_peak_s = sum(
        one.cost.flops * count / machine.matrix_flops_per_s(one.dtype, Ceiling.DATASHEET)
        for one, count in counted
        if one.cost.flops
    )
    span_ns = step.split.span_ns
    return StepWork(
        name=step.name,
        span_ns=span_ns,
        flops=sum(one.cost.flops * count for one, count in counted),
        mfu=at_peak_s / (max(1, span_ns) * 1e-9),
    )


# What torch raises for arguments that a recorder has cut short or that do not fit together.
_UNCOUNTED = (RidgelineError, RuntimeError, ValueError, TypeError, LookupError, NotImplementedError)


def _beside(use: OperatorUse, node: Node, cost: OpCost, machine: Machine) -> OperatorWork:
    dtype = _multiplied_in(use, compute_dtype(node))
    measured_s = max(1, use.total_ns) * 1e-9 / use.count
    bounds = {
        ceiling: roofline_times(cost, cost.nbytes, dtype, machine, ceiling, 0.0)
        for ceiling in Ceiling
    }
    return OperatorWork(
        use=use,
        cost=cost,
        dtype=dtype,
        datasheet_fraction=bounds[Ceiling.DATASHEET].time_s / measured_s,
        achievable_fraction=bounds[Ceiling.ACHIEVABLE].time_s / measured_s,
        bound=bounds[Ceiling.ACHIEVABLE].bound,
    )


def _multiplied_in(use: OperatorUse, dtype: str) -> str:
    """fp32 where most of the time went to kernels that multiply in TF32 by their names: TF32."""
    return "tf32" if dtype == "fp32" and 2 * use.tf32_ns > use.total_ns else dtype


def node_of(use: OperatorUse) -> Node:
    """The operator as a node of a graph; outputs by torch's own shape rules. Raises LookupError
    where no operator of torch takes such arguments, UnsupportedOp where the table has none.
    """
    space, _, name = use.name.partition("::")
    if space != "aten" or not use.inputs:
        raise LookupError(use.name)
    name, inputs = _common(name, use.inputs)
    overload = _overload(name, inputs)
    tensors = {Ref(f"in{i}"): _spec(one) for i, one in enumerate(inputs) if one.type in TYPES}
    names = [argument.name for argument in overload._schema.arguments]
    args = dict(zip(names, _arguments(overload, inputs), strict=True))
    return Node(
        name=name,
        row=row_of(f"aten.{name}"),
        target=f"aten.{name}.{overload._overloadname}",
        module="",
        args=args,
        specs=tensors,
        outputs=_outputs(overload, args, tensors),
    )


def _common(name: str, inputs: tuple[Input, ...]) -> tuple[str, tuple[Input, ...]]:
    """In-place operators cost what they cost out of place; convolutions of a library are ones."""
    if name in _CONVOLUTIONS:
        at = _CONVOLUTIONS[name]
        padding, stride, dilation, groups = inputs[at : at + 4]
        none = Input(shape=(), type="", value="")
        no = Input(shape=(), type="Scalar", value="False")
        zeros = Input(shape=(), type="ScalarList", value="[0, 0]")
        plain = (*inputs[:2], none, stride, padding, dilation, no, zeros, groups)
        return "convolution", plain
    return name.removesuffix("_") or name, inputs


def _overload(name: str, inputs: Sequence[Input]) -> Any:
    """The overload that takes tensors where there are tensors."""
    packet = getattr(torch.ops.aten, name, None)
    for overload in () if packet is None else packet.overloads():
        found = getattr(packet, overload)
        arguments = found._schema.arguments
        if overload.endswith("out") or len(arguments) < len(inputs):
            continue
        fits = all(
            ("Tensor" in str(argument.type)) == (one.type in TYPES) or not one.type
            for argument, one in zip(arguments, inputs, strict=False)
        )
        if fits and all(a.has_default_value() for a in arguments[len(inputs) :]):
            return found
    raise LookupError(f"aten::{name}")


def _arguments(overload: Any, inputs: Sequence[Input]) -> Iterator[Argument]:
    """Every argument, those that were not recorded by their defaults."""
    for index, argument in enumerate(overload._schema.arguments):
        default = argument.default_value if argument.has_default_value() else None
        one = inputs[index] if index < len(inputs) else None
        if one is not None and one.type in TYPES:
            yield Ref(f"in{index}")
        elif one is None or not one.value:
            yield tuple(default) if isinstance(default, list) else default
        else:
            value = ast.literal_eval(one.value)
            yield tuple(value) if isinstance(value, list) else value


def _spec(one: Input) -> TensorSpec:
    return TensorSpec(one.shape, TYPES[one.type])


def _outputs(
    overload: Any, args: Mapping[str, Argument], specs: Mapping[Ref, TensorSpec]
) -> tuple[TensorSpec, ...]:
    """What comes out, by running it on tensors without data."""
    given = {name: _without_data(value, specs) for name, value in args.items()}
    positional = [a.name for a in overload._schema.arguments if not a.kwarg_only]
    keyed = {name: value for name, value in given.items() if name not in positional}
    results = overload(*(given[name] for name in positional), **keyed)
    listed = results if isinstance(results, list | tuple) else (results,)
    return tuple(spec_of(one) for one in listed if isinstance(one, torch.Tensor))


def _without_data(value: Argument, specs: Mapping[Ref, TensorSpec]) -> object:
    if isinstance(value, Ref):
        spec = specs[value]
        return torch.empty(spec.shape, dtype=DTYPES[spec.dtype], device="meta")
    return list(value) if isinstance(value, tuple) else value
