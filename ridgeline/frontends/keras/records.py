"""What a Keras config says, as plain immutable records: calls in an order in which they can run."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import EllipsisType
from typing import TYPE_CHECKING, Union

from torch import Tensor

if TYPE_CHECKING:
    from ridgeline.frontends.keras.table import Row
    from ridgeline.frontends.keras.value import Value

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ref:
    """One output of one call of a layer."""

    layer: str
    call: int
    output: int


# An argument of a call: before it runs with references in it, then with their values.
Argument = Union[
    None,
    bool,
    int,
    float,
    str,
    slice,
    EllipsisType,
    Ref,
    Tensor,
    "Value",
    tuple["Argument", ...],
    dict[str, "Argument"],
]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KerasCall:
    """One call of a layer."""

    args: tuple[Argument, ...]
    kwargs: Mapping[str, Argument]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KerasLayer:
    """A layer, an operation or a model inside a model (then `model` is set).

    path: where its weights lie in the file; inner: the layers it wraps, by the name of the key that
    holds them; row: of a class that is not Keras's own; identity: equal for layers that are one
    object, None where it is alone.
    """

    kind: str
    name: str
    config: Mapping[str, Json]
    path: str
    calls: tuple[KerasCall, ...] = ()
    model: "KerasModel | None" = None
    inner: Mapping[str, "KerasLayer"]
    row: "Row | None" = None
    identity: int | None = None

    @property
    def title(self) -> str:
        """What errors call it."""
        return f"layer {self.name} ({self.kind})"

    @property
    def steps(self) -> int:
        """How many layers one call runs: itself, and all that is inside."""
        inside = 0 if self.model is None else self.model.steps
        return 1 + inside + sum(layer.steps for layer in self.inner.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class KerasInput:
    """What an input layer says. A dimension is None where it is open."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KerasModel:
    """A model. order: (layer, number of its call) in an order in which they can run; inputs and
    outputs: flat, in the order in which a caller gives and gets them; steps: how many layers run,
    each as often as it is called.
    """

    name: str
    layers: Mapping[str, KerasLayer]
    order: tuple[tuple[str, int], ...]
    inputs: tuple[Ref, ...]
    outputs: tuple[Ref, ...]
    signature: tuple[KerasInput, ...]
    steps: int
