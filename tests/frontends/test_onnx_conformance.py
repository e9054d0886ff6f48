"""ONNX's own conformance cases: by the interpreter all of them, through the graph one per operator.

A case that fails and is not expected to, and one that passes and is expected to fail, are errors.
"""

import pytest

pytest.importorskip("onnx", reason="needs the extra onnx: pip install 'ridgeline[onnx]'")

import torch
from onnx_cases import KINDS, Case, fault, load
from onnx_expected import EXPECTED, NO_GRAPH
from onnx_runners import capture_and_run, interpret

# What onnxruntime passes is in docs/onnx.md.
FLOORS = {"node": 1835, "simple": 21, "pytorch-operator": 35, "pytorch-converted": 82}
STRIDE = 5


@pytest.mark.parametrize("kind", KINDS)
def test_every_case_passes_or_is_expected_to_fail(kind: str) -> None:
    expected = {name for names in EXPECTED.values() for name in names}
    faults: dict[str, str] = {}
    passed: list[str] = []
    for case in load(kind):
        torch.manual_seed(0)
        why = fault(case, interpret)
        if why is None:
            passed.append(case.name)
        else:
            faults[case.name] = why
    unexpected = {name: why for name, why in faults.items() if name not in expected}
    assert not unexpected
    assert not expected & set(passed), "these pass now: take them off the list"
    assert len(passed) >= FLOORS[kind]


def one_per_operator() -> list[Case]:
    """The first case of every operator that the interpreter passes and that has one node."""
    expected = {name for names in EXPECTED.values() for name in names}
    found: dict[tuple[str, str], Case] = {}
    for case in load("node"):
        nodes = case.model.graph.node
        if len(nodes) == 1 and case.name not in expected:
            found.setdefault((nodes[0].domain, nodes[0].op_type), case)
    return list(found.values())


def check_graphs(cases: list[Case]) -> None:
    """Every case agrees through capture and the reference backend, or says why it cannot."""
    faults = {case.name: why for case in cases if (why := fault(case, capture_and_run))}
    unexpected = {name: why for name, why in faults.items() if name not in NO_GRAPH}
    assert not unexpected
    wrong = {n: w for n, w in faults.items() if NO_GRAPH[n] not in w}
    assert not wrong
    assert not {c.name for c in cases} & set(NO_GRAPH) - set(faults), "these pass now"


def test_a_fifth_of_the_operators_agree_through_the_graph() -> None:
    check_graphs(one_per_operator()[::STRIDE])


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1, STRIDE))
def test_every_operator_agrees_through_the_graph(first: int) -> None:
    check_graphs(one_per_operator()[first::STRIDE])
