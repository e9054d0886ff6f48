"""Runs a pipeline of four stages on this machine under torch.profiler and writes one file per rank:
`python tests/traces/pipeline_run.py FOLDER [MICROBATCHES]`. 1F1B, over gloo, one process a stage.

A stage takes its time by sleeping, so that four of them do not share cores: that shows what the
schedule does and nothing of a machine's arithmetic. What it sleeps in is recorded as an operator.
"""

import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.profiler import ProfilerActivity, profile, schedule

NUM_STAGES = 4
FORWARD_S, BACKWARD_S = 0.1, 0.2
NUM_STEPS = 2
_BATCH, _WIDTH = 2, 8


class Work(torch.autograd.Function):
    """Gives its input back after a while, and the gradient after another."""

    @staticmethod
    def forward(ctx: object, x_BW: torch.Tensor) -> torch.Tensor:
        """x_BW, after FORWARD_S."""
        time.sleep(FORWARD_S)
        return x_BW.clone()

    @staticmethod
    def backward(ctx: object, gradient_BW: torch.Tensor) -> torch.Tensor:
        """gradient_BW, after BACKWARD_S."""
        time.sleep(BACKWARD_S)
        return gradient_BW.clone()


class Stage(torch.nn.Module):
    """One stage: a weight, so that there is something to train, and the work."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(_WIDTH))

    def forward(self, x_BW: torch.Tensor) -> torch.Tensor:
        """x_BW times the weight, slowly."""
        out: torch.Tensor = Work.apply(x_BW * self.weight)
        return out


def run_stage(rank: int, folder: str, num_microbatches: int) -> None:
    """What the process of one stage does."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", NUM_STAGES)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=NUM_STAGES)
    stage = PipelineStage(Stage(), rank, NUM_STAGES, torch.device("cpu"))
    pipeline = Schedule1F1B(stage, num_microbatches, loss_fn=lambda y, t: (y - t).square().mean())
    batch = torch.ones(num_microbatches * _BATCH, _WIDTH)
    given = {0: (batch,)}.get(rank, ())
    wanted = {NUM_STAGES - 1: {"target": torch.zeros_like(batch)}}.get(rank, {})
    plan = schedule(wait=1, warmup=1, active=NUM_STEPS)  # shapes are exchanged in the first step
    with profile(
        activities=[ProfilerActivity.CPU], schedule=plan, record_shapes=True, profile_memory=True
    ) as profiler:
        for _ in range(2 + NUM_STEPS):
            pipeline.step(*given, **wanted)
            dist.barrier()
            profiler.step()
    profiler.export_chrome_trace(f"{folder}/rank-{rank}.json")
    dist.destroy_process_group()


def run_pipeline(folder: Path, num_microbatches: int) -> None:
    """Runs all stages and waits for them. Raises what a stage raised."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    mp.spawn(run_stage, args=(str(folder), num_microbatches), nprocs=NUM_STAGES)
    (folder / "store").unlink(missing_ok=True)


if __name__ == "__main__":
    run_pipeline(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 8)
