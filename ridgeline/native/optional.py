"""The built library where there is one, with functions that have an equal in Python."""

import ctypes
from collections.abc import Mapping
from functools import cache

from ridgeline.native.library import library_path

WORD, POINTER = ctypes.c_int64, ctypes.c_void_p
Signature = tuple[type | None, tuple[type, ...]]


@cache
def _library() -> ctypes.CDLL | None:
    path = library_path()
    return None if path is None else ctypes.CDLL(str(path))


def functions(
    signatures: Mapping[str, Signature], version: str, expected: int
) -> ctypes.CDLL | None:
    """The library, these functions ready to be called; None where it was not built, or is of
    another version. version: the function that says which it is.
    """
    library = _library()
    if library is None or not hasattr(library, version):
        return None
    if getattr(library, version)() != expected:
        return None
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
