"""Four networks in torch, as a person would write them; `networks_onnx.py` has them in ONNX."""

# B batch, T tokens, D width, H heads, d width of a head, F hidden width, C channels.

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from small_models import randomise_norms
from torch import Tensor, nn
from torch.nn import functional as F

Built = tuple[nn.Module, tuple[Tensor, ...]]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, plus the input (projected where its shape changes)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample = (
            nn.Identity()
            if stride == 1 and inputs == outputs
            else nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class ResNet18(nn.Module):
    """He et al. 2015, table 1, 18 layers; `width` is 64 in the paper."""

    def __init__(self, width: int = 16, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(
                    BasicBlock(before, after, 1 if before == after else 2),
                    BasicBlock(after, after, 1),
                )
                for before, after in pairwise(widths)
            )
        )
        self.fc = nn.Linear(8 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = F.adaptive_avg_pool2d(self.layers(x), (1, 1))
        return self.fc(torch.flatten(x, 1))


class ViTBlock(nn.Module):
    """Pre-norm attention with one packed projection, then an MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        qkv = self.qkv(self.norm1(x_BTD)).reshape(B, T, 3, self.heads, D // self.heads)
        q_BHTd, k_BHTd, v_BHTd = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y_BHTd = F.scaled_dot_product_attention(q_BHTd, k_BHTd, v_BHTd)
        x_BTD = x_BTD + self.proj(y_BHTd.transpose(1, 2).reshape(B, T, D))
        return x_BTD + self.fc2(F.gelu(self.fc1(self.norm2(x_BTD))))


class ViT(nn.Module):
    """Patches, a class token, learned positions, pre-norm blocks, the class token's logits."""

    def __init__(self, width: int = 48, heads: int = 3, depth: int = 3, patch: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, (32 // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(ViTBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, 1e-6)
        self.head = nn.Linear(width, 10)

    def forward(self, image: Tensor) -> Tensor:
        x_BTD = self.patches(image).flatten(2).transpose(1, 2)
        x_BTD = torch.cat([self.token.expand(x_BTD.shape[0], -1, -1), x_BTD], 1) + self.positions
        return self.head(self.norm(self.blocks(x_BTD))[:, 0])


class Lstm(nn.Module):
    """An embedding, two layers of LSTM, and a linear on the last step."""

    def __init__(self, words: int = 50, width: int = 12, hidden: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, hidden, num_layers=2, batch_first=True)
        self.head = nn.Linear(hidden, 5)

    def forward(self, words_BT: Tensor) -> Tensor:
        y_BTF, _ = self.lstm(self.embedding(words_BT))
        return self.head(y_BTF[:, -1])


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """Sizes of the decoder, and what a variant changes."""

    words: int = 64
    width: int = 32
    heads: int = 4
    kv_heads: int = 4
    hidden: int = 80
    depth: int = 2
    length: int = 12
    epsilon: float = 1e-5
    is_causal: bool = True
    window: int | None = None


class RMSNorm(nn.Module):
    """x / rms(x), scaled, written out as in Llama's own code."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.rand(width) + 0.5), epsilon

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon) * self.weight


class DecoderBlock(nn.Module):
    """Causal attention with rotary positions, then SwiGLU, each on a normalised input."""

    def __init__(self, c: DecoderConfig) -> None:
        super().__init__()
        self.c = c
        self.norm1, self.norm2 = RMSNorm(c.width, c.epsilon), RMSNorm(c.width, c.epsilon)
        narrow = c.width // c.heads * c.kv_heads
        self.q, self.o = (nn.Linear(c.width, c.width, bias=False) for _ in range(2))
        self.k, self.v = (nn.Linear(c.width, narrow, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(c.width, c.hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(c.hidden, c.width, bias=False)
        near = torch.ones(c.length, c.length, dtype=torch.bool).tril()
        self.register_buffer("near", near.triu(1 - (c.window or c.length)))

    def forward(self, x_BTD: Tensor, cos_Td: Tensor, sin_Td: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        y_BTD = self.norm1(x_BTD)

        def heads(z: Tensor) -> Tensor:
            return z.view(B, T, -1, D // self.c.heads).transpose(1, 2)

        q_BHTd, k_BHTd, v_BHTd = heads(self.q(y_BTD)), heads(self.k(y_BTD)), heads(self.v(y_BTD))
        q_BHTd = q_BHTd * cos_Td + rotated(q_BHTd) * sin_Td
        k_BHTd = k_BHTd * cos_Td + rotated(k_BHTd) * sin_Td
        y_BHTd = F.scaled_dot_product_attention(
            q_BHTd,
            k_BHTd,
            v_BHTd,
            attn_mask=None if self.c.window is None else self.near,
            is_causal=self.c.is_causal and self.c.window is None,
            enable_gqa=self.c.heads != self.c.kv_heads,
        )
        x_BTD = x_BTD + self.o(y_BHTd.transpose(1, 2).reshape(B, T, D))
        y_BTD = self.norm2(x_BTD)
        return x_BTD + self.down(F.silu(self.gate(y_BTD)) * self.up(y_BTD))


def rotated(x: Tensor) -> Tensor:
    """The second half of each head, negated, then the first."""
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)


class Decoder(nn.Module):
    """A small Llama."""

    def __init__(self, config: DecoderConfig | None = None) -> None:
        super().__init__()
        self.c = c = config or DecoderConfig()
        self.embedding = nn.Embedding(c.words, c.width)
        self.blocks = nn.ModuleList(DecoderBlock(c) for _ in range(c.depth))
        self.norm = RMSNorm(c.width, c.epsilon)
        self.head = nn.Linear(c.width, c.words, bias=False)
        d = c.width // c.heads
        self.register_buffer("rates", 10000.0 ** -(torch.arange(0, d, 2) / d), persistent=False)

    def forward(self, words_BT: Tensor) -> Tensor:
        angles = torch.outer(torch.arange(words_BT.shape[1]).float(), self.rates)
        angles_Td = torch.cat([angles, angles], -1)
        x_BTD = self.embedding(words_BT)
        for block in self.blocks:
            x_BTD = block(x_BTD, angles_Td.cos(), angles_Td.sin())
        return self.head(self.norm(x_BTD))


def resnet18() -> Built:
    return randomise_norms(ResNet18()), (torch.randn(2, 3, 64, 64),)


def vit() -> Built:
    return ViT().eval(), (torch.randn(2, 3, 32, 32),)


def lstm() -> Built:
    return Lstm().eval(), (torch.randint(50, (3, 7)),)


def decoder(**changes: float) -> Built:
    config = replace(DecoderConfig(), **changes)  # type: ignore[arg-type]
    return Decoder(config).eval(), (torch.randint(config.words, (2, config.length)),)


NETWORKS: dict[str, Callable[[], Built]] = {
    "resnet18": resnet18,
    "vit": vit,
    "lstm": lstm,
    "decoder": decoder,
}
