"""A seal that tells one's own files from a stranger's: HMAC-SHA256 under a key of this user's.

The key is 32 random bytes in `$XDG_CACHE_HOME/ridgeline/key` (`~/.cache` by default), readable by
its owner alone. It is made when a file is first sealed and is never written anywhere else.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
import tempfile
from pathlib import Path

from ridgeline.machines.files import user_cache

_KEY_BYTES = 32
# Keeps seals of other kinds, should there ever be any, from passing for these.
_CONTEXT = b"ridgeline .ridge 1\0"


def key_path() -> Path:
    """Where the key lies."""
    return user_cache() / "key"


def seal_of(data: bytes) -> str | None:
    """The seal of `data` as hex digits; None where no key can be kept."""
    with contextlib.suppress(OSError, RuntimeError):
        key = _read_key() or _make_key()
        return _hmac(key, data)
    return None


def is_own(data: bytes, seal: str | None) -> bool:
    """Whether `seal` is what this user's key makes of `data`; False where there is no key."""
    with contextlib.suppress(OSError, RuntimeError):
        key = _read_key()
        if key is not None and seal is not None:
            return hmac.compare_digest(_hmac(key, data).encode(), seal.encode())
    return False


def _hmac(key: bytes, data: bytes) -> str:
    return hmac.new(key, _CONTEXT + data, hashlib.sha256).hexdigest()


def _read_key() -> bytes | None:
    """The key; None where there is none, or one that others may know or have put there."""
    try:
        handle = os.open(key_path(), os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
            return None
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            return None
        key = file.read(_KEY_BYTES + 1)
    return key if len(key) == _KEY_BYTES else None


def _make_key() -> bytes:
    """A new key, written whole or not at all; of two made at once, the first stays."""
    path = key_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.is_symlink() or path.exists():
        path.unlink()  # what lies there is no key
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=".key-")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(partial, path)
    finally:
        os.unlink(partial)
    key = _read_key()
    if key is None:
        raise OSError(f"{path} cannot be kept from others")
    return key
