"""Looking up, writing at places, ordering."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ridgeline.frontends.onnx.call import Call, Result, Value
from ridgeline.frontends.onnx.ops.elementwise import widened
from ridgeline.frontends.onnx.table import Row, rows
from ridgeline.frontends.onnx.weights import Known, known


def _gather(call: Call) -> Value:
    """One index selects, rows of a weight are an embedding, all else is indexed."""
    axis = call.axis()
    dim = call.shape(0)[axis]
    index = call.value(1)
    if isinstance(index, Known):
        return _gather_known(call, axis, index.read().astype(np.int64) % max(dim, 1))
    x, where = call.raw(0), call.tensor(1)
    if isinstance(call.value(0), Known) and x.dim() == 2 and axis == 0 and x.is_floating_point():
        return F.embedding(where, x)
    return _indexed(x, axis, where.long())


def _gather_known(call: Call, axis: int, index: NDArray[np.int64]) -> Value:
    x = call.raw(0)
    if index.ndim == 0:
        return x.select(axis, int(index))
    flat = index.reshape(-1).tolist()
    shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
    if flat and flat == list(range(flat[0], flat[0] + len(flat))):
        return x.narrow(axis, flat[0], len(flat)).reshape(shape)
    places = call.lifted(known(np.ascontiguousarray(index)))
    return _indexed(x, axis, places)


def _indexed(x: Tensor, axis: int, places: Tensor) -> Tensor:
    """`x` at places along one dimension, which take its place."""
    before: tuple[slice | Tensor, ...] = (slice(None),) * axis
    return x[(*before, places)]


def wrapped(index: Tensor, length: int) -> Tensor:
    """Places counted from either end as places from the front."""
    return torch.remainder(index.long(), length)


def _gather_elements(call: Call) -> Value:
    axis = call.axis()
    return call.raw(0).gather(axis, wrapped(call.tensor(1), call.shape(0)[axis]))


def _gather_nd(call: Call) -> Value:
    x, index, batch = call.raw(0), call.tensor(1), call.integer("batch_dims", 0)
    depth = index.shape[-1]
    parts = [index[..., i] for i in range(depth)]
    lead = []
    for i in range(batch):
        shape = [1] * (index.dim() - 1)
        shape[i] = -1
        lead.append(torch.arange(x.shape[i], device=x.device).reshape(shape))
    return x[(*lead, *(p.long() for p in parts))]


_REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _scatter_elements(call: Call) -> Value:
    x, axis = call.tensor(0), call.axis()
    index, updates = wrapped(call.tensor(1), x.shape[axis]), call.tensor(2)
    how = call.text("reduction", "none")
    if how == "none":
        return x.scatter(axis, index, updates)
    return x.scatter_reduce(axis, index, updates, _REDUCE[how], include_self=True)


def _scatter_nd(call: Call) -> Value:
    x, index, updates = call.tensor(0), call.tensor(1), call.tensor(2)
    how, depth = call.text("reduction", "none"), index.shape[-1]
    parts = tuple(index[..., i].long() for i in range(depth))
    if how in ("none", "add"):
        return x.index_put(parts, updates, accumulate=how == "add")
    inner = x.shape[depth:].numel()
    flat = torch.zeros_like(parts[0])
    for part, length in zip(parts, x.shape, strict=False):
        flat = flat * length + wrapped(part, length)
    places = flat.reshape(-1, 1) * inner + torch.arange(inner, device=x.device)
    result = x.reshape(-1).scatter_reduce(
        0, places.reshape(-1), updates.reshape(-1), _REDUCE[how], include_self=True
    )
    return result.reshape(x.shape)


def _tensor_scatter(call: Call) -> Value:
    """A cache with new tokens written at each sample's place, round and round if circular."""
    cache, update = call.tensor(0), call.tensor(1)
    axis = call.axis()
    length, tokens = cache.shape[axis], update.shape[axis]
    steps = torch.arange(tokens, device=cache.device)
    first = call.optional(2)
    starts = torch.zeros_like(steps[:1]) if first is None else first.long()
    places = starts.reshape(-1, 1) + steps
    if call.text("mode") == "circular":
        places = places % length
    shape = [1] * cache.dim()
    shape[0], shape[axis] = places.shape[0], tokens
    return cache.scatter(axis, places.reshape(shape).expand(update.shape), update)


def _one_hot(call: Call) -> Value:
    """Places beyond the depth leave a row off."""
    index, depth = call.tensor(0), call.int_at(1)
    off, on = call.tensor(2).unbind(0)
    axis = call.dim(call.integer("axis"), index.dim() + 1)
    places = index.long().unsqueeze(axis)
    shape = [1] * (index.dim() + 1)
    shape[axis] = depth
    call.require_size([*index.shape, depth])
    steps = torch.arange(depth, device=index.device).reshape(shape)
    places = torch.where((places < 0) & (places >= -depth), places + depth, places)
    return torch.where(places == steps, on, off)


def _top_k(call: Call) -> Result:
    """Ties go to the lower place, as a stable sort has them."""
    x, axis = call.tensor(0), call.axis()
    count = call.integer("k") if call.given("k") else call.int_at(1)
    is_largest = bool(call.integer("largest", 1))
    wide = widened(x)
    values, places = wide.sort(dim=axis, descending=is_largest, stable=True)
    return [values.narrow(axis, 0, count).to(x.dtype), places.narrow(axis, 0, count)]


def _nonzero(call: Call) -> Value:
    call.require_data("how many elements it finds")
    return call.tensor(0).nonzero().t()


def _compress(call: Call) -> Value:
    call.require_data("how many elements it keeps")
    x, keep = call.raw(0), call.tensor(1)
    axis = call.axis() if call.given("axis") else 0
    x = x if call.given("axis") else x.reshape(-1)
    places = keep.reshape(-1).nonzero().reshape(-1)
    return x.index_select(axis, places)


def _unique(call: Call) -> Result:
    """In order of value, or of first appearance."""
    call.require_data("how many values are different")
    x = call.tensor(0)
    axis = call.axis() if call.given("axis") else None
    x = x if axis is not None else x.reshape(-1)
    along = 0 if axis is None else axis
    values, inverse, counts = torch.unique(
        x, sorted=True, return_inverse=True, return_counts=True, dim=along
    )
    places = torch.arange(x.shape[along], device=x.device)
    first = torch.full_like(counts, x.shape[along]).scatter_reduce(0, inverse, places, "amin")
    if not call.flag("sorted"):
        order = first.argsort()
        rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=x.device))
        values, counts, first = values.index_select(along, order), counts[order], first[order]
        inverse = rank[inverse]
    return [values, first, inverse, counts]


def _cumulative(call: Call, *, is_product: bool) -> Value:
    x, axis = call.tensor(0), call.dim(call.int_at(1), call.rank(0))
    is_reverse, is_exclusive = call.flag("reverse"), call.flag("exclusive")
    x = x.flip(axis) if is_reverse else x
    total = x.cumprod(axis, dtype=x.dtype) if is_product else x.cumsum(axis, dtype=x.dtype)
    if is_exclusive:
        first = torch.full_like(total.narrow(axis, 0, 1), int(is_product))
        total = torch.cat((first, total.narrow(axis, 0, x.shape[axis] - 1)), axis)
    return total.flip(axis) if is_reverse else total


def _nms(call: Call) -> Value:
    """Boxes kept per batch and class, best first, each overlapping no better one too much."""
    call.require_data("how many boxes it keeps")
    boxes, scores = call.tensor(0), call.tensor(1)
    most = call.int_at(2) if call.has(2) else 0
    overlap = call.float_at(3) if call.has(3) else 0.0
    least = call.float_at(4) if call.has(4) else -torch.inf
    kept = [
        (n, c, i)
        for n in range(scores.shape[0])
        for c in range(scores.shape[1])
        for i in _kept(
            _corners(boxes[n], call.flag("center_point_box")), scores[n, c], most, overlap, least
        )
    ]
    return torch.tensor(kept, dtype=torch.int64, device=boxes.device).reshape(-1, 3)


def _corners(boxes: Tensor, is_center: bool) -> Tensor:
    """Boxes as low and high corners."""
    if is_center:
        middle, half = boxes[:, :2], boxes[:, 2:] / 2
        return torch.cat((middle - half, middle + half), 1)
    return torch.cat((boxes[:, :2].minimum(boxes[:, 2:]), boxes[:, :2].maximum(boxes[:, 2:])), 1)


def _kept(boxes: Tensor, scores: Tensor, most: int, overlap: float, least: float) -> list[int]:
    order = [i for i in scores.argsort(descending=True, stable=True).tolist() if scores[i] > least]
    kept: list[int] = []
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for i in order:
        if len(kept) >= most:
            break
        others = torch.tensor(kept, dtype=torch.int64)
        low, high = boxes[others, :2].maximum(boxes[i, :2]), boxes[others, 2:].minimum(boxes[i, 2:])
        common = (high - low).clamp(min=0).prod(1)
        if not (common / (area[others] + area[i] - common) > overlap).any():
            kept.append(i)
    return kept


def _array_feature_extractor(call: Call) -> Value:
    return call.tensor(0).index_select(-1, call.tensor(1).reshape(-1).long())


ROWS: tuple[Row, ...] = (
    *rows(
        {
            "Gather": _gather,
            "GatherElements": _gather_elements,
            "GatherND": _gather_nd,
            "Scatter": _scatter_elements,
            "ScatterElements": _scatter_elements,
            "ScatterND": _scatter_nd,
            "TensorScatter": _tensor_scatter,
            "OneHot": _one_hot,
            "TopK": _top_k,
            "NonZero": _nonzero,
            "Compress": _compress,
            "Unique": _unique,
            "CumSum": lambda call: _cumulative(call, is_product=False),
            "CumProd": lambda call: _cumulative(call, is_product=True),
            "NonMaxSuppression": _nms,
        }
    ),
    Row(op="ArrayFeatureExtractor", domain="ai.onnx.ml", run=_array_feature_extractor),
)
