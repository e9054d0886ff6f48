"""Programs: instructions written down as words, and run."""

import ctypes
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from ridgeline.errors import BackendError
from ridgeline.native.library import Library

ABSENT, REGISTERS, MAX_RANK = -1, 16, 6
_OFFSET_BITS = 40


class Type(IntEnum):
    """Element types, numbered as in instructions.h."""

    F32 = 0
    BF16 = 1
    I64 = 2
    I32 = 3
    U8 = 4
    I8 = 5


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor that an expression reads or writes. strides: elements, one per dimension."""

    ref: int
    type: Type
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an expression, as instructions.h lists them."""

    name: str
    to: int = 0
    a: int = 0
    b: int = 0
    p: float = 0.0
    q: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """What happens to each element. rank: dimensions of its tiles' space."""

    rank: int
    operands: tuple[Operand, ...] = ()
    steps: tuple[Step, ...] = ()


NOTHING = Expression(rank=2)


def ref(base: int, offset: int = 0) -> int:
    """A place in memory: `offset` bytes into a base. Bases: 0 the arena, then constants, inputs
    and outputs.
    """
    return (base << _OFFSET_BITS) + offset


def bits(number: float) -> int:
    """A number as an instruction holds it."""
    word: int = struct.unpack("<q", struct.pack("<d", number))[0]
    return word


class Assembler:
    """Writes instructions down. `words` is the program so far."""

    def __init__(self, library: Library) -> None:
        self.words: list[int] = []
        self._library = library

    def add(
        self, name: str, fields: Mapping[str, int | float], expression: Expression | None = None
    ) -> None:
        """Appends one instruction; every field must be given, floats where it is called *_bits."""
        layout = self._library.layouts[name]
        unknown = set(fields) ^ set(layout.fields)
        assert not unknown, f"{name}: {sorted(unknown)} given or missing"
        assert layout.has_expression or expression is None
        words = [bits(fields[f]) if f.endswith("_bits") else int(fields[f]) for f in layout.fields]
        if layout.has_expression:
            words += self._expression(expression or NOTHING)
        self.words += [layout.opcode, len(words), *words]

    def _expression(self, expression: Expression) -> list[int]:
        words = [expression.rank, len(expression.operands), len(expression.steps)]
        for operand in expression.operands:
            assert len(operand.strides) == expression.rank
            words += [operand.ref, operand.type, *operand.strides]
        for s in expression.steps:
            words += [self._library.steps[s.name], s.to, s.a, s.b, bits(s.p), bits(s.q)]
        return words


class Pool:
    """Threads that programs run on, one program at a time."""

    def __init__(self, library: Library, threads: int) -> None:
        self.library, self.threads = library, threads
        self.handle = library.c.rl_pool_create(threads)
        if not self.handle:
            raise BackendError(f"the system gives no {threads} threads.")

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.library.c.rl_pool_free(self.handle)


class Program:
    """Instructions ready to run. constants, arena: addresses, which must outlive it."""

    def __init__(
        self,
        pool: Pool,
        words: Sequence[int],
        *,
        constants: Sequence[int],
        num_inputs: int,
        num_outputs: int,
        arena: int,
    ) -> None:
        self._pool, library = pool, pool.library
        self._inputs = ctypes.c_void_p * num_inputs
        self._outputs = ctypes.c_void_p * num_outputs
        self._run, self._free = library.c.rl_program_run, library.c.rl_program_free
        self._handle = library.c.rl_program_create(
            pool.handle,
            library.isa.encode(),
            (ctypes.c_int64 * len(words))(*words),
            len(words),
            (ctypes.c_void_p * len(constants))(*constants),
            len(constants),
            num_inputs,
            num_outputs,
            arena,
        )
        if not self._handle:
            raise BackendError("no memory for a program.")

    def run(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Runs it on tensors given by their addresses."""
        self._run(self._handle, self._inputs(*inputs), self._outputs(*outputs))

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._free(self._handle)
