"""From ONNX bytes to records, checked on the way: what is wrong with a file is one sentence."""

import graphlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TypeProto
from onnx.defs import onnx_opset_version

from ridgeline.errors import TargetError
from ridgeline.frontends.onnx.dtypes import Array, element_type
from ridgeline.frontends.onnx.records import Attribute, Body, Function, Kind, OnnxModel, OnnxNode
from ridgeline.frontends.onnx.weights import Known, require_moderate, weight_of

# Protobuf itself takes no more in one message.
_MAX_FILE_BYTES = 2**31
# Where torch's own exporter says which modules a node came from.
_SCOPES = "pkg.torch.onnx.name_scopes"
DOMAIN = ""
_DEFAULT_DOMAINS = ("", "ai.onnx")


def read_file(path: Path) -> OnnxModel:
    """The model in a file. Raises TargetError where it holds none that can be read."""
    if not path.is_file():
        raise TargetError(f"no file {path}; give FILE.onnx.")
    if path.stat().st_size >= _MAX_FILE_BYTES:
        raise TargetError(f"{path} has 2 GiB or more; save it with external data.")
    try:
        proto = ModelProto.FromString(path.read_bytes())
    except DecodeError as error:
        raise TargetError(f"{path} is no ONNX file, or a damaged one: {error}.") from error
    try:
        return read_model(proto, name=path.stem, folder=path.parent)
    except TargetError as error:
        raise TargetError(f"{path}: {error}") from error


def read_model(proto: ModelProto, *, name: str, folder: Path | None = None) -> OnnxModel:
    """The records of a model; folder: where its external data may lie."""
    if not proto.HasField("graph") or not proto.opset_import:
        raise TargetError("it holds no ONNX model (no graph, or no operator set).")
    opsets = _opsets(proto.opset_import)
    weights = {w.name: w for w in (weight_of(t, folder) for t in proto.graph.initializer)}
    given = [i for i in proto.graph.input if i.name not in weights]
    return OnnxModel(
        name=name,
        body=_body(proto.graph, folder, frozenset()),
        opsets=opsets,
        functions={(f.domain, f.name, f.overload): function_of(f) for f in proto.functions},
        inputs={i.name: _require_kind(i.name, i.type) for i in given},
        outputs={o.name: kind_of(o.type) for o in proto.graph.output},
    )


def _opsets(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """Domain -> version. Raises TargetError for versions of ONNX that are not known yet."""
    opsets = {_domain(o.domain): o.version for o in imports}
    version, newest = opsets.get(DOMAIN, 1), onnx_opset_version()
    if not 1 <= version <= newest:
        raise TargetError(
            f"it needs operator set {version}; the onnx installed knows 1 to {newest}."
        )
    return opsets


def _domain(name: str) -> str:
    return DOMAIN if name in _DEFAULT_DOMAINS else name


def _require_kind(name: str, proto: TypeProto) -> Kind:
    kind = kind_of(proto)
    if kind is None:
        raise TargetError(f"input {name} has no type that is read here.")
    return kind


def kind_of(proto: TypeProto) -> Kind | None:
    """The type a proto says, or None where it says none of a tensor or of many."""
    match proto.WhichOneof("value"):
        case "tensor_type":
            tensor = proto.tensor_type
        case "sequence_type":
            inner = kind_of(proto.sequence_type.elem_type)
            return inner and Kind(element=inner.element, dims=inner.dims, container="sequence")
        case "optional_type":
            inner = kind_of(proto.optional_type.elem_type)
            return inner and Kind(element=inner.element, dims=inner.dims, container="optional")
        case _:
            return None
    if not tensor.elem_type:
        return None
    dims = tuple(_dim(d) for d in tensor.shape.dim) if tensor.HasField("shape") else None
    return Kind(element=element_type(tensor.elem_type), dims=dims)


def _dim(proto: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if proto.HasField("dim_value"):
        return proto.dim_value
    return proto.dim_param or None


def function_of(proto: FunctionProto) -> Function:
    """A function's body and what its attributes are where a call names none."""
    defaults = {a.name: _attribute(a, None, frozenset()) for a in proto.attribute_proto}
    known = frozenset(proto.input)
    return Function(
        body=_ordered(proto.node, proto.input, proto.output, {}, None, known),
        opsets=_opsets(proto.opset_import),
        attributes={**dict.fromkeys(proto.attribute), **defaults},
    )


def _body(proto: GraphProto, folder: Path | None, outer: frozenset[str]) -> Body:
    """The records of a graph; outer: names that the graphs around it define."""
    weights = {t.name: weight_of(t, folder) for t in proto.initializer}
    weights |= {s.values.name: _sparse(s, folder) for s in proto.sparse_initializer}
    inputs = tuple(i.name for i in proto.input)
    outputs = tuple(o.name for o in proto.output)
    known = outer | set(weights) | set(inputs)
    return _ordered(proto.node, inputs, outputs, weights, folder, known, outer)


def _ordered(
    protos: Sequence[NodeProto],
    inputs: Sequence[str],
    outputs: Sequence[str],
    weights: Mapping[str, Known],
    folder: Path | None,
    known: frozenset[str],
    outer: frozenset[str] = frozenset(),
) -> Body:
    """The body of these nodes, each after what it reads. Constants become weights.

    Raises TargetError where a value comes from nowhere, from two nodes, or from itself.
    """
    made = _makers(protos, known)
    names = known | set(made)
    constants: dict[str, Known] = {}
    nodes: list[OnnxNode] = []
    for proto in _sorted(protos, made):
        node = _node(proto, folder, names)
        value = node.attributes.get("value")
        if node.qualified == "Constant" and isinstance(value, Known):
            constants[node.outputs[0]] = value
        else:
            nodes.append(node)
    reads = {name for node in nodes for name in _reads(node)} | set(outputs)
    missing = sorted(reads - names - {""})
    if missing:
        raise TargetError(f"value {missing[0]!r} is read, and no node, input or weight makes it.")
    mine = set(made) | set(inputs) | set(weights)
    return Body(
        nodes=tuple(nodes),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        weights={**weights, **constants},
        captured=frozenset(reads - mine) & outer,
    )


def _makers(protos: Sequence[NodeProto], known: frozenset[str]) -> dict[str, int]:
    """Value -> the number of the node that makes it."""
    made: dict[str, int] = {}
    for number, proto in enumerate(protos):
        for name in filter(None, proto.output):
            if name in made:
                raise TargetError(f"value {name!r} is made by two nodes.")
            made[name] = number
    return made


def _sorted(protos: Sequence[NodeProto], made: Mapping[str, int]) -> list[NodeProto]:
    """The nodes in the file's order where that is one in which they can run, else in another."""
    needs = {
        number: {made[name] for name in _proto_reads(proto) if name in made}
        for number, proto in enumerate(protos)
    }
    if all(all(n < number for n in earlier) for number, earlier in needs.items()):
        return list(protos)
    try:
        return [protos[number] for number in graphlib.TopologicalSorter(needs).static_order()]
    except graphlib.CycleError as error:
        loop = [protos[number].name or protos[number].op_type for number in error.args[1]]
        raise TargetError(f"its nodes form a cycle: {' <- '.join(loop[:8])}.") from error


def _proto_reads(proto: NodeProto) -> set[str]:
    """Every name a node reads, those inside its sub-graphs included."""
    names = set(proto.input)
    for attribute in proto.attribute:
        for graph in (attribute.g, *attribute.graphs):
            names.update(*(_proto_reads(node) for node in graph.node))
            names.update(o.name for o in graph.output)
    return names


def _reads(node: OnnxNode) -> Iterable[str]:
    yield from node.inputs
    for value in node.attributes.values():
        if isinstance(value, Body):
            yield from value.captured


def _node(proto: NodeProto, folder: Path | None, names: frozenset[str]) -> OnnxNode:
    if not proto.op_type:
        raise TargetError(f"node {proto.name!r} names no operator.")
    return OnnxNode(
        op=proto.op_type,
        domain=_domain(proto.domain),
        name=proto.name,
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        attributes={
            a.name: _attribute(a, folder, names) for a in proto.attribute if not a.ref_attr_name
        },
        references={a.name: a.ref_attr_name for a in proto.attribute if a.ref_attr_name},
        path=path_of(proto),
        overload=proto.overload,
        proto=proto,
    )


def path_of(proto: NodeProto) -> tuple[str, ...]:
    """The modules a node belongs to, outermost first: what its exporter noted, else its name
    before the last slash, else its whole name.
    """
    for entry in proto.metadata_props:
        if entry.key == _SCOPES:
            return _joined(re.findall(r"'([^']*)'", entry.value)[:-1])
    scopes = [part for part in proto.name.split("/") if part]
    return _joined(scopes[:-1] or scopes or [proto.op_type])


def _joined(scopes: Sequence[str]) -> tuple[str, ...]:
    """Dotted scopes as one path: `layer1`, `layer1.0` is layer1, 0."""
    path: list[str] = []
    previous = ""
    for scope in filter(None, scopes):
        own = scope.removeprefix(f"{previous}.") if previous else scope
        path += own.split(".")
        previous = scope
    return tuple(part for part in path if part)


def _attribute(proto: AttributeProto, folder: Path | None, names: frozenset[str]) -> Attribute:
    """An attribute's value as plain data."""
    match proto.type:
        case AttributeProto.FLOAT:
            return proto.f
        case AttributeProto.INT:
            return proto.i
        case AttributeProto.STRING:
            return proto.s.decode("utf-8", "replace")
        case AttributeProto.TENSOR:
            return weight_of(proto.t, folder)
        case AttributeProto.SPARSE_TENSOR:
            return _sparse(proto.sparse_tensor, folder)
        case AttributeProto.GRAPH:
            return _body(proto.g, folder, names)
        case AttributeProto.FLOATS:
            return tuple(proto.floats)
        case AttributeProto.INTS:
            return tuple(proto.ints)
        case AttributeProto.STRINGS:
            return tuple(s.decode("utf-8", "replace") for s in proto.strings)
        case AttributeProto.TENSORS:
            return tuple(weight_of(t, folder) for t in proto.tensors)
        case AttributeProto.TYPE_PROTO:
            return _require_kind(proto.name, proto.tp)
        case _:
            raise TargetError(f"attribute {proto.name!r} is of a kind that is not read here.")


def _sparse(proto: onnx.SparseTensorProto, folder: Path | None) -> Known:
    """A sparse tensor as a dense weight."""
    values, indices = weight_of(proto.values, folder), weight_of(proto.indices, folder)
    shape = tuple(proto.dims)
    require_moderate(values.name, values.element, shape)

    def read() -> Array:
        dense = np.zeros(shape, values.element.numpy)
        where = indices.read().astype(np.int64)
        flat = where if where.ndim == 1 else np.ravel_multi_index(tuple(where.T), shape)
        dense.reshape(-1)[flat] = values.read()
        return dense

    return Known(name=values.name, element=values.element, shape=shape, read=read)
