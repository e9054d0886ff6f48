"""Which measured kernel a node is, and at which size: the bridge from the op table to calibration's
KERNEL_FEATURES.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from ridgeline.cost.interpolate import Sample
from ridgeline.graph import Category, Node, TensorSpec
from ridgeline.machines.tables import KERNEL_FEATURES


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A kernel of KERNEL_FEATURES and the values of its features. is_packable: whether a frozen
    graph packs the second operand once and for all, if that is a weight.
    """

    kind: str
    features: tuple[float, ...]
    is_packable: bool = True

    def __post_init__(self) -> None:
        if len(self.features) != len(KERNEL_FEATURES[self.kind]):
            raise ValueError(f"{self.kind} takes {KERNEL_FEATURES[self.kind]}, not {self.features}")


Group = tuple[float, str]
# Transcendental kinds that calibration does not time -> the timed one with the same inner work.
_LIKE: Mapping[str, str] = {
    "exp": "exp", "exp2": "exp", "expm1": "exp", "log": "exp", "log2": "exp", "log10": "exp",
    "log1p": "exp", "sin": "exp", "cos": "exp", "softplus": "tanh", "mish": "tanh",
    "tanh": "tanh", "erf": "erf", "erfc": "erf", "erfinv": "erf", "gelu": "gelu",
    "silu": "silu", "sigmoid": "silu", "elu": "exp", "log_sigmoid": "exp", "logit": "exp",
}  # fmt: skip
_ROWWISE = frozenset({"layer_norm", "rms_norm", "group_norm", "instance_norm"})
# Kinds measured with weights from main memory as well -> the kind those samples are filed under.
COLD: Mapping[str, str] = {"gemm": "gemm_cold", "convolution": "convolution_cold"}
POOLS = ("max_pool", "avg_pool")
_POOLS: Mapping[str, str] = {"max_pool": "max_pool", "adaptive_max_pool": "max_pool",
                             "avg_pool": "avg_pool"}  # fmt: skip


def work_in(kind: str, features: Sequence[float]) -> float:
    """Work of one call in the unit of its rate, as KERNEL_UNITS defines it; of pools in taps."""
    if kind in ("gemm", "gemm_cold", "convolution", "convolution_cold"):
        return 2.0 * prod(features[:4])  # a convolution's fourth feature counts its groups
    if kind == "attention":
        return 4.0 * prod(features)
    if kind == "lstm":
        seq, batch, inputs, hidden = features
        return 8.0 * seq * batch * hidden * (inputs + hidden)
    if kind == "embedding":
        return 2.0 * prod(features)
    return prod(features) if kind in ("softmax", "layer_norm", *POOLS) else features[0]


def weights_in(features: Sequence[float]) -> float:
    """Elements of the second operand of a product, or of a convolution's filters."""
    return prod(features[1:4])


def in_taps(kind: str, samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """The samples with pools' rates in taps per second, not results: each tap is looked at."""
    if kind not in POOLS:
        return tuple(samples)
    return tuple((*sample[:-1], sample[-1] * sample[1]) for sample in samples)


def matrix_call(node: Node) -> Call | None:
    """The product, convolution, attention or cell that `node` is; None: no kernel describes it."""
    make = _MATRIX.get(node.op)
    return make(node) if make else None


def vector_call(node: Node) -> Call | None:
    """The timed kernel with the same inner work as this node; None: it only streams memory."""
    if node.op in _LIKE:
        return Call(kind=_LIKE[node.op], features=(node.out.numel,))
    if node.op in _POOLS:
        return Call(kind=_POOLS[node.op], features=(node.out.numel, _taps(node)))
    if node.row.category is Category.SOFTMAX:
        return _rows("softmax", node.tensors[0], _row_length(node))
    if node.op in _ROWWISE:
        return _rows("layer_norm", node.tensors[0], _row_length(node))
    if node.op == "batch_norm":
        return Call(kind="batch_norm", features=(node.tensors[0].numel,))
    return None


def group_of(features: Sequence[float]) -> Group:
    """The class within which convolutions resemble each other: spatial dimensions, and whether each
    channel, each group or everything together is one product.
    """
    _, n, _, groups, dims = features
    if groups == 1:
        return dims, "dense"
    return dims, "depthwise" if n == 1 else "grouped"


def _linear(node: Node) -> Call:
    weight = node.spec("weight")
    n = weight.shape[0] if len(weight.shape) > 1 else 1
    return _gemm(node.out.numel // n, n, weight.shape[-1])


def _matmul(node: Node) -> Call | None:
    *_, left, right = node.tensors[: 3 if node.op == "addmm" else 2]
    if not (left.shape and right.shape):
        return None  # a product with a number
    n = node.out.shape[-1] if len(node.out.shape) > 1 else 1
    depth = left.shape[-1]
    if node.target.startswith("aten.addbmm"):  # sums over the batch as well
        depth *= left.shape[0]
    return _gemm(node.out.numel // max(1, n), n, depth)


def _grouped(node: Node) -> Call:
    """Rows spread evenly over the groups they meet."""
    left, right = node.tensors[0], node.tensors[1]
    n, k = right.shape[-1], left.shape[-1]
    groups = right.shape[0] if len(right.shape) == 3 else 1
    m = max(1, node.out.numel // n // groups)
    return Call(kind="gemm", features=(m, n, k), is_packable=False)


def _gemm(m: int, n: int, k: int) -> Call:
    return Call(kind="gemm", features=(m, n, k))


def _convolution(node: Node) -> Call:
    # x: (N, C, *S); w: (K, C/groups, *R), transposed: (C, K/groups, *R)
    x, w = node.spec("input"), node.spec("weight")
    is_transposed = node.has("transposed") and bool(node.arg("transposed"))
    pivot = x if is_transposed else node.out
    groups = node.int_arg("groups") if node.has("groups") else 1
    dims = len(w.shape) - 2
    channels = pivot.shape[-dims - 1]
    features = (pivot.numel // channels, channels // groups, prod(w.shape[1:]), groups)
    # a line is a picture one pixel high
    return Call(kind="convolution", features=(*features, max(2, dims)))


def _attention(node: Node) -> Call:
    q, k = node.tensors[0], node.tensors[1]
    if node.op == "flash_attention":  # heads behind the sequence
        (length, heads, dim), keys = q.shape[-3:], k.shape[-3]
        batch_heads = q.numel // (length * dim * heads) * heads
    else:
        (length, dim), keys = q.shape[-2:], k.shape[-2]
        batch_heads = q.numel // (length * dim)
    return Call(kind="attention", features=(batch_heads, length, keys, dim))


def _lstm(node: Node) -> Call:
    x = node.spec("input") if node.has("input") else node.spec("data")
    recurrent = node.spec_list("params")[1]  # (gates * hidden, hidden)
    is_batch_first = node.has("batch_first") and bool(node.arg("batch_first"))
    seq, batch = x.shape[:2] if len(x.shape) == 3 else (x.shape[0], 1)
    if is_batch_first:
        seq, batch = batch, seq
    return Call(kind="lstm", features=(seq, batch, x.shape[-1], recurrent.shape[-1]))


_MATRIX: Mapping[str, Callable[[Node], Call | None]] = {
    "linear": _linear,
    "matmul": _matmul,
    "addmm": _matmul,
    "int_mm": _matmul,
    "scaled_mm": _matmul,
    "grouped_mm": _grouped,
    "scaled_grouped_mm": _grouped,
    "convolution": _convolution,
    "sdpa": _attention,
    "flex_attention": _attention,
    "flash_attention": _attention,
    "lstm": _lstm,
}


def _rows(kind: str, x: TensorSpec, length: int) -> Call:
    return Call(kind=kind, features=(max(1, x.numel // max(1, length)), max(1, length)))


def _row_length(node: Node) -> int:
    """Elements over which a norm or a softmax runs once."""
    x = node.tensors[0]
    shape = node.args.get("normalized_shape")
    if isinstance(shape, tuple):
        return prod(size for size in shape if isinstance(size, int))
    if node.op == "group_norm":
        return x.numel // (x.shape[0] * node.int_arg("num_groups"))
    if node.op == "instance_norm":
        return prod(x.shape[2:])
    dim = node.args.get("dim")
    return x.shape[dim] if isinstance(dim, int) and x.shape else x.numel


def _taps(node: Node) -> int:
    window = node.args.get("kernel_size")
    if isinstance(window, tuple):
        return prod(size for size in window if isinstance(size, int))
    return max(1, node.tensors[0].numel // max(1, node.out.numel))
