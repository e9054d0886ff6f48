"""Rules for kernels that move, add or reduce: all that multiplies no matrices, with all of Triton
and MTIA, whose names carry the operator's.

Each block is one op and unit; a line is `pattern  # reason`, as `kernel_rules.py` reads it.
"""

from ridgeline.traces.kernel_kinds import Block, KernelOp, Unit

# MTIA names a kernel by its operator and type: fc-dtype_Float.
MTIA: tuple[Block, ...] = (
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

MOVES: tuple[Block, ...] = (
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

EMBEDDING_AND_OPTIMIZER: tuple[Block, ...] = (
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

TRITON: tuple[Block, ...] = (
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

# XLA names a kernel by its HLO: loop_transpose_fusion_1 on GPUs, %all-reduce.3 or dot.7 on TPUs.
XLA: tuple[Block, ...] = (
    (
        KernelOp.COMMUNICATION,
        Unit.NONE,
        r"^%?(all-(reduce|gather|to-all)|reduce-scatter|collective-|send\b|recv\b)  # a collective",
    ),
    (KernelOp.GEMM, Unit.TENSOR_CORE, r"^(__)?(triton_)?gemm_fusion|triton_gemm  # Triton: tl.dot"),
    (
        KernelOp.GEMM,
        Unit.MATRIX_CORE,
        r"^%?(convolution|dot)([._-]\d+)*( |$)  # an HLO product: a TPU's matrix unit",
    ),
    (KernelOp.SOFTMAX, Unit.CUDA_CORE, r"^triton_softmax  # a softmax fused by XLA"),
    (
        KernelOp.COPY,
        Unit.CUDA_CORE,
        r"""
        ^%?(\w+_)?(transpose|copy|concatenate|pad|slice)_fusion  # moves data
        ^%?copy(-\w+)?[.\d]*$  # moves data
        """,
    ),
    (KernelOp.REDUCTION, Unit.CUDA_CORE, r"^%?\w*reduce\w*_fusion  # a reduction fused by XLA"),
    (
        KernelOp.ELEMENTWISE,
        Unit.CUDA_CORE,
        r"^%?(\w+[_-])?fusion([._]\d+)*(\.kd)?$  # fused by XLA",
    ),
)

VECTOR: tuple[Block, ...] = (
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
        (?i)bitmatrix|_topk_forward|_finalize_matmul|moe_sum|expandInputRows  # to experts
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
