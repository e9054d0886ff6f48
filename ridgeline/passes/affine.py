"""Affine: per-channel scales and shifts become part of the layer or norm before them."""

import operator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from ridgeline.graph import Graph, Phase
from ridgeline.graph.edit import Edit
from ridgeline.graph.read import module_path, packet_of
from ridgeline.passes.match import Matcher, argument, is_call, is_plain, set_arguments
from ridgeline.passes.rewrite import is_alike

_NO_TRAINING = "aten._native_batch_norm_legit_no_training"
_BATCH_NORMS = (_NO_TRAINING, "aten.batch_norm", "aten.native_batch_norm")
_CONVOLUTIONS = ("aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.convolution")
_TRANSPOSED = ("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d")
_LAST_DIMS_NORMS = ("aten.layer_norm", "aten.rms_norm")


@dataclass(frozen=True, slots=True)
class Affine:
    """scale * x + shift, in fp64, each with the rank of x and size 1 where it does not vary; None:
    nothing to scale, nothing to shift.
    """

    scale: Tensor | None
    shift: Tensor | None


def fold_batch_norm(graph: Graph) -> Graph:
    """The graph with inference-time batch norms merged into the convolution or linear before them.

    With s = gamma / sqrt(var + eps), W' = s W and b' = s (b - mean) + beta, computed in fp64 and
    rounded once. Valid where nothing else reads the convolution's result. Source: Jacob et al.,
    2018, section 3.2.
    """
    if not graph.is_runnable:
        return graph
    edit = Edit(graph)
    for node in edit.nodes:
        if node.op == "call_function" and _is_inference_norm(node):
            _fold_norm(edit, node)
    return edit.finish()


def fold_affine(graph: Graph) -> Graph:
    """The graph with products with, and sums of, constants that vary by channel at most merged into
    the convolution, linear or norm whose result they alone read.

    W' = s W, b' = s b + t, in fp64 and rounded once; an RMS norm has no bias, so only s.
    """
    if not graph.is_runnable or graph.phase is Phase.TRAIN:
        return graph
    edit = Edit(graph)
    for node in edit.nodes:
        if node.op == "call_function" and node.users:
            _fold_arithmetic(edit, node)
    return edit.finish()


def _is_inference_norm(node: fx.Node) -> bool:
    packet = packet_of(node.target)
    if packet not in _BATCH_NORMS:
        return False
    return packet == _NO_TRAINING or not argument(node, "training")


def _fold_norm(edit: Edit, norm: fx.Node) -> None:
    result, source = _normalised(norm), argument(norm, "input")
    if result is None or not isinstance(source, fx.Node) or not _takes_norm(source):
        return
    affine = _scale_and_shift(norm, edit.weights(), source.meta["val"].dim())
    if affine is not None and _absorb(edit, source, affine):
        edit.replace_uses(result, source)
        edit.sweep(result)


def _normalised(norm: fx.Node) -> fx.Node | None:
    """The node that holds the normalised tensor; None if the statistics are read too."""
    if isinstance(norm.meta["val"], Tensor):
        return norm
    readers = [u for u in norm.users if u.users]
    if len(readers) != 1 or readers[0].args[1:] != (0,):
        return None
    return readers[0]


def _takes_norm(source: fx.Node) -> bool:
    if source.op != "call_function" or len(source.users) != 1:
        return False
    packet = packet_of(source.target)
    return packet in ("aten.linear", *_CONVOLUTIONS, *_TRANSPOSED)


def _scale_and_shift(norm: fx.Node, weights: dict[fx.Node, Tensor], rank: int) -> Affine | None:
    """The norm as an affine along dimension 1; None where it is no constant."""
    names = ("running_mean", "running_var", "weight", "bias")
    nodes = [argument(norm, name) for name in names]
    if nodes[0] is None or nodes[1] is None:
        return None
    if any(n is not None and n not in weights for n in nodes):
        return None
    mean, variance, gamma, beta = (
        weights[n].detach().double() if isinstance(n, fx.Node) else None for n in nodes
    )
    eps = argument(norm, "eps")
    assert mean is not None
    assert variance is not None
    assert isinstance(eps, float)
    scale = torch.rsqrt(variance + eps) * (1.0 if gamma is None else gamma)
    shift = (0.0 if beta is None else beta) - mean * scale
    shape = (1, -1, *[1] * (rank - 2))
    return Affine(scale.view(shape), shift.view(shape))


def _fold_arithmetic(edit: Edit, node: fx.Node) -> None:
    matcher = Matcher(edit)
    if is_call(node, "neg") and _fold_sign(edit, node):
        return
    for index in (0, 1):
        source = node.args[index] if len(node.args) > 1 else None
        if not isinstance(source, fx.Node) or source.op != "call_function":
            continue
        if len(source.users) != 1 or not is_alike(node, source):
            continue
        constant = matcher.constant(node.args[1 - index])
        affine = _affine_of(node, constant, index) if constant is not None else None
        if affine is not None and _absorb(edit, source, affine):
            edit.replace_uses(node, source)
            edit.sweep(node)
            return


def _fold_sign(edit: Edit, node: fx.Node) -> bool:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if source.op != "call_function" or len(source.users) != 1 or not is_alike(node, source):
        return False
    minus = torch.full((1,) * node.meta["val"].dim(), -1.0, dtype=torch.float64)
    if not _absorb(edit, source, Affine(minus, None)):
        return False
    edit.replace_uses(node, source)
    edit.sweep(node)
    return True


def _affine_of(node: fx.Node, constant: Tensor, index: int) -> Affine | None:
    """What a call with a constant does to its operand number `index`; None for another op."""
    rank = node.meta["val"].dim()
    if constant.is_meta or constant.dim() > rank or not is_plain(node) or constant.is_complex():
        return None
    value = constant.double().reshape((1,) * (rank - constant.dim()) + tuple(constant.shape))
    minus = torch.full((1,) * rank, -1.0, dtype=torch.float64)
    if is_call(node, "mul"):
        return Affine(value, None)
    if is_call(node, "add"):
        return Affine(None, value)
    if is_call(node, "div") and index == 0 and bool((value != 0).all()):
        return Affine(1 / value, None)
    if is_call(node, "rsub"):
        return Affine(minus, value) if index == 0 else Affine(None, -value)
    if is_call(node, "sub"):
        return Affine(None, -value) if index == 0 else Affine(minus, value)
    return None


def _absorb(edit: Edit, result: fx.Node, affine: Affine) -> bool:
    """Gives the call that made `result` weights that apply the affine as well; False where it
    cannot.
    """
    source = _maker(result)
    packet = packet_of(source.target)
    shape = _parameter_shape(source, packet)
    scale, shift = (
        part if part is None else _along(part, source, shape) for part in _parts(affine)
    )
    is_along = (scale is None, shift is None) == (affine.scale is None, affine.shift is None)
    if shape is None or not is_along:
        return False
    weights = edit.weights()
    weight, bias = argument(source, "weight"), _bias(source)
    known = [n for n in (weight, bias) if n is not None]
    if any(n not in weights for n in known) or (shift is not None and packet == "aten.rms_norm"):
        return False
    is_norm = not (packet == "aten.linear" or packet in (*_CONVOLUTIONS, *_TRANSPOSED))
    dtype = weights[weight].dtype if isinstance(weight, fx.Node) else _made(source).dtype
    if weight is None and not is_norm:
        return False
    changes: dict[str, fx.Node] = {}
    if scale is not None:
        old = weights[weight].detach().double() if isinstance(weight, fx.Node) else None
        new = scale if old is None else _scaled(source, old, scale)
        changes["weight"] = _store(edit, weight, new.to(dtype), _path(edit, source, "weight"))
    base = weights[bias].detach().double() if isinstance(bias, fx.Node) else None
    if base is not None or shift is not None:
        zeros = torch.zeros(shape, dtype=torch.float64)
        new = (zeros if base is None else base) * (1.0 if scale is None else scale)
        new = new if shift is None else new + shift
        changes["bias"] = _store(edit, bias, new.to(dtype), _path(edit, source, "bias"))
    set_arguments(source, **changes)
    return True


def _maker(result: fx.Node) -> fx.Node:
    """The call that made a value: an inference-time batch norm makes statistics beside it."""
    if result.target is operator.getitem and result.args[1] == 0:
        maker = result.args[0]
        assert isinstance(maker, fx.Node)
        return maker
    return result


def _made(source: fx.Node) -> Tensor:
    """The spec of what a layer or norm makes."""
    value = source.meta["val"]
    first = value if isinstance(value, Tensor) else value[0]
    assert isinstance(first, Tensor)
    return first


def _parts(affine: Affine) -> tuple[Tensor | None, Tensor | None]:
    return affine.scale, affine.shift


def _bias(source: fx.Node) -> object:
    return None if packet_of(source.target) == "aten.rms_norm" else argument(source, "bias")


def _parameter_shape(source: fx.Node, packet: str) -> tuple[int, ...] | None:
    """The shape of a layer's bias, or of a norm's weight; None for what takes no affine."""
    value = _made(source)
    if packet in _LAST_DIMS_NORMS:
        sizes = argument(source, "normalized_shape")
        assert isinstance(sizes, list | tuple)
        return tuple(s for s in sizes if isinstance(s, int))
    if packet == "aten.linear" or packet in (*_CONVOLUTIONS, *_TRANSPOSED):
        return (value.shape[_channel_dim(source)],)
    is_norm = packet == "aten.group_norm" or (
        packet in ("aten.batch_norm", _NO_TRAINING) and _is_inference_norm(source)
    )
    return (value.shape[1],) if is_norm else None


def _channel_dim(source: fx.Node) -> int:
    """The dimension that a layer's bias runs along, from the end."""
    if packet_of(source.target) == "aten.linear":
        return -1
    weight = argument(source, "weight")
    assert isinstance(weight, fx.Node)
    spatial: int = weight.meta["val"].dim() - 2
    return -1 - spatial


def _along(part: Tensor, source: fx.Node, shape: tuple[int, ...] | None) -> Tensor | None:
    """The part as the source's parameters are shaped; None where it varies in other dimensions."""
    if shape is None:
        return None
    packet, rank = packet_of(source.target), _made(source).dim()
    if packet in _LAST_DIMS_NORMS:
        first, last = rank - len(shape), rank
    elif packet in ("aten.linear", *_CONVOLUTIONS, *_TRANSPOSED):
        first = rank + _channel_dim(source)
        last = first + 1
    else:
        first, last = 1, 2
    if any(size != 1 for size in (*part.shape[:first], *part.shape[last:])):
        return None
    return part.reshape(part.shape[first:last]).expand(shape)


def _scaled(source: fx.Node, weight: Tensor, scale: Tensor) -> Tensor:
    """The weight with each output channel multiplied by its scale."""
    packet = packet_of(source.target)
    if packet not in ("aten.linear", *_CONVOLUTIONS, *_TRANSPOSED):
        return weight * scale
    is_transposed = packet in _TRANSPOSED or (
        packet == "aten.convolution" and bool(argument(source, "transposed"))
    )
    if not is_transposed:
        return weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
    groups = argument(source, "groups")  # weight: (C, K / groups, *R), scale: (K,)
    assert isinstance(groups, int)
    grouped = weight.view(groups, -1, *weight.shape[1:])
    scaled = grouped * scale.reshape(groups, 1, -1, *[1] * (weight.dim() - 2))
    return scaled.view(weight.shape)


def _path(edit: Edit, source: fx.Node, name: str) -> str:
    """Where a new parameter of a layer belongs: beside the other, or under its module."""
    weight = argument(source, "weight")
    if isinstance(weight, fx.Node):
        return edit.path_of(weight).removesuffix("weight") + name
    return f"{module_path(source) or source.name}.{name}"


def _store(edit: Edit, old: object, value: Tensor, path: str) -> fx.Node:
    """Puts a value in the weight it replaces when nothing else reads that, else in a new one."""
    value = value.contiguous()
    if isinstance(old, fx.Node) and len(old.users) == 1:
        edit.set_weight(old, value)
        return old
    return edit.add_weight(path, value)
