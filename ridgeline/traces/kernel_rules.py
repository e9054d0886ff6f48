"""The rule table: what a kernel's name says it is. First match wins, so the order is the meaning.

Sources: names seen in public Kineto and Nsight recordings of A100, V100, H100, B200, MI210, MI250
and MI300, and the naming schemes of cuBLAS (nvjet, xmma), CUTLASS, cuDNN, Tensile, Composable
Kernel, MIOpen, Triton, FlashAttention, FlashInfer, TensorRT-LLM, FBGEMM and vLLM.
"""

import re
from collections.abc import Iterator

from ridgeline.traces.kernel_kinds import KernelOp, Rule, Scope, Unit

# One block per op and unit: lines of `pattern  # reason`, searched in the function's head, or in
# the whole name where the line starts with `~ `. Patterns are case-sensitive unless they say (?i).
_Block = tuple[KernelOp, Unit, str]

_MOVES: tuple[_Block, ...] = (
    (
        KernelOp.COMMUNICATION,
        Unit.NONE,
        r"""
        ^nccl|ncclKernel|ncclDevKernel|^rccl|mscclKernel  # a kernel of NCCL or RCCL
        (?i)nvshmem|deep_?ep|^mori|userbuffers  # a kernel of a communication library
        (?i)multimem_|cross_device_reduce|(one|two)_?shot_?all|quick_?reduce  # custom collective
        (?i)all_?reduce|all_?gather|reduce_?scatter|all_?to_?all(?!4d)|lamport  # a collective
        """,
    ),
    (KernelOp.MEMCPY, Unit.NONE, r"(?i)^memcpy|^__amd_rocclr_copy|^Copy(Host|Device)  # a copy"),
    (KernelOp.MEMSET, Unit.NONE, r"(?i)^memset|^__amd_rocclr_fill  # a fill by the driver"),
)

_EMBEDDING_AND_OPTIMIZER: tuple[_Block, ...] = (
    (
        KernelOp.EMBEDDING,
        Unit.CUDA_CORE,
        r"""
        split_embedding|_embedding_codegen|embedding_bag|EmbeddingBag  # a table lookup of FBGEMM
        linearize_index|permute_pooled_embs|bounds_check_indices  # a table lookup's indices
        (?i)(?<!rotary_)(?<!rotary)embedding(?!_attention)  # an embedding
        """,
    ),
    (
        KernelOp.OPTIMIZER,
        Unit.CUDA_CORE,
        r"""
        ~ multi_tensor_apply.*(?:Adam|SGD|Adagrad|LAMB|Lamb|NovoGrad|RMS|Adadelta)  # fused step
        (?i)fused_?(adam|sgd|lamb|adagrad)|adamw?_?(kernel|cuda)|^kAdam|kOptimizer  # a fused step
        """,
    ),
    (
        KernelOp.REDUCTION,
        Unit.CUDA_CORE,
        r"~ multi_tensor_apply.*(?:L2Norm|LpNorm|MaxNorm)  # norms of a list of tensors",
    ),
    (
        KernelOp.ELEMENTWISE,
        Unit.CUDA_CORE,
        r"multi_tensor_apply  # one operation over a list of tensors",
    ),
)

_ATTENTION: tuple[_Block, ...] = (
    (
        KernelOp.COPY,
        Unit.CUDA_CORE,
        r"""
        (?i)reshape_and_cache|concat_and_cache|append_paged_kv|AppendPagedKV  # writes the KV cache
        (?i)copy_blocks|swap_blocks|copy_page|gather_(and_maybe_dequant_)?cache  # pages of a cache
        """,
    ),
    (
        KernelOp.ATTENTION,
        Unit.CUDA_CORE,
        r"""
        (?i)flash_(fwd|attn)_\w*combine  # adds up the parts of a split attention
        (?i)merge_attn_states|MergeStates|VariableLengthMerge  # adds up the parts of an attention
        (?i)flash_bwd_(dot|convert|preprocess)|bwd_preprocess|compute_delta  # beside its products
        (?i)paged_attention_v\d|masked_multihead_attention|single_query_cached  # decode without mma
        """,
    ),
    (
        KernelOp.ATTENTION,
        Unit.MATRIX_CORE,
        r"""
        ~ ck_tile.*(?:Fmha|fmha)|_ZN7ck_tile.*Fmha  # Composable Kernel attention: MFMA
        ~ ^aiter::|_ZN5aiter\d+fmha|fmha_(fwd|bwd)_hd\d+.*_(gfx|asm)  # AITER attention: MFMA
        attn_fwd_\w*gfx9  # an attention compiled for CDNA: MFMA
        """,
    ),
    (
        KernelOp.ATTENTION,
        Unit.TENSOR_CORE,
        r"""
        (?i)flash_(fwd|bwd)|FlashAttn(Fwd|Bwd)|flash_attn|flash::  # FlashAttention
        ~ flash::(Flash|enable_sm|Collective)|FlashAttnFwdSm|FlashAttnBwdSm  # FlashAttention 3
        (?i)fmha|sdpa|flash_?mla  # fused multi-head attention of cuDNN, TensorRT-LLM or xFormers
        ~ (?i)cudnn\w*sdpa|Attention(?:Backward)?Kernel<.*cutlass  # cuDNN's or xFormers' attention
        BatchPrefill|BatchDecodeWithPaged|SinglePrefill|BatchMLA  # FlashInfer
        ^triton_tem\w*(flex|sdpa|attention)  # FlexAttention: a Triton template, tl.dot
        _attn_(fwd|bwd)|_fwd_kernel_stage|_paged_attn|kernel_\w*attention  # Triton: tl.dot
        (?i)(?<![a-z])mla_|attention  # named an attention
        """,
    ),
)

_CUDA_CORE_PRODUCTS: tuple[_Block, ...] = (
    (
        KernelOp.REDUCTION,
        Unit.CUDA_CORE,
        r"""
        ~ (?i)split_?k_?reduce|reduce_?split_?k|reduce_wgrad|gemm_reduce  # adds up split-K parts
        """,
    ),
    (
        KernelOp.ELEMENTWISE,
        Unit.CUDA_CORE,
        r"""
        epilogue::impl|^scal_kernel|cublasLt::epilogue  # a matrix product's epilogue of cuBLAS
        computeOffsets|generateWinogradTiles|^cutlass::.*TensorForEach  # prepares a convolution
        """,
    ),
    (
        KernelOp.CONVOLUTION,
        Unit.CUDA_CORE,
        r"""
        ~ ffma.*(?:fprop|dgrad|wgrad)|(?:fprop|dgrad|wgrad)\w*_(?:ffma|simt|sgemm)  # fp32 FMA
        ~ simt_\w*(?:fprop|dgrad|wgrad)  # CUTLASS convolution without tensor cores
        scudnn|dgrad_engine|wgrad_alg\d|dgrad_alg\d|dgrad2d|wgrad2d|convolve_\w*gemm  # cuDNN, FMA
        (?i)depthwise|conv_depthwise|conv2d_grouped_direct|dgrad2d_grouped|wgrad2d_grouped  # by FMA
        (?i)winograd(?!.*(884|1688|16816))|convolve_common|conv1d_\w*fwd|causal_conv1d  # by FMA
        (?i)fft2d_|fft1d_|flip_filter|cf32|complex_conv|im2col|col2im  # convolution by transform
        (?i)^miopenSp3|MIOpenConv|^gfx9_f\dx|naive_conv|_dpp\b  # MIOpen without MFMA
        """,
    ),
    (KernelOp.FFT, Unit.CUDA_CORE, r"(?i)fft(?!2d)|_c2r_|_r2c_  # a Fourier transform"),
    (
        KernelOp.GEMM,
        Unit.CUDA_CORE,
        r"""
        ~ ffma|_simt_|simt_[sdhcz]gemm  # FMA, not a tensor-core instruction
        (?<![a-z0-9])[sdcz]gemm|gcgemm|magma_\w*gemm|cublas\w*[sd]gemm|sgemm_  # fp32 or fp64 by FMA
        (?<![0-9_a-z])hgemm|_hgemm_  # fp16 FMA of a chip before tensor cores
        (?i)gemv|gemmk1|^dot_kernel|reduce_1Block|^dot_|ger_kernel  # a matrix times a vector
        """,
    ),
)

_TENSOR_CORE: tuple[_Block, ...] = (
    (
        KernelOp.CONVOLUTION,
        Unit.TENSOR_CORE,
        r"""
        ~ xmma_\w*(?:fprop|dgrad|wgrad)\w*(?:bf16|f16|tf32|e4m3|e5m2|i8|tensor\d+x)  # typed xmma
        ~ (?:tensorop|[sihd]\d{3,6})\w*(?:fprop|dgrad|wgrad|conv)  # a tensor-core instruction
        ~ (?:fprop|dgrad|wgrad|conv)\w*(?:tensorop|[hi]mma|[shi](?:884|1688\d*|8816))  # mma
        ~ ImplicitGemmConvolution.*(?:tfloat32|half_t|bfloat16|TensorOp)  # CUTLASS, tensor types
        ~ cudnn\w*(?:h|s|i)(?:884|1688|16816|8816)|(?:turing|volta|ampere)\w*cudnn_\w*  # cuDNN, mma
        """,
    ),
    (
        KernelOp.RECURRENT,
        Unit.TENSOR_CORE,
        r"(?i)RNN_.*(tensor|16816|884)|persistent.*hmma  # a recurrent layer",
    ),
    (
        KernelOp.GEMM,
        Unit.TENSOR_CORE,
        r"""
        ^nvjet_  # cuBLAS for Hopper and later: wgmma or tcgen05
        ~ xmma_\w*(?:bf16|f16|tf32|e4m3|e5m2|i8|tensor\d+x)  # xmma with a tensor-core type
        ~ tensorop|wmma|wgmma|tcgen05|utcmma|qmma|hmma|imma|dmma|omma  # names the instruction
        ~ [shidqb](?:884|1688|8816|16816|8832|16832|161616|16864)  # names the mma's shape
        ~ gemm_(?:bf16|f16|e4m3|e2m1|fp8|fp4)|_h16gemm  # a type of tensor cores
        (?i)^bmm_\w*(?:e4m3|e2m1|bfloat16|fp16)  # TensorRT-LLM's batched product, typed
        ~ cutlass\d*x?_sm(?:90|1[02]0)|(?<![a-zA-Z])Sm(?:90|1[02]0)|sm(?:90|1[02]0)_  # CUTLASS 3
        ~ (?i)deep_?gemm|marlin|machete|awq_gemm|gptq_gemm|cutlass_moe|fp8_gemm|fp4_gemm  # low-bit
        ~ cutlass::.*(?:Gemm|device_kernel).*(?:half_t|bfloat16|tfloat32|float_e)  # CUTLASS, typed
        tinygemm|int4_mm|_int8_mm|^int8_gemm  # PyTorch's own low-bit product: mma
        """,
    ),
)

_AMD: tuple[_Block, ...] = (
    (
        KernelOp.CONVOLUTION,
        Unit.MATRIX_CORE,
        r"""
        ^igemm_\w+_gtcx  # MIOpen implicit GEMM: xdlops, that is MFMA
        (?i)(?:conv|bwd_weight|bwd_data).*xdl|xdl.*(?:conv_|bwd_weight)  # CK convolution: MFMA
        (?i)^miopen\w*xdlops|mlir_gen_igemm|^mlir_conv  # MIOpen: MFMA
        """,
    ),
    (
        KernelOp.GEMM,
        Unit.MATRIX_CORE,
        r"""
        ^Cijk_\w*_MI\d+x\d+x  # Tensile with a matrix instruction (MI)
        ~ (?i)mfma|xdlops|_xdl|ck_tile\w*.*gemm|bpreshuffle|f4gemm|_ZN5aiter\w*gemm  # MFMA
        """,
    ),
    (KernelOp.GEMM, Unit.CUDA_CORE, r"^Cijk_  # Tensile without a matrix instruction"),
)

_TRITON: tuple[_Block, ...] = (
    (
        KernelOp.CONVOLUTION,
        Unit.TENSOR_CORE,
        r"^triton_tem_fused\w*conv  # a Triton convolution template: tl.dot",
    ),
    (
        KernelOp.GEMM,
        Unit.TENSOR_CORE,
        r"""
        ^triton_(tem|mm|bmm)|triton_\w*_mm_|^triton_\w*grouped_gemm  # a Triton template: tl.dot
        (?i)_matmul_ogs|^_?p?_?matmul_(ogs|kernel|persistent)|fused_moe_kernel  # Triton: tl.dot
        (?i)_w8a8_block|_scaled_mm|_gemm_(a\w+_)?kernel|^_?bmm_|^_?gmm_  # Triton: tl.dot
        (?i)lora_(expand|shrink)  # Triton: tl.dot
        """,
    ),
    (
        KernelOp.SOFTMAX,
        Unit.CUDA_CORE,
        r"^triton_(red|per|poi)_fused_\w*softmax  # the fused list in its name has a softmax",
    ),
    (
        KernelOp.NORM,
        Unit.CUDA_CORE,
        r"""
        ^triton_(red|per)_fused_\w*norm  # the fused list in its name has a norm
        ^triton_(red|per)_fused_\w*rsqrt  # the fused list in its name is a norm in parts
        """,
    ),
    (
        KernelOp.EMBEDDING,
        Unit.CUDA_CORE,
        r"^triton_\w+_fused_\w*embedding  # the fused list in its name has an embedding",
    ),
    (KernelOp.REDUCTION, Unit.CUDA_CORE, r"^triton_(red|per)_  # a reduction made by Inductor"),
    (KernelOp.ELEMENTWISE, Unit.CUDA_CORE, r"^triton_(poi|for)_  # pointwise, made by Inductor"),
)

_VECTOR: tuple[_Block, ...] = (
    (
        KernelOp.NORM,
        Unit.CUDA_CORE,
        r"""
        (?i)layer_?norm|rms_?norm|batch_?norm|group_?norm|instance_?norm  # a norm
        ~ (?:Rmsnorm2d|Layernorm2d|batch_norm_update)\w*  # a norm
        RowwiseMoments|GammaBeta|ComputeInternalGradients|ComputeFusedParams  # part of a norm
        cudnn::bn_|bn_fw|bn_bw|batchnorm|ln_(fwd|bwd)|norm_(fwd|bwd)  # a norm of cuDNN or Apex
        (?i)MIOpenBatchNorm|^MIOpenBN  # a norm of MIOpen
        """,
    ),
    (
        KernelOp.LOSS,
        Unit.CUDA_CORE,
        r"(?i)nll_loss|cross_?entropy|ctc_loss|_loss_(forward|backward)  # a loss",
    ),
    (
        KernelOp.ROUTING,
        Unit.CUDA_CORE,
        r"""
        (?i)routing|moe_align|moe::dev::finalize|finalizeMoe|topk_?gating  # to experts
        (?i)bitmatrix|_topk_forward|_finalize_matmul|moe_sum|expandInputRows|expert_?(map|count)  # to experts
        """,
    ),
    (KernelOp.SOFTMAX, Unit.CUDA_CORE, r"(?i)soft_?max  # a softmax"),
    (
        KernelOp.QUANTIZE,
        Unit.CUDA_CORE,
        r"""
        (?i)quant|fp8_?rowwise|FP8_q|_cvt_fp|per_token_group|scaled_fp[48]  # changes the format
        ~ _to_hfp8|_hfp8_to  # changes the format
        """,
    ),
    (KernelOp.ROTARY, Unit.CUDA_CORE, r"(?i)rotary|rope  # rotary position embedding"),
    (
        KernelOp.COPY,
        Unit.CUDA_CORE,
        r"""
        CatArray|(?i:nchw_?to_?nhwc|nhwc_?to_?nchw|transpose|recat)  # changes the layout
        (?i)SubTensorOpWith|batched_?copy|^copy_kernel|tensor_?copy|im2d_copy|pad_?kernel  # copies
        (?i)permute|chunk_?cat|split_with_sizes|triu_tril|roll_cuda|repeat_interleave  # moves data
        ~ elementwise.*(?:copy_kernel|copy_device)  # an elementwise kernel that only copies
        """,
    ),
    (
        KernelOp.GATHER,
        Unit.CUDA_CORE,
        r"""
        (?i)index_?(select|func|add|put|copy|elementwise|fill)|indexing|gather|scatter  # by index
        ~ elementwise.*(?:gpu_index_kernel|index_kernel_impl)  # by index
        (?i)masked_(select|scatter)|take_put|segment_|offsets_range|jagged  # by index
        """,
    ),
    (
        KernelOp.SORT,
        Unit.CUDA_CORE,
        r"(?i)sort|top_?k|searchsorted|histogram|bitonic|mergeBlock|unique|radix  # sorts",
    ),
    (
        KernelOp.SCAN,
        Unit.CUDA_CORE,
        r"(?i)scan|cumsum|cumprod|prefix_?sum|select_if|compact|partition  # running sums",
    ),
    (
        KernelOp.POOL,
        Unit.CUDA_CORE,
        r"(?i)pool  # pooling",
    ),
    (
        KernelOp.RESAMPLE,
        Unit.CUDA_CORE,
        r"(?i)upsample|interpolat|grid_sampler|roi_align|resize  # resampling",
    ),
    (
        KernelOp.RANDOM,
        Unit.CUDA_CORE,
        r"(?i)distribution_|dropout|philox|randperm|multinomial|bernoulli|curand  # random numbers",
    ),
    (
        KernelOp.RECURRENT,
        Unit.CUDA_CORE,
        r"(?i)lstm|gru_cell|rnn  # a recurrent cell",
    ),
    (
        KernelOp.FILL,
        Unit.CUDA_CORE,
        r"""
        ~ FillFunctor|arange_cuda|linspace|eye_kernel  # writes a value or a range
        (?i)fill|_memset$|zero_?kernel|arange|set_?(zero|tensor)  # writes a value or a range
        """,
    ),
    (
        KernelOp.REDUCTION,
        Unit.CUDA_CORE,
        r"(?i)reduce|_sum_|sum_kernel|sum_rows|argmax|argmin|norm_kernel|welford  # a reduction",
    ),
    (
        KernelOp.ELEMENTWISE,
        Unit.CUDA_CORE,
        r"""
        (?i)elementwise|activation|act_and_mul|silu|gelu|relu|bias_?add  # element by element
        (?i)add_bias|pointwise|softcap|clamp|tanh|sigmoid|addcmul|op_?tensor  # element by element
        """,
    ),
    (
        KernelOp.ELEMENTWISE,
        Unit.CUDA_CORE,
        r"""
        at::native::\w*_kernel  # one of PyTorch's own kernels, none of which multiplies matrices
        ^op_generic_tensor|OpTensor|DeviceFor|for_each|transform  # element by element
        """,
    ),
)

# MTIA names a kernel by its operator and type: fc-dtype_Float.
_MTIA: tuple[_Block, ...] = (
    (KernelOp.MEMCPY, Unit.NONE, r"^dma_request$  # MTIA's DMA engine"),
    (KernelOp.GEMM, Unit.MATRIX_CORE, r"^(fc|\w*matmul|\w*mm)-dtype_  # MTIA's dot-product engine"),
    (
        KernelOp.EMBEDDING,
        Unit.CUDA_CORE,
        r"split_e\w*-dtype_|bounds_check\w*-dtype_  # a table lookup",
    ),
    (KernelOp.NORM, Unit.CUDA_CORE, r"^(native_)?(layer|batch|group)_norm\w*-dtype_  # a norm"),
    (KernelOp.LOSS, Unit.CUDA_CORE, r"^bce_with_logits\w*-dtype_|loss\w*-dtype_  # a loss"),
    (
        KernelOp.GATHER,
        Unit.CUDA_CORE,
        r"(index|gather|scatter)[\w.]*-dtype_  # by index",
    ),
    (
        KernelOp.COPY,
        Unit.CUDA_CORE,
        r"(::cat|permute|copy|transpose|slice|repeat)[\w.]*-dtype_  # moves data",
    ),
    (
        KernelOp.REDUCTION,
        Unit.CUDA_CORE,
        r"(reduce|vector_norm|_dim|sum|mean|any|all|argm)[\w.]*-dtype_  # a reduction",
    ),
    (KernelOp.ELEMENTWISE, Unit.CUDA_CORE, r"-dtype_  # any other operator of MTIA"),
)

_ORDER = (
    *_MTIA,
    *_MOVES,
    *_EMBEDDING_AND_OPTIMIZER,
    *_ATTENTION,
    *_CUDA_CORE_PRODUCTS,
    *_AMD,
    *_TENSOR_CORE,
    *_TRITON,
    *_VECTOR,
)


def _rules(op: KernelOp, unit: Unit, lines: str) -> Iterator[Rule]:
    """The rules of one block, in its order; a line without a reason is named after its op."""
    for line in filter(None, map(str.strip, lines.splitlines())):
        scope = Scope.WHOLE if line.startswith("~ ") else Scope.HEAD
        pattern, _, reason = line.removeprefix("~ ").partition("  # ")
        words = reason or f"a kernel of {op.value}"
        yield Rule(pattern=re.compile(pattern), op=op, unit=unit, reason=words, scope=scope)


RULES: tuple[Rule, ...] = tuple(rule for block in _ORDER for rule in _rules(*block))
