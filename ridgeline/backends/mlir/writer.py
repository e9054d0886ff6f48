"""Writer: the module under way, line by line, and the weights that it names."""

import re
import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from ridgeline.backends.mlir.value import Value, element_type, plain, tensor_type

SCOPE = "model"
_INDENT = "  "
# A line that defines one value, all that it does; and the values that a line names.
_DEFINITION = re.compile(r"^\s*%\w+ = ")
_NAMES = re.compile(r"%\w+")


class Writer:
    """Writes one function. weights: name -> tensor, contiguous, of what the text calls
    `#flow.parameter.named<"model"::name>`; constants of one value are in the text itself.
    """

    def __init__(self, prefix: str = "") -> None:
        self.weights: dict[str, Tensor] = {}
        self._prefix = prefix
        self._globals: list[str] = []
        self._head: list[str] = []
        self._lines: list[str] = []
        self._count = 0
        self._known: dict[tuple[object, ...], str] = {}
        self._moved: dict[tuple[Value, tuple[int, ...]], Value] = {}
        self._origins: dict[str, Value] = {}
        self._kept: list[Tensor] = []

    def fresh(self) -> str:
        """A new name."""
        self._count += 1
        return f"%{self._count}"

    def line(self, text: str) -> None:
        """Writes one line of the function."""
        self._lines.append(_INDENT + text)

    def value(
        self,
        text: str,
        shape: Sequence[int],
        dtype: torch.dtype,
        order: tuple[int, ...] | None = None,
    ) -> Value:
        """The result of an operation spelled out in `text`."""
        name = self.fresh()
        self.line(f"{name} = {text}")
        return Value(name, tuple(shape), dtype, plain(len(shape)) if order is None else order)

    def op(
        self,
        name: str,
        operands: Sequence[Value | str],
        shape: Sequence[int],
        dtype: torch.dtype,
        order: tuple[int, ...] | None = None,
        **properties: str,
    ) -> Value:
        """The result of an operation in MLIR's generic form, which changes least from version to
        version. A string operand is a name and its type, as `dims` and `number` give it.
        """
        names = [o.name if isinstance(o, Value) else o.partition(":")[0] for o in operands]
        types = [o.type if isinstance(o, Value) else o.partition(":")[2] for o in operands]
        given = ", ".join(f"{key} = {text}" for key, text in properties.items())
        form = f" <{{{given}}}>" if given else ""
        result = tensor_type(shape, dtype)
        text = f'"{name}"({", ".join(names)}){form} : ({", ".join(types)}) -> {result}'
        return self.value(text, shape, dtype, order)

    def dims(self, sizes: Sequence[int]) -> str:
        """A list of sizes as an operand."""
        count = len(sizes)
        listed = ", ".join(map(str, sizes))
        text = f'"tosa.const_shape"() <{{values = dense<[{listed}]> : tensor<{count}xindex>}}>'
        kind = f"!tosa.shape<{count}>"
        return f"{self._once(f'{text} : () -> {kind}')}:{kind}"

    def scalar(self, number: float, dtype: torch.dtype) -> str:
        """A number outside any tensor, as an operand."""
        kind = element_type(dtype)
        return f"{self._once(f'arith.constant {literal(number, dtype)} : {kind}')}:{kind}"

    def index(self, number: int) -> str:
        """A position, by name."""
        return self._once(f"arith.constant {number} : index")

    def splat(
        self,
        number: float,
        shape: Sequence[int],
        dtype: torch.dtype,
        order: tuple[int, ...] | None = None,
    ) -> Value:
        """A constant that holds one number everywhere."""
        kind = tensor_type(shape, dtype)
        values = f"dense<{literal(number, dtype)}> : {kind}"
        name = self._once(f'"tosa.const"() <{{values = {values}}}> : () -> {kind}')
        return Value(name, tuple(shape), dtype, plain(len(shape)) if order is None else order)

    def blank(self, shape: Sequence[int], dtype: torch.dtype) -> Value:
        """A tensor of no content: the shape of what linalg computes."""
        kind = tensor_type(shape, dtype)
        name = self._once(f"tensor.empty() : {kind}")
        return Value(name, tuple(shape), dtype, plain(len(shape)))

    def filled(self, shape: Sequence[int], dtype: torch.dtype, number: float) -> Value:
        """One number everywhere: what a reduction in linalg starts from."""
        into = self.blank(shape, dtype)
        name, _, kind = self.scalar(number, dtype).partition(":")
        outs = f"outs({into.name} : {into.type}) -> {into.type}"
        filled = self._once(f"linalg.fill ins({name} : {kind}) {outs}")
        return Value(filled, into.shape, dtype, into.order)

    def constant(self, tensor: Tensor, order: tuple[int, ...] | None = None) -> Value:
        """A tensor that is known, laid in `order`: one number in the text, or a weight."""
        order = plain(tensor.dim()) if order is None else order
        stored = tensor.permute(order)
        key = (tensor.data_ptr(), tensor.dtype, tuple(stored.shape), stored.stride())
        if tensor.numel() == 0 or key not in self._known:
            number = _only_number(stored)
            if number is not None:
                return self.splat(number, stored.shape, tensor.dtype, order)
            self._known[key] = self._load(stored.contiguous())
            self._kept.append(tensor)
        return Value(self._known[key], tuple(stored.shape), tensor.dtype, order)

    def _load(self, stored: Tensor) -> str:
        symbol = f"{self._prefix}w{len(self.weights)}"
        self.weights[symbol] = stored
        kind = tensor_type(stored.shape, stored.dtype)
        source = f'#flow.parameter.named<"{SCOPE}"::"{symbol}">'
        self._globals.append(f"util.global private @{symbol} = {source} : {kind}")
        name = self.fresh()
        self._head.append(f"{_INDENT}{name} = util.global.load @{symbol} : {kind}")
        return name

    def move(self, value: Value, order: tuple[int, ...]) -> Value:
        """The value in another order: a transpose, or a reshape where only ones change places."""
        if value.order == order:
            return value
        key = (value, order)
        if key not in self._moved:
            perms = [value.order.index(dim) for dim in order]
            shape = [value.shape[p] for p in perms]
            wide = [p for p in perms if value.shape[p] != 1]
            if wide == sorted(wide):
                self._moved[key] = self.reshape(value, shape, order)
            else:
                listed = f"array<i32: {', '.join(map(str, perms))}>"
                self._moved[key] = self.op(
                    "tosa.transpose", [value], shape, value.dtype, order, perms=listed
                )
        return self._moved[key]

    def reshape(
        self, value: Value, shape: Sequence[int], order: tuple[int, ...] | None = None
    ) -> Value:
        """The same memory in another shape; of what is itself reshaped, its source is."""
        order = plain(len(shape)) if order is None else order
        source = value if value.shape == tuple(shape) else self._origins.get(value.name, value)
        if source.shape == tuple(shape):
            return Value(source.name, source.shape, source.dtype, order)
        found = self.op("tosa.reshape", [source, self.dims(shape)], shape, source.dtype, order)
        self._origins[found.name] = source
        return found

    def finish(self, results: Sequence[Value]) -> tuple[list[str], list[str]]:
        """The lines that name the weights, and those of the function, constants first; what
        nothing reads is left out of both.
        """
        live = {value.name for value in results}
        kept: list[str] = []
        for line in reversed([*self._head, *self._lines]):
            names = _NAMES.findall(line)
            if _DEFINITION.match(line) and names[0] not in live:
                continue
            live.update(names)
            kept.append(line)
        text = "\n".join(kept)
        read = {name for name in self.weights if f"@{name} :" in text}
        self.weights = {name: tensor for name, tensor in self.weights.items() if name in read}
        named = [line for line in self._globals if line.split()[2].removeprefix("@") in read]
        return named, kept[::-1]

    def take(self, start: int) -> list[str]:
        """Removes and returns the lines from number `start` on: the body of a loop."""
        taken = self._lines[start:]
        del self._lines[start:]
        return taken

    @property
    def position(self) -> int:
        """The number of the next line."""
        return len(self._lines)

    def _once(self, text: str) -> str:
        """The name of what needs no operand, written at the head of the function."""
        if (text,) not in self._known:
            name = self._known[text,] = self.fresh()
            self._head.append(f"{_INDENT}{name} = {text}")
        return self._known[text,]


def literal(number: float, dtype: torch.dtype) -> str:
    """A number as MLIR spells it; floats by their bits, which lose nothing."""
    if dtype is torch.bool:
        return "true" if number else "false"
    if not dtype.is_floating_point:
        return str(int(number))
    if dtype is torch.float32:
        try:
            (bits,) = struct.unpack("<I", struct.pack("<f", number))
        except OverflowError:  # beyond its largest
            (bits,) = struct.unpack(
                "<I", struct.pack("<f", float("inf") if number > 0 else -float("inf"))
            )
        return f"0x{bits:08X}"
    bits = int(torch.tensor(number, dtype=dtype).view(torch.int16)) & 0xFFFF
    return f"0x{bits:04X}"


_SPLAT_LIMIT = 2**16


def _only_number(tensor: Tensor) -> float | None:
    """The number that a tensor holds everywhere; None where it holds several."""
    if tensor.numel() == 0 or tensor.numel() > _SPLAT_LIMIT:
        return None
    first = tensor.reshape(-1)[0]
    return first.item() if bool((tensor == first).all()) else None
