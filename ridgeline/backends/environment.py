"""What the compilers need from this machine: a C++ compiler, a private cache, and silence."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ridgeline.errors import BackendError
from ridgeline.machines.files import user_cache

_CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def require_compiler() -> None:
    """Raises BackendError where Inductor finds no C++ compiler."""
    with warnings.catch_warnings():  # importing Inductor runs into torch's own deprecations
        warnings.simplefilter("ignore")
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise BackendError(
            "no C++ compiler: neither $CXX nor g++ runs; install one (the package g++)."
        ) from error


def cache_folder() -> Path:
    """Where compiled kernels are kept: a private folder in the user's cache."""
    folder = user_cache() / "inductor"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BackendError(
            f"cannot make the cache folder {folder}: {error.strerror}; set XDG_CACHE_HOME."
        ) from error
    return folder


@contextmanager
def silent() -> Iterator[None]:
    """Within the block libraries neither log nor warn."""
    previous_level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous_level)


@contextmanager
def compiling() -> Iterator[None]:
    """Within the block Inductor compiles into our cache (or into the one that the user named),
    says nothing, and starts no processes.
    """
    import torch._inductor.config as inductor_config

    previous_cache = os.environ.get(_CACHE_VARIABLE)
    os.environ[_CACHE_VARIABLE] = previous_cache or str(cache_folder())
    try:
        with silent(), inductor_config.patch(compile_threads=1):
            yield
    finally:
        if previous_cache is None:
            del os.environ[_CACHE_VARIABLE]
        else:
            os.environ[_CACHE_VARIABLE] = previous_cache
