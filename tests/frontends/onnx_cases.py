"""ONNX's own conformance cases, and what a runner makes of each."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from onnx.backend.test.loader import load_model_tests

from ridgeline.frontends.onnx.ops import family_of

Array = NDArray[Any]
# What a model takes and gives: an array, a sequence of them, or an optional without one.
Data = Array | list[Any] | None
Runner = Callable[[ModelProto, Sequence[Data]], Sequence[Data]]
KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted")
# Compared by what they mean; NumPy has no comparisons for some.
_NARROW = {
    np.dtype(t)
    for t in vars(ml_dtypes).values()
    if isinstance(t, type) and issubclass(t, np.generic)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One model with its inputs and the outputs it must give. family: of the operator tested."""

    name: str
    kind: str
    family: str
    model: ModelProto
    data: Sequence[tuple[Sequence[Data], Sequence[Data]]]
    rtol: float
    atol: float


def load(kind: str) -> Iterator[Case]:
    """Every case of a kind. Its data are made anew, always the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tests = load_model_tests(kind=kind)
    for test in tests:
        model = test.model or onnx.load(Path(test.model_dir) / "model.onnx")
        yield Case(
            name=test.name,
            kind=kind,
            family=_family(test.name, model),
            model=model,
            data=_plain(test.data_sets) or list(_stored(Path(test.model_dir), model)),
            rtol=test.rtol,
            atol=test.atol,
        )


def _family(name: str, model: ModelProto) -> str:
    """The family of the operator that a case is named after: of a body spelt out, by its name."""
    nodes = model.graph.node
    if len(nodes) == 1:
        return family_of(nodes[0].domain, nodes[0].op_type)
    if "_expanded" in name:
        return "function bodies"
    families = [family_of(n.domain, n.op_type) for n in nodes if n.op_type != "Constant"]
    rare = [f for f in families if f not in ("shape", "elementwise", "casting")]
    return (rare or families or ["shape"])[0]


def _plain(sets: Any) -> list[tuple[list[Data], list[Data]]]:
    """Data sets with their protos as arrays."""

    def array(value: Any) -> Data:
        return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value

    return [([array(v) for v in i], [array(v) for v in o]) for i, o in sets or ()]


def _stored(folder: Path, model: ModelProto) -> Iterator[tuple[list[Data], list[Data]]]:
    for data in sorted(folder.glob("test_data_set_*")):
        yield (
            [
                _read(data / f"input_{i}.pb", v)
                for i, v in enumerate(model.graph.input)
                if (data / f"input_{i}.pb").exists()
            ],
            [_read(data / f"output_{i}.pb", v) for i, v in enumerate(model.graph.output)],
        )


def _read(path: Path, value: onnx.ValueInfoProto) -> Data:
    raw = path.read_bytes()
    if value.type.WhichOneof("value") == "sequence_type":
        return list(numpy_helper.to_list(onnx.SequenceProto.FromString(raw)))
    array: Array = numpy_helper.to_array(onnx.TensorProto.FromString(raw))
    return array


def fault(case: Case, runner: Runner) -> str | None:
    """Why a runner fails a case, in one line; None if it passes."""
    for inputs, expected in case.data:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = runner(case.model, inputs)
            except Exception as error:  # whatever a runner raises is what it fails with
                text = " ".join(str(error).split())[:200]
                return f"{type(error).__name__}: {text}"
            wrong = next(
                (r for e, f in zip(expected, found, strict=True) if (r := _differs(e, f, case))),
                None,
            )
        if wrong:
            return wrong
    return None


def _differs(expected: Data, found: Data, case: Case) -> str | None:
    """How an output differs from the one expected, or None."""
    if isinstance(expected, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(expected):
            return f"sequence of {len(expected)} expected"
        return next(
            (r for e, f in zip(expected, found, strict=True) if (r := _differs(e, f, case))), None
        )
    if expected is None or found is None:
        return None if expected is found else "an optional differs"
    want, have = np.asarray(expected), np.asarray(found)
    if want.shape != have.shape:
        return f"shape {have.shape}, expected {want.shape}"
    if want.dtype != have.dtype and want.dtype.kind not in "OUS":
        return f"type {have.dtype}, expected {want.dtype}"
    if want.dtype.kind in "OUS":
        return None if (want.astype(str) == have.astype(str)).all() else "texts differ"
    wide = np.float64 if want.dtype in _NARROW else want.dtype
    # two steps of bfloat16, as onnx's own runner allows
    rtol = max(case.rtol, 2**-6) if want.dtype == ml_dtypes.bfloat16 else case.rtol
    try:
        np.testing.assert_allclose(have.astype(wide), want.astype(wide), rtol=rtol, atol=case.atol)
    except AssertionError as error:
        return " ".join(str(error).split())[:200]
    return None
