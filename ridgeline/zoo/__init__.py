"""Models to point the tools at: plain torch, random weights, published facts, one file each.

Importing this package imports no model file; `get` imports the one it is asked for.
"""

import difflib
import importlib

from ridgeline.zoo.workload import Facts, Form, Sizes, Workload, image_form

__all__ = ["Facts", "Form", "Sizes", "Workload", "get", "image_form", "names"]

# Name of the workload -> the module of this package that defines it.
_MODULES = {
    "bcnn": "bcnn",
    "bert-base": "bert",
    "covid-mtl": "covid_mtl",
    "crnn": "crnn",
    "deepadipose": "deepadipose",
    "egc": "egc",
    "egc-tiny": "egc",
    "gpt2": "gpt2",
    "llama-2-7b": "decoder",
    "llama-3.1-405b": "decoder",
    "llama-3.1-70b": "decoder",
    "llama-3.1-8b": "decoder",
    "llama-small": "decoder",
    "llama-tiny": "decoder",
    "mixtral-8x7b": "decoder",
    "mixtral-tiny": "decoder",
    "mobilenetv3-large": "mobilenetv3",
    "resnet50": "resnet",
    "resnext50-32x4d": "resnet",
    "sd-v1-block": "sd_unet",
    "sd-v1-unet": "sd_unet",
    "vit-b-16": "vit",
    "yolox-s": "yolox",
}


def names() -> tuple[str, ...]:
    """Every workload that `get` knows, in alphabetical order."""
    return tuple(sorted(_MODULES))


def get(name: str) -> Workload:
    """The workload of that name; imports its file. Raises ValueError naming the closest names."""
    if name not in _MODULES:
        close = difflib.get_close_matches(name, _MODULES)
        way_out = f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(names())}"
        raise ValueError(f"the zoo has no workload {name!r}; {way_out}")
    return _by_name(_MODULES[name])[name]


def _by_name(module_name: str) -> dict[str, Workload]:
    """The workloads one file defines: `WORKLOADS`, or the single `WORKLOAD`."""
    module = importlib.import_module(f"{__name__}.{module_name}")
    workloads: tuple[Workload, ...] = (
        module.WORKLOADS if hasattr(module, "WORKLOADS") else (module.WORKLOAD,)
    )
    return {workload.name: workload for workload in workloads}
