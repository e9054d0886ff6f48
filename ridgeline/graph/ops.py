"""The op table: which ATen overload packet is which op kind, and what kind of work that is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Category(Enum):
    """What sort of work an op is: decides its engine and where reports sum it up."""

    MATMUL = "matmul"
    CONVOLUTION = "convolution"
    ATTENTION = "attention"
    RECURRENT = "recurrent"
    NORM = "norm"
    SOFTMAX = "softmax"
    ELEMENTWISE = "elementwise"
    TRANSCENDENTAL = "transcendental"
    REDUCTION = "reduction"
    POOL = "pool"
    RESAMPLE = "resample"
    GATHER = "gather"
    SCATTER = "scatter"
    SORT = "sort"
    COPY = "copy"
    VIEW = "view"
    CREATE = "create"
    RANDOM = "random"
    CONTROL = "control"
    NOISE = "noise"
    UNKNOWN = "unknown"


class Engine(Enum):
    """The kind of hardware unit an op needs; the answer to "what must my accelerator support"."""

    MATRIX = "matrix"
    VECTOR = "vector"
    SCALAR = "scalar"
    NONE = "none"


ENGINES: dict[Category, Engine] = {
    Category.MATMUL: Engine.MATRIX,
    Category.CONVOLUTION: Engine.MATRIX,
    Category.ATTENTION: Engine.MATRIX,
    Category.RECURRENT: Engine.MATRIX,
    Category.NORM: Engine.VECTOR,
    Category.SOFTMAX: Engine.VECTOR,
    Category.ELEMENTWISE: Engine.VECTOR,
    Category.TRANSCENDENTAL: Engine.VECTOR,
    Category.REDUCTION: Engine.VECTOR,
    Category.POOL: Engine.VECTOR,
    Category.RESAMPLE: Engine.VECTOR,
    Category.RANDOM: Engine.VECTOR,
    Category.COPY: Engine.VECTOR,
    Category.CREATE: Engine.VECTOR,
    Category.GATHER: Engine.SCALAR,
    Category.SCATTER: Engine.SCALAR,
    Category.SORT: Engine.SCALAR,
    Category.CONTROL: Engine.SCALAR,
    Category.VIEW: Engine.NONE,
    Category.NOISE: Engine.NONE,
    Category.UNKNOWN: Engine.NONE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpRow:
    """One op kind. fixed: arguments a spelling implies, as `transposed=True`."""

    kind: str
    category: Category
    fixed: Mapping[str, bool | int | str] = field(default_factory=dict)

    @property
    def engine(self) -> Engine:
        """The hardware unit it needs."""
        return ENGINES[self.category]

    @property
    def is_free(self) -> bool:
        """Whether it moves no data: a view of its input, or an assertion."""
        return self.category in (Category.VIEW, Category.NOISE)


# category -> lines of packets (of the aten namespace unless dotted). A packet is its own kind,
# unless "kind:" stands before it in its line.
_TABLE: dict[Category, str] = {
    Category.MATMUL: """
        linear
        matmul: matmul mm bmm mv dot vdot inner
        addmm: addmm baddbmm addmv addbmm
        einsum
        bilinear
        grouped_mm: _grouped_mm transformers.grouped_mm_fallback ridgeline.grouped_mm
        scaled_mm: _scaled_mm _scaled_mm_v2
        scaled_grouped_mm: _scaled_grouped_mm _scaled_grouped_mm_v2
        int_mm: _int_mm
        int4_mm: _weight_int4pack_mm _weight_int4pack_mm_for_cpu
        int4_mm: _weight_int4pack_mm_with_scales_and_zeros
        int8_mm: _weight_int8pack_mm
        dyn_quant_mm: _dyn_quant_matmul_4bit
        sparse_mm: _sparse_semi_structured_linear
        """,
    Category.CONVOLUTION: """
        convolution: convolution _convolution conv1d conv2d conv3d
        """,
    Category.ATTENTION: """
        sdpa: scaled_dot_product_attention _scaled_dot_product_flash_attention
        sdpa: _scaled_dot_product_efficient_attention
        sdpa: _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_cudnn_attention
        sdpa: _scaled_dot_product_fused_attention_overrideable
        sdpa: _scaled_dot_product_attention_math
        sdpa: _scaled_dot_product_attention_math_for_mps
        flash_attention: _flash_attention_forward _efficient_attention_forward
        flash_attention: _cudnn_attention_forward
        flex_attention: higher_order.flex_attention
        """,
    Category.RECURRENT: """
        lstm: lstm
        gru: gru
        rnn: rnn_tanh rnn_relu
        lstm_cell
        gru_cell
        """,
    Category.NORM: """
        batch_norm: batch_norm native_batch_norm _native_batch_norm_legit
        batch_norm: _native_batch_norm_legit_no_training
        batch_norm: _native_batch_norm_legit_functional cudnn_batch_norm
        batch_norm: _batch_norm_with_update_functional
        batch_norm: _batch_norm_no_update
        layer_norm: layer_norm native_layer_norm
        group_norm: group_norm native_group_norm
        instance_norm
        rms_norm: rms_norm _fused_rms_norm
        vector_norm: linalg_vector_norm norm
        weight_norm: _weight_norm _weight_norm_interface
        """,
    Category.SOFTMAX: """
        softmax: softmax _softmax _safe_softmax
        log_softmax: log_softmax _log_softmax
        logsumexp
        logcumsumexp
        """,
    Category.ELEMENTWISE: """
        add sub rsub mul div neg abs sign reciprocal square sqrt rsqrt floor ceil round trunc
        frac fmod remainder
        maximum minimum fmax fmin clamp: clamp clamp_min clamp_max
        relu relu6 leaky_relu hardtanh hardswish hardsigmoid prelu: prelu _prelu_kernel
        threshold where lerp addcmul addcdiv floor_divide true_divide: true_divide divide
        eq ne lt le gt ge isnan isinf isfinite logical_and logical_or logical_not logical_xor
        bitwise_and: bitwise_and __and__
        bitwise_or: bitwise_or __or__
        bitwise_not bitwise_xor
        bitwise_shift: bitwise_left_shift bitwise_right_shift __lshift__ __rshift__
        outer: outer ger
        masked_fill fill glu dropout native_dropout: native_dropout
        quantize: quantized_decomposed.quantize_per_tensor
        quantize: quantized_decomposed.quantize_per_channel
        quantize: fake_quantize_per_tensor_affine fake_quantize_per_channel_affine
        dequantize: quantized_decomposed.dequantize_per_tensor
        dequantize: quantized_decomposed.dequantize_per_channel
        quantize: _fake_quantize_learnable_per_tensor_affine
        triu tril nan_to_num copysign heaviside scalar_tensor_op: scalar_tensor polar: polar
        polar: complex
        """,
    Category.TRANSCENDENTAL: """
        exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan atan2 sinh cosh tanh
        sigmoid erf erfc
        erfinv pow gelu silu mish softplus elu: elu celu selu
        log_sigmoid: log_sigmoid log_sigmoid_forward
        logit logaddexp xlogy: xlogy special_xlogy
        """,
    Category.REDUCTION: """
        sum mean amax amin: amin aminmax
        max min prod var: var var_mean std std_mean
        argmax argmin any all cumsum cumprod cummax: cummax cummin
        nll_loss: nll_loss nll_loss_forward nll_loss_nd nll_loss2d_forward
        cross_entropy_loss mse_loss l1_loss: l1_loss smooth_l1_loss huber_loss
        binary_cross_entropy: binary_cross_entropy binary_cross_entropy_with_logits
        cdist: cdist _cdist_forward _euclidean_dist
        kl_div histc bincount count_nonzero median: median kthvalue mode
        cosine_similarity pairwise_distance trace
        """,
    Category.POOL: """
        max_pool: max_pool1d max_pool2d max_pool3d max_pool2d_with_indices
        max_pool: max_pool3d_with_indices mkldnn_max_pool2d
        avg_pool: avg_pool1d avg_pool2d avg_pool3d
        adaptive_avg_pool: adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
        adaptive_avg_pool: _adaptive_avg_pool2d
        adaptive_avg_pool: _adaptive_avg_pool3d
        adaptive_max_pool: adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
        """,
    Category.RESAMPLE: """
        upsample: upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d
        upsample: upsample_bicubic2d
        upsample: upsample_linear1d upsample_trilinear3d _upsample_nearest_exact2d
        upsample: _upsample_bilinear2d_aa
        upsample: _upsample_bicubic2d_aa
        grid_sample: grid_sampler grid_sampler_2d grid_sampler_3d
        im2col: im2col col2im unfold_backward
        """,
    Category.GATHER: """
        embedding
        embedding_bag: embedding_bag _embedding_bag _embedding_bag_forward_only
        gather index_select take take_along_dim index masked_select nonzero: nonzero
        nonzero: nonzero_static
        index: _unsafe_index _unsafe_masked_index
        bucketize: bucketize searchsorted
        one_hot
        """,
    Category.SCATTER: """
        scatter scatter_add scatter_reduce index_put: index_put _unsafe_index_put
        index_add index_copy index_fill select_scatter slice_scatter diagonal_scatter
        as_strided_scatter masked_scatter
        """,
    Category.SORT: "sort topk argsort unique: _unique2 unique_dim",
    Category.COPY: """
        clone copy: _to_copy to copy contiguous
        cat: cat concat stack hstack vstack
        pad: pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
        pad: replication_pad1d replication_pad2d
        pad: replication_pad3d
        repeat: repeat repeat_interleave tile
        roll flip rot90 pixel_shuffle: pixel_shuffle pixel_unshuffle channel_shuffle
        """,
    Category.VIEW: """
        view: view _unsafe_view reshape view_as
        permute: permute transpose t numpy_T movedim swapaxes
        expand: expand expand_as broadcast_to
        squeeze: squeeze
        unsqueeze slice select narrow split: split split_with_sizes chunk unbind
        flatten: flatten unflatten
        as_strided alias: alias detach lift_fresh view_of
        diagonal unfold real: real imag view_as_real view_as_complex
        """,
    Category.CREATE: """
        full: full full_like new_full zeros zeros_like new_zeros ones ones_like new_ones
        empty: empty empty_like new_empty empty_strided new_empty_strided empty_permuted
        arange: arange linspace eye tril_indices triu_indices
        """,
    Category.RANDOM: """
        random: rand rand_like randn randn_like randint randint_like bernoulli multinomial
        random: normal normal_functional
        random: uniform randperm exponential
        """,
    Category.CONTROL: "cond: higher_order.cond",
    Category.NOISE: """
        assertion: _assert_tensor_metadata _assert_async _assert_scalar sym_constrain_range
        assertion: sym_constrain_range_for_size
        assertion: sym_size sym_numel _functional_assert_async
        lift: lift lift_fresh_copy
        """,
}
_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


def _read_table() -> dict[str, OpRow]:
    rows: dict[str, OpRow] = {}
    for category, text in _TABLE.items():
        for line in text.splitlines():
            kind = ""
            for word in line.split():
                if word.endswith(":"):
                    kind = word[:-1]
                    continue
                packet = word if "." in word else f"aten.{word}"
                rows[packet] = OpRow(kind=kind or word, category=category)
    for packet in _TRANSPOSED:
        rows[f"aten.{packet}"] = OpRow(
            kind="convolution", category=Category.CONVOLUTION, fixed={"transposed": True}
        )
    return rows


OPS: Mapping[str, OpRow] = _read_table()


def row_of(packet: str) -> OpRow:
    """The row of an overload packet such as "aten.linear"; an op not in the table is UNKNOWN."""
    return OPS.get(packet) or OpRow(kind=packet.removeprefix("aten."), category=Category.UNKNOWN)
