"""Cost rules of everything that is not matrix work."""

from math import ceil, log2, prod

from ridgeline.cost.op_cost import OpCost, total
from ridgeline.cost.rules import category_rule, cost_of, read_bytes, rule, write_bytes
from ridgeline.graph import Category, Node

# Arithmetic per element, multiply and add counted apart; derived from each op's definition.
_OPS_PER_ELEMENT = {
    "batch_norm": 2,  # inference: one scale and one shift, both folded from the statistics
    "layer_norm": 8,  # mean 1, centre 1, square and sum 2, scale 1, affine 2, root 1
    "group_norm": 8,
    "instance_norm": 8,
    "rms_norm": 4,  # square and sum 2, scale 1, weight 1
    "vector_norm": 2,
    "weight_norm": 4,
    "softmax": 4,  # max, subtract, sum, divide; the exponential is counted as special
    "log_softmax": 4,
    "logsumexp": 3,
    "logcumsumexp": 3,
    "lerp": 3,
    "addcmul": 3,
    "addcdiv": 3,
    "hardswish": 4,
    "hardsigmoid": 3,
    "gelu": 4,
    "silu": 2,
    "mish": 3,
    "var": 4,
    "cdist": 3,
    "upsample": 8,  # bilinear: four taps, each multiply and add
    "grid_sample": 12,
}
# Statistics over the batch, then scale and shift (Ioffe and Szegedy 2015, alg. 1).
_BATCH_NORM_TRAINING_OPS = 7


def _moved(node: Node, vector_ops: int = 0, special_ops: int = 0) -> OpCost:
    return OpCost(
        vector_ops=vector_ops,
        special_ops=special_ops,
        read_bytes=read_bytes(node),
        write_bytes=write_bytes(node),
    )


def _per_element(node: Node) -> int:
    return _OPS_PER_ELEMENT.get(node.op, 1)


@category_rule(Category.ELEMENTWISE)
def _elementwise(node: Node) -> OpCost:
    return _moved(node, _per_element(node) * node.out.numel)


@category_rule(Category.TRANSCENDENTAL)
def _transcendental(node: Node) -> OpCost:
    return _moved(node, _per_element(node) * node.out.numel, node.out.numel)


@category_rule(Category.NORM)
def _norm(node: Node) -> OpCost:
    return _moved(node, _per_element(node) * node.tensors[0].numel)


@rule("batch_norm")
def _batch_norm(node: Node) -> OpCost:
    is_training = any(
        node.has(name) and node.arg(name) is True for name in ("training", "train")
    ) or node.target.startswith("aten._batch_norm_with_update")
    ops = _BATCH_NORM_TRAINING_OPS if is_training else _OPS_PER_ELEMENT["batch_norm"]
    return _moved(node, ops * node.tensors[0].numel)


@category_rule(Category.SOFTMAX)
def _softmax(node: Node) -> OpCost:
    x = node.tensors[0]
    return _moved(node, _per_element(node) * x.numel, x.numel)


@category_rule(Category.REDUCTION)
def _reduction(node: Node) -> OpCost:
    return _moved(node, _per_element(node) * node.tensors[0].numel)


@rule("cdist")
def _cdist(node: Node) -> OpCost:
    return _moved(node, _per_element(node) * node.out.numel * node.tensors[0].shape[-1])


@rule("cross_entropy_loss")
def _cross_entropy(node: Node) -> OpCost:
    logits = node.tensors[0]
    return _moved(node, _OPS_PER_ELEMENT["log_softmax"] * logits.numel, logits.numel)


@rule("max_pool", "avg_pool")
def _pool(node: Node) -> OpCost:
    window = node.arg("kernel_size")
    taps = prod(w for w in window if isinstance(w, int)) if isinstance(window, tuple) else 1
    return _moved(node, taps * node.out.numel)


@rule("adaptive_avg_pool", "adaptive_max_pool")
def _adaptive_pool(node: Node) -> OpCost:
    return _moved(node, node.tensors[0].numel)


@category_rule(Category.RESAMPLE)
def _resample(node: Node) -> OpCost:
    is_nearest = "nearest" in node.target
    return _moved(node, 0 if is_nearest else _per_element(node) * node.out.numel)


@category_rule(Category.GATHER)
def _gather(node: Node) -> OpCost:
    """Reads only the rows that it takes, and the indices."""
    indices = sum(s.nbytes for s in node.tensors[1:])
    return OpCost(read_bytes=write_bytes(node) + indices, write_bytes=write_bytes(node))


@rule("embedding_bag")
def _embedding_bag(node: Node) -> OpCost:
    """Every index reads one row; the rows of a bag are added up."""
    weight, indices = node.spec("weight"), node.spec("indices")
    row_bytes = weight.shape[-1] * weight.itemsize
    return OpCost(
        vector_ops=indices.numel * weight.shape[-1],
        read_bytes=indices.numel * row_bytes + indices.nbytes,
        write_bytes=node.out.nbytes,
    )


@rule("nonzero", "masked_select")
def _select_by_value(node: Node) -> OpCost:
    return _moved(node, node.tensors[0].numel)


@category_rule(Category.SCATTER)
def _scatter(node: Node) -> OpCost:
    """The target is updated in place by any executor: only what is written moves."""
    moved = sum(s.nbytes for s in node.tensors[1:])
    return OpCost(read_bytes=moved, write_bytes=moved)


@category_rule(Category.SORT)
def _sort(node: Node) -> OpCost:
    x = node.tensors[0]
    depth = ceil(log2(max(2, x.shape[-1] if x.shape else 1)))
    return _moved(node, x.numel * depth)


@category_rule(Category.COPY)
def _copy(node: Node) -> OpCost:
    return _moved(node)


@rule("copy")
def _copy_into(node: Node) -> OpCost:
    # aten.copy(self, src) overwrites self, so only src is read; _to_copy has one operand anyway
    source = node.tensors[-1]
    return OpCost(read_bytes=source.nbytes, write_bytes=node.out.nbytes)


@category_rule(Category.CREATE)
def _create(node: Node) -> OpCost:
    return OpCost(write_bytes=write_bytes(node))


@category_rule(Category.RANDOM)
def _random(node: Node) -> OpCost:
    # a counter-based generator spends about ten integer rounds a value (Philox4x32-10, SC 2011)
    return OpCost(vector_ops=10 * node.out.numel, write_bytes=write_bytes(node))


@category_rule(Category.VIEW, Category.NOISE)
def _free(node: Node) -> OpCost:
    return OpCost()


@rule("cond")
def _cond(node: Node) -> OpCost:
    """Both branches, each at probability one half: the graph cannot say which is taken."""
    branches = [total(cost_of(child) for child in branch) for branch in node.branches]
    return OpCost(
        **{
            name: sum(getattr(b, name) for b in branches) // max(1, len(branches))
            for name in OpCost.__slots__
        }
    )
