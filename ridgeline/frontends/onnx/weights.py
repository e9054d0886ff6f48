"""Weights of an ONNX file: their shape at once, their values when asked for, from where they may
lie.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from ridgeline.errors import TargetError
from ridgeline.frontends.onnx.dtypes import Array, ElementType, element_type, type_of

# Which field holds the values of a type that is not stored raw; see TensorProto in onnx.proto.
_FIELDS = {1: "float_data", 14: "float_data", 7: "int64_data", 8: "string_data", 11: "double_data"}
_FIELDS |= {15: "double_data", 12: "uint64_data", 13: "uint64_data"}
_PER_ELEMENT = {14: 2, 15: 2}
# Known values of up to this many elements are computed ahead and their copies kept.
SMALL = 2**14
# What is declared and not stored, a sparse tensor, may be this large.
MAX_MADE_BYTES = 2**30


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Known:
    """A tensor that depends on no input: a weight of the file, or computed from such (then it has
    no name of its own). read: its values; variants: by the way they are laid out.
    """

    name: str
    element: ElementType
    shape: tuple[int, ...]
    read: Callable[[], Array]
    variants: dict[str, "Known"] = field(default_factory=dict)

    def derived(
        self, way: str, shape: tuple[int, ...], function: Callable[[Array], Array]
    ) -> "Known":
        """The same weight laid out in another way, of `shape`; the same object every time."""
        if way not in self.variants:
            self.variants[way] = Known(
                name=self.name,
                element=self.element,
                shape=shape,
                read=lambda: function(self.read()),
            )
        return self.variants[way]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def weight_of(tensor: TensorProto, folder: Path | None, name: str = "") -> Known:
    """The weight a proto declares; nothing larger than the file is ever allocated.

    Raises TargetError where the proto holds less or more than it declares, or its data lie
    outside `folder`.
    """
    title = name or tensor.name or "without a name"
    element, shape = element_type(tensor.data_type), tuple(tensor.dims)
    if any(d < 0 for d in shape):
        raise TargetError(f"tensor {title} declares the shape {list(shape)}.")
    if tensor.data_location == TensorProto.EXTERNAL:
        read = _external(tensor, title, element, shape, folder)
    else:
        _require_complete(tensor, title, element, shape)
        read = _inline(tensor)
    return Known(name=title, element=element, shape=shape, read=read)


def require_moderate(name: str, element: ElementType, shape: tuple[int, ...]) -> None:
    """Raises TargetError where a tensor that the file does not hold whole is too large to make."""
    size = nbytes(element, math.prod(shape))
    if any(d < 0 for d in shape) or size > MAX_MADE_BYTES:
        raise TargetError(
            f"{name} declares {element.name}{list(shape)}, {size} bytes; "
            f"{MAX_MADE_BYTES} may be made at most."
        )


def known(array: Array) -> Known:
    """An array at hand as a known value."""
    return Known(name="", element=type_of(array), shape=array.shape, read=lambda: array)


def _inline(tensor: TensorProto) -> Callable[[], Array]:
    def read() -> Array:
        array: Array = numpy_helper.to_array(tensor)
        return array

    return cache(read) if math.prod(tensor.dims) <= SMALL else read


def _require_complete(
    tensor: TensorProto, title: str, element: ElementType, shape: tuple[int, ...]
) -> None:
    """Raises TargetError unless the proto holds as many elements as it declares."""
    count = math.prod(shape)
    if tensor.HasField("raw_data"):
        held, wanted, unit = len(tensor.raw_data), nbytes(element, count), "bytes"
    else:
        held = len(getattr(tensor, _FIELDS.get(element.number, "int32_data")))
        packed = max(1, 8 // element.bits) if element.bits else 1
        per_element = _PER_ELEMENT.get(element.number, 1)
        wanted, unit = -(-count // packed) * per_element, "values"
    if held != wanted:
        raise TargetError(
            f"tensor {title} declares {element.name}{list(shape)}, which is {wanted} {unit}, and "
            f"holds {held}; the file is damaged."
        )


def nbytes(element: ElementType, count: int) -> int:
    """Bytes of `count` packed elements."""
    return -(-count * element.bits // 8)


def _external(
    tensor: TensorProto,
    title: str,
    element: ElementType,
    shape: tuple[int, ...],
    folder: Path | None,
) -> Callable[[], Array]:
    """A reader of data beside the model, checked now, read when asked for."""
    entries = {e.key: e.value for e in tensor.external_data}
    path = _inside(entries.get("location", ""), title, folder)
    offset, length = (_count(entries.get(k, "0"), k, title) for k in ("offset", "length"))
    wanted = nbytes(element, math.prod(shape))
    size = path.stat().st_size
    if length not in (0, wanted) or offset + wanted > size:
        raise TargetError(
            f"tensor {title} declares {element.name}{list(shape)}, {wanted} bytes from {offset}, "
            f"and {path.name} has {size} bytes, of which {length or 'the rest'} are its own."
        )

    def read() -> Array:
        copy = onnx.TensorProto(data_type=element.number, dims=shape, name=tensor.name)
        copy.raw_data = np.fromfile(path, np.uint8, wanted, offset=offset).tobytes()
        array: Array = numpy_helper.to_array(copy)
        return array

    return read


def _count(text: str, key: str, title: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise TargetError(
            f"tensor {title} has the {key} {text[:40]!r}, which is no count of bytes."
        )
    return int(text)


def _inside(location: str, title: str, folder: Path | None) -> Path:
    """The file at `location`, if it is a plain one that lies in `folder` itself or below it."""
    if folder is None:
        raise TargetError(f"tensor {title} lies outside the model, which has no folder.")
    parts = location.replace("\\", "/").split("/")
    if not location or "\0" in location or Path(location).is_absolute() or ".." in parts:
        raise TargetError(
            f"tensor {title} lies in {location!r}, outside the model's folder; that is not read."
        )
    path = folder / location
    if not path.resolve().is_relative_to(folder.resolve()):
        raise TargetError(
            f"tensor {title} lies in {location!r}, a link out of the model's folder; "
            "that is not read."
        )
    if not path.is_file():
        raise TargetError(f"tensor {title} lies in {location!r}, and {path} is no file.")
    return path
