"""From a Keras config to records, checked on the way: what is wrong with one is one sentence."""

import graphlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ridgeline.errors import TargetError, UnsupportedOp
from ridgeline.frontends.keras.arguments import LAMBDA, argument, policy_name, refs_in
from ridgeline.frontends.keras.records import (
    Argument,
    Json,
    KerasCall,
    KerasInput,
    KerasLayer,
    KerasModel,
    Ref,
)
from ridgeline.frontends.keras.table import Row, by_kind

# Models in models, and lists in lists, further down than anyone builds them.
_MAX_DEPTH = 64
# Calls of all layers, those of a model inside as often as it is called.
_MAX_STEPS = 100_000
_MODELS = ("Functional", "Sequential", "Model")
# Which keys of a wrapper's config hold layers, and where their weights lie below its own.
_INNER = {
    "Bidirectional": {"layer": "forward_layer", "backward_layer": "backward_layer"},
    "TimeDistributed": {"layer": "layer"},
}
# Classes that the file calls by another name than their weights.
_GROUPS = {"GroupQueryAttention": "GroupedQueryAttention"}
# Modules of Keras whose classes are known here by their own names, by prefix.
_HOUSES = ("keras.layers", "keras.src.layers", "keras.src.applications", "keras.applications")
_OPERATIONS = ("keras.src.ops", "keras.ops", "keras.src.activations", "keras.activations")
Config = Mapping[str, Json]
_T = TypeVar("_T")


def parse(text: bytes | str, where: str) -> dict[str, Json]:
    """The JSON object in a text. Raises TargetError where it holds none, or one too deep."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise TargetError(f"{where} is nested too deeply to be a model.") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise TargetError(f"{where} is no JSON, or a damaged one: {error}.") from error
    if not isinstance(value, dict):
        raise TargetError(f"{where} holds no Keras model, but a {type(value).__name__}.")
    return value


def is_model(config: Config) -> bool:
    """Whether a JSON object is what `model.to_json()` writes."""
    inner = config.get("config")
    return (
        isinstance(config.get("class_name"), str)
        and isinstance(inner, dict)
        and isinstance(inner.get("layers"), list)
    )


def read_model(config: Config, *, name: str = "", rows: Sequence[Row] = ()) -> KerasModel:
    """The records of a model that `config` describes; rows: for classes that are not Keras's own.

    Raises TargetError where it describes none, UnsupportedOp for custom objects and Python code.
    """
    if not is_model(config):
        kind = config.get("class_name")
        if isinstance(kind, str):
            raise UnsupportedOp(
                f"the model is a {kind[:60]}, a class of its own whose forward is Python code; "
                "only functional and sequential models say in the file what they compute. Export "
                "it to ONNX: model.export('model.onnx', format='onnx')."
            )
        raise TargetError("it holds no Keras model (no class_name, config and layers).")
    try:
        return _model(config, _Place(rows=by_kind(rows)), name=name)
    except RecursionError as error:
        raise TargetError("its config is nested too deeply to be a model.") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where in the model one reads. path: of the weights in the file; rows: of foreign classes."""

    path: str = ""
    depth: int = 0
    rows: Mapping[str, Row]

    def down(self, path: str, title: str) -> "_Place":
        """One model or wrapper further in."""
        if self.depth >= _MAX_DEPTH:
            raise TargetError(f"{title[:80]} lies more than {_MAX_DEPTH} models deep.")
        return replace(self, path=path, depth=self.depth + 1)


def _model(config: Config, place: _Place, *, name: str = "") -> KerasModel:
    kind = _required(config, "class_name", str, "a model")
    inner = _required(config, "config", dict, "a model")
    title = name or str(inner.get("name") or kind)
    entries = [_entry(e, title) for e in _required(inner, "layers", list, f"model {title}")]
    if kind == "Sequential":
        entries = _chained(entries, inner, title)
    layers = _layers(entries, place)
    read = _sequential_ends if kind == "Sequential" else _functional_ends
    inputs, outputs = read(inner, entries, layers, title)
    order = _order(layers, outputs, title)
    steps = sum(layers[called].steps for called, _ in order)
    if steps > _MAX_STEPS:
        raise TargetError(
            f"model {title[:80]} calls more than {_MAX_STEPS} layers, those of the models in it as "
            "often as they are called."
        )
    return KerasModel(
        name=title,
        layers=layers,
        order=order,
        inputs=inputs,
        outputs=outputs,
        signature=tuple(_input(layers[r.layer]) for r in inputs),
        steps=steps,
    )


def _entry(value: Json, title: str) -> Config:
    if not isinstance(value, dict) or not isinstance(value.get("class_name"), str):
        raise TargetError(f"model {title} lists a layer that is none: {str(value)[:60]}.")
    return value


def _chained(entries: list[Config], config: Config, title: str) -> list[Config]:
    """The layers of a sequential model as those of a functional one: each reads the one before."""
    if not entries or entries[0]["class_name"] != "InputLayer":
        entries = [_made_input(entries, config, title), *entries]
    chain: list[Config] = []
    for entry in entries:
        name = _name_of(entry)
        if chain:
            history: Json = [_name_of(chain[-1]), 0, 0]
            tensor: Json = {"class_name": "__keras_tensor__", "config": {"keras_history": history}}
            calls: Json = [{"args": [tensor], "kwargs": {}}]
        else:
            calls = []
        chain.append({**entry, "name": name, "inbound_nodes": calls})
    return chain


def _made_input(entries: list[Config], config: Config, title: str) -> Config:
    """The input layer of a sequential model that leaves it unsaid."""
    first = entries[0].get("config") if entries else None
    own = first.get("batch_input_shape") if isinstance(first, dict) else None
    shape = config.get("build_input_shape") or own
    if not isinstance(shape, list):
        raise TargetError(
            f"model {title} does not say the shape of its input; build it before it is saved: "
            "model.build((None, ...))."
        )
    return {"class_name": "InputLayer", "config": {"batch_shape": shape, "name": "input"}}


def _name_of(entry: Config) -> str:
    config = entry.get("config")
    inner = config.get("name") if isinstance(config, dict) else None
    name = entry.get("name") or inner
    if not isinstance(name, str):
        raise TargetError(f"a {str(entry['class_name'])[:60]} in the model has no name.")
    return name


def _layers(entries: list[Config], place: _Place) -> dict[str, KerasLayer]:
    """Layers by name. Where each one's weights lie follows from its class and its place."""
    seen: Counter[str] = Counter()
    layers: dict[str, KerasLayer] = {}
    for entry in entries:
        name, kind = _name_of(entry), _kind(entry, place)
        if name in layers:
            raise TargetError(f"two layers of the model are called {name[:60]!r}.")
        group = _snake(_GROUPS.get(kind, kind.rpartition(">")[2]))
        number = f"_{seen[group]}" if seen[group] else ""
        if not kind.startswith("ops."):
            seen[group] += 1
        path = f"{place.path}layers/{group}{number}/"
        layers[name] = _layer(entry, name, kind, replace(place, path=path))
    return layers


def _snake(name: str) -> str:
    """A class's name as Keras names its group in the file: keras.src.utils.naming."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _layer(entry: Config, name: str, kind: str, place: _Place) -> KerasLayer:
    where = f"layer {name} ({kind})"
    config = _required(entry, "config", dict, where)
    nodes = entry.get("inbound_nodes", [])
    if not isinstance(nodes, list):
        raise TargetError(f"{where} has inbound nodes that are no list.")
    shared = entry.get("shared_object_id")
    return KerasLayer(
        kind=kind,
        name=name,
        config=config,
        path=place.path,
        row=place.rows.get(kind),
        calls=tuple(_call(node, where) for node in nodes if node),
        model=_model(entry, place.down(place.path, where)) if kind in _MODELS else None,
        inner={
            key: _inner(config[key], place.down(f"{place.path}{part}/", where), where)
            for key, part in _INNER.get(kind, {}).items()
            if config.get(key) is not None
        },
        identity=shared if isinstance(shared, int) else None,
    )


def _inner(value: Json, place: _Place, where: str) -> KerasLayer:
    entry = _entry(value, where)
    return _layer(entry, _name_of(entry), _kind(entry, place), place)


def _kind(entry: Config, place: _Place) -> str:
    """The class of a layer as the tables name it, "ops.Add" for operations. Raises UnsupportedOp
    for what is none of Keras's own.
    """
    kind, module = str(entry["class_name"]), entry.get("module", "keras.layers")
    name = _name_of(entry)
    if kind == "Lambda":
        raise UnsupportedOp(f"layer {name} (Lambda) {LAMBDA}")
    if isinstance(module, str):
        if kind in _MODELS and module.split(".")[0] == "keras":
            return kind
        if module.startswith(_OPERATIONS):
            return f"ops.{kind}"
        if module.startswith(_HOUSES):
            return kind
    title = str(entry.get("registered_name") or kind)
    if title in place.rows:
        return title
    raise UnsupportedOp(
        f"layer {name} ({title[:60]}) is a class of its own, whose code is not in the file; build "
        "the model of Keras's layers and keras.ops, give a row for it (docs/keras.md), or export "
        "it to ONNX: model.export('model.onnx', format='onnx')."
    )


def _call(node: Json, where: str) -> KerasCall:
    if isinstance(node, list):
        return _old_call(node, where)
    if not isinstance(node, dict):
        raise TargetError(f"{where} has an inbound node that is none: {str(node)[:60]}.")
    args = argument(_required(node, "args", list, where), where)
    kwargs = argument(_required({"kwargs": {}, **node}, "kwargs", dict, where), where)
    assert isinstance(args, tuple)
    assert isinstance(kwargs, dict)
    return KerasCall(args=args, kwargs=kwargs)


def _old_call(node: list[Json], where: str) -> KerasCall:
    """A call as Keras 2 writes it: [layer, call, output, {keyword arguments}] for each input."""
    if node and isinstance(node[0], str):
        node = [node]
    refs: list[Argument] = []
    kwargs: dict[str, Argument] = {}
    for entry in node:
        match entry:
            case [str(layer), int(call), int(output), *rest]:
                refs.append(Ref(layer=layer, call=call, output=output))
                for options in rest[:1]:
                    if isinstance(options, dict):
                        kwargs |= {k: _old_argument(v, where) for k, v in options.items()}
            case _:
                raise TargetError(f"{where} has an inbound node that is none: {str(entry)[:60]}.")
    return KerasCall(args=(refs[0] if len(refs) == 1 else tuple(refs),), kwargs=kwargs)


def _old_argument(value: Json, where: str) -> Argument:
    match value:
        case [str(layer), int(call), int(output)]:
            return Ref(layer=layer, call=call, output=output)
    return argument(value, where)


Ends = tuple[tuple[Ref, ...], tuple[Ref, ...]]


def _sequential_ends(
    config: Config, entries: list[Config], layers: Mapping[str, KerasLayer], title: str
) -> Ends:
    first, last = _name_of(entries[0]), _name_of(entries[-1])
    return (Ref(layer=first, call=0, output=0),), (Ref(layer=last, call=0, output=0),)


def _functional_ends(
    config: Config, entries: list[Config], layers: Mapping[str, KerasLayer], title: str
) -> Ends:
    inputs, outputs = (
        tuple(_end(e, layers, title) for e in _flat(config.get(key)))
        for key in ("input_layers", "output_layers")
    )
    if not inputs or not outputs:
        raise TargetError(f"model {title} says no inputs or no outputs.")
    for ref in inputs:
        if layers[ref.layer].kind != "InputLayer":
            raise TargetError(f"model {title} has the input {ref.layer}, which is no InputLayer.")
    return inputs, outputs


def _end(entry: list[Json], layers: Mapping[str, KerasLayer], title: str) -> Ref:
    """One input or output. Calls of a functional model inside are counted from 1 here."""
    match entry:
        case [str(layer), int(call), int(output)] if layer in layers:
            is_counted_from_1 = layers[layer].kind in ("Functional", "Model")
            return Ref(layer=layer, call=call - is_counted_from_1, output=output)
    raise TargetError(f"model {title} has an input or output that is none: {str(entry)[:80]}.")


def _flat(value: Json) -> list[list[Json]]:
    """The leaves [layer, call, output] of a structure of them; of a mapping by sorted names."""
    match value:
        case [str(), int(), int()]:
            return [value]
        case list():
            return [leaf for v in value for leaf in _flat(v)]
        case dict():
            return [leaf for key in sorted(value) for leaf in _flat(value[key])]
    return []


def _order(
    layers: Mapping[str, KerasLayer], outputs: Iterable[Ref], title: str
) -> tuple[tuple[str, int], ...]:
    """The calls that the outputs need, each after those that it reads."""
    reads = {
        (layer.name, number): [
            (ref.layer, ref.call) for ref in refs_in((call.args, dict(call.kwargs)))
        ]
        for layer in layers.values()
        for number, call in enumerate(layer.calls or _input_calls(layer))
    }
    ends = {("the output", 0): [(ref.layer, ref.call) for ref in outputs]}
    for (reader, _), needs in {**reads, **ends}.items():
        for name, number in needs:
            if (name, number) not in reads:
                raise TargetError(
                    f"model {title}: {reader} reads call {number} of {name[:60]!r}, which there is "
                    "none of."
                )
    try:
        order = list(graphlib.TopologicalSorter(reads).static_order())
    except graphlib.CycleError as error:
        loop = " -> ".join(dict.fromkeys(f"{name}" for name, _ in error.args[1]))
        raise TargetError(f"model {title} has a cycle: {loop[:200]}.") from error
    needed = _needed(reads, [(r.layer, r.call) for r in outputs])
    return tuple(call for call in order if call in needed)


def _needed(
    reads: Mapping[tuple[str, int], list[tuple[str, int]]], roots: list[tuple[str, int]]
) -> set[tuple[str, int]]:
    found: set[tuple[str, int]] = set()
    while roots:
        call = roots.pop()
        if call not in found:
            found.add(call)
            roots += reads[call]
    return found


def _input_calls(layer: KerasLayer) -> tuple[KerasCall, ...]:
    """The one call of an input layer, which the file does not list."""
    return (KerasCall(args=(), kwargs={}),) if layer.kind == "InputLayer" else ()


def _input(layer: KerasLayer) -> KerasInput:
    shape = layer.config.get("batch_shape") or layer.config.get("batch_input_shape")
    dims = shape if isinstance(shape, list) else None
    if dims is None or not all(
        d is None or (isinstance(d, int) and not isinstance(d, bool) and d >= 0) for d in dims
    ):
        raise TargetError(f"input {layer.name} has a shape that is none: {str(shape)[:60]}.")
    if layer.config.get("sparse") or layer.config.get("ragged"):
        raise UnsupportedOp(f"input {layer.name} is sparse or ragged; only dense tensors are read.")
    return KerasInput(
        name=layer.name,
        shape=tuple(d if isinstance(d, int) else None for d in dims),
        dtype=policy_name(layer.config.get("dtype"), f"input {layer.name}"),
    )


def _required(config: Config, key: str, kind: type[_T], where: str) -> _T:
    value = config.get(key)
    if not isinstance(value, kind):
        raise TargetError(f"{where[:80]} has no {key} that can be read: {str(value)[:60]}.")
    return value
