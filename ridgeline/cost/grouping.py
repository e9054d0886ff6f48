"""Groups of nodes that run as one: legal, and as few bytes as merging and moving can find."""

import heapq
from collections.abc import Iterable, Iterator

from ridgeline.cost.fusion import Loops, Members

# Beyond this many nodes single ones are not moved between groups: merging alone is near the best,
# and each move costs a look at the whole graph.
_MOST_MOVED = 400
_ROUNDS = 4
# Up to this many nodes a beam of partitions, this wide, is followed as well.
_MOST_SEARCHED, _BEAM = 14, 1000


def groups_of(loops: Loops) -> tuple[Members, ...]:
    """The graph's groups, in an order in which they can run.

    Merges the two neighbours that save most, as long as any save; then moves single nodes across
    borders. Neighbours: one reads what the other makes, or both read the same.
    """
    partition = _Partition(loops)
    partition.merge_all()
    if len(loops.members) <= _MOST_MOVED:
        for _ in range(_ROUNDS):
            if not partition.move_all():
                break
            partition.merge_all()
    if 1 < len(loops.members) <= _MOST_SEARCHED:
        better = _searched(loops)
        if sum(map(loops.cost, better)) < sum(map(loops.cost, partition.groups.values())):
            partition = _Partition(loops)
            for group in better:
                partition.join(group)
    return partition.in_order()


def _searched(loops: Loops) -> tuple[Members, ...]:
    """The best partition that a beam finds: nodes in order, each into any group that it may still
    become part of, or into a new one; of the partitions so far only the cheapest go on.
    """
    beam: list[tuple[Members, ...]] = [()]
    for i in loops.members:
        grown = [option for groups in beam for option in _options(loops, groups, i)]
        prices = [sum(loops.cost(group, i) for group in groups) for groups in grown]
        grown = [grown[k] for k in sorted(range(len(grown)), key=prices.__getitem__)]
        beam = grown[:_BEAM]
    legal = (g for g in beam if all(loops.obstacle(group) is None for group in g))
    return next(legal, tuple(frozenset({i}) for i in loops.members))


def _options(loops: Loops, groups: tuple[Members, ...], i: int) -> Iterator[tuple[Members, ...]]:
    yield (*groups, frozenset({i}))
    for k, group in enumerate(groups):
        merged = group | {i}
        if loops.is_hopeless(merged) or _waits_for_itself(loops, groups, merged, i):
            continue
        yield (*groups[:k], merged, *groups[k + 1 :])


def _waits_for_itself(loops: Loops, groups: tuple[Members, ...], merged: Members, i: int) -> bool:
    """Whether node `i`, last in order, needs a group that needs what it joins."""
    pending = [j for j in loops.producers[i] if j not in merged]
    seen: set[int] = set()
    while pending:
        j = pending.pop()
        if j in merged:
            return True
        if j in seen:
            continue
        home = next(group for group in groups if j in group)
        seen |= home
        pending += [p for m in home for p in loops.producers[m] if p not in home]
    return False


def would_close_cycle(loops: Loops, partition: Iterable[Members], merged: Members) -> bool:
    """Whether `merged`, some of the groups of `partition` together, would wait for itself."""
    state = _Partition(loops)
    for group in partition:
        if len(group) > 1:
            state.join(group)
    return state.closes_cycle(merged)


class _Partition:
    """Disjoint groups under change. home: member -> its group's number."""

    def __init__(self, loops: Loops) -> None:
        self.loops = loops
        self.groups: dict[int, Members] = {i: frozenset({i}) for i in loops.members}
        self.home: dict[int, int] = {i: i for i in loops.members}
        self._next = len(loops.nodes)

    def merge_all(self) -> None:
        """Merges pairs of neighbours, the one that saves most first."""
        heap: list[tuple[float, int, int]] = []
        for number in self.groups:
            for other in self._neighbours(number):
                if number < other:
                    self._push(heap, number, other)
        while heap:
            _, a, b = heapq.heappop(heap)
            if a not in self.groups or b not in self.groups:
                continue
            merged = self.groups[a] | self.groups[b]
            if self.closes_cycle(merged):
                continue
            new = self._replace((a, b), merged)
            for other in self._neighbours(new):
                self._push(heap, new, other)

    def _push(self, heap: list[tuple[float, int, int]], a: int, b: int) -> None:
        one, other = self.groups[a], self.groups[b]
        merged = one | other
        if self.loops.obstacle(merged) is None:
            gain = self.loops.cost(one) + self.loops.cost(other) - self.loops.cost(merged)
            if gain > 0:
                heapq.heappush(heap, (-gain, a, b))

    def move_all(self) -> bool:
        """Moves members to a neighbouring group, or out on their own, where that saves; whether
        any moved.
        """
        is_moved = False
        for i in self.loops.members:
            is_moved |= self._move(i)
        return is_moved

    def _move(self, i: int) -> bool:
        cost, source = self.loops.cost, self.home[i]
        before, rest = self.groups[source], self.groups[source] - {i}
        near = {self.home[j] for j in self._near(i)} - {source}
        options: list[tuple[int | None, Members]] = [(n, self.groups[n]) for n in sorted(near)]
        options += [(None, frozenset())] if rest else []
        best: tuple[float, int | None, Members] | None = None
        for number, target in options:
            grown = target | {i}
            gain = cost(before) - (cost(rest) if rest else 0.0)
            gain += (cost(target) if target else 0.0) - cost(grown)
            if gain <= 1e-9 or (best is not None and gain <= best[0]):
                continue
            if self.loops.obstacle(grown) is None and self.loops.obstacle(rest) is None:
                best = (gain, number, grown)
        if best is None:
            return False
        _, chosen, grown = best
        old = {source: before} | ({} if chosen is None else {chosen: self.groups[chosen]})
        made = [self._replace(tuple(old), grown)]
        if rest:
            made.append(self._add(rest))
        if any(self.closes_cycle(self.groups[n]) for n in made):
            for n in made:
                del self.groups[n]
            for n, group in old.items():
                self.groups[n] = group
                self.home.update(dict.fromkeys(group, n))
            return False
        return True

    def _replace(self, old: tuple[int, ...], group: Members) -> int:
        for number in old:
            del self.groups[number]
        return self._add(group)

    def join(self, group: Members) -> None:
        """Makes one group of members that are each alone."""
        self._replace(tuple(group), group)

    def _add(self, group: Members) -> int:
        number, self._next = self._next, self._next + 1
        self.groups[number] = group
        self.home.update(dict.fromkeys(group, number))
        return number

    def _near(self, i: int) -> Iterator[int]:
        """Members that make, read, or read beside it, what member `i` reads or makes."""
        yield from self.loops.producers[i]
        yield from self.loops.readers[i]
        for ref in self.loops.operands[i]:
            sharers = self.loops.sharers[ref]
            position = sharers.index(i)
            yield from sharers[max(0, position - 1) : position + 2]

    def _neighbours(self, number: int) -> set[int]:
        return {self.home[j] for i in self.groups[number] for j in self._near(i)} - {number}

    def closes_cycle(self, group: Members) -> bool:
        """Whether what the group makes comes back to it through other groups."""
        pending = [self.home[j] for i in group for j in self.loops.readers[i] if j not in group]
        seen = set(pending)
        while pending:
            for i in self.groups[pending.pop()]:
                for j in self.loops.readers[i]:
                    if j in group:
                        if i not in group:
                            return True
                        continue
                    if self.home[j] not in seen:
                        seen.add(self.home[j])
                        pending.append(self.home[j])
        return False

    def in_order(self) -> tuple[Members, ...]:
        """The groups, each after all that make what it reads."""
        waiting = {
            number: {self.home[p] for i in group for p in self.loops.producers[i]} - {number}
            for number, group in self.groups.items()
        }
        ready = [(min(self.groups[n]), n) for n, before in waiting.items() if not before]
        heapq.heapify(ready)
        ordered: list[Members] = []
        while ready:
            _, number = heapq.heappop(ready)
            ordered.append(self.groups[number])
            del waiting[number]
            for other in {
                self.home[j] for i in self.groups[number] for j in self.loops.readers[i]
            } & set(waiting):
                waiting[other].discard(number)
                if not waiting[other]:
                    heapq.heappush(ready, (min(self.groups[other]), other))
        assert not waiting, "groups wait for each other"
        return tuple(ordered)
