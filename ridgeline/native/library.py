"""The built library: found, loaded, asked for its tables. The one place that knows its C ABI."""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import EXTENSION_SUFFIXES
from itertools import count
from pathlib import Path

from ridgeline.errors import BackendError

_ABI_VERSION = 3
_NAME = "_kernels"
_WORD, _POINTER, _TEXT = ctypes.c_int64, ctypes.c_void_p, ctypes.c_char_p
_SIGNATURES: Mapping[str, tuple[type | None, tuple[type, ...]]] = {
    "rl_abi_version": (_WORD, ()),
    "rl_isa": (_TEXT, (_TEXT,)),
    "rl_has_bf16": (ctypes.c_bool, (_TEXT,)),
    "rl_has_int8": (ctypes.c_bool, (_TEXT,)),
    "rl_instruction": (_TEXT, (_WORD,)),
    "rl_fields": (_TEXT, (_WORD,)),
    "rl_has_expression": (ctypes.c_bool, (_WORD,)),
    "rl_step": (_TEXT, (_WORD,)),
    "rl_packed_nbytes": (_WORD, (_TEXT, _WORD, _WORD, _WORD)),
    "rl_pack": (None, (_TEXT, _WORD, _WORD, _WORD, _POINTER, _WORD, _WORD, _POINTER)),
    "rl_pool_create": (_POINTER, (_WORD,)),
    "rl_pool_free": (None, (_POINTER,)),
    "rl_program_create": (
        _POINTER,
        (_POINTER, _TEXT, _POINTER, _WORD, _POINTER, _WORD, _WORD, _WORD, _POINTER),
    ),
    "rl_program_run": (None, (_POINTER, _POINTER, _POINTER)),
    "rl_program_free": (None, (_POINTER,)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How an instruction is spelled: its number, its fields in order, whether an expression
    follows them.
    """

    opcode: int
    fields: tuple[str, ...]
    has_expression: bool


def library_path() -> Path | None:
    """The file of the built library; None where it was not built."""
    folder = Path(__file__).parent
    return next((p for s in EXTENSION_SUFFIXES if (p := folder / f"{_NAME}{s}").is_file()), None)


class Library:
    """The library, with one instruction set chosen. isa: that, the best of this processor unless
    named. Raises BackendError where it is not built, or the processor lacks what is named.
    """

    def __init__(self, isa: str | None = None) -> None:
        path = library_path()
        if path is None:
            raise BackendError(
                "the native kernels were not built; install a C++17 compiler (the package g++), "
                "then run `pip install -e .` again."
            )
        self.c = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self.c, name)
            function.restype, function.argtypes = result, arguments
        found = self.c.rl_abi_version()
        if found != _ABI_VERSION:
            raise BackendError(
                f"{path} is of another version ({found}, not {_ABI_VERSION}); run "
                "`pip install -e .` again."
            )
        chosen = self.c.rl_isa((isa or "").encode())
        if chosen is None:
            raise BackendError(f"this processor or build has no {isa}.")
        self.isa: str = chosen.decode()
        self.has_bf16: bool = self.c.rl_has_bf16(chosen)
        self.has_int8: bool = self.c.rl_has_int8(chosen)

    @cached_property
    def layouts(self) -> Mapping[str, Layout]:
        """Every instruction by name."""
        found: dict[str, Layout] = {}
        for opcode in count():
            name = self.c.rl_instruction(opcode)
            if name is None:
                return found
            fields = tuple(self.c.rl_fields(opcode).decode().split())
            found[name.decode()] = Layout(
                opcode=opcode, fields=fields, has_expression=self.c.rl_has_expression(opcode)
            )
        raise AssertionError

    @cached_property
    def steps(self) -> Mapping[str, int]:
        """The number of every step of an expression, by name."""
        found: dict[str, int] = {}
        for number in count():
            name = self.c.rl_step(number)
            if name is None:
                return found
            found[name.decode()] = number
        raise AssertionError

    def packed_nbytes(self, type_: int, n: int, k: int) -> int:
        """Bytes that a packed (n, k) matrix takes."""
        return int(self.c.rl_packed_nbytes(self.isa.encode(), type_, n, k))

    def pack(
        self, type_: int, n: int, k: int, source: int, strides: Sequence[int], target: int
    ) -> None:
        """Packs the matrix at address `source`, with `strides` in elements, into `target`."""
        self.c.rl_pack(self.isa.encode(), type_, n, k, source, *strides, target)
