"""KernelModel: how long one piece of work takes on one machine, by its measured kernels.

A calibrated machine says how fast each kind of kernel ran at some sizes, eagerly and as compiled
code calls it; a node takes the time of the kernel it is, interpolated between those sizes, or of
moving its bytes, whichever is longer. Elsewhere, and at the datasheet's ceiling, it is the
roofline's. docs/accuracy.md says how far that is from the truth, and where.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ridgeline.cost.calls import (
    COLD,
    Call,
    Group,
    group_of,
    in_taps,
    matrix_call,
    vector_call,
    weights_in,
    work_in,
)
from ridgeline.cost.interpolate import Sample, Speed, best_from, mean_at, rate_at, speed_of
from ridgeline.cost.roofline import Execution, Times, compute_dtype, roofline_times
from ridgeline.cost.work import Work
from ridgeline.graph import Node
from ridgeline.graph.spec import DTYPES
from ridgeline.machines import Ceiling, Kernel, Machine
from ridgeline.machines.tables import COLD_NBYTES, Route
from ridgeline.units import KIB

# Bytes that calibration's elementwise kernel moves per element: two operands and a result.
_ELEMENTWISE_BYTES: Mapping[str, int] = {"fp32": 12, "bf16": 6, "fp16": 6}
# Weights of a cold sample that says what waiting for a byte costs.
_LEAST_WAITED_NBYTES = 64 * KIB
_STREAMS = ("stream_read", "stream_copy", "stream_triad")
# route, kind, dtype and class of convolutions
_Key = tuple[str, str, str, Group | None]
_ROUTES: Mapping[Execution, Route] = {Execution.EAGER: "eager", Execution.COMPILED: "compiled"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What one piece of work moves. nbytes: all of it; weight_nbytes: weights among it, which come
    from wherever `pass_nbytes`, what a whole run passes by, leaves them. is_start:
    whether it starts a kernel, rather than run inside its producer's.
    """

    nbytes: int
    weight_nbytes: int = 0
    pass_nbytes: int = 0
    is_start: bool = True


@dataclass(frozen=True)
class KernelModel:
    """Prices work on `machine` under one execution and one ceiling."""

    machine: Machine
    execution: Execution
    ceiling: Ceiling
    _curves: dict[str, tuple[Sample, ...]] = field(default_factory=dict, repr=False)
    _speeds: dict[_Key, Speed] = field(default_factory=dict, repr=False)
    _cold: dict[_Key, tuple[Sample, ...]] = field(default_factory=dict, repr=False)

    @cached_property
    def is_measured(self) -> bool:
        """Whether times follow measured kernels instead of the plain roofline."""
        return bool(self.machine.kernels) and self.ceiling is Ceiling.ACHIEVABLE

    def times(self, work: Work, move: Move) -> Times:
        """Times of one run of `work` that moves what `move` says."""
        if not self.is_measured:
            return self._roofline(work, move)
        if work.node is not None and work.node.row.is_free:
            return Times(compute_s=0.0, memory_s=0.0, overhead_s=self._view_s)
        call = matrix_call(work.node) if work.node is not None else None
        if call is not None and (timed := self._matrix(work, move, call)) is not None:
            return timed
        if self.execution is Execution.EAGER:
            return self._eager_vector(work, move)
        return self._fused_vector(work, move)

    def pass_s(self, nbytes: int) -> float:
        """The least time in which `nbytes`, each once, pass by: at the fastest stream measured over
        a set of that size, which a cache may hold from run to run, or else at main memory's
        bandwidth.
        """
        bandwidth = self.machine.bandwidth_bytes_per_s(self.ceiling)
        return nbytes / max(bandwidth, *(self._bandwidth(kind, nbytes) for kind in _STREAMS))

    def _roofline(self, work: Work, move: Move) -> Times:
        """Peak rates, main memory's bandwidth, and one start per kernel."""
        is_free = work.node is not None and work.node.row.is_free
        overhead_s = 0.0
        if move.is_start and not is_free and self.ceiling is Ceiling.ACHIEVABLE:
            is_eager = self.execution is Execution.EAGER
            machine = self.machine
            overhead_s = machine.dispatch_overhead_s if is_eager else machine.launch_overhead_s
        dtype = compute_dtype(work.node)
        return roofline_times(work.cost, move.nbytes, dtype, self.machine, self.ceiling, overhead_s)

    @property
    def _view_s(self) -> float:
        """A view moves nothing, but eager code still calls it; compiled code does not."""
        return self.machine.dispatch_overhead_s if self.execution is Execution.EAGER else 0.0

    def _matrix(self, work: Work, move: Move, call: Call) -> Times | None:
        """A product with operands as warm as its samples had them, and the wait for weights that
        lie further away.
        """
        route = self._route(call, has_weights=move.weight_nbytes > 0)
        dtype, flops = compute_dtype(work.node), work.cost.executed_flops
        speed = self._speed(call, dtype, route)
        if speed is None:
            return None
        run_s = speed.run_s(flops, call.features)
        return Times(
            compute_s=run_s,
            memory_s=self._memory_s(move),
            overhead_s=speed.start_s if move.is_start else 0.0,
            exposed_s=self._exposed_s(move, call, dtype, route),
        )

    def _route(self, call: Call, *, has_weights: bool) -> Route:
        """What no frozen graph packs runs eagerly in a compiled one too."""
        is_packed = call.kind != "gemm" or (call.is_packable and has_weights)
        return _ROUTES[self.execution] if is_packed else "eager"

    def rate_in(self, node: Node, dtype: str, *, has_weights: bool) -> float | None:
        """FLOP/s of the product that `node` is, were it computed in `dtype`; None where no such
        kernel was measured."""
        call = matrix_call(node) if self.is_measured else None
        if call is None:
            return None
        speed = self._speed(call, dtype, self._route(call, has_weights=has_weights))
        return 1 / speed.run_s(1, call.features) if speed else None

    def _eager_vector(self, work: Work, move: Move) -> Times:
        """One kernel of its own, result allocated anew."""
        start_s = self.machine.dispatch_overhead_s
        dtype = compute_dtype(work.node)
        memory_s = self._allocating_s(move, dtype)
        compute_s = self._vector_s(work, dtype)
        return Times(
            compute_s=max(0.0, compute_s - start_s),
            memory_s=max(0.0, memory_s - start_s),
            overhead_s=start_s,
        )

    def _fused_vector(self, work: Work, move: Move) -> Times:
        """Its share of a fused loop: what is left to move, and the arithmetic."""
        return Times(
            compute_s=self._vector_s(work, compute_dtype(work.node)),
            memory_s=self._memory_s(move),
            overhead_s=self.machine.launch_overhead_s if move.is_start else 0.0,
        )

    def _vector_s(self, work: Work, dtype: str) -> float:
        """The arithmetic of anything that is not a matrix product."""
        call = vector_call(work.node) if work.node is not None else None
        route = _ROUTES[self.execution]
        speed = self._speed(call, dtype, route) if call is not None else None
        if call is not None and speed is not None:
            return speed.run_s(work_in(call.kind, call.features), call.features)
        cost, machine = work.cost, self.machine
        arithmetic = cost.vector_ops + cost.special_ops
        compute_s = arithmetic / machine.vector_flops_per_s(dtype, self.ceiling)
        if cost.executed_flops:
            compute_s += cost.executed_flops / machine.matrix_flops_per_s(dtype, self.ceiling)
        return compute_s

    def _memory_s(self, move: Move) -> float:
        """Weights from where a whole run leaves them, the rest from where its own size fits."""
        weights_s = 0.0
        if move.weight_nbytes:
            weights_s = move.weight_nbytes / self._read_bandwidth(move.pass_nbytes)
        rest = move.nbytes - move.weight_nbytes
        return weights_s + (rest / self._bandwidth("stream_triad", rest) if rest > 0 else 0.0)

    def _exposed_s(self, move: Move, call: Call, dtype: str, route: Route) -> float:
        """By how much longer weights take from where a run leaves them than from where a kernel's
        samples, called again and again on the same ones, found them: as measured for products, by
        bandwidth for the rest.
        """
        if not move.weight_nbytes:
            return 0.0
        near = 1 / self._read_bandwidth(move.weight_nbytes)
        far = 1 / self._read_bandwidth(max(move.pass_nbytes, move.weight_nbytes))
        waits = self._waits(call, dtype, route)
        if not waits:
            return max(0.0, move.weight_nbytes * (far - near))
        wait_s = move.weight_nbytes * mean_at(waits, call.features)
        return wait_s * self._coldness(near, far)

    def _waits(self, call: Call, dtype: str, route: Route) -> tuple[Sample, ...]:
        """By how many seconds per byte of weights each cold sample of the call's class took longer
        than a warm call of its size; none where nothing cold was measured, or too few weights to
        tell their wait from that for the code.
        """
        key = (route, call.kind, dtype, _class_of(call))
        if key not in self._cold:
            kernel = call.kind in COLD and self.machine.find_kernel(route, COLD[call.kind], dtype)
            warm = self._speed(call, dtype, route)
            samples = _alike(kernel.samples, _class_of(call)) if kernel else ()
            sized = [(s, weights_in(s[:-1]) * DTYPES[dtype].itemsize) for s in samples]
            # more than it takes to stream them is a wait for something else
            most_s = self._farthest
            self._cold[key] = tuple(
                (*s[:-1], min(most_s, _wait_s(warm, call.kind, s) / nbytes))
                for s, nbytes in sized
                if warm and nbytes >= _LEAST_WAITED_NBYTES
            )
        return self._cold[key]

    def _coldness(self, near: float, far: float) -> float:
        """How far from near to the cold samples' operands the far is; in seconds per byte."""
        farthest = self._farthest
        return min(1.0, max(0.0, far - near) / (farthest - near)) if farthest > near else 0.0

    @property
    def _farthest(self) -> float:
        """Seconds per byte from where the cold samples' weights lay."""
        return 1 / self._read_bandwidth(self.machine.cold_nbytes or COLD_NBYTES)

    def _allocating_s(self, move: Move, dtype: str) -> float:
        """Moving bytes as an eager op does, page faults of a fresh result included."""
        key = dtype if dtype in _ELEMENTWISE_BYTES else "fp32"
        kernel = self._kernel("elementwise", key)
        if kernel is None or move.nbytes <= 0:
            return self._memory_s(move)
        per_element = _ELEMENTWISE_BYTES[kernel.dtype]
        curve = [(s[0] * per_element, s[1] * per_element) for s in kernel.samples]
        return move.nbytes / rate_at(curve, (move.nbytes,))

    def _read_bandwidth(self, nbytes: int) -> float:
        """Of reading a working set of `nbytes`. No set is slower than main memory, whose bandwidth
        the best stream shows; what a single one shows at that size may be its pages' misfortune.
        """
        measured = self.machine.memory.achievable_bandwidth_bytes_per_s or 0.0
        return max(measured, self._bandwidth("stream_read", nbytes))

    def _bandwidth(self, kind: str, nbytes: int) -> float:
        """Of a working set of `nbytes`; main memory's where no stream was measured."""
        kernel = self._kernel(kind, "fp32")
        if kernel is None:
            return self.machine.bandwidth_bytes_per_s(self.ceiling)
        if kind not in self._curves:
            self._curves[kind] = best_from(kernel.samples)
        return rate_at(self._curves[kind], (max(1, nbytes),))

    def _speed(self, call: Call, dtype: str, route: Route) -> Speed | None:
        """The speed of the kernel that the call is; None where nothing like it was measured."""
        kernel = self.machine.find_kernel(route, call.kind, dtype)
        if kernel is None:
            return None
        key = (kernel.route, call.kind, dtype, _class_of(call))
        if key not in self._speeds:
            samples = _alike(in_taps(call.kind, kernel.samples), _class_of(call))
            works = [work_in(call.kind, sample[:-1]) for sample in samples]
            self._speeds[key] = speed_of(samples, works)
        return self._speeds[key]

    def _kernel(self, kind: str, dtype: str) -> Kernel | None:
        return self.machine.find_kernel(_ROUTES[self.execution], kind, dtype)


def _class_of(call: Call) -> Group | None:
    return group_of(call.features) if call.kind == "convolution" else None


def _alike(samples: tuple[Sample, ...], group: Group | None) -> tuple[Sample, ...]:
    """Samples of one class of convolutions, else of its kind of grouping, else all."""
    if group is None:
        return samples
    same = tuple(s for s in samples if group_of(s[:-1]) == group)
    return same or tuple(s for s in samples if group_of(s[:-1])[1] == group[1]) or samples


def _wait_s(warm: Speed, kind: str, cold: Sample) -> float:
    """Seconds that the cold sample took beyond a warm call of its size."""
    *features, rate = cold
    work = work_in(kind, features)
    return max(0.0, work / rate - warm.start_s - warm.run_s(work, features))
