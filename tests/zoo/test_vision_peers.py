"""Our ResNet-50 and ViT-B/16 against independent ones (transformers): same weights, same logits."""

import re

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from ridgeline import zoo
from ridgeline.zoo import Sizes

RESNET_NAMES = (
    (r"^stem\.", "resnet.embedder.embedder."),
    (r"^stage(\d)\.first\.", lambda m: f"resnet.encoder.stages.{int(m[1]) - 1}.layers.0."),
    (
        r"^stage(\d)\.rest\.(\d)\.",
        lambda m: f"resnet.encoder.stages.{int(m[1]) - 1}.layers.{int(m[2]) + 1}.",
    ),
    (r"reduce\.", "layer.0."),
    (r"spatial\.", "layer.1."),
    (r"expand\.", "layer.2."),
    (r"\.0\.(\w+)$", r".convolution.\1"),
    (r"\.1\.(\w+)$", r".normalization.\1"),
    (r"^head\.", "classifier.1."),
)

VIT_NAMES = (
    (r"^class_token", "vit.embeddings.cls_token"),
    (r"^positions", "vit.embeddings.position_embeddings"),
    (r"^patches", "vit.embeddings.patch_embeddings.projection"),
    (r"^blocks", "vit.layers"),
    (r"norm1", "layernorm_before"),
    (r"norm2", "layernorm_after"),
    (r"mlp\.0", "mlp.fc1"),
    (r"mlp\.2", "mlp.fc2"),
    (r"attention\.out", "attention.o_proj"),
    (r"^norm\.", "vit.layernorm."),
    (r"^head\.", "classifier."),
)


def _renamed(name: str, table: tuple[tuple[str, object], ...]) -> str:
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)  # type: ignore[call-overload]
    return name


def _unpacked(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The packed qkv projections as three."""
    packed = {name: value for name, value in state.items() if ".qkv." in name}
    parts = {
        name.replace("qkv", f"{letter}_proj"): part
        for name, value in packed.items()
        for letter, part in zip("qkv", value.chunk(3), strict=True)
    }
    return {name: value for name, value in state.items() if name not in packed} | parts


def _logits(model: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(image)
    return logits


def test_resnet50_equals_an_independent_one() -> None:
    torch.manual_seed(0)
    workload = zoo.get("resnet50")
    ours, (image,) = workload.forms["forward"](workload.build(), Sizes(batch=2, seq=96))
    config = ResNetConfig()
    config.num_labels = 1000
    theirs: nn.Module = ResNetForImageClassification(config)
    theirs.eval()
    theirs.load_state_dict({_renamed(k, RESNET_NAMES): v for k, v in ours.state_dict().items()})
    with torch.no_grad():
        expected = theirs(image).logits
    torch.testing.assert_close(_logits(ours, image), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", [224, 320])
def test_vit_equals_an_independent_one(side: int) -> None:
    """At 320 the positions are resampled, by us once and by the other in every forward."""
    torch.manual_seed(0)
    workload = zoo.get("vit-b-16")
    model = workload.build()
    with torch.no_grad():
        model.get_parameter("positions").mul_(50)
    ours, (image,) = workload.forms["forward"](model, Sizes(batch=1, seq=side))
    config = ViTConfig(layer_norm_eps=1e-6)
    config.num_labels = 1000
    theirs: nn.Module = ViTForImageClassification(config)
    theirs.eval()
    state = _unpacked(model.state_dict())
    theirs.load_state_dict({_renamed(k, VIT_NAMES): v for k, v in state.items()})
    with torch.no_grad():
        expected = theirs(image, interpolate_pos_encoding=True).logits
    torch.testing.assert_close(_logits(ours, image), expected, rtol=1e-5, atol=1e-5)
