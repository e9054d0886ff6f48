"""The schemes that have a name."""

from collections.abc import Iterator, Mapping

from ridgeline.compress.elements import ELEMENTS
from ridgeline.compress.granularity import (
    PER_HEAD,
    PER_TENSOR,
    PER_TOKEN,
    Granularity,
    per_block,
    per_channel,
    per_group,
)
from ridgeline.compress.scaling import Scaling, TensorScale
from ridgeline.compress.scheme import Scheme
from ridgeline.errors import FormatError

_MX_ELEMENTS = {
    "mxfp8": "e4m3fn",
    "mxfp8_e5m2": "e5m2",
    "mxfp6": "e2m3",
    "mxfp6_e3m2": "e3m2",
    "mxfp4": "e2m1",
    "mxint8": "mxint8",
}
_EIGHT_BIT_TILES: Mapping[str, Granularity] = {
    "tensor": PER_TENSOR,
    "channel": per_channel(),
    "token": PER_TOKEN,
    "head": PER_HEAD,
    "block128": per_block(128, 128),
    "g128": per_group(128),
}


def _scheme(
    name: str, element: str, granularity: Granularity, scaling: Scaling, scale: str = "fp32"
) -> Scheme:
    return Scheme(
        name=name,
        element=ELEMENTS[element],
        granularity=granularity,
        scaling=scaling,
        scale_element=ELEMENTS[scale],
    )


def _eight_bits() -> Iterator[Scheme]:
    for tile, granularity in _EIGHT_BIT_TILES.items():
        yield _scheme(f"int8_{tile}", "int8", granularity, Scaling.HALF_RANGE)
        yield _scheme(f"fp8_{tile}", "e4m3fn", granularity, Scaling.LARGEST)
    yield _scheme("int8_restricted", "int8_restricted", per_channel(), Scaling.LARGEST)
    yield _scheme("uint8_token", "uint8", PER_TOKEN, Scaling.RANGE)
    yield _scheme("int8_tensor_asym", "int8", PER_TENSOR, Scaling.RANGE)
    yield _scheme("fp8_e5m2_tensor", "e5m2", PER_TENSOR, Scaling.LARGEST)


def _few_bits() -> Iterator[Scheme]:
    for bits in range(7, 1, -1):
        for size in (128, 32):
            tile = per_group(size)
            name, signed = f"w{bits}_g{size}", f"int{bits}"
            yield _scheme(name, signed, tile, Scaling.HALF_RANGE, "fp16")
            yield _scheme(f"{name}_asym", f"uint{bits}", tile, Scaling.RANGE, "fp16")
    yield _scheme("int4_token", "int4", PER_TOKEN, Scaling.HALF_RANGE)
    yield _scheme("nf4", "nf4", per_group(64), Scaling.LARGEST)


def _microscaling() -> Iterator[Scheme]:
    for name, element in _MX_ELEMENTS.items():
        yield _scheme(name, element, per_group(32), Scaling.MX_FLOOR, "e8m0")
    for suffix, kind, least in (
        ("", TensorScale.INVERSE, 0.0),
        ("_scale", TensorScale.SCALE, 2.0**-6),  # torchao's least: the least normal of e4m3
    ):
        yield Scheme(
            name=f"nvfp4{suffix}",
            element=ELEMENTS["e2m1"],
            granularity=per_group(16),
            scaling=Scaling.LARGEST,
            scale_element=ELEMENTS["e4m3fn"],
            tensor_scale=kind,
            least_scale=least,
        )


SCHEMES: Mapping[str, Scheme] = {
    scheme.name: scheme for make in (_eight_bits, _few_bits, _microscaling) for scheme in make()
}


def scheme_named(name: str) -> Scheme:
    """The row of SCHEMES. Raises FormatError that lists the names."""
    if name not in SCHEMES:
        raise FormatError(f"no scheme is called {name!r}; there are {', '.join(SCHEMES)}.")
    return SCHEMES[name]
