"""`file.py:factory`: a function in the user's own file that returns a model and its inputs."""

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType

from torch import Tensor, nn

from ridgeline.errors import RidgelineError, TargetError
from ridgeline.frontends.request import LoadedModel, Request, cast, set_mode
from ridgeline.graph import Phase

_SHAPE = "return module, (module, inputs), (module, inputs by name) or (module, inputs, kwargs)"


def is_pyfile(target: str) -> bool:
    """Whether the target is a Python file, with or without a function."""
    return target.partition(":")[0].endswith(".py")


def load_pyfile(request: Request, device: str) -> LoadedModel:
    """What the factory returns, in the mode of the phase, in the dtype asked for.

    The file runs with the user's rights. On "meta" its tensors stay where the file made them.
    """
    request.require_phase(Phase.FORWARD, Phase.TRAIN)
    request.refuse_sizes("the file makes its own inputs")
    file_name, _, function = request.target.partition(":")
    path = Path(file_name)
    if not path.is_file():
        raise TargetError(f"no file {path}; give FILE.py:FUNCTION.")
    if not function:
        raise TargetError(f"{path} alone does not say what to call; give {path}:FUNCTION.")
    # what the file prints goes to stderr: stdout is the report's
    with _importable(path), redirect_stdout(sys.stderr):
        factory = _find(_run(path), path, function)
        _require_no_arguments(factory, request.target)
        with _named_errors(path):
            made = factory()
    module, inputs, kwargs = _unpack(made, request.target)
    module = set_mode(module, request.phase)
    if request.torch_dtype is not None:
        module = module.to(request.torch_dtype)
    if device != "meta":
        module = module.to(device)
    return LoadedModel(
        module=module,
        inputs=tuple(cast(i, request.torch_dtype) for i in inputs),
        kwargs={name: cast(value, request.torch_dtype) for name, value in kwargs.items()},
        name=function,
    )


@contextmanager
def _importable(path: Path) -> Iterator[None]:
    """Lets the file import its neighbours, as it can when run as a script."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Turns whatever the user's code raises into one sentence with its line."""
    try:
        yield
    except RidgelineError:
        raise
    except (Exception, SystemExit) as error:  # foreign code may raise anything, even exit
        reason = (str(error).splitlines() or [""])[0]
        raise TargetError(
            f"{path}{_line_in(path, error)} raised {type(error).__name__}: {reason[:300]}"
        ) from error


def _line_in(path: Path, error: BaseException) -> str:
    """ ":57", the last line of the file that ran before the error, or "" where none did."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f":{error.lineno}"
    own = path.resolve()
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).resolve() == own
    ]
    return f":{lines[-1]}" if lines else ""


def _require_no_arguments(factory: Callable[..., object], target: str) -> None:
    """Raises TargetError where the factory cannot be called without arguments."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # written in C: the call will say
        return
    wanted = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if wanted:
        raise TargetError(
            f"{target} wants {', '.join(wanted)}; it is called without arguments. Name a function "
            "that takes none and passes them on."
        )


def _run(path: Path) -> ModuleType:
    name = f"_ridgeline_target_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TargetError(f"{path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    with _named_errors(path):
        spec.loader.exec_module(module)
    return module


def _find(module: ModuleType, path: Path, function: str) -> Callable[[], object]:
    factory = getattr(module, function, None)
    if callable(factory):
        return factory  # type: ignore[no-any-return]
    defined = sorted(
        name
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__
    )
    what = "is not a function" if factory is not None else "does not exist"
    raise TargetError(
        f"{function!r} {what} in {path}; it defines {', '.join(defined) or 'no function'}."
    )


def _unpack(made: object, target: str) -> tuple[nn.Module, tuple[object, ...], dict[str, object]]:
    parts = made if isinstance(made, tuple) else (made,)
    if not 1 <= len(parts) <= 3 or not isinstance(parts[0], nn.Module):
        what = ", ".join(type(p).__name__ for p in parts[:4])
        raise TargetError(f"{target} returned ({what}); it must {_SHAPE}.")
    module, *given = parts
    inputs, kwargs = _inputs_of(given)
    if not isinstance(inputs, tuple | list) or not isinstance(kwargs, Mapping):
        raise TargetError(
            f"{target} returned inputs of type {type(inputs).__name__} and kwargs of type "
            f"{type(kwargs).__name__}; they must be a tuple of tensors and a dict of tensors by "
            "name, either alone or one after the other."
        )
    if not inputs and not kwargs and _needs_inputs(module):
        raise TargetError(f"{target} returned no inputs for {type(module).__name__}; {_SHAPE}.")
    return module, tuple(inputs), dict(kwargs)


def _inputs_of(given: list[object]) -> tuple[object, object]:
    """(inputs, kwargs) of what stands behind the module: either, both or neither."""
    inputs: object = ()
    kwargs: object = {}
    match given:
        case [Mapping() as kwargs]:
            pass
        case [inputs]:
            pass
        case [inputs, kwargs]:
            pass
    return ((inputs,) if isinstance(inputs, Tensor) else inputs), kwargs


def _needs_inputs(module: nn.Module) -> bool:
    """Whether `forward` has a parameter without a default."""
    parameters = inspect.signature(module.forward).parameters.values()
    return any(
        p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters
    ) or isinstance(module, nn.Sequential)
