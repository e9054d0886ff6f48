"""Builder: the program under way, as steps on buffers that have no addresses yet."""

from collections.abc import Callable, Collection, Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ridgeline.backends.native.tree import (
    Apply,
    Fields,
    Host,
    Pending,
    Rolled,
    Tree,
    Writer,
    broadcast,
    leaves,
    replaced,
    spec_of,
)
from ridgeline.backends.native.value import (
    Buffer,
    Kind,
    Place,
    Value,
    laid,
    memory_order,
    rows_of,
    type_of,
)
from ridgeline.errors import UnsupportedOp
from ridgeline.native.grid import TILE_ROW_NBYTES, Grid
from ridgeline.native.library import Library
from ridgeline.native.pages import Pages
from ridgeline.native.program import MAX_RANK, Step

# Operands that one expression may name; kernels hold their offsets in 64 words.
_MOST_OPERANDS = 31
_LARGEST_INT8 = 127


@dataclass(frozen=True, slots=True)
class Operand:
    """What an expression reads or writes, and its strides."""

    value: Value
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One instruction whose places are not addresses yet."""

    name: str
    fields: Fields
    rank: int = 2
    operands: tuple[Operand, ...] = ()
    steps: tuple[Step, ...] = ()

    @property
    def places(self) -> tuple[Place, ...]:
        """All that it reads or writes."""
        named = tuple(f for f in self.fields.values() if isinstance(f, Place))
        return named + tuple(o.value.place for o in self.operands)


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchCall:
    """A node that no kernel takes, run by torch on the same memory. arguments: with values."""

    target: Callable[..., object]
    positional: tuple[object, ...]
    named: Mapping[str, object]
    results: tuple[Value | None, ...]
    reads: tuple[Value, ...]

    @property
    def places(self) -> tuple[Place, ...]:
        """All that it reads or writes."""
        return tuple(v.place for v in (*self.results, *self.reads) if v is not None)


# Rows, columns and depth of a product.
Size = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class AllBut:
    """All sizes but some."""

    sizes: Collection[Size] = ()

    def __contains__(self, size: object) -> bool:
        return size not in self.sizes


@dataclass(slots=True)
class Builder:
    """steps: the program. constants: tensors that it reads, packed or as they are. rounded: the
    sizes of products by weights that are of eight bits where that pays. work: the operations of
    each size where it pays.
    """

    library: Library
    rounded: Container[Size] = frozenset()
    work: dict[Size, float] = field(default_factory=dict)
    pages: Pages = field(default_factory=Pages)
    steps: list[Instruction | TorchCall] = field(default_factory=list)
    constants: list[Buffer] = field(default_factory=list)
    _known: dict[tuple[object, ...], Buffer] = field(default_factory=dict)
    _kept: list[Tensor] = field(default_factory=list)
    _known_int8: dict[tuple[object, ...], Fields] = field(default_factory=dict)
    _laid: "dict[tuple[object, ...], _Laid]" = field(default_factory=dict)

    # values

    def blank(self, spec: Tensor) -> Value:
        """New memory in the arena for a tensor with dense strides."""
        span = 1 + sum((n - 1) * s for n, s in zip(spec.shape, spec.stride(), strict=True))
        nbytes = max(int(span), 1) * spec.element_size() if spec.numel() else 1
        return Value(Buffer(Kind.ARENA, nbytes), spec)

    def constant(self, tensor: Tensor) -> Value:
        """A tensor that is known, in its own memory."""
        tensor = tensor.detach()
        key = (tensor.data_ptr(), tensor.numel(), tensor.dtype)
        if key not in self._known or not tensor.numel():
            nbytes = tensor.numel() * tensor.element_size()
            self._known[key] = self._add(Buffer(Kind.CONSTANT, nbytes, tensor=tensor))
        spec = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        return Value(self._known[key], spec)

    def packed(self, matrix: Tensor) -> Place:
        """A known (n, k) matrix as products read it."""
        key = ("packed", matrix.data_ptr(), matrix.shape, matrix.stride(), matrix.dtype)
        if key not in self._known:
            (n, k), kind = matrix.shape, type_of(matrix)
            room = self.library.packed_nbytes(kind, n, k)
            target = self.pages.take(room)
            self.library.pack(kind, n, k, matrix.data_ptr(), matrix.stride(), target.data_ptr())
            self._kept.append(matrix)  # its address stands for it
            self._known[key] = self._add(Buffer(Kind.CONSTANT, room, tensor=target))
        return Place(self._known[key])

    def packed_int8(
        self,
        weight: Tensor,
        layout: Hashable = None,
        matrices: Callable[[Tensor], Sequence[Tensor]] = lambda whole: [whole],
    ) -> Fields:
        """A known weight (n, ...) as products of eight bits read it, every row of it on a scale of
        its own. matrices: what is packed of the whole numbers, for each group; layout: how.
        """
        key = (weight.data_ptr(), weight.shape, weight.stride(), weight.dtype, layout)
        if key not in self._known_int8:
            wide = weight.detach().float().flatten(1)
            smallest = torch.finfo(torch.float32).tiny
            scales = (wide.abs().amax(dim=1) / _LARGEST_INT8).clamp_min(smallest)
            whole = (wide / scales[:, None]).round()
            self._known_int8[key] = {
                "column_scale_ref": self.vector(scales),
                "column_low_ref": self.vector(whole.sum(dim=1) * scales),
                "w_ref": self.packed_groups(matrices(whole.to(torch.int8).reshape(weight.shape))),
            }
            self._kept.append(weight)  # its address stands for it
        return self._known_int8[key]

    def packed_groups(self, matrices: Sequence[Tensor]) -> Place:
        """Known matrices, packed one after the other."""
        kind, (n, k) = type_of(matrices[0]), matrices[0].shape
        room = self.library.packed_nbytes(kind, n, k)
        target = self.pages.take(room * len(matrices))
        for number, matrix in enumerate(matrices):
            self.library.pack(
                kind, n, k, matrix.data_ptr(), matrix.stride(), target.data_ptr() + number * room
            )
        return Place(self._add(Buffer(Kind.CONSTANT, target.numel(), tensor=target)))

    def vector(self, tensor: Tensor) -> Place:
        """A known vector in fp32: a bias or a scale."""
        wide = tensor.detach().to(torch.float32).contiguous()
        self._kept.append(wide)
        return self.constant(wide).place

    def _add(self, buffer: Buffer) -> Buffer:
        buffer.number = len(self.constants)
        self.constants.append(buffer)
        return buffer

    # instructions

    def emit(self, name: str, fields: Fields) -> None:
        """Appends an instruction that no expression follows, or an empty one."""
        self.steps.append(Instruction(name=name, fields=fields))

    def copy(self, source: Value, target: Value) -> None:
        """Copies values of one shape and item size; the innermost dimension is the longest dense
        one of either.
        """
        dims = _merged([source.spec.stride(), target.spec.stride()], source.shape)
        if len(dims) > MAX_RANK:
            raise UnsupportedOp("it copies more dimensions than kernels have")
        dense = [d for d in dims if 1 in d.strides and d.size > 1]
        inner = max(dense, key=lambda d: (d.strides == (1, 1), d.size), default=None)
        if inner is not None:
            dims = [d for d in dims if d is not inner] + [inner]
        sizes = _padded([d.size for d in dims])
        xs = _padded([d.strides[0] for d in dims])
        ys = _padded([d.strides[1] for d in dims])
        self.emit(
            "copy",
            {
                "x_ref": source.place,
                "y_ref": target.place,
                "item_nbytes": source.spec.element_size(),
                "rank": len(dims),
                **{f"size{i}": n for i, n in enumerate(sizes)},
                **{f"x_stride{i}": n for i, n in enumerate(xs)},
                **{f"y_stride{i}": n for i, n in enumerate(ys)},
            },
        )

    def gridded(self, x: Value, ldx: int, grid: Grid, shape: Fields) -> Fields:
        """A value laid out in a grid, as conv_grid names it, with the scale and smallest value of
        each image where it is of eight bits; what was made before, where it was. shape: the fields
        that say where windows lie, in how many groups.
        """

        def lay() -> tuple[Fields, Fields]:
            is_rounded = grid.item_nbytes == 1
            dtype = torch.uint8 if is_rounded else torch.bfloat16
            value = self.blank(torch.empty(grid.size, dtype=dtype, device="meta"))
            scales, lows = self._ranges(grid.batch) if is_rounded else (None, None)
            found: Fields = {"x_ref": value.place, "x_type": value.type}
            ranges: Fields = {"row_scale_ref": scales, "row_low_ref": lows}
            ends: Fields = {"x_ref": x.place, "y_ref": value.place, "scale_ref": scales}
            rest: Fields = {"low_ref": lows, "x_type": x.type, "y_type": value.type, "ldx": ldx}
            return {**shape, **ends, **rest, "ldy": grid.pitch}, {**found, **ranges}

        return self._made_once("grid", (x.buffer, x.place.nbytes, ldx, grid, *shape.items()), lay)

    def quantized(self, x: Value, ldx: int, rows: int, width: int) -> Fields:
        """Rows of a value in eight bits, their scales and smallest values, as gemm_int8 names them;
        what was made before, where it was.
        """

        def lay() -> tuple[Fields, Fields]:
            room = -(-width // TILE_ROW_NBYTES) * TILE_ROW_NBYTES
            value = self.blank(torch.empty(rows, room, dtype=torch.uint8, device="meta"))
            scales, lows = self._ranges(rows)
            ends: Fields = {"x_ref": x.place, "y_ref": value.place, "scale_ref": scales}
            rest: Fields = {"low_ref": lows, "x_type": x.type, "rows": rows, "width": width}
            found: Fields = {"x_ref": value.place, "ldx": room}
            ranges: Fields = {"row_scale_ref": scales, "row_low_ref": lows}
            return {**ends, **rest, "ldx": ldx, "ldy": room}, {**found, **ranges}

        return self._made_once("quantize", (x.buffer, x.place.nbytes, ldx, rows, width), lay)

    def _ranges(self, count: int) -> tuple[Place, Place]:
        """Memory for as many scales and smallest values."""
        scales, lows = (self.blank(torch.empty(count, device="meta")).place for _ in range(2))
        return scales, lows

    def _made_once(
        self, name: str, key: tuple[object, ...], lay: Callable[[], tuple[Fields, Fields]]
    ) -> Fields:
        """What an instruction gives whose fields `lay` finds, and how readers name that."""
        known = self._laid.get((name, key))
        there = self.steps[known.number : known.number + 1] if known else []
        if known is None or not there or there[0] is not known.step:  # it may have been taken back
            fields, found = lay()
            step = Instruction(name=name, fields=fields)
            self.steps.append(step)
            known = self._laid[name, key] = _Laid(len(self.steps) - 1, step, found)
        return known.fields

    # trees

    def written(self, pending: Pending, into: Value | None = None) -> Value:
        """The memory that a tree's value is written to: `into`, or new."""
        tree = pending.tree
        if isinstance(tree, Value) and into is None and tree.shape == tuple(pending.spec.shape):
            if tree.dtype == pending.spec.dtype:
                return tree
        tree, host = self._settled(self._bounded(tree), pending.spec)
        if host is None:
            return self._mapped(tree, pending.spec, into)
        target = into if into is not None and _fits(host, into) else None
        if target is None:
            target = self.blank(laid(pending.spec, host.order))
        self._hosted(tree, host, target)
        if into is not None and target is not into:
            self.copy(target, into)
            return into
        return target

    def _bounded(self, tree: Tree) -> Tree:
        """The tree with its largest parts written until an expression can name what it reads."""
        while isinstance(tree, Apply) and len(list(leaves(tree))) > _MOST_OPERANDS:
            sizes = [len(list(leaves(a))) for a in tree.arguments]
            number = sizes.index(max(sizes))
            found = self._part(tree.arguments[number])
            arguments = (*tree.arguments[:number], found, *tree.arguments[number + 1 :])
            tree = Apply(tree.step, arguments, tree.p, tree.q)
        return tree

    def _part(self, tree: Tree) -> Value:
        """A part of a tree, written in fp32."""
        shapes = [spec_of(leaf).shape for leaf in leaves(tree)]
        shape = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
        return self.written(Pending(tree, torch.empty(shape, device="meta")))

    def _settled(self, tree: Tree, spec: Tensor) -> tuple[Tree, Host | None]:
        """The tree with all its hosts written but one, which takes the others as operands."""
        hosts = [leaf for leaf in leaves(tree) if isinstance(leaf, Host)]
        chosen = max(
            (h for h in hosts if h.spec.shape == spec.shape and hosts.count(h) == 1),
            key=lambda h: h.flops,
            default=None,
        )
        for host in dict.fromkeys(hosts):
            if host is not chosen:
                tree = self._written_host(tree, host)
        if chosen is None:
            return self._rolled_alike(tree, spec), None
        others = [leaf for leaf in leaves(tree) if leaf is not chosen]
        if len(others) <= _MOST_OPERANDS and all(_follows(chosen, leaf) for leaf in others):
            return tree, chosen
        return self._written_host(tree, chosen), None

    def _rolled_alike(self, tree: Tree, spec: Tensor) -> Tree:
        """The tree with what is rolled written, but for one sort that has the tree's shape."""
        rolled = [leaf for leaf in leaves(tree) if isinstance(leaf, Rolled)]
        if len(rolled) == 1 and tree is rolled[0]:
            return tree
        kept = next((r for r in rolled if r.value.spec.shape == spec.shape), None)
        others = [r for r in rolled if kept is None or not r.is_like(kept)]
        found = {id(r): self.written(Pending(r, r.value.spec)) for r in others}
        return replaced(tree, lambda leaf: found.get(id(leaf), leaf))

    def _written_host(self, tree: Tree, host: Host) -> Tree:
        """The tree with one of its hosts written."""
        found = self.written(Pending(host, host.spec))
        return replaced(tree, lambda leaf: found if leaf is host else leaf)

    def _hosted(self, tree: Tree, host: Host, target: Value) -> None:
        """Writes a host and what follows it."""
        writer = Writer(host=host)
        writer.reserve_host()
        writer.write(tree)
        operands = []
        for value in writer.operands:
            strides = _along(host, value)
            assert strides is not None
            operands.append(Operand(value, strides))
        self.steps.append(
            Instruction(
                name=host.name,
                fields={**host.fields, **host.finish(target)},
                rank=len(host.axes),
                operands=tuple(operands),
                steps=tuple(writer.steps),
            )
        )

    def _mapped(self, tree: Tree, spec: Tensor, into: Value | None) -> Value:
        """Writes a tree that has no host."""
        found = list(leaves(tree))
        values = [leaf.value if isinstance(leaf, Rolled) else leaf for leaf in found]
        target = into
        if target is None:
            target = self.blank(_led(spec, [v for v in values if isinstance(v, Value)]))
        rolled = next((leaf for leaf in found if isinstance(leaf, Rolled)), None)
        if rolled is None:
            self._map(tree, target)
            return target
        for start, _, length in rolled.pieces():
            part = target.like(target.spec.narrow(rolled.dim, start, length))
            self._map(replaced(tree, _narrowing(rolled, spec, start, length)), part)
        return target

    def _map(self, tree: Tree, target: Value) -> None:
        """Appends one map."""
        spec, writer = target.spec, Writer()
        register = writer.write(tree)
        operands = [*(broadcast(v, spec.shape) for v in writer.operands), target]
        dims = _merged([o.spec.stride() for o in operands], spec.shape)
        if len(dims) > MAX_RANK or len(operands) > _MOST_OPERANDS + 1:
            raise UnsupportedOp("its operands lie in too many ways")
        dims.sort(key=lambda d: -abs(d.strides[-1]))
        sizes = _padded([d.size for d in dims])
        self.steps.append(
            Instruction(
                name="map",
                fields={"rank": len(dims), **{f"size{i}": n for i, n in enumerate(sizes)}},
                rank=len(dims),
                operands=tuple(
                    Operand(o, tuple(d.strides[i] for d in dims)) for i, o in enumerate(operands)
                ),
                steps=(*writer.steps, Step("STORE", 0, len(operands) - 1, register)),
            )
        )


@dataclass(frozen=True, slots=True)
class _Laid:
    """The step that lays an operand out, its number, and how products name what it gives."""

    number: int
    step: Instruction
    fields: Fields


@dataclass(slots=True)
class _Dim:
    size: int
    strides: tuple[int, ...]


def _merged(strides: Sequence[Sequence[int]], shape: Sequence[int]) -> list[_Dim]:
    """The dimensions of tensors of one shape, in the order of the last tensor's strides, joined
    where all of them allow; at least one.
    """
    dims = [_Dim(int(n), tuple(int(s[i]) for s in strides)) for i, n in enumerate(shape) if n != 1]
    dims.sort(key=lambda d: tuple(-s for s in reversed(d.strides)))
    found: list[_Dim] = []
    for dim in dims:
        last = found[-1] if found else None
        if last and all(a == b * dim.size for a, b in zip(last.strides, dim.strides, strict=True)):
            found[-1] = _Dim(last.size * dim.size, dim.strides)
        else:
            found.append(dim)
    return found or [_Dim(1, tuple(0 for _ in strides))]


def _padded(sizes: Sequence[int]) -> list[int]:
    return [*sizes, *[1] * (MAX_RANK - len(sizes))]


def _along(host: Host, value: Value) -> tuple[int, ...] | None:
    """The strides of a value along the axes of a host; None where it has none."""
    try:
        spec = value.spec.expand(host.spec.shape)
    except RuntimeError:
        return None
    return host.strides(spec)


def _follows(host: Host, leaf: Value | Host | Rolled) -> bool:
    """Whether a host's expression can read it."""
    return isinstance(leaf, Value) and _along(host, leaf) is not None


def _narrowing(
    rolled: Rolled, spec: Tensor, start: int, length: int
) -> Callable[[Value | Host | Rolled], Tree]:
    """What a run of a result reads: of values that run, of what is rolled where that comes from."""

    def narrowed(leaf: Value | Host | Rolled) -> Tree:
        if isinstance(leaf, Value):
            return leaf.like(leaf.spec.expand(spec.shape).narrow(rolled.dim, start, length))
        assert isinstance(leaf, Rolled)
        (source,) = (at for first, at, _ in leaf.pieces() if first == start)
        return leaf.value.like(leaf.value.spec.narrow(leaf.dim, source, length))

    return narrowed


def _fits(host: Host, into: Value) -> bool:
    """Whether a host can write into a place: rows with dense columns."""
    found = rows_of(into.spec.permute(host.order))
    return found is not None and (into.spec.permute(host.order).shape[-1] == 1 or found[1] == 1)


def _led(spec: Tensor, operands: Sequence[Value]) -> Tensor:
    """A dense tensor like `spec` that lies as the first operand of its full size does."""
    for operand in operands:
        strides = operand.spec.stride()
        if operand.spec.numel() == spec.numel() and 0 not in strides:
            return laid(spec, memory_order(operand.spec))
    return torch.empty(spec.shape, dtype=spec.dtype, device="meta")


def applied(step: str, *arguments: Tree, p: float = 0.0, q: float = 0.0) -> Apply:
    """A step on trees."""
    return Apply(step, arguments, p, q)
