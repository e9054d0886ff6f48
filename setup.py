"""Builds the native kernels: a plain shared library, each kernel once per instruction set.

Compiled are the best set that this processor has and the one that every processor has, or those
that RIDGELINE_ISAS names (`RIDGELINE_ISAS=base,avx2,avx512,amx` for a library that is to travel).
With RIDGELINE_KERNELS=apart none is: scripts/setup.sh has another process do it meanwhile.
"""

import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = Path("ridgeline/native/src")
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast",
         "-fvisibility=default", "-pthread", "-Wno-psabi", "-g0")  # fmt: skip
_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c")
_X86 = {
    "base": (),
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
    "avx512": _AVX512,
    "amx": (*_AVX512, "-mavx512vnni", "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mamx-int8"),
}
# What /proc/cpuinfo must list for a set, the best one first.
_NEEDS = {
    "amx": {"amx_tile", "amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx512bw"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"},
    "avx2": {"avx2", "fma"},
}


def isas() -> dict[str, tuple[str, ...]]:
    """The instruction sets to compile for, and the compiler's flags for each."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return {"base": ()}
    named = os.environ.get("RIDGELINE_ISAS")
    chosen = named.split(",") if named else ["base", best_isa()]
    return {isa: _X86[isa] for isa in dict.fromkeys(["base", *chosen])}


def best_isa() -> str:
    """The best instruction set of this processor; AVX2 where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "avx2"
    flags = set(next((line for line in lines if line.startswith("flags")), "").split())
    return next((isa for isa, needs in _NEEDS.items() if needs <= flags), "base")


class BuildKernels(build_ext):
    """Compiles every kernel for every instruction set; the processor chooses at run time."""

    def build_extension(self, ext: Extension) -> None:
        """The library of `ext`. Where it cannot be built the package works without."""
        built = isas()
        common = tuple(f"-DRL_WITH_{isa.upper()}" for isa in built)
        jobs = [(str(path), "-".join(built), common) for path in sorted(SOURCES.glob("*.cpp"))]
        for isa, flags in built.items():
            # what runs only where the library was carried to an older processor compiles sooner
            quickly = ("-O1",) if isa == "base" and best_isa() != "base" else ()
            own = (f"-DRL_ISA={isa}", *flags, *quickly)
            jobs += [(str(path), isa, own) for path in sorted(SOURCES.glob("kernels/*.cpp"))]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = [o for found in pool.map(self._compile, jobs) for o in found]
        target = self.get_ext_fullpath(ext.name)
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(
            objects, target, target_lang="c++", extra_postargs=["-pthread"]
        )

    def _compile(self, job: tuple[str, str, tuple[str, ...]]) -> list[str]:
        source, folder, flags = job
        output = os.path.join(self.build_temp, folder)
        objects: list[str] = self.compiler.object_filenames([source], output_dir=output)
        if not self.force and not _is_older(objects[0], [source, __file__, *SOURCES.rglob("*.h")]):
            return objects
        return self.compiler.compile([source], output_dir=output, extra_postargs=[*FLAGS, *flags])


def _is_older(target: str, sources: list[str | Path]) -> bool:
    try:
        made_s = os.stat(target).st_mtime
    except FileNotFoundError:
        return True
    return any(os.stat(source).st_mtime > made_s for source in sources)


setup(
    cmdclass={"build_ext": BuildKernels},
    ext_modules=(
        []
        if sys.platform == "win32" or os.environ.get("RIDGELINE_KERNELS") == "apart"
        else [
            Extension(
                "ridgeline.native._kernels",
                [str(path) for path in sorted(SOURCES.rglob("*.cpp"))],
                optional=True,
                language="c++",
            )
        ]
    ),
)
