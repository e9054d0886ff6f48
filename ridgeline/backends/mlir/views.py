"""Views of values that do not lie row by row: which need no move."""

from collections.abc import Sequence

from ridgeline.backends.mlir.value import Value, plain

# Dimensions of the old shape, and those of the new one that they become.
Group = tuple[tuple[int, ...], tuple[int, ...]]


def groups(old: Sequence[int], new: Sequence[int]) -> tuple[Group, ...]:
    """The smallest runs of dimensions that a view maps onto each other; those of size one are left
    out. Both shapes hold as many elements, at least one.
    """
    sources = [i for i, size in enumerate(old) if size != 1]
    targets = [i for i, size in enumerate(new) if size != 1]
    found: list[Group] = []
    while sources:
        left, right = [sources.pop(0)], [targets.pop(0)]
        a, b = old[left[0]], new[right[0]]
        while a != b:
            if a < b:
                left.append(sources.pop(0))
                a *= old[left[-1]]
            else:
                right.append(targets.pop(0))
                b *= new[right[-1]]
        found.append((tuple(left), tuple(right)))
    return tuple(found)


def viewed_order(value: Value, shape: Sequence[int]) -> tuple[int, ...] | None:
    """The order in which the memory of `value` is a tensor of `shape`; None where it is none, for
    dimensions that the view joins do not lie beside each other.
    """
    if value.numel == 0:
        return None
    if value.is_plain:
        return plain(len(shape))
    stored = [dim for dim in value.order if value.logical[dim] != 1]
    order: list[int] = []
    by_first = {group[0][0]: group for group in groups(value.logical, shape)}
    position = 0
    while position < len(stored):
        group = by_first.get(stored[position])
        if group is None or tuple(stored[position : position + len(group[0])]) != group[0]:
            return None
        order += group[1]
        position += len(group[0])
    for dim, size in enumerate(shape):  # where those of size one stand makes no difference
        if size == 1:
            after = [order.index(d) for d in order if d > dim]
            order.insert(min(after, default=len(order)), dim)
    return tuple(order)


def permuted(value: Value, dims: Sequence[int]) -> Value:
    """The value with its dimensions in another order: the same memory."""
    order = tuple(list(dims).index(dim) for dim in value.order)
    return Value(value.name, value.shape, value.dtype, order)
