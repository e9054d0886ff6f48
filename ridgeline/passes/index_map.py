"""IndexMap: where each element of a view comes from, as one canonical value.

A chain of reshapes, permutes, slices and expands sends every flat index of its result to a flat
index of its source: write the first in mixed radix, weigh each digit with a stride, add them up.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

# (size, stride): one digit of the flat index of the result, and what it is worth in the source.
Digit = tuple[int, int]
Digits = tuple[Digit, ...]


@dataclass(frozen=True, slots=True)
class IndexMap:
    """Element i of the result is element offset + sum of digit * stride of the source, the digits
    being those of i, the outermost first. shape: the result's.

    Digits are as few as they can be, so two chains that do the same are equal.
    """

    offset: int
    digits: Digits
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Elements of the result."""
        return prod(self.shape)

    def is_identity(self, source: Sequence[int]) -> bool:
        """Whether the result is a source of that shape, as it is."""
        return self.shape == tuple(source) and self.keeps_order(prod(source))

    def keeps_order(self, numel: int) -> bool:
        """Whether the result is all of a source of so many elements, in its order."""
        return (self.offset, self.digits) == (0, merged([(numel, 1)]))

    def is_bijective(self, numel: int) -> bool:
        """Whether every element of a source of so many is in the result once."""
        ordered = merged(sorted(self.digits, key=lambda d: -d[1]))
        return self.offset == 0 and ordered == merged([(numel, 1)])

    def by_dim(self) -> tuple[Digits, ...] | None:
        """The digits of each dimension; None where one crosses a border unevenly."""
        return cut(self.digits, self.shape)

    def reshaped(self, shape: Sequence[int]) -> "IndexMap":
        """The map, seen in another shape."""
        return IndexMap(self.offset, self.digits, tuple(shape))

    def permuted(self, order: Sequence[int]) -> "IndexMap | None":
        """The map with the result's dimensions in another order; None if it is no IndexMap."""
        dims = self.by_dim()
        if dims is None:
            return None
        return _of_dims(self.offset, [dims[d] for d in order], [self.shape[d] for d in order])

    def expanded(self, shape: Sequence[int]) -> "IndexMap | None":
        """The map with dimensions of one element repeated, and new ones in front."""
        dims = self.by_dim()
        if dims is None:
            return None
        old = ((1,) * (len(shape) - len(self.shape))) + self.shape
        wide = ((),) * (len(shape) - len(self.shape)) + dims
        digits = [
            d if before == after else ((after, 0),)
            for d, before, after in zip(wide, old, shape, strict=True)
        ]
        return _of_dims(self.offset, digits, shape)

    def repeated(self, times: Sequence[int]) -> "IndexMap | None":
        """The map with the whole of each dimension repeated, and new ones in front."""
        dims = self.by_dim()
        if dims is None:
            return None
        missing = len(times) - len(self.shape)
        wide, old = ((),) * missing + dims, (1,) * missing + self.shape
        digits = [((n, 0), *d) for n, d in zip(times, wide, strict=True)]
        shape = [n * size for n, size in zip(times, old, strict=True)]
        return _of_dims(self.offset, digits, shape)

    def sliced(self, dim: int, start: int, length: int, step: int) -> "IndexMap | None":
        """The map with `length` places of one dimension, from `start` on, `step` apart."""
        dims = self.by_dim()
        part = None if dims is None else _slice(dims[dim], start, length, step)
        if dims is None or part is None:
            return None
        offset, digits = part
        parts = [*dims[:dim], digits, *dims[dim + 1 :]]
        shape = [*self.shape[:dim], length, *self.shape[dim + 1 :]]
        return _of_dims(self.offset + offset, parts, shape)

    def rows(self, width: int) -> "IndexMap | None":
        """The map with the last `width` elements in one piece taken as one; None where they are
        not in one piece.
        """
        parts = cut(self.digits, (self.numel // width, width))
        if parts is None or parts[1] != merged([(width, 1)]) or self.shape[-1:] != (width,):
            return None
        if self.offset % width or any(stride % width for _, stride in parts[0]):
            return None
        digits = merged((size, stride // width) for size, stride in parts[0])
        return IndexMap(self.offset // width, digits, self.shape[:-1])

    def widened(self, width: int) -> "IndexMap":
        """The map of rows, each now so many elements in one piece: what `rows` takes back."""
        digits = [(size, stride * width) for size, stride in self.digits]
        return IndexMap(self.offset * width, merged([*digits, (width, 1)]), (*self.shape, width))


def identity(shape: Sequence[int]) -> IndexMap:
    """The map of a value to itself."""
    return IndexMap(0, merged([(prod(shape), 1)]), tuple(shape))


def merged(digits: Iterable[Digit]) -> Digits:
    """The fewest digits that count the same."""
    out: list[Digit] = []
    for size, stride in digits:
        if size == 1:
            continue
        if out and out[-1][1] == size * stride:
            out[-1] = (out[-1][0] * size, stride)
        else:
            out.append((size, stride))
    return tuple(out)


def cut(digits: Digits, shape: Sequence[int]) -> tuple[Digits, ...] | None:
    """The digits of each dimension of that shape; None where one crosses a border unevenly."""
    rest, dims = list(digits), []
    for size in reversed(shape):
        dim: list[Digit] = []
        while size > 1:
            have, stride = rest.pop()
            if size % have and have % size:
                return None
            if have > size:
                rest.append((have // size, stride * size))
                have = size
            dim.append((have, stride))
            size //= have
        dims.append(tuple(reversed(dim)))
    return tuple(reversed(dims))


def split_at(digits: Digits, width: int) -> tuple[Digits, Digits] | None:
    """The digits worth `width` or more, and those worth less; None where one is both unevenly or
    they are mixed.
    """
    outer: list[Digit] = []
    inner: list[Digit] = []
    for size, stride in digits:
        if stride >= width:
            if stride % width:
                return None
            outer.append((size, stride))
        elif size * stride <= width:
            inner.append((size, stride))
        elif width % stride or size % (width // stride):
            return None
        else:
            outer.append((size * stride // width, width))
            inner.append((width // stride, stride))
    return tuple(outer), tuple(inner)


def grid(digits: Digits, offset: int, numel: int) -> list[tuple[int, int, int]] | None:
    """(extent, start, size) of each dimension of the source, once it is laid out so that the map
    takes a range of each; None where it takes no such ranges. Strides must differ and none be zero.
    """
    ordered = sorted(digits, key=lambda d: -d[1])
    strides = [stride for _, stride in ordered]
    sizes = [size for size, _ in ordered]
    if not strides or strides[-1] != 1:
        strides, sizes = [*strides, 1], [*sizes, 1]
    found, above = [], numel
    for size, stride in zip(sizes, strides, strict=True):
        if above % stride:
            return None
        extent, start = above // stride, offset // stride
        if start + size > extent:
            return None
        found.append((extent, start, size))
        offset, above = offset % stride, stride
    return found


def _of_dims(offset: int, dims: Sequence[Digits], shape: Sequence[int]) -> IndexMap:
    return IndexMap(offset, merged(d for dim in dims for d in dim), tuple(shape))


def _slice(digits: Digits, start: int, length: int, step: int) -> tuple[int, Digits] | None:
    """(offset, digits) of a range of what the digits count; None where that is no digits."""
    if not digits:
        return 0, ()
    (_, stride), rest = digits[0], digits[1:]
    if not rest:
        return start * stride, ((length, step * stride),)
    inner = prod(size for size, _ in rest)
    if step == 1 and start % inner == 0 and length % inner == 0:
        return start // inner * stride, ((length // inner, stride), *rest)
    last = start + (length - 1) * step
    if start // inner == last // inner:
        part = _slice(rest, start % inner, length, step)
        if part is None:
            return None
        return part[0] + start // inner * stride, part[1]
    if step % inner == 0:
        fixed = _slice(rest, start % inner, 1, 1)
        if fixed is None:
            return None
        return fixed[0] + start // inner * stride, ((length, step // inner * stride),)
    return None
