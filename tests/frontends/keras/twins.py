"""Four networks in Keras, as a person would write them, with the weights of their twins in torch
(`networks.py` in tests): a builder takes the torch module and returns the Keras model.

Channels come first, as in torch. Images of an odd size (65 pixels) make Keras's "same" padding even
on both sides, as torch's is.
"""

from collections.abc import Callable

import keras
import torch
from keras import layers, ops
from torch import Tensor, nn

from ridgeline.frontends.keras import Row
from ridgeline.frontends.keras.call import Call

FIRST = "channels_first"


def arrays(*tensors: Tensor) -> list[object]:
    return [t.detach().numpy() for t in tensors]


def set_linear(layer: layers.Dense, linear: nn.Linear) -> None:
    biases = [] if linear.bias is None else [linear.bias]
    layer.set_weights(arrays(linear.weight.T, *biases))


def conv_norm(x: object, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> object:
    """A convolution and a batch norm with the weights of two modules."""
    layer = layers.Conv2D(
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        padding="same",
        use_bias=False,
        data_format=FIRST,
    )
    scale = layers.BatchNormalization(axis=1, epsilon=norm.eps)
    y = scale(layer(x))
    layer.set_weights(arrays(conv.weight.permute(2, 3, 1, 0)))
    scale.set_weights(arrays(norm.weight, norm.bias, norm.running_mean, norm.running_var))
    return y


def resnet18(model: nn.Module, side: int = 65, batch: int | None = None) -> keras.Model:
    """A stem, eight blocks of two convolutions, and a linear on the average."""

    def block(x: object, part: nn.Module) -> object:
        y = layers.ReLU()(conv_norm(x, part.conv1, part.bn1))
        y = conv_norm(y, part.conv2, part.bn2)
        shortcut = x
        if not isinstance(part.downsample, nn.Identity):
            shortcut = conv_norm(x, *part.downsample)
        return layers.ReLU()(layers.Add()([y, shortcut]))

    image = keras.Input((3, side, side), batch_size=batch)
    x = layers.ReLU()(conv_norm(image, model.conv1, model.bn1))
    x = layers.MaxPooling2D(3, 2, padding="same", data_format=FIRST)(x)
    for stage in model.layers:
        for part in stage:
            x = block(x, part)
    x = layers.GlobalAveragePooling2D(data_format=FIRST)(x)
    head = layers.Dense(model.fc.out_features)
    y = head(x)
    set_linear(head, model.fc)
    return keras.Model(image, y)


@keras.saving.register_keras_serializable("twins")
class TokenAndPositions(layers.Layer):
    """A learned token before the others, and a learned position for each: Keras has no such
    layer.
    """

    def build(self, shape: tuple[int, ...]) -> None:
        self.token = self.add_weight(shape=(1, 1, shape[-1]))
        self.positions = self.add_weight(shape=(1, shape[1] + 1, shape[-1]))

    def call(self, x: object) -> object:
        token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, x.shape[-1]))  # type: ignore[attr-defined]
        return ops.concatenate([token, x], 1) + self.positions


def _token_and_positions(call: Call) -> Tensor:
    x = call.tensor
    token = call.weight(0, (1, 1, x.shape[-1]), "token")
    positions = call.weight(1, (1, x.shape[1] + 1, x.shape[-1]), "positions")
    return torch.cat([token.expand(x.shape[0], -1, -1), x], 1) + positions


ROWS = (Row(kind="twins>TokenAndPositions", run=_token_and_positions),)


def attention(x: object, packed: nn.Linear, out: nn.Linear, heads: int) -> object:
    """Self-attention with the weights of one packed projection."""
    width = packed.in_features
    size = width // heads
    layer = layers.MultiHeadAttention(heads, size)
    y = layer(x, x)
    parts = zip(packed.weight.chunk(3), packed.bias.chunk(3), strict=True)
    weights = [
        t for w, b in parts for t in (w.T.reshape(width, heads, size), b.reshape(heads, size))
    ]
    (q, k, v), last = (weights[i : i + 2] for i in (0, 2, 4)), out.weight.T
    layer.set_weights(arrays(*q, *k, *v, last.reshape(heads, size, width), out.bias))
    return y


def normed(x: object, norm: nn.LayerNorm) -> object:
    layer = layers.LayerNormalization(epsilon=norm.eps)
    y = layer(x)
    layer.set_weights(arrays(norm.weight, norm.bias))
    return y


def dense(x: object, linear: nn.Linear, activation: str | None = None) -> object:
    layer = layers.Dense(
        linear.out_features, activation=activation, use_bias=linear.bias is not None
    )
    y = layer(x)
    set_linear(layer, linear)
    return y


def vit(model: nn.Module, side: int = 32, batch: int | None = None) -> keras.Model:
    """Patches, a class token, learned positions, pre-norm blocks, the class token's logits."""
    conv = model.patches
    image = keras.Input((3, side, side), batch_size=batch)
    patches = layers.Conv2D(conv.out_channels, conv.kernel_size, conv.stride, data_format=FIRST)
    x = patches(image)
    patches.set_weights(arrays(conv.weight.permute(2, 3, 1, 0), conv.bias))
    x = layers.Permute((2, 1))(layers.Reshape((conv.out_channels, -1))(x))
    tokens = TokenAndPositions()
    x = tokens(x)
    tokens.set_weights(arrays(model.token, model.positions))
    for part in model.blocks:
        x = layers.Add()([x, attention(normed(x, part.norm1), part.qkv, part.proj, part.heads)])
        y = dense(dense(normed(x, part.norm2), part.fc1, "gelu"), part.fc2)
        x = layers.Add()([x, y])
    return keras.Model(image, dense(normed(x, model.norm)[:, 0], model.head))


def lstm(model: nn.Module, length: int = 7, batch: int | None = None) -> keras.Model:
    """An embedding, two layers of LSTM, and a linear on the last step."""
    words = keras.Input((length,), batch_size=batch, dtype="int64")
    table = layers.Embedding(*model.embedding.weight.shape)
    x = table(words)
    table.set_weights(arrays(model.embedding.weight))
    hidden = model.lstm.hidden_size
    for number in range(model.lstm.num_layers):
        is_last = number == model.lstm.num_layers - 1
        layer = layers.LSTM(hidden, return_sequences=not is_last)
        x = layer(x)
        w, r, wb, rb = (
            getattr(model.lstm, f"{name}_l{number}")
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        layer.set_weights(arrays(w.T, r.T, wb + rb))
    return keras.Model(words, dense(x, model.head))


def decoder(model: nn.Module, batch: int | None = None) -> keras.Model:
    """A small Llama: causal attention with rotary positions, then SwiGLU."""
    c = model.c
    size = c.width // c.heads
    angles = torch.outer(torch.arange(c.length).float(), model.rates)
    cos, sin = (ops.convert_to_tensor(t.numpy()) for t in _both(angles))

    def normed_by(x: object, norm: nn.Module) -> object:
        layer = layers.RMSNormalization(epsilon=norm.epsilon)
        y = layer(x)
        layer.set_weights(arrays(norm.weight))
        return y

    def turned(x: object) -> object:
        first, second = ops.split(x, 2, axis=-1)
        return x * cos + ops.concatenate([-second, first], axis=-1) * sin

    def heads(x: object, linear: nn.Linear) -> object:
        y = ops.reshape(dense(x, linear), (-1, c.length, linear.out_features // size, size))
        return ops.transpose(y, (0, 2, 1, 3))

    def swapped(x: object) -> object:
        return ops.transpose(x, (0, 2, 1, 3))

    words = keras.Input((c.length,), batch_size=batch, dtype="int64")
    table = layers.Embedding(c.words, c.width)
    x = table(words)
    table.set_weights(arrays(model.embedding.weight))
    for part in model.blocks:
        y = normed_by(x, part.norm1)
        q, k, v = turned(heads(y, part.q)), turned(heads(y, part.k)), heads(y, part.v)
        y = ops.dot_product_attention(swapped(q), swapped(k), swapped(v), is_causal=True)
        x = x + dense(ops.reshape(y, (-1, c.length, c.width)), part.o)
        y = normed_by(x, part.norm2)
        y = dense(y, part.gate, "silu") * dense(y, part.up)
        x = x + dense(y, part.down)
    return keras.Model(words, dense(normed_by(x, model.norm), model.head))


def _both(angles: Tensor) -> tuple[Tensor, Tensor]:
    whole = torch.cat([angles, angles], -1)
    return whole.cos(), whole.sin()


TWINS: dict[str, Callable[..., keras.Model]] = {
    "resnet18": resnet18,
    "vit": vit,
    "lstm": lstm,
    "decoder": decoder,
}
