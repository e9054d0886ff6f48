"""The rule table: what a kernel's name says it is. First match wins, so the order is the meaning.

Sources: names seen in public Kineto and Nsight recordings of A100, V100, H100, B200, MI210, MI250
and MI300, and the naming schemes of cuBLAS (nvjet, xmma), CUTLASS, cuDNN, Tensile, Composable
Kernel, MIOpen, Triton, FlashAttention, FlashInfer, TensorRT-LLM, FBGEMM and vLLM.
"""

import re
from collections.abc import Iterator

from ridgeline.traces import product_rules, vector_rules
from ridgeline.traces.kernel_kinds import Block, KernelOp, Rule, Scope, Unit

_ORDER: tuple[Block, ...] = (
    *vector_rules.MTIA,
    *vector_rules.MOVES,
    *vector_rules.EMBEDDING_AND_OPTIMIZER,
    *product_rules.ATTENTION,
    *product_rules.CUDA_CORE_PRODUCTS,  # before the tensor-core rules: xmma and cutlass are both
    *product_rules.AMD,
    *product_rules.TENSOR_CORE,
    *vector_rules.XLA,
    *vector_rules.TRITON,
    *vector_rules.VECTOR,
)


def _rules(op: KernelOp, unit: Unit, lines: str) -> Iterator[Rule]:
    """The rules of one block, in its order. A line is `pattern  # reason`, searched in the
    function's head, or in the whole name where it starts with `~ `. Patterns are case-sensitive
    unless they say (?i)."""
    for line in filter(None, map(str.strip, lines.splitlines())):
        scope = Scope.WHOLE if line.startswith("~ ") else Scope.HEAD
        pattern, _, reason = line.removeprefix("~ ").partition("  # ")
        words = reason or f"a kernel of {op.value}"
        yield Rule(pattern=re.compile(pattern), op=op, unit=unit, reason=words, scope=scope)


RULES: tuple[Rule, ...] = tuple(rule for block in _ORDER for rule in _rules(*block))
