"""Eligible but not on tensor cores: the reason follows shapes, types, device and kernel."""

import pytest

from ridgeline.traces.kernels import classify
from ridgeline.traces.tensor_cores import FIXES, Reason, dimensions, eligibility

SGEMM, HGEMM = "ampere_sgemm_128x64_nn", "volta_hgemm_128x64_nn"
TENSOR = "ampere_bf16_s16816gemm_bf16_256x128_ldg8_f2f_stages_32x3_tn"
SQUARE = ((64, 128), (128, 256))
BF16 = ("c10::BFloat16", "c10::BFloat16")


@pytest.mark.parametrize(
    ("kernel", "operator", "shapes", "types", "capability", "reason"),
    [
        (SGEMM, "aten::mm", SQUARE, ("float", "float"), (8, 0), Reason.FP32_WITHOUT_TF32),
        (SGEMM, "aten::mm", SQUARE, ("float", "float"), None, Reason.FP32_WITHOUT_TF32),
        (SGEMM, "aten::mm", SQUARE, ("float", "float"), (7, 0), Reason.FP32_NO_TF32_UNIT),
        (SGEMM, "aten::mm", SQUARE, ("float", "float"), (6, 1), Reason.FORMAT),
        (SGEMM, "", (), (), (9, 0), Reason.FP32_WITHOUT_TF32),
        (TENSOR, "aten::mm", SQUARE, BF16, (8, 0), Reason.ON_TENSOR_CORE),
        (HGEMM, "aten::mm", ((64, 129), (129, 256)), BF16, (8, 0), Reason.UNALIGNED),
        (HGEMM, "aten::mm", ((63, 128), (128, 256)), BF16, (8, 0), Reason.LIBRARY_CHOICE),
        (HGEMM, "aten::mm", ((1, 128), (128, 256)), BF16, (8, 0), Reason.VECTOR),
        ("gemv2T_kernel_val<int>", "", (), ("float",), (8, 0), Reason.VECTOR),
        ("splitKreduce_kernel<float>", "aten::mm", SQUARE, BF16, (8, 0), Reason.NO_PRODUCT),
        ("triton_poi_fused_add_0", "", (), BF16, (8, 0), Reason.NO_PRODUCT),
        ("cudnn_ampere_scudnn_128x64_relu", "aten::conv2d", ((1, 3, 8, 8), (64, 3, 3, 3)),
         ("c10::Half", "c10::Half"), (8, 0), Reason.UNALIGNED),
        ("cudnn_ampere_scudnn_128x64_relu", "aten::conv2d", ((1, 32, 8, 8), (32, 1, 3, 3)),
         ("c10::Half", "c10::Half"), (8, 0), Reason.DEPTHWISE),
        (SGEMM, "aten::mm", SQUARE, ("int", "int"), (8, 0), Reason.FORMAT),
    ],
)  # fmt: skip
def test_the_reason(
    kernel: str,
    operator: str,
    shapes: tuple[tuple[int, ...], ...],
    types: tuple[str, ...],
    capability: tuple[int, int] | None,
    reason: Reason,
) -> None:
    found = eligibility(
        classify(kernel, input_types=types),
        operator=operator,
        shapes=shapes,
        input_types=types,
        capability=capability,
    )
    assert found.reason is reason
    assert found.why.startswith(reason.value)


def test_the_sentence_names_the_dimensions() -> None:
    kernel = classify(HGEMM)
    found = eligibility(kernel, operator="aten::mm", shapes=((8, 127), (127, 30)), input_types=BF16)
    assert found.why.endswith("N = 30 and K = 127: no multiple of 8")


@pytest.mark.parametrize(
    ("types", "size", "is_aligned"),
    [(("c10::Half",), 8, True), (("signed char",), 8, False), (("signed char",), 16, True)],
)
def test_narrow_formats_need_more_numbers(
    types: tuple[str, ...], size: int, is_aligned: bool
) -> None:
    found = eligibility(
        classify(HGEMM), operator="aten::mm", shapes=((64, size), (size, size)), input_types=types
    )
    assert (found.reason is Reason.LIBRARY_CHOICE) is is_aligned


@pytest.mark.parametrize(
    ("operator", "shapes", "expected"),
    [
        ("aten::mm", ((2, 3), (3, 5)), {"M": 2, "N": 5, "K": 3}),
        ("aten::bmm", ((7, 2, 3), (7, 3, 5)), {"M": 2, "N": 5, "K": 3}),
        ("aten::mv", ((2, 3), (3,)), {"M": 2, "N": 1, "K": 3}),
        ("aten::addmm", ((5,), (2, 3), (3, 5)), {"M": 2, "N": 5, "K": 3}),
        ("aten::linear", ((4, 2, 3), (5, 3), (5,)), {"M": 8, "N": 5, "K": 3}),
        ("aten::conv2d", ((1, 6, 9, 9), (4, 3, 2, 2)), {"output channels": 4, "input channels": 3}),
        (
            "aten::convolution_backward",
            ((1, 4, 8, 8), (1, 6, 9, 9), (4, 3, 2, 2)),
            {"output channels": 4, "input channels": 3},
        ),
        ("aten::relu", ((2, 3),), {}),
        ("aten::mm", ((2, 3),), {}),
        ("aten::mm", ((), ()), {}),
    ],
)
def test_dimensions(
    operator: str, shapes: tuple[tuple[int, ...], ...], expected: dict[str, int]
) -> None:
    assert dimensions(operator, shapes) == expected


def test_what_is_eligible_has_a_fix() -> None:
    assert {reason for reason in Reason if reason.is_eligible} == set(FIXES)
