"""Norms and activations written out in arithmetic become the one node that they are."""

from math import sqrt

import torch
from torch import Tensor, fx

from ridgeline.graph import Graph
from ridgeline.graph.edit import Edit
from ridgeline.passes.match import Bound, Matcher, argument, arguments
from ridgeline.passes.rewrite import Build, Rewrite, rewrite

_aten = torch.ops.aten


def recover_composites(graph: Graph) -> Graph:
    """The graph with written-out layer norms, RMS norms, softmaxes, GELUs, SiLUs, Mishes and hard
    sigmoids and swishes as one node each.

    Affines around them are left to `fold_affine`.
    """
    return rewrite(graph, _TABLE)


def _activation(target: torch._ops.OpOverload, **kwargs: str) -> Build:
    def build(edit: Edit, matcher: Matcher, root: fx.Node, bound: Bound) -> fx.Node | None:
        x = bound.names["x"]
        return edit.call(target, (x,), root, kwargs) if isinstance(x, fx.Node) else None

    return build


def _norm(has_mean: bool) -> Build:
    def build(edit: Edit, matcher: Matcher, root: fx.Node, bound: Bound) -> fx.Node | None:
        x, epsilon = bound.names["x"], matcher.number(bound.names["e"])
        if not isinstance(x, fx.Node) or epsilon is None or epsilon < 0:
            return None
        reductions = [bound.node(name) for name in ("m", "v") if name in bound.names]
        shapes = {_normalized_shape(x, node) for node in reductions}
        if len(shapes) != 1 or None in shapes:
            return None
        (shape,) = shapes
        assert shape is not None
        if has_mean:
            new = edit.call(_aten.layer_norm.default, (x, list(shape), None, None, epsilon), root)
        else:
            new = edit.call(_aten.rms_norm.default, (x, list(shape), None, epsilon), root)
        for name, target in (("g", _aten.mul.Tensor), ("b", _aten.add.Tensor)):
            if name in bound.names:
                new = edit.call(target, (new, bound.names[name]), root)
        return new

    return build


def _normalized_shape(x: fx.Node, reduction: fx.Node) -> tuple[int, ...] | None:
    """The last sizes of `x`, if they are what a mean or a variance reduces and keeps as 1."""
    given, value = arguments(reduction), x.meta["val"]
    dims = given.get("dim")
    if not given.get("keepdim") or given.get("dtype") is not None:
        return None
    if "correction" in given or "unbiased" in given:
        correction = given.get("correction", given.get("unbiased"))
        if correction is None or bool(correction):
            return None
    if not isinstance(dims, list | tuple) or not dims:
        return None
    rank = value.dim()
    reduced = sorted(int(d) % rank for d in dims)
    shape = value.shape[rank - len(reduced) :]
    is_last = reduced == list(range(rank - len(reduced), rank))
    is_fixed = all(isinstance(size, int) for size in shape)
    return tuple(shape) if is_last and is_fixed and isinstance(value, Tensor) else None


def _softmax(edit: Edit, matcher: Matcher, root: fx.Node, bound: Bound) -> fx.Node | None:
    x, rank = bound.names["x"], root.meta["val"].dim()
    reductions = [bound.node(name) for name in ("m", "s") if name in bound.names]
    dims = [argument(node, "dim") for node in reductions]
    if not all(isinstance(d, list | tuple) and len(d) == 1 for d in dims):
        return None
    if not all(argument(node, "keepdim") for node in reductions):
        return None
    over = {int(d[0]) % rank for d in dims}  # type: ignore[index, arg-type]
    if len(over) != 1 or not isinstance(x, fx.Node) or not x.meta["val"].is_floating_point():
        return None
    return edit.call(_aten.softmax.int, (x, over.pop()), root)


def _square(of: str) -> str:
    return f"(pow({of}, 2) | product({of}, {of}) | square({of}))"


def _over_root(numerator: str, variance: str) -> tuple[str, ...]:
    """numerator / sqrt(variance + e), in every way to write it, scaled by g or not."""
    inside = f"add({variance}, e)"
    inverses = (f"rsqrt({inside})", f"reciprocal(sqrt({inside}))", f"pow({inside}, -0.5)")
    inverse = " | ".join((*inverses, f"div(1, sqrt({inside}))"))
    root = f"(sqrt({inside}) | pow({inside}, 0.5))"
    return (
        f"product({numerator}, ({inverse}))",
        f"product({numerator}, ({inverse}), g)",
        f"div({numerator}, {root})",
    )


_DEVIATION = "(d := sub(x, (m := mean(x))))"
_VARIANCES = (f"(v := mean({_square('d')}))", "(v := var(x))")
_SPREAD = f"sub((v := mean({_square('x')})), {_square('m')})"
_HALF, _ROOT, _SLOPE, _CUBE = 0.5, sqrt(0.5), 0.7978845608028654, 0.044715
_UP_TO_SIX = " | ".join(f"{op}(add(x, 3), 0, 6)" for op in ("clamp", "hardtanh")) + (
    " | relu6(add(x, 3)) | minimum(maximum(add(x, 3), 0), 6) | clamp(clamp(add(x, 3), 0), None, 6)"
)
_UP_TO_ONE = f"clamp(add(product(x, {1 / 6}), 0.5), 0, 1)"


def _moment_forms() -> tuple[str, ...]:
    """x * i + (b - mean * i), i = g / sqrt(variance + e): how batch-normalising code writes it."""
    variance = f"(v := mean({_square('sub(x, (m := mean(x)))')})) | {_SPREAD}"
    inverse = f"rsqrt(add(({variance}), e))"
    scaled = f"(i := (product({inverse}, g) | {inverse}))"
    return (f"add(mul(x, {scaled}), sub(b, mul(m, i)))",)


def _layer_norm_forms() -> tuple[str, ...]:
    forms = [form for v in (*_VARIANCES, _SPREAD) for form in _over_root(_DEVIATION, v)]
    return (*forms, *_moment_forms())


def _gelu_forms() -> dict[str, tuple[str, ...]]:
    erf = f"erf(product(x, {_ROOT}))"
    inner = (
        f"product({_SLOPE}, add(x, (product({_CUBE}, x, x, x) | product({_CUBE}, pow(x, 3)))))"
        f" | product({_SLOPE}, x, add((product({_CUBE}, x, x) | product({_CUBE}, pow(x, 2))), 1))"
    )
    return {
        "none": (
            f"product({_HALF}, x, add({erf}, 1))",
            f"product(x, add(product({_HALF}, {erf}), {_HALF}))",
        ),
        "tanh": (f"product({_HALF}, x, add(tanh({inner}), 1))",),
    }


def _table() -> tuple[Rewrite, ...]:
    forms: list[tuple[tuple[str, ...], Build]] = [
        (_layer_norm_forms(), _norm(has_mean=True)),
        (_over_root("x", f"(v := mean({_square('x')}))"), _norm(has_mean=False)),
        (
            (
                "div((e := exp(sub(x, (m := amax(x))))), (s := sum(e)))",
                "div((e := exp(x)), (s := sum(e)))",
            ),
            _softmax,
        ),
        *(
            (patterns, _activation(_aten.gelu.default, approximate=how))
            for how, patterns in _gelu_forms().items()
        ),
        (
            ("product(x, sigmoid(x))", "div(x, add(exp(neg(x)), 1))"),
            _activation(_aten.silu.default),
        ),
        (("product(x, tanh(softplus(x)))",), _activation(_aten.mish.default)),
        (
            (
                f"product(x, ({_UP_TO_SIX}), {1 / 6})",
                "product(x, hardsigmoid(x))",
                f"product(x, {_UP_TO_ONE})",
            ),
            _activation(_aten.hardswish.default),
        ),
        ((f"product(({_UP_TO_SIX}), {1 / 6})", _UP_TO_ONE), _activation(_aten.hardsigmoid.default)),
    ]
    return tuple(
        Rewrite(pattern=pattern, build=build) for patterns, build in forms for pattern in patterns
    )


_TABLE = _table()
