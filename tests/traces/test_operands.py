"""Who wrote and read what, by an execution trace: beside what the dispatcher saw in that run."""

import json
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from ridgeline.errors import TraceError
from ridgeline.report.operands_record import operands_record
from ridgeline.traces.accesses import Access, Event, accesses
from ridgeline.traces.execution_trace import (
    Operand,
    OpNode,
    is_execution_trace,
    read_execution_trace,
)
from ridgeline.traces.node_times import parents_of
from ridgeline.traces.op_effects import effects_of
from ridgeline.traces.operands import OperandUses
from ridgeline.traces.tensor_lives import reuse_bytes
from ridgeline.traces.tensor_roles import Role
from ridgeline.traces.trace import trace

RUN = Path(__file__).with_name("execution_run.py")
PARAMETERS_NBYTES = 4 * (96 * 32 + 96 + 32 * 32 + 32 + 2 * 64 * 32 + 64 + 32 + 4 * 32)
NOT_READ = {"empty_like", "zeros_like", "ones_like", "detach"}
OVERWRITES = {"zero_", "fill_", "copy_"}


def recorded(folder: Path, *args: str) -> Path:
    subprocess.run([sys.executable, str(RUN), str(folder), *args], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("watched"), "watched")


def uses_of(folder: Path) -> OperandUses:
    (rank,) = trace([folder]).ranks
    assert rank.operands is not None
    return rank.operands


Edges = list[tuple[str, set[int]]]
"""Of every call that reads or writes its name, and the calls whose results it read, as places."""


def true_edges(calls: Sequence[Mapping[str, object]]) -> Edges:
    """By the dispatcher: addresses are new where a call gives one that it did not get."""
    writer: dict[int, int] = {}
    edges: Edges = []
    for call in calls:
        name = str(call["name"])
        base = name.rpartition("::")[2]
        given, written, out = (
            {int(one) for one in call[key]}  # type: ignore[attr-defined]
            for key in ("inputs", "written", "outputs")
        )
        if name == "c10d::allreduce_":  # its schema does not mark what it adds up in place
            written = given
        viewed = given & out - written
        read = given - viewed - (written if base in OVERWRITES else set())
        read = set() if base in NOT_READ else read
        fresh = out - given
        for one in fresh:
            writer.pop(one, None)
        made = set() if base.startswith(("empty", "new_empty")) else fresh | written
        if read or made:
            edges.append((name, {writer[one] for one in read if one in writer}))
            writer |= dict.fromkeys(made, len(edges) - 1)
    return edges


def found_edges(nodes: Sequence[OpNode], *, has_numbers: bool) -> Edges:
    """By the execution trace: a call of the dispatcher is an operator around one of its name."""
    parents = parents_of(nodes)
    calls, events = _calls(nodes, parents), accesses(nodes).events

    def call_of(place: int) -> int:
        while place >= 0 and place not in calls:
            place = parents[place]
        return place

    used = [one for one in events if one.access is not Access.ALLOCATE]
    active = {call_of(one.node) for one in used} - {-1}
    order = sorted(active, key=lambda place: nodes[place].function_id)
    number_of = {place: number for number, place in enumerate(order)}
    edges: Edges = [(nodes[place].name, set()) for place in order]
    writer: dict[int, int] = {}
    for event in used:
        number = number_of.get(call_of(event.node))
        if number is None:
            continue
        if event.access is Access.WRITE:
            writer[event.tensor] = number
        elif writer.get(event.tensor, number) != number and (has_numbers or event.operand.shape):
            edges[number][1].add(writer[event.tensor])
    return edges


def _calls(nodes: Sequence[OpNode], parents: Sequence[int]) -> set[int]:
    """The outer of each two operators of one name of which one is within the other's watcher."""
    found = set()
    for place, node in enumerate(nodes):
        around = parents[place]
        is_watched = around >= 0 and not nodes[around].schema
        while around >= 0 and not nodes[around].schema:
            around = parents[around]
        if is_watched and node.schema and around >= 0 and nodes[around].name == node.name:
            found.add(around)
    return found


def test_every_read_is_of_what_the_dispatcher_saw_written(watched: Path) -> None:
    lines = (watched / "truth.txt").read_text().splitlines()
    nodes = read_execution_trace(watched / "execution.json").nodes
    truth = true_edges([json.loads(line) for line in lines])
    found = found_edges(nodes, has_numbers=True)
    assert len(truth) > 300
    assert [name for name, _ in found] == [name for name, _ in truth]
    assert all(mine >= true for (_, mine), (_, true) in zip(found, truth, strict=True))
    # a number of Python becomes a tensor unseen, maybe at an address that was another's
    of_tensors = found_edges(nodes, has_numbers=False)
    assert all(mine <= true for (_, mine), (_, true) in zip(of_tensors, truth, strict=True))


def test_roles_of_a_training_step(plain: Path) -> None:
    """Of two steps with Adam: parameters once, gradients twice, two moments and a count each."""
    uses = uses_of(plain)
    assert uses.num_joined / uses.num_operators > 0.99
    roles = {one.role: (one.num_tensors, one.nbytes) for one in uses.roles}
    assert roles[Role.PARAMETER] == (12, PARAMETERS_NBYTES)
    assert roles[Role.PARAMETER_GRADIENT] == (24, 2 * PARAMETERS_NBYTES)
    assert roles[Role.OPTIMIZER_STATE] == (36, 2 * PARAMETERS_NBYTES + 12 * 4)
    assert roles[Role.ACTIVATION][0] > 10


def test_operands_know_their_writers_and_last_reads(plain: Path) -> None:
    uses = uses_of(plain)
    products = [one for one in uses.operators if one.op == "aten::addmm"]
    operands = [operand for one in products for operand in one.operands]
    assert operands
    read = [one for one in operands if one.is_read and one.role is Role.ACTIVATION]
    assert read
    assert all(one.writer and one.since_ns is not None for one in read)
    assert all(one.last_use and one.in_ns is not None for one in read if one.later_reads)
    kept = [one for one in uses.tensors if one.role is Role.ACTIVATION]
    assert kept[0].reuse_bytes > 0
    waited = [(one.unused_ns or 0) * one.nbytes for one in kept]
    assert waited == sorted(waited, reverse=True)
    assert waited[-1] > 0


def test_the_record_has_operands_and_tensors(plain: Path) -> None:
    found = json.loads(json.dumps(operands_record(trace([plain]))))
    assert found["operands"][0]["operands"][0].keys() >= {"writer", "since_ns", "later_reads"}
    assert found["tensors"][0]["rank"] == 0
    assert found["execution_traces"][0]["source"].endswith("execution.json")


def test_without_an_execution_trace_there_are_none(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "rank-0.json").write_bytes((plain / "rank-0.json").read_bytes())
    alone = trace([tmp_path])
    assert alone.ranks[0].operands is None
    assert operands_record(alone)["operands"] == []
    named = trace([tmp_path], execution_traces=[plain / "execution.json"])
    assert named.ranks[0].operands is not None
    with pytest.raises(TraceError, match="is no execution trace"):
        trace([tmp_path], execution_traces=[plain / "rank-0.json"])


def test_a_trace_of_another_process_is_left_alone(plain: Path, tmp_path: Path) -> None:
    text = (plain / "execution.json").read_text()
    process = read_execution_trace(plain / "execution.json").process
    (tmp_path / "rank-0.json").write_bytes((plain / "rank-0.json").read_bytes())
    (tmp_path / "other.json").write_text(text.replace(f'"pid": {process}', '"pid": 1', 1))
    assert is_execution_trace(tmp_path / "other.json")
    assert trace([tmp_path]).ranks[0].operands is None


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_a_trace_that_is_cut_off_says_what_stands_before_that(
    plain: Path, tmp_path: Path, share: float
) -> None:
    text = (plain / "execution.json").read_bytes()
    path = tmp_path / "cut.json"
    path.write_bytes(text[: int(share * len(text))])
    whole, cut = read_execution_trace(plain / "execution.json"), read_execution_trace(path)
    assert cut.nodes == whole.nodes[: len(cut.nodes)]
    assert len(cut.nodes) > 0.8 * share * len(whole.nodes)
    assert "cut off or damaged" in cut.notes[0]


def test_what_is_no_execution_trace_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"schema": "1.1.1-chakra.0.0.4", "nodes": [7]}')
    with pytest.raises(TraceError, match="holds no node"):
        read_execution_trace(path)
    path.write_text('{"traceEvents": []}')
    with pytest.raises(TraceError, match="does not name a Chakra schema"):
        read_execution_trace(path)


def operand(storage: int) -> Operand:
    return Operand(storage=storage, nbytes=8, shape=(2,), dtype="float")


@pytest.mark.parametrize(
    ("schema", "inputs", "outputs", "reads", "writes"),
    [  # numbers are storages
        ("aten::add.Tensor(Tensor self, Tensor other) -> Tensor", [1, 2], [3], [1, 2], [3]),
        ("aten::add_.Tensor(Tensor(a!) self, Tensor b) -> Tensor(a!)", [1, 2], [1], [1, 2], [1]),
        ("aten::copy_(Tensor(a!) self, Tensor src) -> Tensor(a!)", [1, 2], [1], [2], [1]),
        ("aten::view(Tensor(a) self, SymInt[] size) -> Tensor(a)", [1], [1], [], []),
        ("aten::empty_like(Tensor self) -> Tensor", [1], [2], [], []),
        ("aten::mm.out(Tensor self, Tensor mat2, *, Tensor(a!) out) -> Tensor(a!)",
         [1, 2, 3], [3], [1, 2], [3]),
        ("c10d::allreduce_(Tensor[] tensors, int timeout=-1) -> (Tensor[], Work)",
         [1], [1], [1], [1]),
        ("c10d::recv_(Tensor[] tensors, int src) -> Work", [1], [], [], [1]),
    ],
)  # fmt: skip
def test_effects_by_schema(
    schema: str, inputs: list[int], outputs: list[int], reads: list[int], writes: list[int]
) -> None:
    node = OpNode(
        id=2, parent=1, name=schema.partition("(")[0].partition(".")[0], schema=schema,
        function_id=1, inputs=tuple((operand(one),) for one in inputs),
        outputs=tuple(map(operand, outputs)),
    )  # fmt: skip
    found = effects_of(node)
    assert [one.storage for one in found.reads] == reads
    assert [one.storage for one in found.writes] == writes


def test_reuse_distances_are_those_of_counting() -> None:
    rng = random.Random(3)
    size = {tensor: rng.randint(1, 99) for tensor in range(12)}
    events = [
        Event(
            node=place,
            tensor=(tensor := rng.randrange(12)),
            access=Access.READ,
            operand=Operand(storage=tensor, nbytes=size[tensor], shape=(), dtype="float"),
        )
        for place in range(400)
    ]
    expected = []
    for place, event in enumerate(events):
        before = [one for one in range(place) if events[one].tensor == event.tensor]
        between = {one.tensor for one in events[before[-1] + 1 : place]} if before else set()
        expected.append(sum(size[tensor] for tensor in between))
    assert reuse_bytes(events) == expected
