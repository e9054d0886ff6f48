"""Rules for kernels that multiply matrices, and those beside them: attention, convolution, GEMM.

Each block is one op and unit; a line is `pattern  # reason`, as `kernel_rules.py` reads it.
"""

from ridgeline.traces.kernel_kinds import Block, KernelOp, Unit

ATTENTION: tuple[Block, ...] = (
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

CUDA_CORE_PRODUCTS: tuple[Block, ...] = (
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
        KernelOp.COPY,
        Unit.CUDA_CORE,
        r"(?i)im(\dd)?2col|col2im  # lays a convolution out as a matrix",
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
        (?i)fft2d_|fft1d_|flip_filter|cf32|complex_conv  # a convolution by transform
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

TENSOR_CORE: tuple[Block, ...] = (
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

AMD: tuple[Block, ...] = (
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
