"""Programs of one instruction on torch tensors, and what every test of a kernel needs."""

import ctypes
import mmap
from collections.abc import Callable, Mapping, Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

from ridgeline.errors import BackendError
from ridgeline.native.library import Library
from ridgeline.native.program import (
    ABSENT,
    Assembler,
    Expression,
    Operand,
    Pool,
    Program,
    Step,
    Type,
    ref,
)

Field = int | float | Tensor | None
Three = tuple[int, int, int]

TYPES: Mapping[torch.dtype, Type] = {
    torch.float32: Type.F32,
    torch.bfloat16: Type.BF16,
    torch.int64: Type.I64,
    torch.int32: Type.I32,
    torch.uint8: Type.U8,
    torch.bool: Type.U8,
    torch.int8: Type.I8,
}
_PROT_NONE = 0


def libraries() -> tuple[Library, ...]:
    """The library once per instruction set of this machine; none where it was not built."""
    found = []
    for isa in ("base", "avx2", "avx512", "amx"):
        try:
            found.append(Library(isa))
        except BackendError:
            continue
    return tuple(found)


LIBRARIES = libraries()


class Fenced:
    """A copy of a tensor's memory that ends where a page begins that nobody may touch, so that a
    kernel that reads or writes beyond the end stops the process.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._storage = tensor.untyped_storage()
        nbytes, page = self._storage.nbytes(), mmap.PAGESIZE
        room = -(-nbytes // page) * page
        self._memory = mmap.mmap(-1, room + page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        libc = ctypes.CDLL(None)
        assert libc.mprotect(ctypes.c_void_p(start + room), page, _PROT_NONE) == 0
        self.address = start + room - nbytes
        ctypes.memmove(self.address, self._storage.data_ptr(), nbytes)

    def copy_back(self) -> None:
        """Puts what the kernel wrote into the tensor."""
        ctypes.memmove(self._storage.data_ptr(), self.address, self._storage.nbytes())


class Tensors:
    """Numbers tensors as constants of a program."""

    def __init__(self) -> None:
        self.all: list[Tensor] = []

    def ref(self, tensor: Tensor) -> int:
        """The place of its first element."""
        self.all.append(tensor)
        return ref(len(self.all), tensor.storage_offset() * tensor.element_size())

    def field(self, value: Field) -> int | float:
        """What stands in a program for a value that a test gives."""
        if value is None:
            return ABSENT
        return self.ref(value) if isinstance(value, Tensor) else value


def _words(
    library: Library,
    name: str,
    fields: Mapping[str, Field],
    operands: Sequence[Tensor],
    steps: Sequence[Step],
    tensors: Tensors,
) -> list[int]:
    given: dict[str, Field] = dict(fields)
    for field in library.layouts[name].fields:  # x_type follows from x_ref
        tensor = fields.get(field.removesuffix("_type") + "_ref")
        if field.endswith("_type") and field not in given:
            given[field] = TYPES[tensor.dtype] if isinstance(tensor, Tensor) else Type.F32
    expression = None
    if library.layouts[name].has_expression:
        rank = operands[0].dim() if operands else 2
        expression = Expression(
            rank=rank,
            operands=tuple(
                Operand(tensors.ref(t), TYPES[t.dtype], tuple(t.stride())) for t in operands
            ),
            steps=tuple(steps),
        )
    assembler = Assembler(library)
    assembler.add(name, {f: tensors.field(v) for f, v in given.items()}, expression)
    return assembler.words


def prepare(
    library: Library,
    name: str,
    fields: Mapping[str, Field],
    operands: Sequence[Tensor] = (),
    steps: Sequence[Step] = (),
    *,
    threads: int = 1,
) -> Callable[[], None]:
    """A function that runs one instruction in place. fields: tensors where a field is a *_ref
    (None where absent); *_type fields follow from them. operands: tensors of the expression,
    expanded to its dimensions.
    """
    tensors = Tensors()
    words = _words(library, name, fields, operands, steps, tensors)
    program = _program(
        library, words, [t.untyped_storage().data_ptr() for t in tensors.all], threads
    )

    def run(keep: Sequence[Tensor] = tuple(tensors.all)) -> None:
        program.run((), ())

    return run


def run_one(
    library: Library,
    name: str,
    fields: Mapping[str, Field],
    operands: Sequence[Tensor] = (),
    steps: Sequence[Step] = (),
    *,
    threads: int = 1,
) -> None:
    """Runs one instruction on fenced copies of its tensors and puts the results into them; the
    arguments are those of `prepare`.
    """
    tensors = Tensors()
    words = _words(library, name, fields, operands, steps, tensors)
    fences = {t.untyped_storage().data_ptr(): Fenced(t) for t in tensors.all}
    addresses = [fences[t.untyped_storage().data_ptr()].address for t in tensors.all]
    _program(library, words, addresses, threads).run((), ())
    for fence in fences.values():
        fence.copy_back()


def _program(
    library: Library, words: Sequence[int], addresses: Sequence[int], threads: int
) -> Program:
    return Program(
        Pool(library, threads),
        words,
        constants=addresses,
        num_inputs=0,
        num_outputs=0,
        arena=0,
    )


def packed(library: Library, w_NK: Tensor) -> Tensor:
    """A weight (out features, in features) as rl_pack lays it out."""
    n, k = w_NK.shape
    type_ = TYPES[w_NK.dtype]
    found = torch.empty(library.packed_nbytes(type_, n, k), dtype=torch.uint8)
    library.pack(type_, n, k, w_NK.data_ptr(), w_NK.stride(), found.data_ptr())
    return found


def wider(shape: tuple[int, ...], dtype: torch.dtype, room: int) -> Tensor:
    """A channels-last tensor whose positions lie `room` more elements apart than they need."""
    held = torch.full((*shape[:-1], shape[-1] + room), 7.0).to(dtype)
    return held[..., : shape[-1]]


def three(data: st.DataObject, least: int, most: int) -> Three:
    """One number per dimension."""
    first, second, third = (data.draw(st.integers(least, most)) for _ in range(3))
    return first, second, third
