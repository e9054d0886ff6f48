"""Arithmetic and bytes of everything that is not matrix work, worked out by hand."""

import pytest
import torch
from cost_helpers import cost, meta, node_of
from torch import Tensor

from ridgeline.cost import OpCost, cost_of
from ridgeline.cost.vector_rules import uses_batch_statistics
from ridgeline.graph import Category

aten = torch.ops.aten
LONG = torch.int64
X = (8, 16)  # 128 elements, 512 bytes
IMAGE = (2, 4, 6, 6)  # 288 elements, 1152 bytes


def index(*shape: int) -> Tensor:
    return meta(*shape, dtype=LONG)


# name -> (op, args, arithmetic, transcendentals, bytes read, bytes written)
GOLDEN = {
    "add": (aten.add.Tensor, (meta(*X), meta(*X)), 128, 0, 1024, 512),
    "add of a row": (aten.add.Tensor, (meta(*X), meta(16)), 128, 0, 512 + 64, 512),
    "compare": (aten.gt.Scalar, (meta(*X), 0), 128, 0, 512, 128),
    "exp": (aten.exp.default, (meta(*X),), 128, 128, 512, 512),
    "gelu": (aten.gelu.default, (meta(*X),), 4 * 128, 128, 512, 512),
    "softmax": (aten.softmax.int, (meta(*X), -1), 4 * 128, 128, 512, 512),
    "sum": (aten.sum.default, (meta(*X),), 128, 0, 512, 4),
    "layer_norm": (aten.layer_norm.default, (meta(*X), [16], meta(16)), 8 * 128, 0, 576, 512),
    "max_pool 2x2": (aten.max_pool2d.default, (meta(*IMAGE), [2, 2]), 4 * 72, 0, 1152, 288),
    "max_pool, one side": (aten.max_pool2d.default, (meta(*IMAGE), [2]), 4 * 72, 0, 1152, 288),
    "avg_pool1d": (aten.avg_pool1d.default, (meta(2, 4, 6), [3]), 3 * 16, 0, 192, 64),
    "nll_loss_backward, which writes one value a row into zeros": (
        aten.nll_loss_backward.default,
        (meta(), meta(*X), index(8), None, 1, -100, meta()), 0, 0, 4 + 64, 512,
    ),
    "nearest, backward": (
        aten.upsample_nearest2d_backward.default,
        (meta(2, 4, 12, 12), [12, 12], [2, 4, 6, 6]), 1152, 0, 4608, 1152,
    ),
    "bilinear, backward": (
        aten.upsample_bilinear2d_backward.default,
        (meta(2, 4, 12, 12), [12, 12], [2, 4, 6, 6], False), 8 * 1152, 0, 4608, 1152,
    ),
    "slice_backward": (
        aten.slice_backward.default, (meta(4, 16), [8, 16], 0, 0, 4, 1), 0, 0, 256, 512,
    ),
    "pad_backward": (
        aten.reflection_pad1d_backward.default,
        (meta(2, 4, 8), meta(2, 4, 6), [1, 1]), 64, 0, 256 + 192, 192,
    ),
    "cdist_backward": (
        aten._cdist_backward.default,
        (meta(8, 4), meta(8, 4), meta(6, 4), 2.0, meta(8, 6)),
        3 * 8 * 6 * 4, 0, 128 + 128 + 96 + 192, 128,
    ),
    "max_pool with indices": (
        aten.max_pool2d_with_indices.default, (meta(*IMAGE), [2, 2]), 4 * 72, 0, 1152, 288 + 576,
    ),
    "global pool": (
        aten.adaptive_avg_pool2d.default, (meta(*IMAGE), [1, 1]), 288, 0, 1152, 32,
    ),
    "nearest": (
        aten.upsample_nearest2d.vec, (meta(*IMAGE), None, [2.0, 2.0]), 0, 0, 1152, 4608,
    ),
    "bilinear": (
        aten.upsample_bilinear2d.vec, (meta(*IMAGE), None, True, [2.0, 2.0]), 8 * 1152, 0, 1152,
        4608,
    ),
    # five rows of 64 bytes, five int64
    "embedding": (aten.embedding.default, (meta(1000, 16), index(5)), 0, 0, 320 + 40, 320),
    "index": (aten.index.Tensor, (meta(1000, 16), [index(5)]), 0, 0, 320 + 40, 320),
    "gather": (aten.gather.default, (meta(*X), 1, index(8, 2)), 0, 0, 64 + 128, 64),
    "one_hot": (aten.one_hot.default, (index(8), 16), 0, 0, 64, 8 * 16 * 8),
    # 7 boundaries: three steps of a binary search
    "bucketize": (aten.bucketize.Tensor, (meta(*X), meta(7)), 3 * 128, 0, 512 + 28, 1024),
    "searchsorted": (aten.searchsorted.Tensor, (meta(7), meta(*X)), 3 * 128, 0, 540, 1024),
    "slice_scatter": (
        aten.slice_scatter.default, (meta(4, 64, 16), meta(4, 1, 16), 1, 3, 4), 0, 0, 256, 256,
    ),
    "index_put": (
        aten.index_put.default, (meta(*X), [index(5)], meta(5, 16)), 0, 0, 320 + 40, 320,
    ),
    "index_put of half": (  # written in the target's dtype
        aten.index_copy.default, (meta(*X), 0, index(5), meta(5, 16)), 0, 0, 360, 320,
    ),
    "scatter of a number": (aten.scatter.value, (meta(*X), 0, index(5, 16), 1.0), 0, 0, 640, 320),
    # adding reads what is there as well
    "scatter_add": (
        aten.scatter_add.default, (meta(*X), 0, index(5, 16), meta(5, 16)), 80, 0, 640 + 640, 320,
    ),
    "accumulate": (
        aten.index_put.default, (meta(*X), [index(5)], meta(5, 16), True), 80, 0, 680, 320,
    ),
    "topk": (aten.topk.default, (meta(*X), 4), 4 * 128, 0, 512, 128 + 256),
    "sort": (aten.sort.default, (meta(*X),), 4 * 128, 0, 512, 512 + 1024),
    "cat": (aten.cat.default, ([meta(*X), meta(*X)],), 0, 0, 1024, 1024),
    "repeat": (aten.repeat.default, (meta(*X), [3, 1]), 0, 0, 512, 1536),
    "copy into": (aten.copy.default, (meta(*X), meta(16)), 0, 0, 64, 512),
    "type_as": (aten.type_as.default, (meta(*X), index(9, 9)), 0, 0, 512, 1024),
    "to.other": (aten.to.other, (meta(*X), index(9, 9)), 0, 0, 512, 1024),
    "view": (aten.view.default, (meta(*X), [128]), 0, 0, 0, 0),
    "zeros_like": (aten.zeros_like.default, (meta(*X),), 0, 0, 0, 512),
    "empty_like": (aten.empty_like.default, (meta(*X),), 0, 0, 0, 0),
    "rand_like": (aten.rand_like.default, (meta(*X),), 1280, 0, 0, 512),
    "cross_entropy": (
        aten.cross_entropy_loss.default, (meta(5, 16), index(5)), 4 * 80, 80, 320 + 40, 4,
    ),
    "cdist": (aten.cdist.default, (meta(8, 4), meta(6, 4)), 3 * 48 * 4, 0, 128 + 96, 192),
    # 8 real transforms of 16 points: 5/2 * 16 * 4 each; 9 complex values come out
    "rfft": (aten.fft_rfft.default, (meta(*X),), 8 * 160, 0, 512, 8 * 9 * 8),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name: str) -> None:
    op, args, vector_ops, special_ops, read_bytes, write_bytes = GOLDEN[name]
    assert cost(op, *args) == OpCost(
        vector_ops=vector_ops,
        special_ops=special_ops,
        read_bytes=read_bytes,
        write_bytes=write_bytes,
    )


def test_a_broadcast_operand_is_read_once() -> None:
    row = meta(16).expand(8, 16)
    assert cost(aten.add.Tensor, meta(*X), row).read_bytes == 512 + 64


def test_embedding_bag_reads_every_row_of_every_bag() -> None:
    found = cost(aten.embedding_bag.default, meta(1000, 16), index(12), index(3))
    assert found.vector_ops == 12 * 16
    assert found.read_bytes == 12 * 64 + 12 * 8 + 3 * 8
    assert found.flops == 0


STATISTICS = (meta(4), meta(4), meta(4), meta(4))
NORM_OUT = (meta(*IMAGE), meta(4), meta(4))
LEGIT = aten._native_batch_norm_legit_functional
BATCH_NORMS = [
    (aten.batch_norm.default, (*STATISTICS, True, 0.1, 1e-5, False), None, True),
    (aten.batch_norm.default, (*STATISTICS, False, 0.1, 1e-5, False), None, False),
    (aten.native_batch_norm.default, (*STATISTICS, True, 0.1, 1e-5), None, True),
    (aten.native_batch_norm.default, (*STATISTICS, False, 0.1, 1e-5), None, False),
    (aten._native_batch_norm_legit.default, (*STATISTICS, True, 0.1, 1e-5), None, True),
    (aten._native_batch_norm_legit.no_stats, (meta(4), meta(4), True, 0.1, 1e-5), None, True),
    (LEGIT.default, (*STATISTICS, True, 0.1, 1e-5), None, True),
    (LEGIT.default, (*STATISTICS, False, 0.1, 1e-5), None, False),
    (aten._native_batch_norm_legit_no_training.default, (*STATISTICS, 0.1, 1e-5), None, False),
    (aten._batch_norm_with_update_functional.default, (*STATISTICS, 0.1, 1e-5), NORM_OUT, True),
    (aten._batch_norm_no_update.default, (*STATISTICS, 0.1, 1e-5), NORM_OUT, False),
    (aten.cudnn_batch_norm.default, (*STATISTICS, True, 0.1, 1e-5), NORM_OUT, True),
]  # fmt: skip


@pytest.mark.parametrize(("op", "args", "out", "is_training"), BATCH_NORMS)
def test_batch_norm_training_is_seen_in_every_spelling(op, args, out, is_training: bool) -> None:
    node = node_of(op, meta(*IMAGE), *args, out=out)
    assert node.row.category is Category.NORM
    assert uses_batch_statistics(node) is is_training
    assert cost_of(node).vector_ops == (7 if is_training else 2) * 288
