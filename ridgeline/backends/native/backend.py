"""The backend: plans memory, writes programs, and runs them in turns with what torch takes."""

from collections.abc import Callable, Collection, Container, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from threading import Lock

import msgspec
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ridgeline.backends.backend import Backend, Dtype, Runnable, Setting, aligned
from ridgeline.backends.eager import Eager
from ridgeline.backends.native.builder import (
    AllBut,
    Builder,
    Instruction,
    Size,
    TorchCall,
)
from ridgeline.backends.native.lower import Lowered, lower
from ridgeline.backends.native.memory import plan
from ridgeline.backends.native.mixture import kept_wide
from ridgeline.backends.native.value import Kind, Place, Value
from ridgeline.backends.stateless import Raw, Stateless, stateless
from ridgeline.errors import BackendError
from ridgeline.graph import Graph
from ridgeline.native import program as programs
from ridgeline.native.library import Library
from ridgeline.native.program import ABSENT, Assembler, Pool, Program

# What runs one part of the steps on a call's inputs and outputs.
Part = Callable[[Sequence[Tensor], Sequence[Tensor]], None]


PRODUCTS = "products.json"
# Sets of calibration that errors are measured on.
_MOST_SETS = 8


class _Products(msgspec.Struct, forbid_unknown_fields=True):
    """What is saved beside the graph. rounded: sizes (rows, columns, depth) done in eight bits."""

    rounded: list[Size]


class Native(Backend):
    """Our own kernels: one program for the whole graph, made in a moment, saved as the graph."""

    name = "native"
    dtypes = ("fp32", "bf16", "int8")
    files = (PRODUCTS,)

    @classmethod
    def require(cls, dtype: Dtype) -> None:
        """Also raises BackendError where the kernels were not built, or have no units for it."""
        super().require(dtype)
        library = Library()
        has = {"fp32": True, "bf16": library.has_bf16, "int8": library.has_int8}
        if not has[dtype]:
            raise BackendError(
                f"native has no products of {dtype} for this processor ({library.isa})."
            )

    def lower(self, graph: Graph, dtype: Dtype) -> Graph:
        """In int8, what is not a product by weights is done in bf16."""
        return super().lower(graph, "bf16" if dtype == "int8" else dtype)

    def build(self, graph: Graph, setting: Setting) -> Runnable:
        """The program on as many threads as torch has. Of int8, what would take the outputs beyond
        the tolerance on the sets of calibration stays in bf16.
        """
        form = stateless(graph, keeps_groups=True)
        rounded = _rounded(form, graph, setting) if setting.dtype == "int8" else frozenset()
        if setting.keep is not None:
            found = _Products(rounded=sorted(rounded))
            (setting.keep / PRODUCTS).write_bytes(msgspec.json.encode(found))
        return _runnable(form, rounded)

    def load(self, graph: Graph, folder: Path, dtype: Dtype) -> Runnable:
        """The program anew, with the products in eight bits that it had."""
        try:
            saved = msgspec.json.decode((folder / PRODUCTS).read_bytes(), type=_Products)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BackendError(
                f"{PRODUCTS} does not say which products to round: {error}"
            ) from error
        self.require(dtype)
        form = stateless(self.lower(graph, dtype), keeps_groups=True)
        return _runnable(form, frozenset(saved.rounded if dtype == "int8" else ()))


def _runnable(form: Stateless, rounded: Container[Size]) -> Runnable:
    lowered = lower(form, Library(), rounded=rounded)
    return form.runnable(run_of(lowered, torch.get_num_threads(), form.blank))


def _rounded(form: Stateless, graph: Graph, setting: Setting) -> frozenset[Size]:
    """The sizes of products in eight bits; all that pay, where nothing says what is tolerated."""
    work = lower(form, Library(), rounded=AllBut()).builder.work
    sets = setting.calibration[:_MOST_SETS]
    if setting.tolerance is None or setting.whole is None or not sets:
        return frozenset(work)

    def outputs(wide: Collection[Size]) -> list[tuple[Tensor, ...]]:
        run = aligned(graph, _runnable(form, AllBut(wide)))
        return [run(*given) for given in sets]

    exact = Eager().compile(setting.whole)
    expected = [exact(*given) for given in sets]
    return frozenset(work) - kept_wide(work, outputs, expected, setting.tolerance, graph.name)


def run_of(lowered: Lowered, threads: int, blank: Callable[[], list[Tensor]]) -> Raw:
    """Runs the steps; every call fills new outputs, which `blank` makes."""
    builder = lowered.builder
    arena = builder.pages.take(plan(builder.steps))
    where = _Where(builder, arena, lowered.num_inputs)
    pool = Pool(builder.library, threads)
    running = Lock()
    parts: list[Part] = []
    for is_own, steps in groupby(builder.steps, lambda s: isinstance(s, Instruction)):
        if is_own:
            own = [s for s in steps if isinstance(s, Instruction)]
            parts.append(_program(own, lowered, pool, where))
        else:
            parts += [_call(s, where) for s in steps if isinstance(s, TorchCall)]

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        held = [x if x.is_contiguous() else x.contiguous() for x in inputs]
        outputs = blank()
        with running:  # one arena
            for part in parts:
                part(held, outputs)
        return outputs

    return run


@dataclass(frozen=True, slots=True)
class _Where:
    """Turns places into addresses."""

    builder: Builder
    arena: Tensor
    num_inputs: int

    def ref(self, place: Place | None) -> int:
        """A place as an instruction names it."""
        if place is None:
            return ABSENT
        buffer, constants = place.buffer, len(self.builder.constants)
        base = {
            Kind.ARENA: 0,
            Kind.CONSTANT: 1 + buffer.number,
            Kind.INPUT: 1 + constants + buffer.number,
            Kind.OUTPUT: 1 + constants + self.num_inputs + buffer.number,
        }[buffer.kind]
        return programs.ref(base, buffer.offset + place.nbytes)

    def tensor(self, value: Value) -> Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]:
        """Finds the value's tensor among a call's inputs and outputs."""
        buffer, spec = value.buffer, value.spec
        shape, strides, offset = spec.shape, spec.stride(), int(spec.storage_offset())
        if buffer.kind is Kind.INPUT:
            return lambda inputs, _: inputs[buffer.number].as_strided(shape, strides, offset)
        if buffer.kind is Kind.OUTPUT:
            return lambda _, outputs: outputs[buffer.number].as_strided(shape, strides, offset)
        if buffer.kind is Kind.CONSTANT:
            assert buffer.tensor is not None
            found = buffer.tensor.as_strided(
                shape, strides, buffer.tensor.storage_offset() + offset
            )
            return lambda *_: found
        start = (int(self.arena.storage_offset()) + buffer.offset) // spec.element_size()
        own = torch.empty(0, dtype=spec.dtype)
        own.set_(self.arena.untyped_storage(), start + offset, shape, strides)
        return lambda *_: own


def _program(
    instructions: Sequence[Instruction], lowered: Lowered, pool: Pool, where: _Where
) -> Part:
    assembler = Assembler(pool.library)
    for one in instructions:
        fields = {n: _word(v, where) for n, v in one.fields.items()}
        assembler.add(one.name, fields, _expression(one, where))
    addresses = [c.tensor.data_ptr() for c in lowered.builder.constants if c.tensor is not None]
    program = Program(
        pool,
        assembler.words,
        constants=addresses,
        num_inputs=lowered.num_inputs,
        num_outputs=lowered.num_outputs,
        arena=where.arena.data_ptr(),
    )
    kept = where  # the memory that the program points to

    def run(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        assert kept
        program.run([x.data_ptr() for x in inputs], [y.data_ptr() for y in outputs])

    return run


def _word(value: "int | float | Place | None", where: _Where) -> int | float:
    return where.ref(value) if value is None or isinstance(value, Place) else value


def _expression(one: Instruction, where: _Where) -> programs.Expression | None:
    if not where.builder.library.layouts[one.name].has_expression:
        return None
    operands = tuple(
        programs.Operand(where.ref(o.value.place), o.value.type, o.strides) for o in one.operands
    )
    return programs.Expression(rank=one.rank, operands=operands, steps=one.steps)


def _call(step: TorchCall, where: _Where) -> Part:
    """A call of torch: arguments found, results copied into their memory."""

    def found(argument: object) -> object:
        return where.tensor(argument) if isinstance(argument, Value) else _Fixed(argument)

    positional, named = tree_map(found, (list(step.positional), dict(step.named)))
    targets = [where.tensor(v) if v is not None else None for v in step.results]

    def run(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        def get(source: Callable[..., object]) -> object:
            return source(inputs, outputs)

        args, kwargs = tree_map(get, (positional, named))
        results = step.target(*args, **kwargs)
        listed = (results,) if isinstance(results, Tensor) else tuple(results)  # type: ignore[arg-type]
        for target, result in zip(targets, listed, strict=True):
            if target is not None:
                target(inputs, outputs).copy_(result)

    return run


@dataclass(frozen=True, slots=True)
class _Fixed:
    """An argument that is the same in every call."""

    value: object

    def __call__(self, *_: object) -> object:
        return self.value
