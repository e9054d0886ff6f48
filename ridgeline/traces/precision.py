"""The number format a kernel multiplies or adds in, from its name and its operator's types."""

import re
from collections.abc import Mapping, Sequence
from enum import Enum

from ridgeline.traces.kernel_kinds import MATRIX_OPS, KernelOp
from ridgeline.traces.kernel_names import template_text


class Precision(Enum):
    """A number format; those a machine has a rate for carry the same word there."""

    FP64 = "fp64"
    FP32 = "fp32"
    TF32 = "tf32"
    FP16 = "fp16"
    BF16 = "bf16"
    FP8 = "fp8"
    FP4 = "fp4"
    INT64 = "int64"
    INT32 = "int32"
    INT16 = "int16"
    INT8 = "int8"
    INT4 = "int4"
    BOOL = "bool"
    UNKNOWN = "unknown"


ITEM_BITS: Mapping[Precision, int] = {
    Precision.FP64: 64,
    Precision.FP32: 32,
    Precision.TF32: 32,
    Precision.FP16: 16,
    Precision.BF16: 16,
    Precision.FP8: 8,
    Precision.FP4: 4,
    Precision.INT64: 64,
    Precision.INT32: 32,
    Precision.INT16: 16,
    Precision.INT8: 8,
    Precision.INT4: 4,
    Precision.BOOL: 8,
}
"""Bits of one number in memory; tf32 is stored as fp32."""

# How profilers write an operator's "Input type".
_INPUT_TYPES: Mapping[str, Precision] = {
    "double": Precision.FP64,
    "float": Precision.FP32,
    "c10::Half": Precision.FP16,
    "c10::BFloat16": Precision.BF16,
    "c10::Float8_e4m3fn": Precision.FP8,
    "c10::Float8_e5m2": Precision.FP8,
    "c10::Float8_e4m3fnuz": Precision.FP8,
    "c10::Float8_e5m2fnuz": Precision.FP8,
    "c10::Float4_e2m1fn_x2": Precision.FP4,
    "long int": Precision.INT64,
    "long": Precision.INT64,
    "int": Precision.INT32,
    "short int": Precision.INT16,
    "short": Precision.INT16,
    "signed char": Precision.INT8,
    "unsigned char": Precision.INT8,
    "bool": Precision.BOOL,
}
_FLOATING = frozenset(
    {
        Precision.FP64,
        Precision.FP32,
        Precision.TF32,
        Precision.FP16,
        Precision.BF16,
        Precision.FP8,
        Precision.FP4,
    }
)

# What only the kernel's name knows: tf32 is fp32 to the operator, and packed bytes hold anything.
_NAME_KNOWS_BETTER: Mapping[Precision, frozenset[Precision]] = {
    Precision.FP32: frozenset({Precision.TF32}),
    Precision.INT8: frozenset({Precision.FP8, Precision.FP4, Precision.INT4}),
    Precision.INT32: frozenset({Precision.FP8, Precision.FP4, Precision.INT4, Precision.FP16}),
    Precision.BF16: frozenset({Precision.FP8, Precision.FP4}),
    Precision.FP16: frozenset({Precision.FP8, Precision.FP4}),
}

_NVJET = {
    "t": Precision.BF16,
    "h": Precision.FP16,
    "q": Precision.FP8,
    "r": Precision.FP8,
    "o": Precision.FP4,
    "s": Precision.TF32,
    "d": Precision.FP64,
}
# nvjet_tst: operand, compute, result; t and h were seen beside operators in bf16 and fp16, q in
# fp8; r, o, s and d follow cuBLAS's letters and are guesses.

# For products: first match wins; a group named `letter` is looked up in `_NVJET`.
_PRODUCT_NAMES: tuple[tuple[str, Precision], ...] = (
    (r"bf16xbf16x", Precision.BF16),
    (r"f16xf16x|fp16xfp16x", Precision.FP16),
    (r"fp8\w*xfp8|e4m3\w*xe4m3", Precision.FP8),
    (r"Mx?E4m3MxE2m1|MxE2m1MxE4m3|E2m1\w*E4m3|E4m3\w*E2m1", Precision.FP8),
    (r"bmm_\w*E2m1E2m1|bmm_\w*E2m1_E2m1|nvf4|fp4_gemm|e2m1", Precision.FP4),
    (r"Qkv?E4m3|QE4m3|QkvE4m3", Precision.FP8),
    (r"Qkv?Bfloat16|QkvBf16", Precision.BF16),
    (r"Qkv?Fp16", Precision.FP16),
    (r"xmma_\w*?(?:gemm|gemm_indexed|conv)_(?:bf16bf16)", Precision.BF16),
    (r"xmma_\w*?(?:gemm|gemm_indexed|conv)_f16f16", Precision.FP16),
    (r"xmma_\w*?(?:gemm|gemm_indexed|conv)_tf32", Precision.TF32),
    (r"xmma_\w*?(?:gemm|gemm_indexed|conv)_e[45]m", Precision.FP8),
    (r"xmma_\w*?(?:gemm|gemm_indexed|conv)_i8", Precision.INT8),
    (r"xmma_\w*?(?:gemm|gemm_indexed|conv)_f32f32_f32f32_f32", Precision.FP32),
    (r"^Cijk_[A-Za-z]+_[A-Za-z]+_(?:F8|B8)", Precision.FP8),
    (r"^Cijk_[A-Za-z]+_[A-Za-z]+_(?:I8|4xi8)", Precision.INT8),
    (r"^Cijk_[A-Za-z]+_[A-Za-z]+_\w*?MX_", Precision.TF32),
    (r"^Cijk_[A-Za-z]+_[A-Za-z]+_B", Precision.BF16),
    (r"^Cijk_[A-Za-z]+_[A-Za-z]+_H", Precision.FP16),
    (r"^Cijk_[A-Za-z]+_[A-Za-z]+_[SC]", Precision.FP32),
    (r"^Cijk_[A-Za-z]+_[A-Za-z]+_[DZ]", Precision.FP64),
    (r"tfloat32|tf32", Precision.TF32),
    (r"(?i)e4m3|e5m2|float8|fp8|float_e4m3|_fp8_", Precision.FP8),
    (r"mxf4|Float4|fp4|float4_e2m1", Precision.FP4),
    (r"(?i)bfloat16|bf16|DF16b", Precision.BF16),
    (r"half_t|__half|c10::Half|DF16_|fp16|f16_s\d|_f16|F16", Precision.FP16),
    (r"xdl\w*ILi\d+E[tE]t[tf]|_?tt[tf]{1,3}(?:NS|L)", Precision.BF16),
    (r"[dD]884|dmma|dgemm", Precision.FP64),
    (r"(?:h|hmma_)(?:884|1688|16816)|h\d*gemm|_half\b", Precision.FP16),
    (r"(?:^|[_:<])s1688", Precision.TF32),
    (r"(?:i|imma_)(?:8816|16832|16816)|int8|igemm_", Precision.INT8),
    (r"i16864|int4", Precision.INT4),
    (r"ffma|sgemm|scudnn|simt_s|gcgemm|cgemm|fp32", Precision.FP32),
    (r"\bdouble\b", Precision.FP64),
    (r"\bfloat\b", Precision.FP32),
    (r"(?<![a-z])s884|s16816|_s161616", Precision.FP16),
)

_MTIA = {
    "Float": Precision.FP32,
    "Double": Precision.FP64,
    "Half": Precision.FP16,
    "BFloat16": Precision.BF16,
    "Int": Precision.INT32,
    "Long": Precision.INT64,
    "Bool": Precision.BOOL,
}

# For all other work: the first type its template arguments name.
_TYPE_WORDS = re.compile(
    r"(?P<BF16>BFloat16|bfloat16|DF16b)"
    r"|(?P<FP16>\bHalf\b|__half\b|half_t|DF16_)"
    r"|(?P<FP8>[Ff]loat8_?e|float_e[45]|__nv_fp8|__hip_fp8|Float8)"
    r"|(?P<FP64>\bdouble\b)"
    r"|(?P<FP32>\bfloat[234]?\b)"
)
# An integer may be an index or a size as well: only where it is the functor's own type.
_INTEGER_WORDS = re.compile(
    r"(?:Functor\w*<|ReduceOp<|lambda\((?:bool, )?|Array\w*<|Policy<|compare_scalar_kernel<)"
    r"(?:(?P<INT64>long\b)"
    r"|(?P<INT32>int\b(?!\)(?:#1\}| \(instance 1\)\]) ?>$))"  # not the launch's own index
    r"|(?P<BOOL>bool\b(?!, (?:float|double|long|int|c10))))"
)
# Transfers without arithmetic are compiled for bytes, whatever they carry.
_COLLECTIVE_TYPES = (
    (r"SendRecv|Broadcast|AllGather|AllToAll", Precision.UNKNOWN),
    (r"_int8_t|_uint8_t|_i8|_u8", Precision.INT8),
    (r"bfloat16|_bf16", Precision.BF16),
    (r"_half|_f16", Precision.FP16),
    (r"_float|_f32", Precision.FP32),
    (r"_double|_f64", Precision.FP64),
    (r"_int64|_uint64|_i64|_u64", Precision.INT64),
    (r"_int32|_uint32|_i32|_u32", Precision.INT32),
)


def _first(table: Sequence[tuple[str, Precision]], name: str) -> Precision:
    return next((found for pattern, found in table if re.search(pattern, name)), Precision.UNKNOWN)


def _of_product(name: str) -> Precision:
    """What a matrix product multiplies, from its name. Where the operands differ, as bf16 with fp4
    weights, the wider: the unit's rate is that one's."""
    if nvjet := re.match(r"nvjet_(?:sm\d+_)?([a-z])", name):
        return _NVJET.get(nvjet[1], Precision.UNKNOWN)
    return _first(_PRODUCT_NAMES, name)


def _of_vector(name: str) -> Precision:
    """The first number type in a kernel's template arguments."""
    text = template_text(name)
    # moved as bytes of one width: the integers beside OpaqueType are indices
    patterns = (_TYPE_WORDS,) if "OpaqueType" in text else (_TYPE_WORDS, _INTEGER_WORDS)
    found = [match for pattern in patterns if (match := pattern.search(text))]
    first = min(found, key=lambda match: match.start(), default=None)
    return Precision[first.lastgroup] if first and first.lastgroup else Precision.UNKNOWN


def precision_of_name(name: str, op: KernelOp) -> Precision:
    """The number format that the name of a kernel of kind `op` tells; UNKNOWN if it does not."""
    if mtia := re.search(r"-dtype_(\w+?)(?:-|$)", name):
        return _MTIA.get(mtia[1], Precision.UNKNOWN)
    if op in MATRIX_OPS:
        return _of_product(name)
    if op is KernelOp.COMMUNICATION:
        found = _first(_COLLECTIVE_TYPES, name)
        return found if found is not Precision.UNKNOWN else _of_vector(name)
    return Precision.UNKNOWN if op in (KernelOp.MEMCPY, KernelOp.MEMSET) else _of_vector(name)


def precision_of_types(input_types: Sequence[str]) -> Precision:
    """The number format of an operator from its recorded input types: its first floating-point
    tensor, else its first tensor; UNKNOWN where none is named."""
    known = [_INPUT_TYPES[name] for name in input_types if name in _INPUT_TYPES]
    floating = [found for found in known if found in _FLOATING]
    return next(iter([*floating, *known]), Precision.UNKNOWN)


def precision(name: str, op: KernelOp, input_types: Sequence[str]) -> Precision:
    """The number format of one kernel. Its operator's input types decide where they are known;
    its name then only tells what they cannot: tf32 from fp32, and what packed bytes hold."""
    by_name, by_type = precision_of_name(name, op), precision_of_types(input_types)
    if by_type is Precision.UNKNOWN:
        return by_name
    return by_name if by_name in _NAME_KNOWS_BETTER.get(by_type, frozenset()) else by_type
