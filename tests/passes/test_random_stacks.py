"""Random small stacks of layers: all passes together keep the outputs."""

import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from ridgeline.backends.agreement import compare
from ridgeline.backends.reference import Reference
from ridgeline.frontends.torch_export import capture
from ridgeline.passes.manager import run_passes

LAYERS = st.lists(
    st.tuples(
        st.sampled_from(["conv", "transposed", "norm", "relu", "dropout"]),
        st.sampled_from([1, 2, 4]),  # groups
        st.booleans(),  # bias, or affine
    ),
    min_size=1,
    max_size=6,
)


def stack(plan: list[tuple[str, int, bool]], has_head: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for kind, groups, flag in plan:
        layers.append(
            {
                "conv": lambda g=groups, b=flag: nn.Conv1d(4, 4, 3, padding=1, groups=g, bias=b),
                "transposed": lambda g=groups, b=flag: nn.ConvTranspose1d(
                    4, 4, 3, padding=1, groups=g, bias=b
                ),
                "norm": lambda a=flag: nn.BatchNorm1d(4, affine=a),
                "relu": nn.ReLU,
                "dropout": nn.Dropout,
            }[kind]()
        )
    if has_head:
        layers += [nn.Flatten(), nn.Linear(20, 3), nn.BatchNorm1d(3)]
    for layer in layers:
        if isinstance(layer, nn.BatchNorm1d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2.0)
    return nn.Sequential(*layers).eval()


@settings(max_examples=10, phases=[Phase.explicit, Phase.generate])
@given(plan=LAYERS, has_head=st.booleans(), seed=st.integers(0, 2**16))
def test_all_passes_keep_the_outputs_of_any_stack(
    plan: list[tuple[str, int, bool]], has_head: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    x = torch.randn(2, 4, 5)
    graph = capture(stack(plan, has_head), (x,), is_trusted=True)
    after = run_passes(graph)[-1].graph
    expected, found = (Reference().compile(g)(x) for g in (graph, after))
    assert compare(expected, found).max_error < 1e-5
