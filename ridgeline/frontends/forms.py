"""How transformers models are fed and called: one form per task, one small module per form."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ridgeline.errors import TargetError
from ridgeline.frontends.huggingface import Source
from ridgeline.frontends.request import Request
from ridgeline.graph import Phase

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DEFAULT_SIDE = 224
_DEFAULT_SEQ_ENCODER = 128

Form = Callable[["PreTrainedModel", Source, Request], tuple[nn.Module, tuple[Tensor, ...]]]


def form_of(model_class: type["PreTrainedModel"]) -> Form:
    """How the task of a model class is fed. Raises TargetError for sound, video and the like."""
    names = inspect.signature(model_class.forward).parameters
    if "input_ids" in names and "decoder_input_ids" in names:
        return _seq2seq
    if "input_ids" not in names and "pixel_values" in names:
        return _image
    if "input_ids" in names and "pixel_values" not in names:
        return (
            causal_form if "logits_to_keep" in names or _is_causal_head(model_class) else _encoder
        )
    raise TargetError(
        f"{model_class.__name__} takes {', '.join(list(names)[1:4])}; only text and image models "
        "have default inputs. Make them in a FILE.py:FUNCTION."
    )


def _is_causal_head(model_class: type["PreTrainedModel"]) -> bool:
    return model_class.__name__.endswith(("ForCausalLM", "LMHeadModel"))


class Tokens(nn.Module):
    """A text encoder as a module of (ids, mask) that returns its main output."""

    def __init__(self, lm: nn.Module) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return _main(self.lm(input_ids=input_ids, attention_mask=attention_mask))


class Image(nn.Module):
    """An image model as a module of pixels that returns its main output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return _main(self.model(pixel_values=pixel_values))


class Translate(nn.Module):
    """An encoder-decoder as a module of (ids, mask, decoder ids) that returns its main output."""

    def __init__(self, lm: nn.Module) -> None:
        super().__init__()
        self.lm = lm

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor
    ) -> Tensor:
        return _main(
            self.lm(
                input_ids=input_ids,
                attention_mask=attention_mask,
                decoder_input_ids=decoder_input_ids,
                use_cache=False,
            )
        )


class Causal(nn.Module):
    """A causal language model as a module of ids that returns logits, without or with a cache.

    past: tokens already in the cache; `None` runs without one.
    """

    def __init__(self, lm: "PreTrainedModel", *, past: int | None, batch: int, tokens: int) -> None:
        super().__init__()
        self.lm, self.past, self.cache = lm, past or 0, None
        if past is not None:
            from ridgeline.frontends.kv_cache import make_cache

            self.cache = make_cache(lm, batch=batch, past=past, tokens=tokens)

    def forward(self, input_ids: Tensor) -> Tensor:
        batch, tokens = input_ids.shape
        options: dict[str, object] = {"use_cache": self.cache is not None}
        if self.cache is not None:
            options["past_key_values"] = self.cache
            options["logits_to_keep"] = 1
        names = inspect.signature(self.lm.forward).parameters
        positions_BT = torch.arange(self.past, self.past + tokens, device=input_ids.device)
        options["position_ids"] = positions_BT.expand(batch, -1)
        options["attention_mask"] = input_ids.new_ones(batch, self.past + tokens)
        return _main(
            self.lm(input_ids=input_ids, **{k: v for k, v in options.items() if k in names})
        )


def _main(output: object) -> Tensor:
    """Logits where the model has them, else its last hidden state or first tensor."""
    for name in ("logits", "last_hidden_state"):
        value = getattr(output, name, None)
        if isinstance(value, Tensor):
            return value
    values = output.to_tuple() if hasattr(output, "to_tuple") else output
    if isinstance(values, tuple) and values and isinstance(values[0], Tensor):
        return values[0]
    raise TypeError(f"the model returned {type(output).__name__}, which holds no main tensor")


def causal_form(
    model: "PreTrainedModel", source: Source, request: Request
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    _require_positions(model, request)
    batch, seq = request.batch or 1, request.seq or source.default_seq()
    past: int | None = None
    tokens = seq
    if request.phase is Phase.PREFILL:
        past = 0
        if "logits_to_keep" not in inspect.signature(model.forward).parameters:
            request.require_phase(Phase.FORWARD, Phase.TRAIN, Phase.DECODE)
    elif request.phase is Phase.DECODE:
        past, tokens = request.cache or source.default_seq() - 1, 1
    module = Causal(model, past=past, batch=batch, tokens=tokens)
    for buffer in module.buffers():
        if past and buffer.dim() == 4:
            buffer.normal_()  # zeros in the cache would hide mistakes
    return module, (_ids(model, batch, tokens),)


def _encoder(
    model: "PreTrainedModel", source: Source, request: Request
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    request.require_phase(Phase.FORWARD, Phase.TRAIN)
    _require_positions(model, request)
    ids = _ids(model, request.batch or 1, _encoder_seq(source, request))
    return Tokens(model), (ids, torch.ones_like(ids))


def _seq2seq(
    model: "PreTrainedModel", source: Source, request: Request
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    request.require_phase(Phase.FORWARD, Phase.TRAIN)
    _require_positions(model, request)
    seq = _encoder_seq(source, request)
    ids, targets = (_ids(model, request.batch or 1, seq) for _ in range(2))
    return Translate(model), (ids, torch.ones_like(ids), targets)


def _image(
    model: "PreTrainedModel", source: Source, request: Request
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    request.require_phase(Phase.FORWARD, Phase.TRAIN)
    own = getattr(model.config, "image_size", None) or _DEFAULT_SIDE
    height, width = own if isinstance(own, list | tuple) else (own, own)
    if request.seq is not None:
        if hasattr(model.config, "patch_size") and (request.seq, request.seq) != (height, width):
            raise TargetError(
                f"--seq {request.seq}: {source.name} takes images of {height} x {width} pixels."
            )
        height = width = request.seq
    channels = getattr(model.config, "num_channels", 3)
    pixels = torch.randn(request.batch or 1, channels, height, width, dtype=model.dtype)
    return Image(model), (pixels,)


def _require_positions(model: nn.Module, request: Request) -> None:
    """Raises TargetError for more tokens than a table of learned positions has rows for; on meta
    nothing would. In RoBERTa's family the rows up to that of padding are no positions.
    """
    for name, table in model.named_modules():
        if isinstance(table, nn.Embedding) and name.rpartition(".")[2] == "position_embeddings":
            unused = 0 if table.padding_idx is None else table.padding_idx + 1
            request.require_length(table.num_embeddings - unused)


def _encoder_seq(source: Source, request: Request) -> int:
    return request.seq or min(_DEFAULT_SEQ_ENCODER, source.default_seq())


def _ids(model: "PreTrainedModel", batch: int, seq: int) -> Tensor:
    return torch.randint(int(model.config.get_text_config(decoder=True).vocab_size), (batch, seq))
