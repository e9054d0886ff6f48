"""Small models, one per trait that a pass or a backend can get wrong, with inputs."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Built = tuple[nn.Module, tuple[Tensor, ...]]


def randomise_norms(model: nn.Module) -> nn.Module:
    """Gives every batch norm statistics that matter: by default it is nearly the identity."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2.0)
                nn.init.normal_(module.bias)
    return model.eval()


class ConvNet(nn.Module):
    """Every place a batch norm can fold into, and an input that is no longer contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, stride=2, groups=4)
        self.grouped_norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)
        self.up_norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 5, bias=False)
        self.head_norm = nn.BatchNorm1d(5, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu()
        x = F.hardswish(self.grouped_norm(self.grouped(x)))
        x = self.up_norm(self.up(x)).relu()
        return self.head_norm(self.head(x.mean((2, 3))))


class Block(nn.Module):
    """A transformer block with rotary angles from integer positions and a causal mask by fill."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.table = nn.Embedding(50, width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        head = width // heads
        self.register_buffer("rates", 10.0 ** -torch.arange(0, head, 2).div(head))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        batch, length, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).view(batch, length, 3, self.heads, -1).unbind(2)
        angles = torch.arange(length)[:, None].float() @ self.rates[None]
        turn = torch.cat([angles, angles], -1)[:, None]
        q, k = (t * turn.cos() + t.roll(1, -1) * turn.sin() for t in (q, k))
        scores = q.transpose(1, 2) @ k.transpose(1, 2).mT / 3
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, torch.finfo(torch.float32).min)
        mixed = scores.softmax(-1) @ v.transpose(1, 2)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, -1))
        return x + self.down(F.gelu(self.up(self.norm(x))))


class ManyOutputs(nn.Module):
    """Tensors of several types, a plain number and a None come back; one tensor comes twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[object, ...]:
        hidden = self.first(x).relu()
        logits = self.second(hidden)
        return hidden, {"logits": logits, "best": logits.argmax(-1)}, x.shape[0], None, logits


class Branch(nn.Module):
    """A branch that depends on data, and a buffer that every call changes."""

    def __init__(self) -> None:
        super().__init__()
        self.yes, self.no = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor, *, shift: Tensor, scale: Tensor) -> Tensor:
        self.seen.add_(x.sum(0))
        out = torch.cond(x.sum() > 0, self.yes, lambda t: self.no(t).relu(), (x,))
        return (out + self.seen) * scale + shift


class Lstm(nn.Module):
    """Two bidirectional layers, all three results returned."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 5, num_layers=2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return self.rnn(x)


def conv_net() -> Built:
    return randomise_norms(ConvNet()), (torch.randn(2, 3, 8, 8),)


def block() -> Built:
    return Block().eval(), (torch.randint(0, 50, (2, 7)),)


def many_outputs() -> Built:
    return ManyOutputs().eval(), (torch.randn(3, 4),)


def lstm() -> Built:
    return Lstm().eval(), (torch.randn(2, 3, 4),)


MODELS: dict[str, Callable[[], Built]] = {
    "conv_net": conv_net,
    "block": block,
    "many_outputs": many_outputs,
    "lstm": lstm,
}
