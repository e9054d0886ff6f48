"""Loading torch's native library beside Python modules that do not need it.

The system takes a fifth of a second to map and relocate it, in which Python waits, unless a thread
asks for it through a call that gives up the interpreter's lock.
"""

import ctypes
import importlib.util
import os
import sys
from importlib import import_module
from pathlib import Path
from threading import Thread

_LIBRARY = "libtorch_cpu.so"
# What tracing imports beside torch, all Python: an extension module would wait for the thread.
_MEANWHILE = ("sympy",)
# NumPy is one, and torch imports it; so it comes first.
_BEFORE = ("numpy",)


def load_torch_beside() -> None:
    """Imports what tracing needs beside torch while torch's native library loads. Whether the
    library was found makes no difference but to the time; `import torch` says what is wrong.
    """
    path = _library_path()
    if "torch" in sys.modules or path is None:
        return
    for name in _BEFORE:
        import_module(name)
    loading = Thread(target=_load, args=(path,), name="torch library")
    loading.start()
    try:
        for name in _MEANWHILE:
            import_module(name)
    finally:
        loading.join()


def _library_path() -> Path | None:
    """Where torch keeps its library; None elsewhere than on Linux, or without torch."""
    spec = importlib.util.find_spec("torch") if sys.platform == "linux" else None
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "lib" / _LIBRARY
    return path if path.is_file() else None


def _load(path: Path) -> None:
    """`dlopen`, called as any C function is: ctypes.CDLL would hold the lock."""
    dlopen = ctypes.CDLL(None).dlopen
    dlopen.argtypes, dlopen.restype = [ctypes.c_char_p, ctypes.c_int], ctypes.c_void_p
    dlopen(os.fsencode(path), sys.getdlopenflags())
