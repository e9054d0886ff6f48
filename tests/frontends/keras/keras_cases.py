"""Cases: one layer or a few on one input or several, by family, as Keras builds them."""

from collections.abc import Callable

import keras
from keras import layers, ops

Build = Callable[[], keras.Model]


def on(shape: tuple[int | None, ...], *stack: object, dtype: str = "float32") -> Build:
    """A model of layers one after the other on one input."""

    def build() -> keras.Model:
        x = start = keras.Input(shape, dtype=dtype)
        for layer in stack:
            x = layer(x)  # type: ignore[operator]
        return keras.Model(start, x)

    return build


def merged(layer: object, *shapes: tuple[int, ...]) -> Build:
    """A model of one layer on several inputs."""

    def build() -> keras.Model:
        starts = [keras.Input(shape) for shape in shapes]
        return keras.Model(starts, layer(starts))  # type: ignore[operator]

    return build


ACTIVATIONS = (
    "relu relu6 sigmoid sparse_sigmoid tanh tanh_shrink silu gelu elu selu celu leaky_relu "
    "exponential softplus softsign soft_shrink sparse_plus squareplus hard_sigmoid hard_silu "
    "hard_tanh hard_shrink log_sigmoid mish softmax log_softmax glu linear"
).split()
MAP, STEPS = (6, 5, 4), (7, 4)
FIRST = {"data_format": "channels_first"}
AUGMENTATIONS = (
    layers.RandomBrightness(0.5),
    layers.RandomColorDegeneration(0.5),
    layers.RandomColorJitter(brightness_factor=0.5),
    layers.RandomContrast(0.5),
    layers.RandomElasticTransform(),
    layers.RandomErasing(),
    layers.RandomFlip(),
    layers.RandomGaussianBlur(),
    layers.RandomGrayscale(),
    layers.RandomHue(0.5),
    layers.RandomInvert(),
    layers.RandomPerspective(),
    layers.RandomPosterization(4),
    layers.RandomRotation(0.5),
    layers.RandomSaturation(0.5),
    layers.RandomSharpness(0.5),
    layers.RandomShear(0.5),
    layers.RandomTranslation(0.5, 0.5),
    layers.RandomZoom(0.5),
)
RECURRENT = [layers.LSTM, layers.GRU, layers.SimpleRNN]
OPTIONS: dict[str, dict[str, object]] = {
    "last": {},
    "all": {"return_sequences": True},
    "backwards": {"return_sequences": True, "go_backwards": True},
    "states": {"return_state": True, "use_bias": False},
    "relu": {"activation": "relu"},
    "softsign": {"activation": "softsign", "return_sequences": True, "return_state": True},
}


def recurrences() -> dict[str, Build]:
    """Every recurrence in every option, and both ways with every way to merge."""
    cases: dict[str, Build] = {}
    for kind in RECURRENT:
        for name, options in OPTIONS.items():
            cases[f"{kind.__name__} {name}"] = on(STEPS, kind(3, **options))
        for merge in ("concat", "sum", "ave", "mul", None):
            for has_all in (False, True):
                inner = kind(3, return_sequences=has_all, return_state=merge == "concat")
                name = f"{kind.__name__} both ways {merge} {'all' if has_all else 'last'}"
                cases[name] = on(STEPS, layers.Bidirectional(inner, merge_mode=merge))
    other = layers.GRU(2, go_backwards=True, reset_after=False)
    cases["both ways unlike"] = on(
        STEPS, layers.Bidirectional(layers.LSTM(3), backward_layer=other)
    )
    return cases


def started() -> keras.Model:
    """Recurrences that start from given states."""
    x, h, c = keras.Input(STEPS), keras.Input((3,)), keras.Input((3,))
    y = layers.LSTM(3, return_sequences=True)(x, initial_state=[h, c])
    return keras.Model([x, h, c], layers.GRU(3)(y, initial_state=h))


ATTENTIONS: dict[str, Callable[..., object]] = {
    "plain": lambda q, v: layers.MultiHeadAttention(2, 3)(q, v),
    "causal": lambda q, v: layers.MultiHeadAttention(2, 3)(q, q, use_causal_mask=True),
    "keys": lambda q, v: layers.MultiHeadAttention(2, 3, value_dim=5)(q, v, key=v),
    "scores": lambda q, v: layers.MultiHeadAttention(2, 3)(q, v, return_attention_scores=True),
    "shape": lambda q, v: layers.MultiHeadAttention(2, 3, output_shape=7, use_bias=False)(q, v),
    "gate": lambda q, v: layers.MultiHeadAttention(2, 3, use_gate=True)(q, v),
    "window": lambda q, v: layers.MultiHeadAttention(2, 3, sliding_window=2)(
        q, q, use_causal_mask=True
    ),
    "mask": lambda q, v: layers.MultiHeadAttention(2, 3)(
        q, q, attention_mask=ops.matmul(q, ops.transpose(q, (0, 2, 1))) > 0
    ),
    "grouped": lambda q, v: layers.GroupQueryAttention(3, 4, 2)(q, v),
    "grouped causal": lambda q, v: layers.GroupQueryAttention(3, 4, 2)(q, q, use_causal_mask=True),
}


def attending(name: str) -> Build:
    def build() -> keras.Model:
        q, v = keras.Input((5, 4)), keras.Input((6, 4))
        return keras.Model([q, v], ATTENTIONS[name](q, v))

    return build


def given_mask(layer: object, dim: int = 2) -> Build:
    """A model of one layer that is told what of its input to leave out; the steps are what `dim`
    is not.
    """

    def build() -> keras.Model:
        x = keras.Input(STEPS)
        means = ops.mean(x, axis=dim)
        shown = means >= ops.mean(means, axis=1, keepdims=True)  # never none, never all
        return keras.Model(x, layer(x, mask=shown))  # type: ignore[operator]

    return build


def counted() -> keras.Model:
    ids, weights = keras.Input((5,), dtype="int32"), keras.Input((5,))
    layer = layers.CategoryEncoding(3, output_mode="count")
    return keras.Model([ids, weights], layer(ids, count_weights=weights))


def attending_masked() -> keras.Model:
    """Attention on what is partly hidden."""
    ids = keras.Input((6,), dtype="int32")
    x = layers.Embedding(2, 4, mask_zero=True)(ids)
    y = layers.MultiHeadAttention(2, 3)(x, x)
    y = layers.Attention()([y, y])
    return keras.Model(ids, layers.GlobalAveragePooling1D()(y))


FAMILIES: dict[str, dict[str, Build]] = {
    "activations": {
        **{f"activation {a}": on((5, 4), layers.Activation(a)) for a in ACTIVATIONS},
        "relu with slope": on((9,), layers.ReLU(negative_slope=0.1)),
        "relu with ceiling": on((9,), layers.ReLU(max_value=0.7)),
        "relu with threshold": on(
            (9,), layers.ReLU(max_value=2.0, negative_slope=0.2, threshold=0.3)
        ),
        "leaky relu": on((9,), layers.LeakyReLU(0.2)),
        "elu": on((9,), layers.ELU(0.5)),
        "prelu": on(STEPS, layers.PReLU()),
        "prelu shared": on(MAP, layers.Conv2D(3, 1), layers.PReLU(shared_axes=[1, 2])),
        "prelu channels first": on(MAP, layers.PReLU(shared_axes=[2, 3])),
        "softmax over one": on(MAP, layers.Softmax(axis=1)),
        "softmax over two": on(MAP, layers.Conv2D(3, 1), layers.Softmax(axis=(1, 2))),
    },
    "attention": {
        "attention": merged(layers.Attention(), (3, 4), (5, 4)),
        "attention scaled": merged(layers.Attention(use_scale=True), (3, 4), (5, 4), (5, 4)),
        "attention by sums": merged(layers.Attention(score_mode="concat"), (3, 4), (5, 4)),
        "additive attention": merged(layers.AdditiveAttention(), (3, 4), (5, 4)),
        **{f"multi-head {name}": attending(name) for name in ATTENTIONS},
        "masked attention": attending_masked,
    },
    "dense and embedding": {
        "dense": on((6,), layers.Dense(3, activation="relu")),
        "dense on steps": on(STEPS, layers.Dense(3, use_bias=False)),
        "dense on maps": on(MAP, layers.Conv2D(3, 3), layers.Dense(5)),
        "dense with an activation layer": on(
            (6,), layers.Dense(3, activation=layers.ReLU(max_value=1))
        ),
        "einsum dense": on(STEPS, layers.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d")),
        "einsum dense to heads": on(
            STEPS, layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de")
        ),
        "einsum dense with ellipsis": on(
            MAP, layers.EinsumDense("...x,xy->...y", 3, bias_axes="y")
        ),
        "einsum dense over steps": on(STEPS, layers.EinsumDense("abc,bd->adc", (3, 4))),
        "embedding": on((5,), layers.Embedding(11, 3), dtype="int32"),
        "embedding of floats": on((5,), layers.Embedding(11, 3)),
        "dropouts": on(
            MAP,
            layers.Dropout(0.5),
            layers.SpatialDropout2D(0.5),
            layers.GaussianDropout(0.5),
            layers.GaussianNoise(0.5),
            layers.AlphaDropout(0.5),
            layers.ActivityRegularization(0.1),
            layers.Identity(),
        ),
    },
    "merging": {
        **{
            f"{kind.__name__} of {len(shapes)}": merged(kind(), *shapes)
            for kind in (
                layers.Add,
                layers.Multiply,
                layers.Average,
                layers.Maximum,
                layers.Minimum,
            )
            for shapes in ((MAP, MAP), (MAP, (1, 1, 4), MAP), (MAP, (4,)))
        },
        "subtract": merged(layers.Subtract(), MAP, MAP),
        "concatenate": merged(layers.Concatenate(), MAP, MAP),
        "concatenate rows": merged(layers.Concatenate(axis=1), MAP, MAP, MAP),
        "dot": merged(layers.Dot(axes=1), (6,), (6,)),
        "dot of steps": merged(layers.Dot(axes=(2, 1)), (3, 5), (5, 4)),
        "dot normalised": merged(layers.Dot(axes=-1, normalize=True), (3, 5), (4, 5)),
        "dot of ranks": merged(layers.Dot(axes=(2, 1)), (3, 5), (5,)),
    },
    "normalisation": {
        "batch norm": on(MAP, layers.Conv2D(3, 3), layers.BatchNormalization(), layers.ReLU()),
        "batch norm bare": on(STEPS, layers.BatchNormalization(scale=False, center=False)),
        "batch norm of vectors": on((6,), layers.BatchNormalization(scale=False)),
        "batch norm channels first": on(MAP, layers.BatchNormalization(axis=1, epsilon=0.1)),
        "batch norm with a mask that is given": given_mask(layers.BatchNormalization()),
        "layer norm": on(MAP, layers.Conv2D(3, 3), layers.LayerNormalization()),
        "layer norm over two": on(MAP, layers.LayerNormalization(axis=[-2, -1])),
        "layer norm over two apart": on(MAP, layers.LayerNormalization(axis=[1, 3], center=False)),
        "group norm": on(MAP, layers.GroupNormalization(2)),
        "group norm of steps": on(STEPS, layers.GroupNormalization(2, scale=False)),
        "instance norm": on(MAP, layers.Conv2D(4, 3), layers.GroupNormalization(-1)),
        "group norm channels first": on(MAP, layers.GroupNormalization(3, axis=1)),
        "rms norm": on(STEPS, layers.RMSNormalization()),
        "unit norm": on(MAP, layers.Conv2D(3, 1), layers.UnitNormalization()),
    },
    "pooling": {
        "global average": on(MAP, layers.Conv2D(3, 1), layers.GlobalAveragePooling2D()),
        "global average kept": on(
            MAP, layers.GlobalAveragePooling2D(keepdims=True), layers.Conv2D(3, 1)
        ),
        "global average of steps": on(STEPS, layers.GlobalAveragePooling1D()),
        "global average of steps kept": on(
            STEPS, layers.Conv1D(3, 1), layers.GlobalAveragePooling1D(keepdims=True)
        ),
        "global average of volumes": on((4, 3, 2, 5), layers.GlobalAveragePooling3D()),
        "global average channels first": on(MAP, layers.GlobalAveragePooling2D(**FIRST)),
        "global max": on(MAP, layers.Conv2D(3, 1), layers.GlobalMaxPooling2D(keepdims=True)),
        "global max of steps": on(STEPS, layers.GlobalMaxPooling1D()),
        "adaptive average": on(MAP, layers.AdaptiveAveragePooling2D((3, 2))),
        "adaptive max": on(STEPS, layers.AdaptiveMaxPooling1D(3)),
        "masked average": on(
            (6,),
            layers.Embedding(2, 3, mask_zero=True),
            layers.GlobalAveragePooling1D(),
            dtype="int32",
        ),
        "average by a mask that is given": given_mask(layers.GlobalAveragePooling1D()),
        "average by a mask that is given, channels first": given_mask(
            layers.GlobalAveragePooling1D(keepdims=True, **FIRST), dim=1
        ),
    },
    "preprocessing": {
        **{f"augmentation {a.name}": on((6, 5, 3), a) for a in AUGMENTATIONS},
        "rescaling": on(MAP, layers.Rescaling(1 / 255, offset=-0.5)),
        "rescaling by channel": on(
            MAP, layers.Conv2D(3, 1), layers.Rescaling([1.0, 2.0, 3.0], offset=[0.0, 1.0, 2.0])
        ),
        "normalization": on(MAP, layers.Normalization(axis=-1)),
        "normalization given": on(
            MAP, layers.Conv2D(3, 1), layers.Normalization(mean=[1, 2, 3], variance=[1, 4, 9])
        ),
        "normalization of all": on(STEPS, layers.Normalization(axis=None, mean=2.0, variance=3.0)),
        "normalization over two apart": on(
            MAP,
            layers.Conv2D(4, 1),
            layers.Normalization(
                axis=(1, 3),
                mean=[[float(4 * i + j) for j in range(4)] for i in range(6)],
                variance=[[1.0 + i + 6 * j for j in range(4)] for i in range(6)],
            ),
        ),
        "normalization undone": on(
            STEPS, layers.Normalization(mean=[1, 2, 3, 4], variance=[1, 1, 4, 9], invert=True)
        ),
        "resizing": on(MAP, layers.Resizing(9, 3)),
        "resizing nearest": on(MAP, layers.Resizing(9, 4, interpolation="nearest")),
        "resizing to a multiple": on(MAP, layers.Resizing(12, 5, interpolation="nearest")),
        "center crop": on(MAP, layers.CenterCrop(3, 2)),
        "category counts by weight": counted,
        "category": on((3,), layers.CategoryEncoding(2, output_mode="multi_hot"), dtype="int32"),
    },
    "recurrent": {
        **recurrences(),
        "given states": started,
        "masked lstm": on(
            (6,), layers.Embedding(2, 3, mask_zero=True), layers.LSTM(4), dtype="int32"
        ),
        "masked lstm of all": on(
            (6,),
            layers.Embedding(2, 3, mask_zero=True),
            layers.Dropout(0.1),
            layers.LSTM(4, return_sequences=True),
            layers.GRU(2, return_sequences=True),
            layers.SimpleRNN(3),
            dtype="int32",
        ),
        "masked both ways": on(
            (6,),
            layers.Embedding(2, 3, mask_zero=True),
            layers.Bidirectional(layers.LSTM(4, return_sequences=True)),
            dtype="int32",
        ),
        "both ways with a mask that is given": given_mask(
            layers.Bidirectional(layers.LSTM(4, return_sequences=True))
        ),
        "both ways to the last with a mask that is given": given_mask(
            layers.Bidirectional(layers.GRU(4), merge_mode="sum")
        ),
        "lstm with a mask that is given": given_mask(layers.LSTM(4)),
        "masking": on(STEPS, layers.Masking(0.0), layers.LSTM(3)),
    },
    "reshaping": {
        "flatten": on(MAP, layers.Conv2D(3, 3), layers.Flatten()),
        "flatten channels first": on(MAP, layers.Flatten(**FIRST)),
        "reshape": on(MAP, layers.Reshape((-1, 8)), layers.Permute((2, 1))),
        "reshape to pixels": on(
            (6,), layers.Reshape((1, 1, 6)), layers.Conv2D(3, 1), layers.Flatten()
        ),
        "repeat": on((6,), layers.RepeatVector(3)),
        "zero padding": on(MAP, layers.ZeroPadding2D(((1, 0), (2, 3))), layers.Conv2D(3, 3)),
        "zero padding of steps": on(STEPS, layers.ZeroPadding1D((1, 2))),
        "zero padding of volumes": on((3, 3, 2, 2), layers.ZeroPadding3D(1)),
        "zero padding channels first": on(MAP, layers.ZeroPadding2D((1, 2), **FIRST)),
        "cropping": on(MAP, layers.Conv2D(2, 1), layers.Cropping2D(((1, 2), (0, 1)))),
        "cropping of steps": on(STEPS, layers.Cropping1D((1, 2))),
        "cropping of volumes": on((4, 5, 4, 2), layers.Cropping3D(((1, 0), (1, 1), (0, 2)))),
        "up-sampling": on(MAP, layers.UpSampling2D((2, 3)), layers.Conv2D(2, 3)),
        "up-sampling bilinear": on(MAP, layers.UpSampling2D(2, interpolation="bilinear")),
        "up-sampling of steps": on(STEPS, layers.UpSampling1D(3)),
        "up-sampling of volumes": on((2, 3, 2, 2), layers.UpSampling3D((1, 2, 2))),
    },
    "wrappers": {
        "time distributed": on((3, *MAP), layers.TimeDistributed(layers.Conv2D(2, 3))),
        "time distributed dense": on(STEPS, layers.TimeDistributed(layers.Dense(3))),
    },
}
