"""The long way from a config to a model: transformers' own classes, with or without weights."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ridgeline.errors import MissingExtra, TargetError
from ridgeline.frontends.forms import causal_form, form_of
from ridgeline.frontends.huggingface import Source
from ridgeline.frontends.request import LoadedModel, Request, set_mode

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_CAUSAL = "ridgeline_causal"
_DTYPE_KEYS = ("dtype", "torch_dtype")  # which the model is told apart from its config


def load_auto_model(
    source: Source, request: Request, dtype: torch.dtype, device: str
) -> LoadedModel:
    """The model of `source` as its task runs it, in `dtype`; real weights where they are and
    `device` is real.
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
        form = form_of(model_class)
        attention = _supported(model_class, _causal_attention() if form is causal_form else "sdpa")
        make = _read_weights if device != "meta" and source.has_weights else _build
        model = make(source, dtype, device, model_class, config, attention)
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
    own = {key: value for key, value in source.config.items() if key not in _DTYPE_KEYS}
    try:
        return CONFIG_MAPPING[model_type].from_dict(own)
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
            first = found[0] if isinstance(found, tuple) else found
            return cast("type[PreTrainedModel]", first)
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
            model: PreTrainedModel = model_class._from_config(  # type: ignore[no-untyped-call]
                config, dtype=dtype, attn_implementation=attention
            )
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
        loaded: Any = model_class.from_pretrained(
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
    model, found = cast("tuple[PreTrainedModel, dict[str, set[str]]]", loaded)
    if found["missing_keys"]:
        raise TargetError(
            f"the weights in {source.folder} lack {sorted(found['missing_keys'])[0]} of "
            f"{model_class.__name__}; name the right class in architectures of config.json."
        )
    nn.Module.to(model, device)
    return model


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
    q_offset: int = 0,
    kv_offset: int = 0,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    mask_function: Callable[..., Tensor] | None = None,
    device: torch.device | str = "cpu",
    use_vmap: bool = False,
    **ignored: object,
) -> Tensor | None:
    """The mask transformers asks for: None where the causal flag, or a single query, needs none."""
    from transformers.masking_utils import causal_mask_function, sdpa_mask

    is_local = local_size is not None and kv_length >= local_size
    if q_length == 1 or (allow_is_causal_skip and not is_local and q_length == kv_length):
        return None
    mask: Tensor | None = sdpa_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        mask_function=mask_function or causal_mask_function,
        local_size=local_size,
        allow_is_causal_skip=False,
        use_vmap=use_vmap,
        device=device,
    )
    return mask


@contextmanager
def _silent() -> Iterator[None]:
    """Hides transformers' advice and progress bars."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    had_bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:300]}" if lines else type(error).__name__
