"""A Hugging Face folder, `config.json` or hub id: what it holds, and which way it is built."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ridgeline.errors import MissingExtra, TargetError
from ridgeline.frontends.decoders import decoder_config, is_decoder
from ridgeline.frontends.request import LoadedModel, Request, set_mode
from ridgeline.graph import Phase
from ridgeline.graph.spec import DTYPES
from ridgeline.zoo.causal import causal_forms
from ridgeline.zoo.decoder import Decoder
from ridgeline.zoo.workload import Sizes

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_CONFIG = "config.json"
# A prompt of typical length; see `default_seq`.
_DEFAULT_SEQ = 2048
_MAX_CONFIG_BYTES = 16 * 2**20
# Layers alike are traced once, but each is a module that is made and called: some 3 ms per layer.
# The deepest model published has 1202 (a ResNet), the deepest transformer 1000 (DeepNet).
_MAX_LAYERS = 4096
# num_hidden_layers, n_layer, encoder_layers and the like, not the max_window_layers of Qwen
_LAYERS = re.compile(r"(?!max_)(.*_)?layers?")
_DTYPES = {
    "float64": "fp64",
    "float32": "fp32",
    "bfloat16": "bf16",
    "float16": "fp16",
    "auto": "fp32",  # as the weights are; the config alone does not say
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A config, and the folder of its weights where there are any. name: for people."""

    name: str
    file: Path
    config: Mapping[str, object]

    @property
    def folder(self) -> Path:
        """The folder of the config."""
        return self.file.parent

    @property
    def has_weights(self) -> bool:
        """Whether safetensors lie beside the config."""
        return any(self.folder.glob("*.safetensors"))

    @property
    def max_positions(self) -> int | None:
        """The longest sequence the model takes; None where it has no limit or does not say."""
        for key in ("max_position_embeddings", "n_positions", "max_sequence_length"):
            value = self.config.get(key)
            if isinstance(value, int) and value > 0:
                return value
        return None

    def default_seq(self) -> int:
        """Tokens where the user gave none: 2048, or as many as the model takes."""
        return min(_DEFAULT_SEQ, self.max_positions or _DEFAULT_SEQ)

    def dtype(self, request: Request) -> torch.dtype:
        """The dtype asked for, else the config's, else fp32. Raises TargetError for an unknown
        one.
        """
        if request.torch_dtype is not None:
            return request.torch_dtype
        key = "dtype" if self.config.get("dtype") else "torch_dtype"
        own = self.config.get(key) or "float32"
        name = _DTYPES.get(str(own).removeprefix("torch."))
        if name is None:
            raise TargetError(
                f"{self.name}: {key} is {own!r}; it must be one of {', '.join(_DTYPES)}, or give "
                "--dtype."
            )
        return DTYPES[name]


def is_huggingface(target: str) -> bool:
    """Whether the target is a folder, a JSON file or looks like a hub id."""
    path = Path(target)
    is_hub_id = bool(_HUB_ID.fullmatch(target)) and not path.parent.is_dir()
    return target.endswith(".json") or is_hub_id or (bool(target) and path.is_dir())


def load_huggingface(request: Request, device: str) -> LoadedModel:
    """The model of a config, on `device`; with its weights where they are and `device` is real."""
    source = find_source(request.target, with_weights=device != "meta")
    request.require_length(source.max_positions)
    dtype = source.dtype(request)
    if "quantization_config" in source.config:
        raise TargetError(
            f"{source.name} describes quantised weights (quantization_config), which are not read; "
            "take the config of the model they were made from."
        )
    if is_decoder(source.config) and (device == "meta" or not source.has_weights):
        return _load_decoder(source, request, dtype, device)
    from ridgeline.frontends.auto_model import load_auto_model

    return load_auto_model(source, request, dtype, device)


def _load_decoder(source: Source, request: Request, dtype: torch.dtype, device: str) -> LoadedModel:
    """Our own decoder of the config's shape, with random weights."""
    config = decoder_config(source.config, source.name)
    seq = source.default_seq()
    forms = causal_forms(seq=seq, cache=seq)
    sizes = Sizes(batch=request.batch, seq=request.seq, cache=request.cache)
    form = Phase.FORWARD if request.phase is Phase.TRAIN else request.phase
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = set_mode(Decoder(config), request.phase)
            module, inputs = forms[form.value](model, sizes)
    finally:
        torch.set_default_dtype(previous)
    return LoadedModel(module=module, inputs=inputs, name=source.name, is_trusted=True)


def find_source(target: str, *, with_weights: bool) -> Source:
    """The config a target means; a hub id is downloaded, since the user gave it.

    Raises TargetError naming what is missing or unreadable.
    """
    path = Path(target)
    if path.is_dir():
        file = path / _CONFIG
        if not file.is_file():
            raise TargetError(
                f"folder {path} holds no {_CONFIG}; give a Hugging Face model folder."
            )
        return _source(path.resolve().name, file)
    if path.is_file():
        name = path.resolve().parent.name if path.name == _CONFIG else path.stem
        return _source(name, path)
    if target.endswith(".json") or not _HUB_ID.fullmatch(target):
        raise TargetError(f"no file {path}; give a config.json, or the folder that holds it.")
    return _source(target, _download(target, with_weights=with_weights))


def _source(name: str, file: Path) -> Source:
    config = _read(file)
    if not isinstance(config.get("model_type"), str):
        raise TargetError(f"{file} has no model_type; it is no Hugging Face model config.")
    _require_few_layers(name, config)
    return Source(name=name, file=file, config=config)


def _require_few_layers(name: str, config: Mapping[str, object]) -> None:
    """Raises TargetError for more layers than are built in reasonable time, parts included."""
    for key, value in config.items():
        if isinstance(value, dict):
            _require_few_layers(f"{name} ({key})", value)
        elif isinstance(value, int) and value > _MAX_LAYERS and _LAYERS.fullmatch(key):
            raise TargetError(
                f"{name}: {key} is {value}; more than {_MAX_LAYERS} are not built. Count a model "
                "of fewer layers and scale: layers alike cost alike."
            )


def _read(file: Path) -> dict[str, object]:
    try:
        if file.stat().st_size > _MAX_CONFIG_BYTES:
            raise TargetError(
                f"{file} is {file.stat().st_size} bytes; no model config is so large."
            )
        config = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise TargetError(f"cannot read {file}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, TargetError):
            raise
        raise TargetError(f"{file} is no JSON: {error}. Download it again.") from error
    if not isinstance(config, dict):
        raise TargetError(f"{file} holds a JSON {type(config).__name__}, not an object of keys.")
    return config


def _download(hub_id: str, *, with_weights: bool) -> Path:
    """The config of a hub model, and its safetensors if wanted, through huggingface_hub's cache."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtra(
            f"{hub_id} is no file or folder here, and hub ids need the extra hf: "
            "pip install 'ridgeline[hf]'."
        ) from error
    patterns = ["*.json", *(["*.safetensors"] if with_weights else [])]
    try:
        file = Path(snapshot_download(hub_id, allow_patterns=patterns)) / _CONFIG
    except (OSError, ValueError, RuntimeError) as error:
        raise TargetError(
            f"{hub_id} is no file or folder here, and the hub did not give it "
            f"({type(error).__name__}). Check the name and the network, or download the model "
            "elsewhere and give its folder or config.json."
        ) from error
    if not file.is_file():
        raise TargetError(f"{hub_id} on the hub has no {_CONFIG}; give a model that has one.")
    return file
