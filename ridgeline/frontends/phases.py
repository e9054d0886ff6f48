"""Which phases say most about a target, where the user names none."""

from ridgeline import zoo
from ridgeline.frontends.decoders import is_decoder
from ridgeline.frontends.exported import is_exported
from ridgeline.frontends.huggingface import find_source, is_huggingface
from ridgeline.frontends.keras_file import is_keras
from ridgeline.frontends.onnx_file import is_onnx
from ridgeline.frontends.tensorflow_file import is_tensorflow
from ridgeline.frontends.zoo import PREFIX, is_zoo
from ridgeline.graph import Phase

_GENERATOR_ENDINGS = ("ForCausalLM", "LMHeadModel")


def default_phases(target: str) -> tuple[Phase, ...]:
    """Prefill and decode for what writes text token by token, else forward.

    Raises TargetError for a config that is missing or unreadable; a target of no kind passes, for
    capturing it says what is wrong.
    """
    return (Phase.PREFILL, Phase.DECODE) if _is_generator(target) else (Phase.FORWARD,)


def _is_generator(target: str) -> bool:
    if is_zoo(target):
        name = target.removeprefix(PREFIX)
        return name in zoo.names() and Phase.DECODE.value in zoo.get(name).forms
    is_model_file = any(f(target) for f in (is_exported, is_onnx, is_keras, is_tensorflow))
    if is_model_file or ".py" in target or not is_huggingface(target):
        return False
    config = find_source(target, with_weights=False).config
    names = config.get("architectures")
    if isinstance(names, list) and names:
        return str(names[0]).endswith(_GENERATOR_ENDINGS)
    return is_decoder(config)
