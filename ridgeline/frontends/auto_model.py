"""The long way from a config to a model: transformers' own classes, in the form each task needs."""

import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ridgeline.errors import MissingExtra, TargetError
from ridgeline.frontends.huggingface import Source
from ridgeline.frontends.request import LoadedModel, Request, set_mode
from ridgeline.graph import Phase

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_CAUSAL = "ridgeline_causal"
_DEFAULT_SIDE = 224
_DEFAULT_SEQ_ENCODER = 128


def load_auto_model(source: Source, request: Request, device: str) -> LoadedModel:
    """The model of `source` as its task runs it; real weights where they are and `device` is
    real.
    """
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            f"{source.name} is a {source.config['model_type']} model, which needs the extra hf: "
            "pip install 'ridgeline[hf]'."
        ) from error
    with _silent():
        config = _config(source)
        model_class = _model_class(source, config)
        form = _form_of(model_class)
        attention = _supported(model_class, _causal_attention() if form is _causal else "sdpa")
        make = _read_weights if device != "meta" and source.has_weights else _build
        model = make(source, source.dtype(request), device, model_class, config, attention)
    set_mode(model, request.phase)
    with torch.device(device):
        module, inputs = form(model, source, request)
    return LoadedModel(
        module=set_mode(module, request.phase),
        inputs=inputs,
        name=source.name,
        has_uniform_layers=_has_uniform_layers(config.get_text_config(decoder=True)),
    )


def _has_uniform_layers(config: "PretrainedConfig") -> bool:
    """Whether no layer is of a kind of its own, which models look up by its number."""
    kinds = getattr(config, "layer_types", None)
    layers = getattr(config, "num_hidden_layers", None)
    return not isinstance(kinds, list) or len(kinds) != layers or len(set(kinds)) == 1


def _config(source: Source) -> "PretrainedConfig":
    from transformers import CONFIG_MAPPING

    model_type = str(source.config["model_type"])
    if model_type not in CONFIG_MAPPING:
        raise TargetError(
            f"{source.name}: model_type {model_type!r} is unknown to the installed transformers; "
            "models that bring their own code are not run. Load it in a FILE.py:FUNCTION."
        )
    try:
        return CONFIG_MAPPING[model_type].from_dict(dict(source.config))
    except Exception as error:  # transformers' checks raise types of their own
        raise TargetError(f"{source.name}: {_first_line(error)}") from error


def _model_class(source: Source, config: "PretrainedConfig") -> type["PreTrainedModel"]:
    """The class the config names, else the one of the task its type is best known for."""
    import transformers
    from transformers.models.auto import modeling_auto as auto

    names = source.config.get("architectures")
    if isinstance(names, list) and names:
        found = getattr(transformers, str(names[0]), None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
        raise TargetError(f"{source.name}: transformers has no architecture {names[0]!r}.")
    for mapping in (
        auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        auto.MODEL_FOR_MASKED_LM_MAPPING,
        auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
        auto.MODEL_FOR_CAUSAL_LM_MAPPING,
        auto.MODEL_MAPPING,
    ):
        if type(config) in mapping:
            found = mapping[type(config)]
            return found[0] if isinstance(found, tuple) else found
    raise TargetError(f"{source.name}: transformers has no model for {config.model_type!r}.")


def _build(
    source: Source,
    dtype: torch.dtype,
    device: str,
    model_class: type["PreTrainedModel"],
    config: "PretrainedConfig",
    attention: str,
) -> "PreTrainedModel":
    """The model without weights on meta, with random ones elsewhere."""
    from transformers.initialization import no_init_weights

    try:
        with torch.device(device), no_init_weights() if device == "meta" else nullcontext():
            model = model_class._from_config(config, dtype=dtype, attn_implementation=attention)
    except Exception as error:  # a config can break a model's constructor in any way
        raise TargetError(
            f"{source.name} describes no {model_class.__name__} that can be built: "
            f"{_first_line(error)}"
        ) from error
    model.tie_weights()
    return model


def _read_weights(
    source: Source,
    dtype: torch.dtype,
    device: str,
    model_class: type["PreTrainedModel"],
    config: "PretrainedConfig",
    attention: str,
) -> "PreTrainedModel":
    """The model with the safetensors beside its config; all of its weights must be there."""
    _require_inside(source.folder)
    try:
        model, found = model_class.from_pretrained(
            source.folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            attn_implementation=attention,
            output_loading_info=True,
        )
    except Exception as error:  # damaged files raise the errors of three libraries
        raise TargetError(
            f"cannot read the weights in {source.folder}: {_first_line(error)}"
        ) from error
    if found["missing_keys"]:
        raise TargetError(
            f"the weights in {source.folder} lack {sorted(found['missing_keys'])[0]} of "
            f"{model_class.__name__}; name the right class in architectures of config.json."
        )
    return model.to(device)


def _supported(model_class: type["PreTrainedModel"], attention: str) -> str:
    """`attention` where the model takes it, else the best of transformers' own that it takes."""
    if not getattr(model_class, "_supports_sdpa", False):
        return "eager"
    return attention if getattr(model_class, "_supports_attention_backend", False) else "sdpa"


def _require_inside(folder: Path) -> None:
    """Raises TargetError if the weights' index names files outside the folder."""
    for index in folder.glob("*.safetensors.index.json"):
        try:
            files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise TargetError(f"{index} is no index of weights; download it again.") from error
        for name in files:
            if not isinstance(name, str) or Path(name).name != name:
                raise TargetError(f"{index} names {name!r}, which is no file of its folder.")


Form = Callable[["PreTrainedModel", Source, Request], tuple[nn.Module, tuple[Tensor, ...]]]


def _form_of(model_class: type["PreTrainedModel"]) -> Form:
    """How the task of a model class is fed. Raises TargetError for sound, video and the like."""
    names = inspect.signature(model_class.forward).parameters
    if "input_ids" in names and "decoder_input_ids" in names:
        return _seq2seq
    if "input_ids" not in names and "pixel_values" in names:
        return _image
    if "input_ids" in names and "pixel_values" not in names:
        return _causal if "logits_to_keep" in names or _is_causal_head(model_class) else _encoder
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


def _causal(
    model: "PreTrainedModel", source: Source, request: Request
) -> tuple[nn.Module, tuple[Tensor, ...]]:
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
    ids = _ids(model, request.batch or 1, _encoder_seq(source, request))
    return Tokens(model), (ids, torch.ones_like(ids))


def _seq2seq(
    model: "PreTrainedModel", source: Source, request: Request
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    request.require_phase(Phase.FORWARD, Phase.TRAIN)
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


def _encoder_seq(source: Source, request: Request) -> int:
    return request.seq or min(_DEFAULT_SEQ_ENCODER, source.default_seq())


def _ids(model: "PreTrainedModel", batch: int, seq: int) -> Tensor:
    return torch.randint(int(model.config.get_text_config(decoder=True).vocab_size), (batch, seq))


def _causal_attention() -> str:
    """Registers sdpa without masks where the causal flag says it all; returns its name.

    transformers builds masks element by element while exporting; here all tokens are visible, so
    only a sliding window needs one.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    AttentionInterface.register(_CAUSAL, sdpa_attention_forward)
    AttentionMaskInterface.register(_CAUSAL, _causal_mask)
    return _CAUSAL


def _causal_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    attention_mask: Tensor | None = None,
    **rest: object,
) -> Tensor | None:
    from transformers.masking_utils import sdpa_mask

    is_local = local_size is not None and kv_length >= local_size
    if q_length == 1 or (allow_is_causal_skip and not is_local and q_length == kv_length):
        return None
    return sdpa_mask(  # type: ignore[no-any-return]
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        local_size=local_size,
        allow_is_causal_skip=False,
        **rest,
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Hides transformers' advice and progress bars."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    had_bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bars:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:300]}" if lines else type(error).__name__
