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
        matmul: matmul linalg_matmul mm bmm mv dot vdot inner
        tensordot vecdot: linalg_vecdot
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
        convolution_backward
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
        sdpa_backward: _scaled_dot_product_flash_attention_backward
        sdpa_backward: _scaled_dot_product_efficient_attention_backward
        sdpa_backward: _scaled_dot_product_flash_attention_for_cpu_backward
        sdpa_backward: _scaled_dot_product_cudnn_attention_backward
        flex_attention: higher_order.flex_attention
        """,
    Category.RECURRENT: """
        lstm: lstm
        gru: gru
        rnn: rnn_tanh rnn_relu
        rnn_layer: mkldnn_rnn_layer
        rnn_layer_backward: mkldnn_rnn_layer_backward
        lstm_cell
        gru_cell
        rnn_cell: rnn_tanh_cell rnn_relu_cell
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
        norm_backward: native_batch_norm_backward native_layer_norm_backward
        norm_backward: native_group_norm_backward _fused_rms_norm_backward
        """,
    Category.SOFTMAX: """
        softmax: softmax _softmax _safe_softmax special_softmax
        log_softmax: log_softmax _log_softmax special_log_softmax
        softmax_backward: _softmax_backward_data _log_softmax_backward_data
        logsumexp: logsumexp special_logsumexp
        logcumsumexp
        """,
    Category.ELEMENTWISE: """
        add rsub sub: sub subtract mul: mul multiply div: div divide true_divide
        neg: neg negative abs: abs absolute sign: sign sgn
        reciprocal square sqrt rsqrt floor ceil round: round special_round trunc: trunc fix
        frac fmod remainder ldexp deg2rad rad2deg conj_physical
        maximum minimum fmax fmin clamp: clamp clamp_min clamp_max clip
        relu relu6 leaky_relu hardtanh hardswish hardsigmoid prelu: prelu _prelu_kernel
        threshold where lerp addcmul addcdiv floor_divide hardshrink softshrink rrelu
        eq ne: ne not_equal lt: lt less le: le less_equal gt: gt greater ge: ge greater_equal
        isnan isinf isfinite isclose isposinf isneginf signbit
        logical_and logical_or logical_not logical_xor
        bitwise_and: bitwise_and __and__
        bitwise_or: bitwise_or __or__
        bitwise_xor: bitwise_xor __xor__
        bitwise_not bitwise_shift: bitwise_left_shift bitwise_right_shift __lshift__ __rshift__
        outer: outer ger addr kron cross: cross linalg_cross
        masked_fill fill glu dropout: dropout alpha_dropout feature_dropout feature_alpha_dropout
        native_dropout
        quantize: quantized_decomposed.quantize_per_tensor
        quantize: quantized_decomposed.quantize_per_channel
        quantize: fake_quantize_per_tensor_affine fake_quantize_per_channel_affine
        dequantize: quantized_decomposed.dequantize_per_tensor
        dequantize: quantized_decomposed.dequantize_per_channel
        quantize: _fake_quantize_learnable_per_tensor_affine
        quantize: _fake_quantize_learnable_per_channel_affine
        quantize: fake_quantize_per_tensor_affine_cachemask
        quantize: fake_quantize_per_channel_affine_cachemask
        triu tril nan_to_num copysign heaviside scalar_tensor_op: scalar_tensor polar: polar
        polar: complex
        pointwise_backward: threshold_backward leaky_relu_backward hardtanh_backward
        pointwise_backward: hardswish_backward hardsigmoid_backward native_dropout_backward
        pointwise_backward: _prelu_kernel_backward hardshrink_backward softshrink_backward
        pointwise_backward: mse_loss_backward smooth_l1_loss_backward huber_loss_backward
        """,
    Category.TRANSCENDENTAL: """
        exp log log2 log10 hypot angle polygamma special_entr special_ndtr special_log_ndtr
        exp2: exp2 special_exp2 expm1: expm1 special_expm1 log1p: log1p special_log1p
        sin cos tan asin: asin arcsin acos: acos arccos atan: atan arctan atan2: atan2 arctan2
        sinh cosh tanh asinh: asinh arcsinh acosh: acosh arccosh atanh: atanh arctanh
        sigmoid: sigmoid special_expit erf: erf special_erf erfc: erfc special_erfc
        erfinv: erfinv special_erfinv pow: pow float_power
        sinc: sinc special_sinc lgamma: lgamma special_gammaln digamma: digamma special_digamma
        gelu silu mish softplus elu: elu celu selu
        log_sigmoid: log_sigmoid log_sigmoid_forward
        pointwise_backward: gelu_backward silu_backward sigmoid_backward tanh_backward
        pointwise_backward: elu_backward mish_backward softplus_backward log_sigmoid_backward
        pointwise_backward: logit_backward glu_backward binary_cross_entropy_backward
        logit logaddexp: logaddexp logaddexp2 xlogy: xlogy special_xlogy
        """,
    Category.REDUCTION: """
        sum mean nansum nanmean amax amin: amin aminmax
        max min prod var: var var_mean std std_mean
        argmax argmin any all cumsum cumprod cummax: cummax cummin
        nll_loss: nll_loss nll_loss_forward nll_loss_nd nll_loss2d_forward
        cross_entropy_loss mse_loss l1_loss: l1_loss smooth_l1_loss huber_loss
        binary_cross_entropy: binary_cross_entropy binary_cross_entropy_with_logits
        cdist: cdist _cdist_forward _euclidean_dist
        cdist_backward: _cdist_backward
        kl_div histc bincount count_nonzero median: median kthvalue mode
        cosine_similarity pairwise_distance trace
        diff pdist: pdist _pdist_forward
        median: nanmedian quantile nanquantile
        margin_loss: soft_margin_loss hinge_embedding_loss cosine_embedding_loss
        margin_loss: margin_ranking_loss triplet_margin_loss multi_margin_loss
        margin_loss: multilabel_margin_loss poisson_nll_loss
        """,
    Category.POOL: """
        max_pool: max_pool1d max_pool2d max_pool3d max_pool2d_with_indices
        max_pool: max_pool1d_with_indices max_pool3d_with_indices mkldnn_max_pool2d
        avg_pool: avg_pool1d avg_pool2d avg_pool3d
        adaptive_avg_pool: adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
        adaptive_avg_pool: _adaptive_avg_pool2d
        adaptive_avg_pool: _adaptive_avg_pool3d
        adaptive_max_pool: adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
        pool_backward: max_pool2d_with_indices_backward avg_pool2d_backward
        pool_backward: _adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward
        pool_backward: max_pool3d_with_indices_backward avg_pool3d_backward
        pool_backward: adaptive_max_pool2d_backward adaptive_max_pool3d_backward
        """,
    Category.RESAMPLE: """
        upsample: upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d
        upsample: upsample_bicubic2d
        upsample: upsample_linear1d upsample_trilinear3d _upsample_nearest_exact2d
        upsample: _upsample_bilinear2d_aa
        upsample: _upsample_bicubic2d_aa
        grid_sample: grid_sampler grid_sampler_2d grid_sampler_3d
        upsample: _upsample_nearest_exact1d _upsample_nearest_exact3d
        im2col: im2col col2im unfold_backward
        upsample_backward: upsample_nearest1d_backward upsample_nearest2d_backward
        upsample_backward: upsample_nearest3d_backward _upsample_nearest_exact1d_backward
        upsample_backward: _upsample_nearest_exact2d_backward _upsample_nearest_exact3d_backward
        upsample_backward: upsample_linear1d_backward upsample_bilinear2d_backward
        upsample_backward: upsample_trilinear3d_backward upsample_bicubic2d_backward
        upsample_backward: _upsample_bilinear2d_aa_backward _upsample_bicubic2d_aa_backward
        grid_sample_backward: grid_sampler_2d_backward grid_sampler_3d_backward
        fft: _fft_r2c _fft_c2r _fft_c2c fft_fft fft_ifft fft_rfft fft_irfft
        fft: fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn fft_ifftn fft_rfftn fft_irfftn
        """,
    Category.GATHER: """
        embedding
        embedding_bag: embedding_bag _embedding_bag _embedding_bag_forward_only
        gather index_select take take_along_dim index masked_select nonzero: nonzero
        nonzero: nonzero_static argwhere
        index: _unsafe_index _unsafe_masked_index
        bucketize: bucketize searchsorted
        one_hot
        """,
    Category.SCATTER: """
        scatter scatter_add scatter_reduce index_put: index_put _unsafe_index_put
        index_add index_copy index_fill select_scatter slice_scatter diagonal_scatter
        as_strided_scatter masked_scatter put index_reduce
        max_unpool: max_unpool2d max_unpool3d
        embedding_dense_backward
        nll_loss_backward: nll_loss_backward nll_loss2d_backward
        embedding_bag_backward: _embedding_bag_dense_backward
        """,
    Category.SORT: "sort: sort msort topk argsort unique: _unique2 unique_dim unique_consecutive",
    Category.COPY: """
        clone copy: _to_copy to copy contiguous type_as
        cat: cat concat concatenate stack hstack vstack dstack column_stack block_diag
        diag_embed: diag_embed diag diagflat
        pad: pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
        pad: replication_pad1d replication_pad2d
        pad: replication_pad3d
        pad_backward: reflection_pad1d_backward reflection_pad2d_backward
        pad_backward: reflection_pad3d_backward replication_pad1d_backward
        pad_backward: replication_pad2d_backward replication_pad3d_backward
        slice_backward: slice_backward select_backward diagonal_backward
        repeat: repeat repeat_interleave tile
        roll flip: flip fliplr flipud rot90 fftshift: fft_fftshift fft_ifftshift
        pixel_shuffle: pixel_shuffle pixel_unshuffle channel_shuffle
        """,
    Category.VIEW: """
        view: view _unsafe_view reshape view_as reshape_as ravel atleast_1d atleast_2d atleast_3d
        permute: permute transpose t numpy_T mT mH matrix_H adjoint movedim moveaxis
        permute: swapaxes swapdims
        expand: expand expand_as broadcast_to broadcast_tensors meshgrid
        squeeze: squeeze
        unsqueeze slice select narrow split: split split_with_sizes chunk tensor_split
        split: unsafe_split unsafe_split_with_sizes unsafe_chunk hsplit vsplit dsplit unbind: unbind
        flatten: flatten unflatten
        as_strided alias: alias detach lift_fresh positive resolve_conj
        alias: resolve_neg conj _conj
        diagonal: diagonal linalg_diagonal unfold: unfold
        real: real imag view_as_real view_as_complex
        """,
    Category.CREATE: """
        full: full full_like new_full zeros zeros_like new_zeros ones ones_like new_ones
        empty: empty empty_like new_empty empty_strided new_empty_strided empty_permuted
        arange: arange linspace logspace eye fft_fftfreq fft_rfftfreq tril_indices triu_indices
        """,
    Category.RANDOM: """
        random: rand rand_like randn randn_like randint randint_like bernoulli multinomial
        random: normal normal_functional
        random: uniform randperm exponential poisson binomial log_normal cauchy geometric
        """,
    Category.CONTROL: """
        cond: higher_order.cond
        inline: higher_order.wrap_with_set_grad_enabled higher_order.wrap_with_autocast
        inline: higher_order.invoke_subgraph higher_order.tag_activation_checkpoint
        """,
    Category.NOISE: """
        assertion: _assert_tensor_metadata _assert_async _assert_scalar sym_constrain_range
        assertion: sym_constrain_range_for_size
        assertion: sym_size sym_numel sym_stride sym_storage_offset _functional_assert_async
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
