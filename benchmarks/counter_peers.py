"""One peer's answer about one model, as its users would ask it: `counter_peers.py TOOL MODEL`.

Prints one JSON object on stdout: flops (multiply and add count as two; a tool that counts
multiply-adds is doubled here) and parameters. A whole process, imports included, is what
bench_counters.py measures, so each tool is imported only where it is used.

Language models are transformers' own, from the config to `meta`, with an explicit mask and position
ids, without which they do not run on `meta`; the others are Ridgeline's definitions in plain torch.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

CONFIGS = Path(__file__).parent / "configs"
SEED = 0
TOKENS = 2048
FLOPS_PER_MAC = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model with the inputs of one forward run."""

    module: nn.Module
    args: tuple[object, ...] = ()
    kwargs: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a tool says. flops: two per multiply-add."""

    flops: int
    parameters: int


class Positional(nn.Module):
    """A language model that takes its keywords in order and returns its logits, for tracers."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *values: Tensor) -> Tensor:
        """The logits."""
        values_by_name = dict(zip(self.names, values, strict=True))
        logits: Tensor = self.model(**values_by_name, use_cache=False)[0]
        return logits


def load(name: str, device: str) -> Subject:
    """The model of that name: transformers' where there is a config, always on `meta`; else the
    zoo's on `device`, its weights not drawn.
    """
    config = CONFIGS / f"{name}.json"
    return _from_config(config) if config.is_file() else _from_zoo(name, device)


def _from_config(path: Path) -> Subject:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
        tensors = {
            "input_ids": torch.zeros(1, TOKENS, dtype=torch.int64),
            "attention_mask": torch.zeros(1, 1, TOKENS, TOKENS, dtype=torch.bfloat16),
            "position_ids": torch.arange(TOKENS)[None],
        }
    return Subject(module=model, kwargs=tensors)


def _from_zoo(name: str, device: str) -> Subject:
    from ridgeline import zoo

    workload = zoo.get(name)
    with torch.device("meta"):
        model = workload.build()
    with torch.device(device):
        model = model.to_empty(device=device)
        module, inputs = workload.forms["forward"](model, workload.facts.sizes)
    return Subject(module=module, args=inputs, kwargs={})


def flop_counter_mode(subject: Subject) -> Answer:
    """PyTorch's own counter: it sees every operator that is dispatched."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        subject.module(*subject.args, **subject.kwargs)
    return Answer(flops=counter.get_total_flops(), parameters=_parameters(subject.module))


def fvcore(subject: Subject) -> Answer:
    """fvcore counts the operators of a TorchScript trace, in multiply-adds."""
    from fvcore.nn import FlopCountAnalysis, parameter_count

    module, inputs = subject.module, subject.args
    if subject.kwargs:
        module, inputs = Positional(module, tuple(subject.kwargs)), tuple(subject.kwargs.values())
    counter = FlopCountAnalysis(module, inputs)
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    counter.tracer_warnings("none")
    macs = counter.total()
    return Answer(flops=int(FLOPS_PER_MAC * macs), parameters=parameter_count(subject.module)[""])


def calflops(subject: Subject) -> Answer:
    """calflops replaces functions of torch.nn.functional and of Tensor by counting ones."""
    from calflops import calculate_flops

    flops, _, parameters = calculate_flops(
        subject.module,
        args=list(subject.args),
        kwargs=dict(subject.kwargs),
        print_results=False,
        output_as_string=False,
    )
    return Answer(flops=int(flops), parameters=int(parameters))


def torchinfo(subject: Subject) -> Answer:
    """torchinfo multiplies weights by outputs, module by module, in multiply-adds."""
    from torchinfo import summary

    data = dict(subject.kwargs) if subject.kwargs else list(subject.args)
    found = summary(subject.module, input_data=data, device="meta", verbose=0)
    return Answer(flops=FLOPS_PER_MAC * found.total_mult_adds, parameters=found.total_params)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


TOOLS: Mapping[str, Callable[[Subject], Answer]] = {
    "FlopCounterMode": flop_counter_mode,
    "fvcore": fvcore,
    "calflops": calflops,
    "torchinfo": torchinfo,
}

# fvcore's trace of a convolution fails on `meta` ("cond must be a bool, but got a Tensor").
DEVICES = {"fvcore": "cpu"}


def main() -> None:
    """Prints the answer."""
    tool, name = sys.argv[1:]
    torch.manual_seed(SEED)
    answer = TOOLS[tool](load(name, DEVICES.get(tool, "meta")))
    print(json.dumps({"flops": answer.flops, "parameters": answer.parameters}))


if __name__ == "__main__":
    main()
