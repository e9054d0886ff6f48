"""Call: one call of one layer, as the functions of the table see it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ridgeline.errors import CaptureError, TargetError, UnsupportedOp
from ridgeline.frontends.keras.arguments import array_of
from ridgeline.frontends.keras.records import Argument, Json, KerasLayer
from ridgeline.frontends.keras.value import Value

Change = Callable[[Tensor], Tensor]
# Runs a layer that another wraps, by the name of the key that holds it.
Inner = Callable[[str, Sequence[Argument], Mapping[str, Argument]], tuple[Value, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSpec:
    """One array of a layer. place: where it lies in the file; shape: there; name: in the graph;
    fill: what it is where the file holds no weights, None for drawn.
    """

    place: str
    shape: tuple[int, ...]
    name: str
    change: Change | None = None
    fill: float | None = None
    is_buffer: bool = False
    dtype: torch.dtype


Weights = Callable[[WeightSpec], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """The record of a layer with the values that one call gives it. dtype: what it computes in;
    stored: what it keeps weights in; asked: the arguments that were asked for, by name.
    """

    layer: KerasLayer
    args: tuple[Argument, ...]
    kwargs: Mapping[str, Argument]
    dtype: torch.dtype
    stored: torch.dtype
    weights: Weights
    run_inner: Inner
    inner: Callable[[str], "Call"]
    constants: Callable[[str, Callable[[], Tensor]], Tensor]
    sub: str = ""
    asked: set[str] = field(default_factory=set)

    # arguments

    def argument(self, index: int, name: str) -> Argument:
        """What the call gives at a place or by a name; None where it gives neither."""
        self.asked.add(name)
        return self.args[index] if index < len(self.args) else self.kwargs.get(name)

    @property
    def value(self) -> Value:
        """The first argument: a tensor, or the only one of a list."""
        (found,) = self.list_of(self.args[0] if self.args else None)[:1] or (None,)
        if found is None:
            raise self.error("it is called without a tensor")
        return found

    @property
    def tensor(self) -> Tensor:
        """The first argument in Keras's order."""
        return self.value.plain()

    @property
    def values(self) -> list[Value]:
        """The tensors of the first argument, a list."""
        return self.list_of(self.args[0] if self.args else None)

    def list_of(self, found: Argument) -> list[Value]:
        """An argument that is a tensor or a list of them as a list."""
        match found:
            case None:
                return []
            case Value():
                return [found]
            case Tensor():
                return [Value(tensor=found)]
            case tuple():
                return [v for item in found for v in self.list_of(item)]
            case dict():
                return [v for name in sorted(found) for v in self.list_of(found[name])]
        raise self.error(f"it is called with {str(found)[:40]!r} in the place of a tensor")

    def optional(self, index: int, name: str) -> Value | None:
        """The tensor at a place or by a name, if there is one."""
        return next(iter(self.list_of(self.argument(index, name))), None)

    def is_set(self, index: int, name: str) -> bool:
        """Whether a flag is among the arguments and true."""
        return bool(self.argument(index, name))

    # config

    def has(self, key: str) -> bool:
        """Whether the config says anything of `key`."""
        return self.layer.config.get(key) is not None

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number of the config."""
        value = self._found(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(key, value, "a whole number")
        return value

    def count(self, key: str) -> int:
        """A whole number of the config that is at least 1."""
        value = self.integer(key)
        if value < 1:
            raise self._wrong(key, value, "at least 1")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number of the config."""
        value = self._found(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, value, "a number")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """A truth value of the config."""
        value = self._found(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A text of the config."""
        value = self._found(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a text")
        return value

    def integers(self, key: str, default: Sequence[int] | None = None) -> list[int]:
        """A list of whole numbers of the config, or one."""
        value = self._found(key, None if default is None else list(default))
        found = value if isinstance(value, list) else [value]
        if not all(isinstance(v, int) and not isinstance(v, bool) for v in found):
            raise self._wrong(key, value, "a list of whole numbers")
        return [v for v in found if isinstance(v, int)]

    def sizes(self, key: str, rank: int, default: int | None = None) -> list[int]:
        """One whole number of at least 1 for each of `rank` dimensions; one number holds for
        all.
        """
        found = self.integers(key, None if default is None else [default])
        found = found * rank if len(found) == 1 else found
        if len(found) != rank or min(found) < 1:
            raise self._wrong(key, found, f"{rank} sizes of at least 1")
        return found

    def pairs(self, key: str, rank: int) -> list[tuple[int, int]]:
        """(before, after) for each of `rank` dimensions, however the config says it."""
        value = self._found(key, None)
        entries: list[Json] = value if isinstance(value, list) else [value] * rank
        if rank == 1 and len(entries) == 2:
            entries = [entries]
        found = [_pair(e) for e in entries]
        if len(found) != rank or any(p is None or min(p) < 0 for p in found):
            raise self._wrong(key, value, f"{rank} pairs of counts")
        return [p for p in found if p is not None]

    def array(self, key: str) -> Tensor | None:
        """Numbers of the config that may be an array, or None."""
        match self.layer.config.get(key):
            case None:
                return None
            case {"config": {"value": value, "dtype": dtype}}:
                return array_of(value, dtype, self.layer.title)
            case value:
                return array_of(value, "float32", self.layer.title)

    def _found(self, key: str, default: Json) -> Json:
        value = self.layer.config.get(key)
        if value is None and default is None:
            raise TargetError(f"{self.layer.title} says no {key} in its config.")
        return default if value is None else value

    def _wrong(self, key: str, value: Json | Sequence[int], what: str) -> TargetError:
        return TargetError(f"{self.layer.title} has the {key} {str(value)[:60]}, not {what}.")

    # channels

    @property
    def is_channels_first(self) -> bool:
        """Whether the config has the channels at dimension 1."""
        return self.text("data_format", "channels_last") == "channels_first"

    def channels_first(self, value: Value) -> Tensor:
        """A value with its channels at dimension 1, where torch wants them."""
        return value.plain() if self.is_channels_first else value.moved()

    def from_channels_first(self, tensor: Tensor) -> Value:
        """What was computed with channels at dimension 1, as Keras sees it."""
        return Value(tensor=tensor, is_moved=not self.is_channels_first and tensor.dim() > 2)

    # weights

    def weight(
        self,
        index: int,
        shape: Sequence[int],
        name: str,
        change: Change | None = None,
        *,
        fill: float | None = None,
        is_buffer: bool = False,
    ) -> Tensor:
        """The layer's array number `index`, of `shape` in the file, changed to how torch has it."""
        spec = WeightSpec(
            place=f"{self.layer.path}{self.sub}vars/{index}",
            shape=tuple(shape),
            name=name,
            change=change,
            fill=fill,
            is_buffer=is_buffer,
            dtype=self.stored,
        )
        found = self.weights(spec)
        return found if found.dtype == self.dtype else found.to(self.dtype)

    def constant(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """Numbers that the config holds as a buffer of the layer, made once."""
        found = self.constants(name, make)
        return found.to(self.dtype) if found.is_floating_point() else found

    def within(self, sub: str) -> "Call":
        """The same call with its weights read further down, in a part of the layer."""
        return replace(self, sub=f"{self.sub}{sub}/")

    # errors

    def error(self, reason: str) -> CaptureError:
        """The error that this call cannot be: `reason` begins with a word in lower case."""
        return CaptureError(f"{self.layer.title} does not convert: {reason}.")

    def refuse(self, what: str, way_out: str) -> UnsupportedOp:
        """The error that something about the layer is not read."""
        return UnsupportedOp(f"{self.layer.title}: {what} is not read; {way_out}.")


def _pair(entry: Json) -> tuple[int, int] | None:
    match entry:
        case bool():
            return None
        case int():
            return entry, entry
        case [int(before), int(after)]:
            return before, after
    return None
