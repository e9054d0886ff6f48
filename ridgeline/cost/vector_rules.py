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
    ops = _BATCH_NORM_TRAINING_OPS if uses_batch_statistics(node) else _per_element(node)
    return _moved(node, ops * node.tensors[0].numel)


def uses_batch_statistics(node: Node) -> bool:
    """Whether a batch_norm node is in training mode, in every spelling."""
    if node.target.startswith("aten._batch_norm_with_update"):
        return True
    return node.has("training") and node.arg("training") is True


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
    sides = [w for w in window if isinstance(w, int)] if isinstance(window, tuple) else [1]
    dims = next(int(c) for c in node.target if c in "123")
    taps = sides[0] ** dims if len(sides) == 1 else prod(sides)
    return _moved(node, taps * node.out.numel)


@rule("adaptive_avg_pool", "adaptive_max_pool")
def _adaptive_pool(node: Node) -> OpCost:
    return _moved(node, node.tensors[0].numel)


@rule("pool_backward")
def _pool_backward(node: Node) -> OpCost:
    return _moved(node, node.out.numel)


@category_rule(Category.RESAMPLE)
def _resample(node: Node) -> OpCost:
    is_nearest = "nearest" in node.target
    return _moved(node, 0 if is_nearest else _per_element(node) * node.out.numel)


@rule("upsample_backward")
def _upsample_backward(node: Node) -> OpCost:
    """Every output pixel's gradient goes to the taps that made it; nearest has one."""
    taps = 1 if "nearest" in node.target else _OPS_PER_ELEMENT["upsample"]
    return _moved(node, taps * node.spec("grad_output").numel)


@rule("grid_sample_backward")
def _grid_sample_backward(node: Node) -> OpCost:
    """Gradients of the four taps, and of the place they are taken at."""
    return _moved(node, 2 * _OPS_PER_ELEMENT["grid_sample"] * node.spec("grad_output").numel)


@rule("cdist_backward")
def _cdist_backward(node: Node) -> OpCost:
    """Per pair and coordinate: difference, scale, add."""
    pairs = node.spec("cdist").numel
    return _moved(node, _OPS_PER_ELEMENT["cdist"] * pairs * node.spec("x1").shape[-1])


@rule("pad_backward")
def _pad_backward(node: Node) -> OpCost:
    return _moved(node, node.spec("grad_output").numel)


@category_rule(Category.GATHER)
def _gather(node: Node) -> OpCost:
    """Reads only the rows that it takes, and the indices."""
    indices = sum(s.nbytes for s in node.tensors[1:])
    return OpCost(read_bytes=write_bytes(node) + indices, write_bytes=write_bytes(node))


@rule("one_hot")
def _one_hot(node: Node) -> OpCost:
    return _moved(node)


@rule("bucketize")
def _bucketize(node: Node) -> OpCost:
    """A binary search in the boundaries for every value."""
    boundaries = node.spec("boundaries" if node.has("boundaries") else "sorted_sequence")
    steps = ceil(log2(boundaries.shape[-1] + 1)) if boundaries.numel else 0
    return _moved(node, node.out.numel * steps)


@rule("fft")
def _fft(node: Node) -> OpCost:
    """5 n log2 n for a complex transform of n points (Cooley and Tukey 1965), half for a real one.

    Which dimensions are transformed differs by spelling: n is the last dimension's, or for the
    n-dimensional spellings the whole of them.
    """
    x = max(node.tensors[0], node.out, key=lambda spec: spec.numel)
    dims = node.arg("dim") if "dim" in node.args else None
    axes = [d for d in (dims if isinstance(dims, tuple) else (dims,)) if isinstance(d, int)]
    points = prod(x.shape[d] for d in axes) if axes else x.numel
    is_real = not all(s.dtype.startswith("complex") for s in (node.tensors[0], node.out))
    ops = 5 * x.numel * log2(max(1, points)) / (2 if is_real else 1)
    return _moved(node, round(ops))


@rule("embedding_bag")
def _embedding_bag(node: Node) -> OpCost:
    """Every index reads one row; the rows of a bag are added up."""
    weight, indices = node.spec("weight"), node.spec("indices")
    row_bytes = weight.shape[-1] * weight.itemsize
    return OpCost(
        vector_ops=indices.numel * weight.shape[-1],
        read_bytes=indices.numel * row_bytes + sum(s.nbytes for s in node.tensors[1:]),
        write_bytes=write_bytes(node),
    )


@rule("nonzero", "masked_select")
def _select_by_value(node: Node) -> OpCost:
    return _moved(node, node.tensors[0].numel)


@category_rule(Category.SCATTER)
def _scatter(node: Node) -> OpCost:
    """The target is updated in place by any executor: only what is written moves."""
    updates = node.tensors[1:]
    written = max((s.numel for s in updates), default=node.out.numel) * node.out.itemsize
    if _accumulates(node):
        return OpCost(
            vector_ops=written // node.out.itemsize,
            read_bytes=sum(s.nbytes for s in updates) + written,
            write_bytes=written,
        )
    return OpCost(read_bytes=sum(s.nbytes for s in updates), write_bytes=written)


def _accumulates(node: Node) -> bool:
    """Whether it adds to what is there, and so reads that first."""
    is_adding = node.op in ("scatter_add", "scatter_reduce", "index_add", "index_reduce")
    return is_adding or (node.has("accumulate") and node.arg("accumulate") is True)


@rule("max_unpool", "embedding_dense_backward", "embedding_bag_backward")
def _fresh_scatter(node: Node) -> OpCost:
    """Scatters into new memory, which is written whole."""
    return _moved(node)


@rule("nll_loss_backward")
def _nll_loss_backward(node: Node) -> OpCost:
    """One value per target into zeros; the log-probabilities give only their shape."""
    return OpCost(
        read_bytes=node.spec("grad_output").nbytes + node.spec("target").nbytes,
        write_bytes=write_bytes(node),
    )


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
    """aten.copy(self, src) overwrites self, and to.other and type_as take only a dtype from
    `other`: one operand is read.
    """
    source = node.spec("src") if node.has("src") else node.tensors[0]
    return OpCost(read_bytes=source.nbytes, write_bytes=node.out.nbytes)


@rule("empty")
def _allocate(node: Node) -> OpCost:
    return OpCost()


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


@rule("inline")
def _inline(node: Node) -> OpCost:
    """A sub-graph that always runs, e.g. a region under no_grad."""
    return total(cost_of(child) for branch in node.branches for child in branch)


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
