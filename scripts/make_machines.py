"""Writes ridgeline/machines/data/*.toml from the table of chips: `python scripts/make_machines.py
../shared/data/chips.csv`.

Deterministic: run twice, the files are the same; a row gone from the table takes its file with it.
Where a cell of the table is known to be wrong, CORRECTIONS says what is right and why.
"""

import argparse
import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ridgeline.machines import Cache, Link, Machine, Memory, Rate, to_toml

DATA = Path(__file__).parents[1] / "ridgeline" / "machines" / "data"

KINDS: Mapping[str, Literal["gpu", "cpu", "accelerator"]] = {
    "gpu": "gpu",
    "soc": "gpu",  # Apple: the row describes the GPU half
    "socket": "cpu",
    "chip": "accelerator",
    "card": "accelerator",
}

MATCH: Mapping[str, str] = {
    # The table's own patterns where they would also fit another device.
    "h20": r"NVIDIA H20(?![0-9])",
    "l4": r"NVIDIA L4(?![0-9])",
    "a30": r"NVIDIA A30(?![0-9])",
    "a40": r"NVIDIA A40(?![0-9])",
    "t4": r"(Tesla|NVIDIA) T4(?![0-9A-Z])",
    "gh200-96": r"GH200 (96GB|120GB|480GB)",  # 120GB and 480GB name the LPDDR5X
    "enflame-t20": r"(?<![A-Za-z0-9])T20(?![0-9])",
    "enflame-i20": r"(?<![A-Za-z0-9])i20(?![0-9])",
    "rubin": r"Rubin(?! (CPX|Ultra))",
    "cpu-grace": r"Grace(?!.*Hopper)",
    "mi250x": r"MI250X?(?![0-9A-Z])",
}

OVERHEADS: Mapping[str, tuple[float, float, str]] = {
    # kind -> (between kernels of a compiled program, one eager op on the host, where from)
    "gpu": (
        2.5e-6,
        6e-6,
        "ASSUMED for every GPU: back-to-back kernel launches take 2-3 us on CUDA, one eager "
        "PyTorch op 5-10 us on the host;"
        " calibrate to measure",
    ),
    "accelerator": (5e-6, 10e-6, "ASSUMED: twice a GPU's; nothing public; calibrate to measure"),
    "cpu": (
        2e-6,
        1.2e-6,
        "ASSUMED for every CPU: one parallel region costs about 2 us, one eager PyTorch op about "
        "1 us on a server core;"
        " calibrate to measure",
    ),
}

MATRIX = {f"{dtype}_mat": dtype for dtype in ("fp64", "tf32", "fp16", "bf16", "fp8", "int8", "fp4")}
VECTOR = {"fp64_vec": "fp64", "fp32_vec": "fp32"}
MEASURED = {"bf16": "mamf_bf16", "fp8": "mamf_fp8"}
MEASURED_SOURCE = (
    "highest matmul rate measured by stas00/ml-engineering, compute/accelerator (MAMF)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """One cell of the table that is wrong: what it says, what is right, and where from."""

    row: str
    column: str
    printed: str
    right: str
    source: str


AMX_SOURCE = (
    "a tile multiply is 16 x 16 x 32 products (int8: x 64) of 2 FLOP, one each 16 cycles: 1024 FLOP"
    " per cycle and core (int8: 2048), where the table has twice that. Throughput of TDPBF16PS,"
    " TDPFP16PS and TDPBSSD: Intel 64 and IA-32 Optimization Reference Manual, AMX; measured on a"
    " Xeon of family 6: 16.2 cycles (bf16) and 16.0 (int8), ridgeline/machines/cpu.py, TILES"
)
AMX_WORDS = "AMX 1024 bf16 flop/cycle/core x 2.0 GHz; datasheet (memory)"

# cores x 2.0 GHz x 1024 (int8: 2048)
CORRECTIONS: tuple[Correction, ...] = tuple(
    Correction(row=row, column=column, printed=printed, right=right, source=AMX_SOURCE)
    for row, column, printed, right in (
        ("cpu-xeon-8480", "bf16_mat", "229", "114.7"),
        ("cpu-xeon-8480", "int8_mat", "459", "229.4"),
        (
            "cpu-xeon-8480",
            "source",
            "AMX 2048 bf16 flop/cycle/core x 2.0 GHz; datasheet (memory)",
            AMX_WORDS,
        ),
        ("cpu-xeon-6980p", "fp16_mat", "524", "262.1"),
        ("cpu-xeon-6980p", "bf16_mat", "524", "262.1"),
        ("cpu-xeon-6980p", "int8_mat", "1049", "524.3"),
        ("cpu-xeon-6980p", "source", "as above; datasheet (memory)", AMX_WORDS),
    )
)


def corrected(row: Mapping[str, str]) -> dict[str, str]:
    """The row with what CORRECTIONS says of it. Raises ValueError where a cell is no longer what
    was corrected."""
    right = dict(row)
    for one in CORRECTIONS:
        if one.row != row["id"]:
            continue
        if (cell := row[one.column]) != one.printed:
            raise ValueError(f"{one.row}, {one.column}: {cell!r}, not {one.printed!r}")
        right[one.column] = one.right
    return right


def scaled(cell: str, scale: int) -> float:
    """The cell's decimal times 10**scale, without binary rounding of the product."""
    return float(f"{cell}e{scale}")


def matrix_rate(row: Mapping[str, str], column: str) -> Rate:
    """The row's dense rate in one column, with the measured one beside it where the table has
    it."""
    measured = row.get(MEASURED.get(MATRIX[column], ""), "")
    return Rate(
        flops_per_s=scaled(row[column], 12),
        source=f"{row['source']}; dense",
        achievable_flops_per_s=scaled(measured, 12) if measured else None,
        achievable_source=MEASURED_SOURCE if measured else None,
    )


def memory(row: Mapping[str, str]) -> Memory:
    """The row's main memory; a capacity of 0 means the buyer chooses it."""
    printed = float(row["mem_gb"])
    return Memory(
        name=row["mem_type"] if row["mem_type"] != "?" else "memory of undisclosed type",
        capacity_bytes=round(printed * 1e9) or None,
        bandwidth_bytes_per_s=scaled(row["mem_gbps"], 9),
        source=(
            f"{row['source']}; capacity as printed in GB of 1e9, never more than the device holds"
        ),
    )


def machine(row: Mapping[str, str]) -> Machine:
    """One row of the table as a machine."""
    kind = "gpu" if row["id"] == "mi250x" else KINDS.get(row["scope"], "accelerator")
    launch_s, dispatch_s, overhead_source = OVERHEADS[kind]
    source = row["source"]
    link_gbps = row["link_gbps_bidir"]
    return Machine(
        id=row["id"],
        name=row["name"],
        vendor=row["vendor"],
        arch=row["arch"],
        kind=kind,
        match=MATCH.get(row["id"], row["match_regex"]),
        num_units=int(row["sm_or_cu"]) if row["sm_or_cu"] else None,
        tdp_w=float(row["tdp_w"]) if row["tdp_w"] else None,
        launch_overhead_s=launch_s,
        dispatch_overhead_s=dispatch_s,
        overhead_source=overhead_source,
        confidence=row["confidence"],
        source=source,
        notes=row["notes"],
        matrix={dtype: matrix_rate(row, column) for column, dtype in MATRIX.items() if row[column]},
        vector={
            dtype: Rate(flops_per_s=scaled(row[column], 12), source=source)
            for column, dtype in VECTOR.items()
            if row[column]
        },
        memory=memory(row),
        caches=(
            Cache(
                name=row["onchip_kind"],
                capacity_bytes=round(float(row["onchip_mb"]) * 2**20),
                source=f"{source}; MiB",
            ),
        )
        if row["onchip_mb"]
        else (),
        links=(
            Link(
                name=row["link"],
                bandwidth_bytes_per_s=scaled(link_gbps, 9) / 2,
                source=f"{source}; half of the {link_gbps} GB/s printed for both directions",
            ),
        )
        if link_gbps
        else (),
    )


def files(chips: Path) -> dict[str, str]:
    """File name -> text for every row of the table."""
    return {f"{row['id']}.toml": to_toml(machine(row)) for row in rows_of(chips)}


def rows_of(chips: Path) -> list[dict[str, str]]:
    """The rows of the table, corrected."""
    with chips.open(encoding="utf-8", newline="") as file:
        return [corrected(row) for row in csv.DictReader(x for x in file if not x.startswith("#"))]


def main() -> None:
    """Replaces the shipped machines by those of the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chips", type=Path, help="the table, chips.csv")
    wanted = files(parser.parse_args().chips)
    for stale in {path.name for path in DATA.glob("*.toml")} - wanted.keys():
        (DATA / stale).unlink()
    for name, text in wanted.items():
        (DATA / name).write_text(text, encoding="utf-8")
    print(f"{len(wanted)} machines in {DATA}")


if __name__ == "__main__":
    main()
