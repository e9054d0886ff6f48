"""Attention, as one kernel."""

from math import sqrt

import torch

from ridgeline.backends.native.call import Call, Result, floating
from ridgeline.backends.native.value import Value, laid, type_of
from ridgeline.errors import UnsupportedOp

_MOST_WIDTH = 512  # of a block of keys and values in scratch memory
_BY_TOKEN = (0, 2, 1, 3)  # heads side by side: what the next layer reads


def _attention(call: Call) -> Result:
    floating(call.out)
    if call.out.dim() != 4 or call.arguments.get("dropout_p"):
        raise UnsupportedOp("it is no attention of four dimensions without dropout")
    q, k, v = (_dense_rows(call, call.value(n)) for n in ("query", "key", "value"))
    if not q.dtype == k.dtype == v.dtype:
        raise UnsupportedOp("its operands differ in type")
    batch, heads, queries, width = q.shape
    if k.shape[0] != batch or heads % k.shape[1]:
        raise UnsupportedOp("its batches differ")
    call.within("channels per head", max(width, v.shape[3]), _MOST_WIDTH)
    scale = call.arguments.get("scale")
    target = call.blank(_BY_TOKEN)
    if target.spec.stride(-1) != 1:
        target = call.builder.blank(laid(call.out, _BY_TOKEN))
    fields: dict[str, object] = {
        "q_ref": q.place,
        "k_ref": k.place,
        "v_ref": v.place,
        "y_ref": target.place,
        "q_type": q.type,
        "y_type": target.type,
        "batch": batch,
        "heads": heads,
        "kv_heads": k.shape[1],
        "queries": queries,
        "keys": k.shape[2],
        "width": width,
        "value_width": v.shape[3],
        "is_causal": call.flag("is_causal"),
        "scale_bits": 1 / sqrt(width) if scale is None else scale,
        **_mask(call, (batch, heads, queries, k.shape[2])),
    }
    for name, value in {"q": q, "k": k, "v": v, "y": target}.items():
        for axis, stride in zip(("batch", "head", "row"), value.spec.stride()[:3], strict=True):
            fields[f"{name}_{axis}"] = stride
    call.builder.emit("attention", fields)  # type: ignore[arg-type]
    return target


def _dense_rows(call: Call, value: Value) -> Value:
    is_dense = value.spec.stride(-1) == 1 or value.shape[-1] == 1
    return value if is_dense else call.dense(value)


def _mask(call: Call, shape: tuple[int, ...]) -> dict[str, object]:
    axes = ("batch", "head", "row", "column")
    if not call.has("attn_mask"):
        return {"mask_ref": None, "mask_type": 0, **{f"mask_{a}": 0 for a in axes}}
    mask = call.value("attn_mask")
    if mask.dtype not in (torch.float32, torch.bool):
        raise UnsupportedOp(f"its mask is {mask.dtype}")
    wide = mask.spec.expand(shape)
    strides = zip(axes, wide.stride(), strict=True)
    return {
        "mask_ref": mask.place,
        "mask_type": type_of(mask.spec),
        **{f"mask_{axis}": stride for axis, stride in strides},
    }


ROWS = {"aten.scaled_dot_product_attention": _attention}
