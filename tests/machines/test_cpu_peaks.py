"""Peak rates follow from flags and clock as the vendors' manuals have them."""

import platform
from dataclasses import replace
from pathlib import Path

import pytest

from ridgeline.machines import cpu as cpu_module
from ridgeline.machines.cpu import Cpu, measured_clock_hz, peak_flops_per_s, read_cpu

ZEN4 = Cpu(
    model="EPYC 9654",
    vendor="AuthenticAMD",
    family="25",
    flags=frozenset({"avx2", "avx512f", "avx512_bf16", "avx512_vnni"}),
    num_cores=96,
    clock_hz=2.4e9,
    clock_source="by hand",
    memory_bytes=None,
    caches=(),
)
ZEN5 = replace(ZEN4, family="26")
SAPPHIRE_RAPIDS = replace(
    ZEN4, vendor="GenuineIntel", family="6", flags=ZEN4.flags | {"amx_bf16", "amx_int8"}
)
HASWELL = replace(ZEN4, vendor="GenuineIntel", family="6", flags=frozenset({"avx2"}))
GRACE = replace(ZEN4, vendor="ARM", family="", flags=frozenset({"asimd", "bf16", "i8mm"}))


@pytest.mark.parametrize(
    ("cpu", "dtype", "flop_per_cycle"),
    [
        (ZEN4, "fp32", 32),
        (ZEN4, "bf16", 64),
        (ZEN4, "int8", 128),
        (ZEN5, "fp32", 64),
        (ZEN5, "bf16", 128),
        (ZEN5, "int8", 256),
        (SAPPHIRE_RAPIDS, "fp32", 64),
        (SAPPHIRE_RAPIDS, "bf16", 1024),  # 8 times AVX-512 in bf16
        (SAPPHIRE_RAPIDS, "int8", 2048),
        (HASWELL, "fp32", 32),
        (HASWELL, "bf16", 32),  # no bf16 units: computed in fp32
        (GRACE, "fp32", 32),
        (GRACE, "int8", 256),
        (replace(HASWELL, flags=frozenset()), "fp32", 8),
    ],
)
def test_flop_per_cycle(cpu: Cpu, dtype: str, flop_per_cycle: float) -> None:
    peak, source = peak_flops_per_s(cpu, dtype, num_cores=1)
    assert peak == 2.4e9 * flop_per_cycle
    assert f"{flop_per_cycle} per cycle" in source
    assert "/proc/cpuinfo" in source


def test_a_whole_socket() -> None:
    peak, _ = peak_flops_per_s(ZEN4, "fp32", num_cores=96)
    assert peak == pytest.approx(7.37e12, rel=1e-3)  # the shipped EPYC 9654 says 7.4


def test_the_clock_is_one_a_processor_can_have() -> None:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("the chain of multiplies is x86-64 code")
    assert 0.8e9 < measured_clock_hz() < 7e9


def test_reading_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "cpuinfo": "vendor_id : AuthenticAMD\ncpu family : 26\nmodel name : Zen Five\n"
        "cpu MHz : 9000.0\nflags : fma avx2\n\nvendor_id : another\n",
        "meminfo": "MemTotal:       1000 kB\nMemFree: 10 kB\n",
        "memory.max": "512000\n",
    }
    cpus = {
        "cpu0/topology/thread_siblings_list": "0-1",
        "cpu1/topology/thread_siblings_list": "0-1",
    }
    for name in ("cpu0", "cpu1"):
        for index, (kind, level, size, shared) in enumerate(
            [
                ("Data", "1", "32K", "0-1"),
                ("Instruction", "1", "32K", "0-1"),
                ("Unified", "3", "16384K", "0-7"),
            ]
        ):
            folder = f"{name}/cache/index{index}"
            cpus |= {f"{folder}/type": kind, f"{folder}/level": level}
            cpus |= {f"{folder}/size": size, f"{folder}/shared_cpu_list": shared}
    for file, text in {**files, **cpus}.items():
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(cpu_module, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(cpu_module, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(cpu_module, "_CGROUP_LIMIT", tmp_path / "memory.max")
    monkeypatch.setattr(cpu_module, "_CPUS", tmp_path)
    monkeypatch.setattr(cpu_module, "_allowed_cpus", lambda: [0, 1])
    cpu = read_cpu()
    assert (cpu.model, cpu.vendor, cpu.family) == ("Zen Five", "AuthenticAMD", "26")
    assert cpu.flags == {"fma", "avx2"}
    assert cpu.num_cores == 1  # two threads of one core
    assert (cpu.clock_hz, cpu.clock_source) == (9e9, "cpu MHz in /proc/cpuinfo")
    assert cpu.memory_bytes == 512_000  # the container's limit, below the machine's
    assert [(c.name, c.capacity_bytes) for c in cpu.caches] == [("L1", 2**15), ("L3", 2**24)]


def test_a_machine_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_CPUINFO", "_MEMINFO", "_CGROUP_LIMIT", "_CPUS"):
        monkeypatch.setattr(cpu_module, name, tmp_path / "absent")
    monkeypatch.setattr(cpu_module, "measured_clock_hz", lambda: 0.0)
    cpu = read_cpu()
    assert cpu.clock_source.startswith("ASSUMED")
    assert cpu.memory_bytes is None
    assert cpu.caches == ()
    assert peak_flops_per_s(cpu, "fp32", num_cores=1)[0] == 3e9 * 8
