"""What the system says of this CPU, its clock as measured, and the peak rates that follow."""

import ctypes
import mmap
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ridgeline.machines.machine import Cache
from ridgeline.units import GIB, KIB, MIB

_CPUINFO = Path("/proc/cpuinfo")
_MEMINFO = Path("/proc/meminfo")
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_CGROUP_USED = Path("/sys/fs/cgroup/memory.current")
_CPUS = Path("/sys/devices/system/cpu")
_SIZES = {"K": KIB, "M": MIB, "G": GIB}

FLOP_PER_CYCLE: tuple[tuple[str, float, str], ...] = (
    ("avx512f", 64.0, "two 512-bit FMA units x 16 lanes x 2"),
    ("avx2", 32.0, "two 256-bit FMA units x 8 lanes x 2"),
    ("asimd", 32.0, "four 128-bit FMA pipes x 4 lanes x 2 (Neoverse V1, V2)"),
)
"""Flag -> fp32 FLOP per cycle and core; the first flag present counts, none means 8 (one 128-bit
FMA unit). Upper bounds: some cores have fewer units. Sources: Intel 64 and IA-32 Optimization
Reference Manual, AMD Software Optimization Guides for families 19h and 1Ah, Arm Neoverse V2
Software Optimization Guide."""

_NO_SIMD = ("", 8.0, "no wide SIMD flag found: one 128-bit FMA unit")
_DOUBLE_PUMPED = ("avx512f", 32.0, "AMD family 19h runs a 512-bit FMA as two 256-bit halves")
_AMD_19H = "25"

WIDENING: tuple[tuple[str, str, float, str], ...] = (
    ("avx512_bf16", "bf16", 2.0, "vdpbf16ps does two products a lane"),
    ("avx512_vnni", "int8", 4.0, "vpdpbusd does four products a lane"),
    ("avx_vnni", "int8", 4.0, "vpdpbusd does four products a lane"),
    ("bf16", "bf16", 4.0, "BFMMLA does 16 products where FMLA does 4"),
    ("i8mm", "int8", 8.0, "SMMLA does 32 products where FMLA does 4"),
)
"""Flag -> dtype and how many times the fp32 rate it gives; the largest present counts."""

TILES: tuple[tuple[str, str, float, str], ...] = (
    ("amx_bf16", "bf16", 1024.0, "AMX tile multiply: 16 x 16 x 32 products x 2 in 16 cycles"),
    ("amx_int8", "int8", 2048.0, "AMX tile multiply: 16 x 16 x 64 products x 2 in 16 cycles"),
)
"""Flag -> dtype and FLOP per cycle and core of a matrix engine; before WIDENING. Source of the
cycles: measured, 16.2 (bf16) and 16.0 (int8) for each of a row of independent tile multiplies on a
Xeon with family 6, 2.7 GHz and 300 MiB of L3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """This processor. clock_hz is the fastest clock any source names, clock_source that source."""

    model: str
    vendor: str
    family: str
    flags: frozenset[str]
    num_cores: int
    clock_hz: float
    clock_source: str
    memory_bytes: int | None
    caches: tuple[Cache, ...]


def read_cpu() -> Cpu:
    """This machine's processor, from /proc and /sys where they exist and the platform elsewhere."""
    info = _cpuinfo()
    clock_hz, clock_source = _clock(info)
    return Cpu(
        model=info.get("model name") or platform.processor() or platform.machine() or "CPU",
        vendor=info.get("vendor_id") or "unknown vendor",
        family=info.get("cpu family", ""),
        flags=frozenset((info.get("flags") or info.get("Features") or "").split()),
        num_cores=_num_cores(),
        clock_hz=clock_hz,
        clock_source=clock_source,
        memory_bytes=_memory_bytes(),
        caches=_caches(),
    )


def peak_flops_per_s(cpu: Cpu, dtype: str, *, num_cores: int) -> tuple[float, str]:
    """Cores x clock x FLOP per cycle in `dtype`, and the words that say so."""
    per_cycle, why = _flop_per_cycle(cpu, dtype)
    source = (
        f"{num_cores} cores x {cpu.clock_hz / 1e9:.2f} GHz ({cpu.clock_source})"
        f" x {per_cycle:g} per cycle ({why}; flags in /proc/cpuinfo)"
    )
    return num_cores * cpu.clock_hz * per_cycle, source


def _flop_per_cycle(cpu: Cpu, dtype: str) -> tuple[float, str]:
    simd = next((row for row in FLOP_PER_CYCLE if row[0] in cpu.flags), _NO_SIMD)
    if simd[0] == "avx512f" and "AMD" in cpu.vendor and cpu.family == _AMD_19H:
        simd = _DOUBLE_PUMPED
    tile = next((row for row in TILES if row[0] in cpu.flags and row[1] == dtype), None)
    if tile is not None:
        return tile[2], f"{tile[0]}: {tile[3]}"
    wide = [row for row in WIDENING if row[0] in cpu.flags and row[1] == dtype]
    flag, _, times, why = max(wide, key=lambda row: row[2], default=("", dtype, 1.0, ""))
    return simd[1] * times, "; ".join(filter(None, (simd[0], simd[2], flag, why)))


def _cpuinfo() -> Mapping[str, str]:
    if not _CPUINFO.is_file():
        return {}
    first = _CPUINFO.read_text(encoding="utf-8").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _allowed_cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def num_logical_cores() -> int:
    """Cores that this process may use, each hardware thread counted."""
    return len(_allowed_cpus())


def _num_cores() -> int:
    siblings = {_read(f"cpu{n}/topology/thread_siblings_list") or str(n) for n in _allowed_cpus()}
    return len(siblings)


def _memory_bytes() -> int | None:
    if not _MEMINFO.is_file():
        return None
    found = re.search(r"MemTotal:\s+(\d+) kB", _MEMINFO.read_text(encoding="utf-8"))
    limit = _CGROUP_LIMIT.read_text(encoding="utf-8").strip() if _CGROUP_LIMIT.is_file() else ""
    sizes = [int(found[1]) * KIB] if found else []
    if limit.isdigit():
        sizes.append(int(limit))
    return min(sizes, default=None)


def free_memory_bytes() -> int | None:
    """What this process may still allocate without pushing others out; None where nothing says."""
    if not _MEMINFO.is_file():
        return None
    found = re.search(r"MemAvailable:\s+(\d+) kB", _MEMINFO.read_text(encoding="utf-8"))
    sizes = [int(found[1]) * KIB] if found else []
    limit, used = (
        path.read_text(encoding="utf-8").strip() if path.is_file() else ""
        for path in (_CGROUP_LIMIT, _CGROUP_USED)
    )
    if limit.isdigit() and used.isdigit():
        sizes.append(max(0, int(limit) - int(used)))
    return min(sizes, default=None)


def _caches() -> tuple[Cache, ...]:
    sizes: dict[tuple[str, str], int] = {}
    for cpu in _allowed_cpus():
        for index in sorted((_CPUS / f"cpu{cpu}" / "cache").glob("index*")):
            kind, level, size, shared = (
                _read(f"cpu{cpu}/cache/{index.name}/{key}")
                for key in ("type", "level", "size", "shared_cpu_list")
            )
            if kind in ("Data", "Unified") and size[-1:] in _SIZES:
                sizes[f"L{level}", shared] = int(size[:-1]) * _SIZES[size[-1]]
    return tuple(
        Cache(
            name=name,
            capacity_bytes=sum(size for (level, _), size in sizes.items() if level == name),
            source="/sys/devices/system/cpu, all that the usable cores reach",
        )
        for name in sorted({level for level, _ in sizes})
    )


def _read(name: str) -> str:
    path = _CPUS / name
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def _clock(info: Mapping[str, str]) -> tuple[float, str]:
    """The highest of what the kernel names and what a dependent chain takes: VMs report the base
    clock."""
    found = [(measured_clock_hz(), "measured: chain of dependent multiplies, 3 cycles each")]
    if kilohertz := _read("cpu0/cpufreq/cpuinfo_max_freq"):
        found.append((float(kilohertz) * 1e3, "cpufreq/cpuinfo_max_freq"))
    if megahertz := info.get("cpu MHz"):
        found.append((float(megahertz) * 1e6, "cpu MHz in /proc/cpuinfo"))
    best = max(found)
    return best if best[0] > 0 else (3e9, "ASSUMED: nothing here names or shows the clock")


def measured_clock_hz() -> float:
    """This core's clock from imul, whose latency is 3 cycles on every x86-64 core since 2008 (Agner
    Fog, instruction tables); 0.0 where the chain cannot run: another architecture, or no executable
    memory."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return 0.0
    links, turns = 64, 20_000
    try:
        chain, code = _multiply_chain(links)
    except OSError:
        return 0.0
    times_s = []
    for _ in range(15):
        start_s = time.perf_counter()
        chain(turns)
        times_s.append(time.perf_counter() - start_s)
    del chain
    code.close()
    return 3.0 * links * turns / statistics.quantiles(times_s, n=4)[0]


def _multiply_chain(links: int) -> tuple[Callable[[int], int], mmap.mmap]:
    """A function that does `links` dependent multiplies as often as asked, and the memory it lives
    in."""
    if os.name != "posix":
        raise OSError("executable memory is asked for in the POSIX way only")
    head = b"\x48\x89\xf9\xb8\x03\x00\x00\x00"  # mov rcx, rdi; mov eax, 3
    body = b"\x48\x0f\xaf\xc0" * links  # imul rax, rax
    back = (-(len(body) + 9)).to_bytes(4, "little", signed=True)
    tail = b"\x48\xff\xc9\x0f\x85" + back + b"\xc3"  # dec rcx; jnz body; ret
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(head + body + tail)
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    return ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64)(address), code
