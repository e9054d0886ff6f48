"""Arguments of calls: from the JSON that Keras writes for them to values."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ridgeline.errors import TargetError, UnsupportedOp
from ridgeline.frontends.keras.records import Argument, Json, Ref

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
_POLICY = "DTypePolicy"


def argument(value: Json, where: str) -> Argument:
    """The value that one piece of JSON stands for. Raises TargetError where it stands for none."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list():
            return tuple(argument(v, where) for v in value)
        case {"class_name": str(kind), "config": config}:
            return _object(kind, config, where)
    return {name: argument(v, where) for name, v in value.items()}


def _object(kind: str, config: Json, where: str) -> Argument:
    match kind, config:
        case "__keras_tensor__", {"keras_history": [str(layer), int(call), int(output)]}:
            return Ref(layer=layer, call=call, output=output)
        case "__tensor__" | "__numpy__", {"value": bool() | int() | float() as value}:
            return value
        case "__tensor__" | "__numpy__", {"value": value, "dtype": dtype}:
            return array_of(value, dtype, where)
        case "__slice__", {"start": start, "stop": stop, "step": step}:
            return slice(*(argument(v, where) for v in (start, stop, step)))
        case "__ellipsis__", _:
            return ...
        case "__lambda__", _:
            raise UnsupportedOp(f"{where} {LAMBDA}")
    if kind == _POLICY:
        return policy_name({"class_name": kind, "config": config}, where)
    raise UnsupportedOp(
        f"{where} is given a {kind[:60]}, which is not read here; call it with tensors, numbers "
        "and texts."
    )


LAMBDA = (
    "holds Python code (a lambda), which is never run; write it with keras.ops, or export the "
    "model to ONNX: model.export('model.onnx', format='onnx')."
)


def array_of(value: Json, dtype: Json, where: str) -> Tensor:
    """A tensor written out in JSON. Raises TargetError where it is none."""
    found = DTYPES.get(dtype) if isinstance(dtype, str) else None
    if found is None:
        raise TargetError(f"{where} holds a tensor of {str(dtype)[:40]!r}, which is no dtype.")
    try:
        return torch.tensor(value, dtype=found)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise TargetError(f"{where} holds a tensor that is none: {error}.") from error


def policy_name(value: Json, where: str) -> str:
    """The name of a dtype or of a policy: "float32", "mixed_bfloat16". Raises UnsupportedOp for
    quantised ones.
    """
    match value:
        case None:
            return "float32"
        case str(name):
            return name
        case {"class_name": "DTypePolicy", "config": {"name": str(name)}}:
            return name
        case {"class_name": str(kind)}:
            raise UnsupportedOp(
                f"{where} has the dtype policy {kind[:60]}; quantised Keras layers are not read: "
                "save the model before quantize(), and quantise the graph."
            )
    raise TargetError(f"{where} has a dtype that is none: {str(value)[:60]}.")


def dtypes_of(policy: str, where: str) -> tuple[torch.dtype, torch.dtype]:
    """(what a policy computes in, what it stores weights in). Raises TargetError if unknown."""
    compute = policy.removeprefix("mixed_")
    stored = "float32" if policy.startswith("mixed_") else policy
    if compute not in DTYPES:
        raise TargetError(f"{where} has the dtype policy {policy[:60]!r}, which is not known.")
    return DTYPES[compute], DTYPES[stored]


def refs_in(value: Argument) -> list[Ref]:
    """Every reference inside an argument, in order."""
    match value:
        case Ref():
            return [value]
        case tuple():
            return [r for v in value for r in refs_in(v)]
        case dict():
            return [r for v in value.values() for r in refs_in(v)]
    return []


def resolved(value: Argument, values: Mapping[Ref, Argument]) -> Argument:
    """The argument with every reference replaced by its value."""
    match value:
        case Ref():
            return values[value]
        case tuple():
            return tuple(resolved(v, values) for v in value)
        case dict():
            return {name: resolved(v, values) for name, v in value.items()}
    return value
