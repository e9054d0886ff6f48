"""What every backend must do; a test class per backend inherits it."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import pytest
import torch
from small_models import MODELS, Branch

from ridgeline.backends.agreement import compare
from ridgeline.backends.backend import Backend
from ridgeline.backends.choose import TOLERANCES
from ridgeline.backends.reference import Reference
from ridgeline.errors import BackendError
from ridgeline.frontends.torch_export import capture
from ridgeline.graph import Graph
from ridgeline.graph.flat import example_inputs


class BackendSuite:
    """Equality with the reference on every small model, in both precisions."""

    make: ClassVar[Callable[[], Backend]]
    fp32_error: ClassVar[float] = 1e-5
    bf16_refusals: ClassVar[Mapping[str, str]] = {}  # model -> why it has no bf16 form there

    @pytest.mark.parametrize("name", MODELS)
    def test_fp32_equals_the_reference(self, name: str) -> None:
        model, inputs = MODELS[name]()
        graph = capture(model, inputs)
        expected = Reference().compile(graph)(*inputs)
        run = type(self).make().compile(graph)
        for _ in range(2):
            found = run(*inputs)
            assert [o.dtype for o in found] == [o.dtype for o in expected]
            assert compare(expected, found).max_error < self.fp32_error

    @pytest.mark.parametrize("name", ["conv_net", "block"])
    def test_bf16_is_near_the_reference(self, name: str) -> None:
        model, inputs = MODELS[name]()
        graph = capture(model, inputs)
        expected = Reference().compile(graph)(*inputs)
        backend = type(self).make()
        refusal = self.bf16_refusals.get(name)
        if refusal is not None:
            with pytest.raises(BackendError, match=refusal):
                backend.compile(graph, "bf16")
            return
        found = backend.compile(graph, "bf16")(*inputs)
        assert found[0].dtype == torch.float32
        assert 0 < compare(expected, found).max_error < TOLERANCES["bf16"]

    def test_other_strides_give_the_same(self) -> None:
        model, (x,) = MODELS["conv_net"]()
        graph = capture(model, (x,))
        run = type(self).make().compile(graph)
        other = run(x.contiguous(memory_format=torch.channels_last))
        assert compare(run(x), other).max_error < self.fp32_error

    def test_a_data_dependent_branch_and_a_written_buffer(self) -> None:
        graph = branch()
        before = str(graph), graph.program.state_dict["seen"].clone()
        reference, run = Reference().compile(graph), type(self).make().compile(graph)
        positive, *rest = example_inputs(graph)
        for x in (positive.abs(), -positive.abs(), positive):
            expected = reference(x, *rest)
            assert compare(expected, run(x, *rest)).max_error < self.fp32_error
        assert str(graph) == before[0]
        assert torch.equal(graph.program.state_dict["seen"], before[1])

    def test_a_description_is_refused(self) -> None:
        with torch.device("meta"):
            model, inputs = MODELS["lstm"]()
        with pytest.raises(BackendError, match="is a description"):
            type(self).make().compile(capture(model, inputs))


def branch() -> Graph:
    named = {"scale": torch.randn(4), "shift": torch.randn(4)}
    return capture(Branch().eval(), (torch.randn(2, 4),), kwargs=named)
