"""Finding machines by what people and drivers call them; an error with a way out otherwise."""

import subprocess
import sys
from pathlib import Path

import pytest

from ridgeline.errors import MachineError
from ridgeline.machines import (
    ALIASES,
    Machine,
    load,
    match_device,
    names,
    save_this,
    this_path,
    to_toml,
)

DEVICES = {  # as nvidia-smi, rocm-smi, torch.cuda, JAX, /proc/cpuinfo and instance types print them
    "Tesla V100-SXM2-32GB": "v100-sxm2-32g",
    "Tesla V100-SXM2-16GB": "v100-sxm2-16g",
    "Tesla V100-PCIE-16GB": "v100-pcie",
    "Tesla T4": "t4",
    "NVIDIA A10": "a10",
    "NVIDIA A10G": "a10g",
    "NVIDIA A30": "a30",
    "NVIDIA A40": "a40",
    "NVIDIA RTX A6000": "rtx-a6000",
    "NVIDIA A100-SXM4-40GB": "a100-sxm-40g",
    "A100-PG509-200": "a100-sxm-40g",
    "NVIDIA A100-SXM4-80GB": "a100-sxm-80g",
    "NVIDIA A100 80GB PCIe": "a100-pcie-80g",
    "NVIDIA A100-PCIE-40GB": "a100-pcie-40g",
    "NVIDIA L4": "l4",
    "NVIDIA L40": "l40",
    "NVIDIA L40S": "l40s",
    "NVIDIA H20": "h20",
    "NVIDIA H100 80GB HBM3": "h100-sxm",
    "NVIDIA H100 PCIe": "h100-pcie",
    "NVIDIA H100 NVL": "h100-nvl",
    "NVIDIA H200": "h200-sxm",
    "NVIDIA H200 NVL": "h200-nvl",
    "NVIDIA GH200 480GB": "gh200-96",
    "NVIDIA GH200 144G HBM3e": "gh200-144",
    "NVIDIA B200": "b200-sxm",
    "NVIDIA GB200": "gb200",
    "NVIDIA B300 SXM6 AC": "b300-sxm",
    "NVIDIA GB300": "gb300",
    "NVIDIA GeForce RTX 3090": "rtx3090",
    "NVIDIA GeForce RTX 4090": "rtx4090",
    "NVIDIA GeForce RTX 5090": "rtx5090",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "rtx-pro-6000-server",
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": "rtx-pro-6000-ws",
    "NVIDIA Rubin": "rubin",
    "AMD Instinct MI210": "mi210",
    "AMD Instinct MI250X": "mi250x",
    "AMD Instinct MI250X / MI250": "mi250x",
    "AMD Instinct MI300X": "mi300x",
    "AMD Instinct MI325X": "mi325x",
    "AMD Instinct MI350X": "mi350x",
    "AMD Instinct MI355X": "mi355x",
    "AMD Instinct MI455X": "mi455x",
    "TPU v4": "tpu-v4",
    "TPU v5 lite": "tpu-v5e",
    "TPU v5e": "tpu-v5e",
    "TPU v5p": "tpu-v5p",
    "TPU v5": "tpu-v5p",
    "TPU v6 lite": "tpu-v6e",
    "TPU7x": "tpu-v7x",
    "HL-225": "gaudi2",
    "HL-325L": "gaudi3",
    "trn1.32xlarge": "trn1",
    "trn2.48xlarge": "trn2",
    "trn3": "trn3",
    "Ascend910B3": "ascend-910b",
    "Ascend910_9391": "ascend-910c",
    "Ascend 950DT": "ascend-950dt",
    "Enflame T20": "enflame-t20",
    "Enflame i20": "enflame-i20",
    "Enflame S60": "enflame-s60",
    "Apple M1 Max": "m1-max",
    "Apple M2 Ultra": "m2-ultra",
    "Apple M3 Ultra": "m3-ultra",
    "Apple M4 Max": "m4-max",
    "AMD EPYC 9654 96-Core Processor": "cpu-epyc-9654",
    "AMD EPYC 9755 128-Core Processor": "cpu-epyc-9755",
    "Intel(R) Xeon(R) Platinum 8480+": "cpu-xeon-8480",
    "Intel(R) Xeon(R) 6980P": "cpu-xeon-6980p",
    "NVIDIA Grace CPU Superchip": "cpu-grace",
    "AWS Graviton4": "cpu-graviton4",
}
STRANGERS = (
    "NVIDIA GeForce RTX 3090 Ti",
    "NVIDIA GeForce RTX 4090 Laptop GPU",
    "NVIDIA GeForce RTX 4090 D",
    "NVIDIA Rubin CPX",
    "Quadro T2000",
    "NVIDIA A400",
    "NVIDIA RTX A4000",
    "NVIDIA H800",
    "Radeon RX 7900 XTX",
    "Intel(R) Core(TM) i7-9700K",
    "AMD EPYC 7763 64-Core Processor",
    "Apple M4",
)


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_name_is_its_machine_and_no_other(device: str) -> None:
    assert match_device(device).id == DEVICES[device]


def test_every_shipped_machine_has_a_device_in_this_test() -> None:
    assert set(DEVICES.values()) == set(names())


@pytest.mark.parametrize("device", STRANGERS)
def test_a_like_named_device_is_not_mistaken(device: str) -> None:
    with pytest.raises(MachineError, match="no shipped machine matches"):
        match_device(device)


def test_a_name_that_fits_two_machines_is_an_error() -> None:
    with pytest.raises(MachineError, match="fits b200-sxm and h200-nvl"):
        match_device("NVIDIA H200 NVL or NVIDIA B200")


@pytest.mark.parametrize("name", names())
def test_ids_and_friendly_names_in_any_case(name: str) -> None:
    machine = load(name)
    assert machine.id == name
    assert load(name.upper()) is machine
    assert load(machine.name.lower()) is machine


def test_short_names() -> None:
    wanted = {
        "H100": "h100-sxm",
        "A100": "a100-sxm-80g",
        "H200": "h200-sxm",
        "B200": "b200-sxm",
        "V100": "v100-sxm2-32g",
        "MI300X": "mi300x",
        "RTX 4090": "rtx4090",
        "TPUv5e": "tpu-v5e",
        "Gaudi 3": "gaudi3",
        "Trillium": "tpu-v6e",
    }
    assert {name: load(name).id for name in wanted} == wanted


def test_aliases_point_to_machines_and_hide_none() -> None:
    assert set(ALIASES.values()) <= set(names())
    assert all(key == key.lower() and key.isalnum() for key in ALIASES)
    assert not {name.replace("-", "") for name in names()} & set(ALIASES)


def test_an_unknown_name_gets_near_ones_and_the_way_out() -> None:
    with pytest.raises(MachineError, match=r"no machine 'H10O'\. Near: .*h100-sxm") as caught:
        load("H10O")
    assert "`ridgeline machines list`" in str(caught.value)
    with pytest.raises(MachineError, match="no machine 'qqqqqqqq'"):
        load("qqqqqqqq")
    with pytest.raises(MachineError, match="no machine ''"):
        load("")


def test_a_users_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(load("H100")), encoding="utf-8")
    assert load(path) == load("H100")
    assert load(str(path)) == load("H100")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"none\.toml: No such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(MachineError, match="cannot read machine file"):
        load(f"{tmp_path}/no/such/place")
    with pytest.raises(MachineError, match="cannot read machine file"):
        load(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MachineError, match=r"binary\.toml"):
        load(tmp_path / "binary.toml")


def test_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(MachineError, match="`ridgeline machines calibrate`"):
        load("this")
    assert save_this(load("H100")) == this_path() == tmp_path / "cache/ridgeline/this.toml"
    assert load("this") == load("H100")
    save_this(load("A100"))
    assert load("this") == load("A100")
    assert [path.name for path in this_path().parent.iterdir()] == ["this.toml"]


def test_importing_machines_imports_no_torch() -> None:
    code = "import sys, ridgeline.machines as m; m.load('H100'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_loading_one_machine_reads_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    from ridgeline.machines import registry

    registry._shipped.cache_clear()
    registry._catalogue.cache_clear()
    seen: list[Path] = []
    read = registry._read

    def spy(path: Path) -> Machine:
        seen.append(path)
        return read(path)

    monkeypatch.setattr(registry, "_read", spy)
    load("H100")
    assert [path.name for path in seen] == ["h100-sxm.toml"]
