"""What a kernel is, from its name: op type, number format, unit, and the reason."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ridgeline.traces.kernel_kinds import KernelOp, Rule, Scope, Unit
from ridgeline.traces.kernel_names import function_head
from ridgeline.traces.kernel_rules import RULES
from ridgeline.traces.precision import Precision, precision

# Names only AMD's libraries and compilers give: what Triton compiled beside them ran there too.
_AMD_NAMES = ("Cijk_", "ck_tile", "_ZN2ck", "__hip_", "__amd_", "gtcx", "miopen", "MIOpen")
_SEARCHED = 4096  # characters: some patterns take time quadratic in a name's length
_NOT_KNOWN = "no rule knows this name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """What one kernel is. reason: what in its name, or which rule, says so."""

    name: str
    op: KernelOp
    precision: Precision
    unit: Unit
    reason: str

    @property
    def is_known(self) -> bool:
        """Whether a rule knows it."""
        return self.op is not KernelOp.UNKNOWN


def _matches(rule: Rule, *, name: str, head: str) -> bool:
    return bool(rule.pattern.search(head if rule.scope is Scope.HEAD else name[:_SEARCHED]))


def _unit_there(unit: Unit, *, is_amd: bool) -> Unit:
    """`unit` by the name it has on that vendor's chip: Triton's tl.dot is either vendor's."""
    return Unit.MATRIX_CORE if is_amd and unit is Unit.TENSOR_CORE else unit


def ran_on_amd(names: Iterable[str], device_name: str = "") -> bool:
    """Whether kernels of these names ran on an AMD device: some are only AMD's, or it says so."""
    if device_name.startswith(("AMD", "gfx")):
        return True
    return any(word in name for name in names for word in _AMD_NAMES)


def classify(name: str, *, input_types: Sequence[str] = (), is_amd: bool = False) -> Kernel:
    """What the kernel `name` is, by the first rule that matches; UNKNOWN, with its reason, where
    none does. input_types: of the operator that launched it, as recorded (`c10::BFloat16`): they
    decide its precision. is_amd: its device is AMD's, where the same Triton kernel runs on matrix
    cores."""
    head = function_head(name[:_SEARCHED])
    rule = next((rule for rule in RULES if _matches(rule, name=name, head=head)), None)
    op = rule.op if rule else KernelOp.UNKNOWN
    return Kernel(
        name=name,
        op=op,
        precision=precision(name, op, input_types),
        unit=_unit_there(rule.unit, is_amd=is_amd) if rule else Unit.UNKNOWN,
        reason=rule.reason if rule else _NOT_KNOWN,
    )
