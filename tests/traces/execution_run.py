"""Trains a small transformer here for two steps under torch.profiler with its execution trace
beside it: `python tests/traces/execution_run.py FOLDER [watched]` writes rank-0.json and
execution.json; watched, in truth.txt a line of JSON per call, what the dispatcher gave every
operator.

A process group of one, over gloo, adds up a gradient: so the recording shows communication, and
that the processor did the work.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from torch.profiler import ExecutionTraceObserver, ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_BATCH, _TIME, _WIDTH, _HEADS, _HIDDEN = 4, 16, 32, 4, 64
_STEPS = 2


class Watch(TorchDispatchMode):
    """Notes of every call of the dispatcher: its name, the addresses of the storages of its inputs,
    which of those it writes by torch's own schema, whether it is a view, and what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict[str, object]] = []

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Calls it, and notes what it was."""
        given = dict(zip((a.name for a in func._schema.arguments), args, strict=False))
        given |= kwargs or {}
        marks = {a.name: a.alias_info for a in func._schema.arguments}
        written = [value for name, value in given.items() if (m := marks[name]) and m.is_write]
        before = [*_addresses(list(given.values()))]
        out = func(*args, **(kwargs or {}))
        self.calls.append(
            {
                "name": f"{func.namespace}::{func._schema.name.partition('::')[2]}",
                "inputs": before,
                "written": [*_addresses(written)],
                "outputs": [*_addresses(out)],
            }
        )
        return out


def _addresses(values: object) -> list[int]:
    tensors = [one for one in tree_leaves(values) if isinstance(one, torch.Tensor)]
    return [one.untyped_storage().data_ptr() for one in tensors if one.untyped_storage().nbytes()]


def train(folder: Path, *, is_watched: bool) -> None:
    """Records the last two of three steps."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    model = torch.nn.TransformerEncoderLayer(
        _WIDTH, _HEADS, _HIDDEN, batch_first=True, dropout=0.0, activation="gelu"
    )
    optimizer = torch.optim.Adam(model.parameters(), foreach=False)
    x_BTD = torch.randn(_BATCH, _TIME, _WIDTH)
    watch = Watch()

    def step() -> None:
        optimizer.zero_grad()
        model(x_BTD).square().mean().backward()
        dist.all_reduce(next(model.parameters()).grad)
        optimizer.step()

    step()
    observer = ExecutionTraceObserver().register_callback(str(folder / "execution.json"))
    with profile(
        activities=[ProfilerActivity.CPU],
        record_shapes=True,
        profile_memory=True,
        execution_trace_observer=observer,
    ) as profiler:
        with watch if is_watched else nullcontext():
            for _ in range(_STEPS):
                step()
    profiler.export_chrome_trace(str(folder / "rank-0.json"))
    (folder / "truth.txt").write_text("\n".join(map(json.dumps, watch.calls)))
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    train(Path(sys.argv[1]), is_watched=sys.argv[2:] == ["watched"])
