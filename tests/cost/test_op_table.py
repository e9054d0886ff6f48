"""The op table against torch itself: no packet misspelt, no core op without a cost."""

from collections.abc import Iterator

import pytest
import torch
import torch.ao.quantization.fx._decomposed  # registers quantized_decomposed
from cost_helpers import meta, node_of
from torch._ops import OpOverloadPacket

import ridgeline.zoo.experts  # registers ridgeline::grouped_mm
from ridgeline.cost import cost_of, has_rule, rule
from ridgeline.cost.rules import _CATEGORY_RULES, _RULES
from ridgeline.errors import UnsupportedOp
from ridgeline.graph import OPS, Category, row_of

assert ridgeline.zoo.experts.grouped_mm  # imported for what it registers

# Core ATen ops without a row, and why that is right.
CORE_EXCEPTIONS = {
    "_local_scalar_dense": "makes a number, not a tensor: .item()",
    "sym_is_contiguous": "makes a truth value",
    "resize_": "in place, and export makes every graph functional",
}


def core_packets() -> Iterator[str]:
    schemas = torch._C._jit_get_all_schemas()
    for name in {s.name.removeprefix("aten::") for s in schemas if s.name.startswith("aten::")}:
        packet = getattr(torch.ops.aten, name, None)
        if isinstance(packet, OpOverloadPacket) and any(
            torch.Tag.core in getattr(packet, o).tags for o in packet.overloads()
        ):
            yield name


def test_every_packet_of_the_table_exists() -> None:
    pytest.importorskip("transformers.integrations.moe")  # registers its own grouped product
    missing = []
    for packet in OPS:
        namespace, name = packet.split(".")
        if namespace == "higher_order":
            found = name in {op._name for op in torch._ops._higher_order_ops.values()}
        else:
            found = hasattr(getattr(torch.ops, namespace), name)
        missing += [] if found else [packet]
    assert missing == []


def test_every_core_op_has_a_row_with_a_cost() -> None:
    names = set(core_packets())
    assert len(names) > 150
    rows = {name: row_of(f"aten.{name}") for name in names - set(CORE_EXCEPTIONS)}
    without_row = [name for name, row in rows.items() if row.category is Category.UNKNOWN]
    assert without_row == []
    without_cost = [
        name
        for name, row in rows.items()
        if row.kind not in _RULES and row.category not in _CATEGORY_RULES
    ]
    assert without_cost == []
    assert set(CORE_EXCEPTIONS) < names


def test_every_row_has_a_cost() -> None:
    assert [
        p for p, r in OPS.items() if r.kind not in _RULES and r.category not in _CATEGORY_RULES
    ] == []


def test_every_rule_has_a_row() -> None:
    assert set(_RULES) <= {row.kind for row in OPS.values()}


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("multiply", "mul"), ("subtract", "sub"), ("true_divide", "div"), ("arctan2", "atan2"),
        ("clip", "clamp"), ("less_equal", "le"), ("special_expit", "sigmoid"), ("concat", "cat"),
        ("linalg_matmul", "matmul"), ("special_log_softmax", "log_softmax"), ("amax", "amax"),
        ("log", "log"), ("nansum", "nansum"),
    ],
)  # fmt: skip
def test_aliases(alias: str, name: str) -> None:
    assert row_of(f"aten.{alias}").kind == name


def test_a_kind_is_of_one_category() -> None:
    categories: dict[str, set[Category]] = {}
    for row in OPS.values():
        categories.setdefault(row.kind, set()).add(row.category)
    mixed = {kind for kind, found in categories.items() if len(found) > 1}
    assert mixed == {"pointwise_backward"}  # of arithmetic and of transcendental functions


def test_a_missing_rule_raises_with_the_way_out() -> None:
    node = node_of(torch.ops.aten.linalg_cholesky.default, meta(4, 4))
    assert not has_rule(node)
    with pytest.raises(
        UnsupportedOp, match=r"aten.linalg_cholesky.default \(node linalg_cholesky"
    ) as e:
        cost_of(node)
    assert '@ridgeline.cost.rule("linalg_cholesky")' in str(e.value)
    assert "--allow-uncounted" in str(e.value)


def test_a_kind_has_one_rule() -> None:
    with pytest.raises(ValueError, match="'linear' already has a cost rule"):
        rule("linear")(cost_of)
