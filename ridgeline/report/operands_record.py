"""The JSON record of operand use; without what prints tables, which takes long to import."""

from dataclasses import asdict

from ridgeline.report.plain import Json
from ridgeline.traces.operands import OperatorOperands
from ridgeline.traces.trace import Trace


def operands_record(trace: Trace) -> dict[str, Json]:
    """The keys `operands`, `tensors`, `tensor_roles` and `dead_writes` of the record."""
    found = [(rank.rank, rank.operands) for rank in trace.ranks if rank.operands is not None]
    return {
        "operands": [_operator(rank, one) for rank, uses in found for one in uses.operators],
        "tensors": [_with_role(rank, one) for rank, uses in found for one in uses.tensors],
        "tensor_roles": [_with_role(rank, one) for rank, uses in found for one in uses.roles],
        "dead_writes": [{"rank": rank, **asdict(one)} for rank, uses in found for one in uses.dead],
        "execution_traces": [
            {
                "rank": rank,
                "source": uses.source,
                "num_operators": uses.num_operators,
                "num_joined": uses.num_joined,
                "notes": uses.notes,
            }
            for rank, uses in found
        ],
    }


def _operator(rank: int | None, one: OperatorOperands) -> dict[str, Json]:
    operands = [{**asdict(operand), "role": operand.role.value} for operand in one.operands]
    return {"rank": rank, **asdict(one), "operands": operands}


def _with_role(rank: int | None, one: object) -> dict[str, Json]:
    values = asdict(one)  # type: ignore[call-overload]
    return {"rank": rank, **values, "role": values["role"].value}
