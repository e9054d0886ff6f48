"""Finding a machine: by id, short name, device name, file, or "this" for the calibrated local
one."""

import difflib
import os
import re
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from ridgeline.errors import MachineError
from ridgeline.machines.files import read_text, user_cache
from ridgeline.machines.machine import Machine
from ridgeline.machines.toml import parse, to_toml

_DATA = Path(__file__).parent / "data"
_WAY_OUT = "`ridgeline machines list` shows all; a path to a TOML of your own works too."

ALIASES: Mapping[str, str] = {
    "v100": "v100-sxm2-32g",
    "a100": "a100-sxm-80g",
    "a10040gb": "a100-sxm-40g",
    "a10080gb": "a100-sxm-80g",
    "a6000": "rtx-a6000",
    "h100": "h100-sxm",
    "h200": "h200-sxm",
    "gh200": "gh200-96",
    "b200": "b200-sxm",
    "b300": "b300-sxm",
    "3090": "rtx3090",
    "4090": "rtx4090",
    "5090": "rtx5090",
    "rtxpro6000": "rtx-pro-6000-server",
    "mi250": "mi250x",
    "mi300": "mi300x",
    "mi325": "mi325x",
    "mi350": "mi350x",
    "mi355": "mi355x",
    "mi455": "mi455x",
    "v5e": "tpu-v5e",
    "v5p": "tpu-v5p",
    "v6e": "tpu-v6e",
    "trillium": "tpu-v6e",
    "tpuv7": "tpu-v7x",
    "tpu7x": "tpu-v7x",
    "ironwood": "tpu-v7x",
    "trainium": "trn1",
    "trainium1": "trn1",
    "trainium2": "trn2",
    "trainium3": "trn3",
    "910b": "ascend-910b",
    "910c": "ascend-910c",
    "950dt": "ascend-950dt",
    "epyc9654": "cpu-epyc-9654",
    "epyc9755": "cpu-epyc-9755",
    "xeon8480": "cpu-xeon-8480",
    "xeon6980p": "cpu-xeon-6980p",
    "grace": "cpu-grace",
    "graviton4": "cpu-graviton4",
}
"""What people type -> the machine they usually mean, lower-case without punctuation. The SXM part
where there are several."""


def names() -> tuple[str, ...]:
    """The ids of all shipped machines, sorted."""
    return tuple(sorted(path.stem for path in _DATA.glob("*.toml")))


def load(name_or_path: str | os.PathLike[str]) -> Machine:
    """The machine of that id, short name, friendly name, device name or TOML file; "this" is the
    calibrated local one.

    Raises MachineError with the nearest names when there is none.
    """
    if not isinstance(name_or_path, str) or name_or_path.endswith(".toml"):
        return _read(Path(name_or_path))
    if name_or_path == "this":
        return _load_this()
    found = _find(name_or_path)
    if found is not None:
        return _shipped(found)
    if os.sep in name_or_path:
        return _read(Path(name_or_path))
    raise _unknown(name_or_path)


def match_device(device_name: str) -> Machine:
    """The shipped machine whose regex fits a name as the driver prints it ("NVIDIA H100 80GB
    HBM3").

    Raises MachineError if none or more than one fits.
    """
    found = _matching(device_name)
    if not found:
        raise MachineError(f"no shipped machine matches device {device_name!r}. {_WAY_OUT}")
    return _shipped(found[0])


def this_path() -> Path:
    """Where the description of this machine is kept: this.toml in the user's cache."""
    return user_cache() / "this.toml"


def save_this(machine: Machine) -> Path:
    """Makes `machine` the one that `load("this")` returns. The file is whole or absent, never
    half-written. Raises MachineError where its folder takes no file."""
    path, partial = this_path(), _partial()
    try:
        partial.write_text(to_toml(machine), encoding="utf-8")
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return path


def require_this_place() -> None:
    """Raises MachineError unless `save_this` can write; asked before long work."""
    _partial().unlink()


def _partial() -> Path:
    """A new empty file beside this.toml."""
    folder = this_path().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=folder, prefix="this-", suffix=".partial")
    except OSError as error:
        raise MachineError(
            f"cannot keep a calibration in {folder}: {error.strerror}. XDG_CACHE_HOME may name a "
            "folder of another place."
        ) from None
    os.close(handle)
    return Path(partial)


def _find(name: str) -> str | None:
    key = _key(name)
    by_id = {_key(shipped): shipped for shipped in names()}
    if key in by_id or key in ALIASES:
        return by_id.get(key) or ALIASES[key]
    by_name = {_key(machine.name): id for id, machine in _catalogue().items()}
    return by_name.get(key) or next(iter(_matching(name)), None)


def _matching(device_name: str) -> list[str]:
    found = [id for id, m in _catalogue().items() if re.search(m.match, device_name)]
    if len(found) > 1:
        raise MachineError(
            f"device {device_name!r} fits {' and '.join(found)}; name one of them with --machine."
        )
    return found


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@cache
def _catalogue() -> dict[str, Machine]:
    return {id: _shipped(id) for id in names()}


@cache
def _shipped(id: str) -> Machine:
    return _read(_DATA / f"{id}.toml")


def _load_this() -> Machine:
    if not this_path().is_file():
        raise MachineError(
            f"this machine is not calibrated yet (no {this_path()}). Run `ridgeline machines "
            f"calibrate` once; it takes a minute."
        )
    return _read(this_path())


def _read(path: Path) -> Machine:
    return parse(read_text(path, "machine file", _WAY_OUT), origin=str(path))


def _unknown(name: str) -> MachineError:
    known = {_key(id): id for id in names()} | dict(ALIASES)
    close = difflib.get_close_matches(_key(name), known, n=4, cutoff=0.5)
    nearest = ", ".join(dict.fromkeys(known[key] for key in close))
    return MachineError(f"no machine {name!r}.{f' Near: {nearest}.' if nearest else ''} {_WAY_OUT}")
