"""Fusion: legal, near the brute-force optimum, the same values; small graphs by hand."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from small_models import MODELS
from torch import Tensor, nn

from ridgeline.backends.agreement import compare
from ridgeline.backends.reference import Reference
from ridgeline.cost.fusion import FusionLimits, Loops, Members
from ridgeline.cost.grouping import groups_of
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Category, Graph
from ridgeline.passes.fuse import FusionPlan, GroupKind, fuse, split
from ridgeline.passes.manager import run_passes


class Wrapped(nn.Module):
    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> object:
        return self.function(*inputs)


def graph_of(function: Callable[..., object], *inputs: Tensor) -> Graph:
    return capture(Wrapped(function).eval(), inputs, is_trusted=True)


def names(plan: FusionPlan) -> list[tuple[str, ...]]:
    return [group.nodes for group in plan.groups]


# ---- by hand ------------------------------------------------------------------------------------


def test_a_chain_of_pointwise_nodes_is_one_kernel() -> None:
    plan = fuse(graph_of(lambda x: (x.exp() + 1).sin() * x, torch.ones(8, 16)))
    assert names(plan) == [("exp", "add", "sin", "mul")]
    assert plan.groups[0].kind is GroupKind.POINTWISE
    assert (plan.launches_before, plan.launches_after) == (4, 1)
    assert plan.bytes_before == 512 * (2 + 2 + 2 + 3)
    assert plan.bytes_after == 512 * 2


def test_a_reduction_and_what_reads_it_back_are_stitched() -> None:
    plan = fuse(graph_of(lambda x: (x - x.mean(-1, keepdim=True)).softmax(-1), torch.ones(8, 16)))
    assert names(plan) == [("mean", "sub", "softmax")]
    assert plan.groups[0].kind is GroupKind.REDUCTION
    assert plan.bytes_after == 2 * 512


def test_a_row_that_leaves_the_cache_is_not_stitched() -> None:
    graph = graph_of(lambda x: x - x.mean(-1, keepdim=True), torch.ones(2, 64))
    loops = Loops(graph, FusionLimits(row_bytes=255))
    assert len(groups_of(loops)) == 2
    assert loops.obstacle(frozenset({0, 1})) == "a row of 256 bytes does not stay in cache"
    assert len(groups_of(Loops(graph, FusionLimits(row_bytes=256)))) == 1


def test_rows_that_leave_most_units_idle_are_not_stitched() -> None:
    x = torch.ones(2, 2**18)
    graph = graph_of(lambda x: x.exp() - x.exp().sum(-1, keepdim=True), x)
    many = FusionLimits(row_bytes=2**30, units=64, launch_bytes=1000)
    assert len(groups_of(Loops(graph, FusionLimits(row_bytes=2**30)))) == 1
    assert len(groups_of(Loops(graph, many))) > 1


def test_each_refusal_says_why() -> None:
    def forward(x: Tensor, w: Tensor) -> Tensor:
        y = x.exp() @ w
        z = y.softmax(-1).t().cumsum(-1)
        return torch.cat([z + 1, z]) @ w

    plan = fuse(graph_of(forward, torch.ones(16, 16), torch.ones(16, 16)))
    reasons = {(r.producer, r.consumer): r.reason for r in plan.refusals}
    assert reasons["exp", "matmul"] == "matmul reads its operand again and again"
    assert reasons["matmul", "softmax"] == "softmax needs whole rows, a tile of matmul is less"
    assert reasons["softmax", "cumsum"] == "one reads in another order than the other writes"
    assert reasons["add", "cat"] == "cat has a loop of its own"
    assert reasons["cumsum", "cat"] == "cat has a loop of its own"
    assert sum(plan.reasons.values()) == len(plan.refusals)


def test_a_cycle_is_a_reason() -> None:
    plan = fuse(graph_of(lambda x: (lambda a: a + a @ a)(x.exp()), torch.ones(16, 16)))
    assert ("matmul", "add") in names(plan)
    (other,) = (r for r in plan.refusals if (r.producer, r.consumer) == ("exp", "add"))
    assert other.reason == "matmul reads its operand again and again"


def test_a_cheap_node_of_small_inputs_is_computed_where_it_is_read() -> None:
    """The mask is a broadcast of two rows: reading them twice beats storing it once."""

    def forward(x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        mask = a[:, None] + b[None]
        return (x * mask).softmax(0), (x + mask).cumsum(1)

    plan = fuse(graph_of(forward, torch.ones(64, 64), torch.ones(64), torch.ones(64)))
    assert plan.inlined == ("add",)
    assert plan.bytes_after == 4 * 64 * 64 * 4 + 2 * 2 * 64 * 4 - 0


def test_chains_of_products_are_claimed_where_they_fit() -> None:
    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT).softmax(-1) @ v

    q, k, v = (torch.ones(4, 128, 64) for _ in range(3))
    (chain,) = fuse(graph_of(attention, q, k, v)).chains
    assert (chain.first, chain.between, chain.second) == ("matmul", ("softmax",), "matmul_1")
    assert chain.tile_rows == 128
    assert chain.refusal is None
    assert chain.bytes_after == 4 * q.numel() * 4
    assert chain.bytes_before == chain.bytes_after + 4 * (4 * 128 * 128) * 4

    def mlp(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
        return F.linear(F.linear(x, up).relu(), down)

    x, up = torch.ones(4096, 256), torch.ones(2048, 256)
    (chain,) = fuse(graph_of(mlp, x, up, up.t())).chains
    tile = 2**20 // ((256 + 2048 + 256) * 4)
    assert chain.tile_rows == tile
    tiles = -(-4096 // tile)
    assert chain.bytes_after == (2 * x.numel() + tiles * 2 * up.numel()) * 4


# ---- properties ---------------------------------------------------------------------------------

STEPS: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda a, b: a + b,
    lambda a, b: a @ b,
    lambda a, b: a.exp(),
    lambda a, b: a.softmax(-1),
    lambda a, b: a * b.sum(-1, keepdim=True),
    lambda a, b: a - b.amax(0, keepdim=True),
    lambda a, b: a.t() * b,
    lambda a, b: a[:, :1] * b,
    lambda a, b: a.roll(1),
    lambda a, b: F.layer_norm(a, [8]) + b,
    lambda a, b: a.relu(),
    lambda a, b: a.double().float(),
    lambda a, b: torch.where(a > b, a, b),
    lambda a, b: a.reshape(4, 16).softmax(-1).view(8, 8),
]
PLANS = st.lists(
    st.tuples(st.integers(0, len(STEPS) - 1), st.integers(0, 9), st.integers(0, 9)),
    min_size=2,
    max_size=9,
)
MOST_NODES = 14
ALONE = {Category.VIEW, Category.GATHER, Category.SCATTER, Category.POOL}


def random_graph(steps: list[tuple[int, int, int]]) -> tuple[Graph, Tensor]:
    def run(x: Tensor) -> tuple[Tensor, ...]:
        values = [x]
        for step, a, b in steps:
            values.append(STEPS[step](values[-1 - a % len(values)], values[-1 - b % len(values)]))
        return tuple(values[-2:])

    x = torch.randn(8, 8)
    return graph_of(run, x), x


def optimum(loops: Loops) -> float:
    """The least cost of any legal partition: the shortest path over sets of nodes that are done,
    each step a group that can run next.
    """
    members = loops.members
    bit = {i: 1 << k for k, i in enumerate(members)}
    needs = {i: sum(bit[p] for p in loops.producers[i]) for i in members}
    everything = sum(bit.values())

    @cache
    def price(mask: int) -> float:
        group: Members = frozenset(i for i in members if bit[i] & mask)
        return float("inf") if loops.obstacle(group) else loops.cost(group)

    def may_grow(group: int) -> bool:
        """Whether more nodes can make a legal group of it: no loop of its own, one product."""
        kinds = [loops.nodes[i].row.category for i in members if bit[i] & group]
        return not set(kinds) & ALONE and kinds.count(Category.MATMUL) < 2

    def extensions(done: int) -> set[int]:
        """Every set of nodes that needs nothing but itself and those done."""
        found, pending = set[int](), [0]
        while pending:
            group = pending.pop()
            for i in members:
                if bit[i] & (done | group) or needs[i] & ~(done | group):
                    continue
                grown = group | bit[i]
                if grown not in found and (not group or may_grow(grown)):
                    found.add(grown)
                    if may_grow(grown):
                        pending.append(grown)
        return found

    best = {0: 0.0}
    for done in sorted(_closed_sets(members, bit, needs), key=int.bit_count):
        if done not in best:
            continue
        for group in extensions(done):
            cost = best[done] + price(group)
            if cost < best.get(done | group, float("inf")):
                best[done | group] = cost
    return best[everything]


def _closed_sets(members: tuple[int, ...], bit: dict[int, int], needs: dict[int, int]) -> set[int]:
    found, pending = {0}, [0]
    while pending:
        done = pending.pop()
        for i in members:
            grown = done | bit[i]
            if not bit[i] & done and not needs[i] & ~done and grown not in found:
                found.add(grown)
                pending.append(grown)
    return found


@pytest.mark.parametrize("limits", [FusionLimits(), FusionLimits(launch_bytes=100, units=16)])
@settings(max_examples=30, phases=[Phase.explicit, Phase.generate])
@given(steps=PLANS)
def test_within_a_twentieth_of_the_brute_force_optimum(
    limits: FusionLimits, steps: list[tuple[int, int, int]]
) -> None:
    graph, _ = random_graph(steps)
    loops = Loops(graph, limits)
    assume(0 < len(loops.members) <= MOST_NODES)
    found = sum(loops.cost(group) for group in groups_of(loops))
    best = optimum(loops)
    assert best <= found + 1e-6
    assert found <= 1.05 * best


@settings(max_examples=25)
@given(steps=PLANS)
def test_group_by_group_gives_the_same_values(steps: list[tuple[int, int, int]]) -> None:
    graph, x = random_graph(steps)
    plan = fuse(graph)
    assert sorted([*sum(names(plan), ()), *plan.inlined]) == sorted(
        n.name for n in graph.nodes if not n.row.is_free
    )
    assert plan.bytes_after <= plan.bytes_before
    assert plan.launches_after <= plan.launches_before
    expected, found = Reference().compile(graph)(x), split(graph, plan)(x)
    assert compare(expected, found).max_error == 0


@pytest.mark.parametrize("name", MODELS)
def test_models_group_by_group(name: str) -> None:
    model, inputs = MODELS[name]()
    graph = run_passes(capture(model, inputs))[-1].graph
    expected, found = Reference().compile(graph)(*inputs), split(graph, fuse(graph))(*inputs)
    assert compare(expected, found).max_error == 0
