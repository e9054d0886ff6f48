"""The vision, medical and text-image zoo: published facts, sane numbers, exportable graphs."""

import functools
import math
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ridgeline import zoo
from ridgeline.zoo import Sizes, Workload
from ridgeline.zoo.deepadipose import GaussianDropout, GaussianNoise


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """What is printed elsewhere about a workload, and its outputs' shapes at `small`."""

    parameters: int
    parameters_m: str
    gflop: str
    small: Sizes
    shapes: tuple[tuple[int, ...], ...]
    batch_dim: int = 0


# parameters_m and gflop: published figures as printed (twice the MACs where a paper prints MACs).
GOLDEN = {
    "resnet50": Golden(
        parameters=25_557_032, parameters_m="25.557", gflop="8.18", small=Sizes(batch=2, seq=64),
        shapes=((2, 1000),),
    ),
    "resnext50-32x4d": Golden(
        parameters=25_028_904, parameters_m="25.0", gflop="8.46", small=Sizes(batch=2, seq=64),
        shapes=((2, 1000),),
    ),
    "mobilenetv3-large": Golden(
        parameters=5_483_032, parameters_m="5.5", gflop="0.43", small=Sizes(batch=2, seq=64),
        shapes=((2, 1000),),
    ),
    "vit-b-16": Golden(
        parameters=86_567_656, parameters_m="86.6", gflop="35.13", small=Sizes(batch=2, seq=48),
        shapes=((2, 1000),),
    ),
    # 26.8 in the paper, norms and activations included: the convolutions alone are 0.4 % less.
    "yolox-s": Golden(
        parameters=8_968_255, parameters_m="8.97", gflop="26.7", small=Sizes(batch=2, seq=64),
        shapes=((2, 64 + 16 + 4, 85),),
    ),
    "covid-mtl": Golden(
        parameters=3_848_199, parameters_m="3.848", gflop="87.18", small=Sizes(batch=2, seq=40),
        shapes=((2, 2), (2, 2), (2, 3)),
    ),
    "bcnn": Golden(
        parameters=11_617_382, parameters_m="11.617", gflop="33.67", small=Sizes(batch=2, seq=64),
        shapes=((2, 6),),
    ),
    "deepadipose": Golden(
        parameters=709_698, parameters_m="0.710", gflop="0.001415", small=Sizes(batch=2),
        shapes=((2, 2),),
    ),
    # 7.82 is published without the LSTM gates; test_crnn_flops_by_hand has both.
    "crnn": Golden(
        parameters=11_149_210, parameters_m="11.15", gflop="8.57", small=Sizes(batch=2, seq=80),
        shapes=((21, 2, 5530),), batch_dim=1,
    ),
}  # fmt: skip
NAMES = tuple(GOLDEN)

# nn.LSTM keeps a second list of its parameters, which export takes for state that forward changes;
# test_exports_to_the_same_numbers shows that the graph is right all the same.
nn_lstm_warns = pytest.mark.filterwarnings("ignore:The tensor attributes self.*_flat_weights")


def _prints_as(value: float, printed: str) -> bool:
    return f"{value:.{len(printed.partition('.')[2])}f}" == printed


def _counted_flops(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(*inputs)
    return counter.get_total_flops()


def _on_meta(workload: Workload, sizes: Sizes) -> tuple[nn.Module, tuple[Tensor, ...]]:
    with torch.device("meta"):
        return workload.forms["forward"](workload.build(), sizes)


def _built(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The workload with real weights, at its small size; the caller may change it."""
    torch.manual_seed(0)
    workload = zoo.get(name)
    return workload.forms["forward"](workload.build(), GOLDEN[name].small)


@functools.lru_cache
def _shared(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """As `_built`, once for all tests: the caller must leave it as it is."""
    return _built(name)


def _outputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        result = model(*inputs)
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_the_published_ones(name: str) -> None:
    golden = GOLDEN[name]
    with torch.device("meta"):
        counted = sum(parameter.numel() for parameter in zoo.get(name).build().parameters())
    assert counted == golden.parameters == zoo.get(name).facts.parameters
    assert _prints_as(counted / 1e6, golden.parameters_m)


@pytest.mark.parametrize("name", NAMES)
def test_flops_are_the_counted_and_the_published_ones(name: str) -> None:
    """On `meta` torch's counter sees into attention and LSTM, so it is right for all of these."""
    facts = zoo.get(name).facts
    assert facts.flops is not None
    assert _counted_flops(*_on_meta(zoo.get(name), facts.sizes)) == facts.flops
    assert _prints_as(facts.flops / 1e9, GOLDEN[name].gflop)


def test_published_multiply_accumulates() -> None:
    """The figures people quote, in GMAC."""
    quoted = {
        "resnet50": "4.09",
        "resnext50-32x4d": "4.23",
        "mobilenetv3-large": "0.217",
        "vit-b-16": "17.56",
    }
    for name, gmac in quoted.items():
        flops = zoo.get(name).facts.flops
        assert flops is not None
        assert _prints_as(flops / 2e9, gmac), name


def test_vit_flops_by_hand() -> None:
    patches, tokens, width, depth = 14 * 14, 14 * 14 + 1, 768, 12
    linears = tokens * (3 + 1 + 4 + 4) * width * width
    attention = 2 * tokens * tokens * width
    macs = patches * 16 * 16 * 3 * width + depth * (linears + attention) + width * 1000
    assert zoo.get("vit-b-16").facts.flops == 2 * macs


def test_crnn_flops_by_hand() -> None:
    """The published 7.82 GFLOP is convolutions and linears; the gates of the LSTMs come on top."""
    batch, width, classes, hidden = 2, 280, 5530, 256
    steps = width // 4 + 1
    rows = batch * steps
    convolutions = batch * (
        9 * (32 * width * 1 * 64 + 16 * (width // 2) * 64 * 128)
        + 9 * 8 * (width // 4) * (128 * 256 + 256 * 256)
        + 9 * 4 * (width // 4 + 1) * (256 * 512 + 512 * 512)
        + 4 * 1 * steps * 512 * 512
    )
    linears = rows * 2 * hidden * (hidden + classes)
    gates = rows * 2 * 4 * hidden * ((512 + hidden) + (hidden + hidden))
    assert _prints_as(2 * (convolutions + linears) / 1e9, "7.82")
    assert zoo.get("crnn").facts.flops == 2 * (convolutions + linears + gates)


def test_deepadipose_flops_by_hand() -> None:
    macs = 11 * 1024 + 1024 * 512 + 512 * 256 + 256 * 128 + 128 * 64 + 64 * 2
    assert zoo.get("deepadipose").facts.flops == 2 * macs


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_finite_bounded_and_tell_inputs_apart(name: str) -> None:
    golden = GOLDEN[name]
    outputs = _outputs(*_shared(name))
    assert tuple(tuple(output.shape) for output in outputs) == golden.shapes
    for output in outputs:
        assert output.isfinite().all()
        assert output.std() > 1e-3
        assert output.abs().max() < 1e3
        first, second = output.unbind(golden.batch_dim)
        assert (first - second).std() > 0.02 * output.std()


@pytest.mark.parametrize("name", ["mobilenetv3-large", "crnn", "deepadipose"])
def test_same_seed_same_outputs(name: str) -> None:
    first, second = _outputs(*_shared(name)), _outputs(*_built(name))
    assert all(map(torch.equal, first, second))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_bounded_at_the_published_size(name: str) -> None:
    torch.manual_seed(0)
    workload = zoo.get(name)
    model, inputs = workload.forms["forward"](workload.build(), workload.facts.sizes)
    for output in _outputs(model, inputs):
        assert output.isfinite().all()
        assert output.abs().max() < 5e3


@nn_lstm_warns
@pytest.mark.parametrize("name", NAMES)
def test_exports_on_meta_at_the_published_size(name: str) -> None:
    workload = zoo.get(name)
    model, inputs = _on_meta(workload, workload.facts.sizes)
    with torch.device("meta"):
        program = torch.export.export(model, inputs, strict=False)
    assert all(value.device.type == "meta" for value in program.state_dict.values())
    assert len(program.state_dict) == len(model.state_dict())


@nn_lstm_warns
@pytest.mark.parametrize("name", NAMES)
def test_exports_to_the_same_numbers(name: str) -> None:
    model, inputs = _shared(name)
    exported = torch.export.export(model, inputs, strict=False).module()
    for expected, actual in zip(_outputs(model, inputs), _outputs(exported, inputs), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@nn_lstm_warns
@pytest.mark.parametrize(("name", "target", "count"), [
    ("vit-b-16", torch.ops.aten.scaled_dot_product_attention.default, 12),
    ("crnn", torch.ops.aten.lstm.input, 2),
])  # fmt: skip
def test_composite_ops_survive_export(name: str, target: torch._ops.OpOverload, count: int) -> None:
    model, inputs = _on_meta(zoo.get(name), Sizes())
    graph = torch.export.export(model, inputs, strict=False).graph
    assert sum(node.target is target for node in graph.nodes) == count


@pytest.mark.parametrize(("name", "sizes", "shapes"), [
    ("resnet50", Sizes(), ((1, 3, 224, 224),)),
    ("resnet50", Sizes(batch=4, seq=192), ((4, 3, 192, 192),)),
    ("vit-b-16", Sizes(batch=3, seq=384), ((3, 3, 384, 384),)),
    ("yolox-s", Sizes(), ((1, 3, 640, 640),)),
    ("covid-mtl", Sizes(), ((1, 1, 200, 250, 250), (1, 375))),
    ("covid-mtl", Sizes(batch=2, seq=100), ((2, 1, 80, 100, 100), (2, 375))),
    ("bcnn", Sizes(), ((1, 3, 256, 256), (1, 3, 512, 512))),
    ("bcnn", Sizes(batch=2, seq=128), ((2, 3, 128, 128), (2, 3, 256, 256))),
    ("deepadipose", Sizes(batch=7), ((7, 11),)),
    ("crnn", Sizes(), ((1, 1, 32, 280),)),
    ("crnn", Sizes(batch=2, seq=400), ((2, 1, 32, 400),)),
])  # fmt: skip
def test_forms_respect_sizes(name: str, sizes: Sizes, shapes: tuple[tuple[int, ...], ...]) -> None:
    model, inputs = _on_meta(zoo.get(name), sizes)
    assert tuple(tuple(value.shape) for value in inputs) == shapes
    assert all(output.device.type == "meta" for output in _outputs(model, inputs))


@pytest.mark.parametrize(("name", "seq", "sentence"), [
    ("vit-b-16", 100, "multiple of 16; 100 is not"),
    ("yolox-s", 100, "multiple of 32; 100 is not"),
    ("deepadipose", 4, "has no seq; leave out seq=4"),
])  # fmt: skip
def test_impossible_sizes_say_why(name: str, seq: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        _on_meta(zoo.get(name), Sizes(seq=seq))


def test_vit_resampling_leaves_the_model_and_constant_positions_alone() -> None:
    torch.manual_seed(0)
    workload = zoo.get("vit-b-16")
    model = workload.build()
    positions = model.get_parameter("positions")
    with torch.no_grad():
        positions[:, 1:] = 0.5
    resized, _ = workload.forms["forward"](model, Sizes(seq=320))
    resampled = resized.get_parameter("positions")
    assert positions.shape == (1, 197, 768)
    assert resampled.shape == (1, 401, 768)
    torch.testing.assert_close(resampled[:, 1:], torch.full((1, 400, 768), 0.5))
    assert torch.equal(resampled[:, 0], positions[:, 0])


def test_yolox_boxes_start_on_their_cells() -> None:
    """With box layers at zero every box is one cell: centre at its corner, side one stride."""
    model, inputs = _built("yolox-s")
    for head in ("head8", "head16", "head32"):
        nn.init.zeros_(model.get_parameter(f"{head}.box.weight"))
    (boxes,) = _outputs(model, inputs)
    cells = [(8 * x, 8 * y, 8, 8) for y in range(8) for x in range(8)]
    cells += [(16 * x, 16 * y, 16, 16) for y in range(4) for x in range(4)]
    cells += [(32 * x, 32 * y, 32, 32) for y in range(2) for x in range(2)]
    torch.testing.assert_close(boxes[0, :, :4], torch.tensor(cells, dtype=torch.float32))


def test_yolox_focus_orders_patches_as_published() -> None:
    """Top left, bottom left, top right, bottom right: published checkpoints depend on it."""
    model, _ = _built("yolox-s")
    image = torch.arange(4.0).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    seen: list[Tensor] = []
    stem = model.get_submodule("backbone.stem")
    stem.get_submodule("conv").register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    stem(image)
    assert seen[0].flatten().tolist() == [0.0] * 3 + [2.0] * 3 + [1.0] * 3 + [3.0] * 3


def test_noise_acts_in_training_only_with_the_stated_deviation() -> None:
    torch.manual_seed(0)
    ones = torch.ones(200_000)
    for layer, deviation in (
        (GaussianNoise(0.02), 0.02),
        (GaussianDropout(0.05), math.sqrt(0.05 / 0.95)),
    ):
        noisy = layer.train()(ones)
        assert noisy.mean().item() == pytest.approx(1.0, abs=1e-2)
        assert noisy.std().item() == pytest.approx(deviation, rel=1e-2)
        assert layer.eval()(ones) is ones


@pytest.mark.parametrize("name", NAMES)
def test_built_in_eval_mode_with_norms_that_matter(name: str) -> None:
    model, _ = _shared(name)
    assert not any(module.training for module in model.modules())
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d)]
    for norm in norms:
        assert norm.get_buffer("running_mean").std() > 0
        assert norm.get_buffer("running_var").std() > 0


def test_every_name_is_listed() -> None:
    assert set(NAMES) <= set(zoo.names())
    assert list(zoo.names()) == sorted(zoo.names())


@pytest.mark.parametrize("name", NAMES)
def test_get_returns_the_workload_of_that_name(name: str) -> None:
    assert zoo.get(name).name == name


def test_unknown_name_names_the_closest() -> None:
    with pytest.raises(ValueError, match="no workload 'resnet5o'; did you mean resnet50"):
        zoo.get("resnet5o")


def test_name_like_no_other_lists_them_all() -> None:
    with pytest.raises(ValueError, match=r"no workload 'zzz'; it has bcnn, bert-base, .*, yolox-s"):
        zoo.get("zzz")


def test_importing_the_zoo_imports_no_model() -> None:
    code = (
        "import sys, ridgeline.zoo as zoo; zoo.names(); "
        "print([m for m in sys.modules if m.startswith('ridgeline.zoo.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['ridgeline.zoo.workload']"
