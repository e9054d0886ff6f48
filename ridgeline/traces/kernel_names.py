"""The spelling of kernel names: the same function as C++, as Nsight and as Kineto write it."""

import re
from collections.abc import Iterator

_ANONYMOUS = re.compile(r"\(anonymous namespace\)::|<unnamed>::|_GLOBAL__N_\w*?::")
_RETURN_TYPE = re.compile(r"^(?:static |__global__ )*(?:void|float|int|bool) ")
_ENCLOSING_PARAMETERS = re.compile(r"\([^()]*\)(?=(?: const)?::)")
_LENGTH = re.compile(r"[0-9]{1,4}")
_MANGLED_ANONYMOUS = "_GLOBAL__N_1"
_OPERATOR_CALL = re.compile(r"operator ?\(\)")


def _closing(text: str, start: int) -> int:
    """Index after the `>` that closes the `<` at `start`; the end of `text` where none does."""
    depth = 0
    for index in range(start, len(text)):
        depth += {"<": 1, ">": -1}.get(text[index], 0)
        if depth == 0:
            return index + 1
    return len(text)


def _without_enable_if(name: str) -> str:
    """`name` without the `std::enable_if<...>::type ` that stands where a return type does."""
    if not name.startswith(("std::enable_if<", "typename std::enable_if<")):
        return name
    # a condition such as `(8)>(0)` holds a `>` that closes nothing: the return type ends at "type "
    _, found, rest = name.partition(">::type ")
    if not found:
        return name[_closing(name, name.index("<")) :]
    return rest


def _mangled_parts(name: str) -> Iterator[str]:
    """The identifiers of a mangled C++ name up to its template arguments; Itanium ABI 5.1.2: each
    is its length in decimal and then its text."""
    at = 3 if name.startswith("_ZN") else 2
    while found := _LENGTH.match(name, at):
        at = found.end() + int(found[0])
        if (part := name[found.end() : at]) != _MANGLED_ANONYMOUS:
            yield part


def function_head(name: str) -> str:
    """The function's own name with its namespaces: no return type, template arguments or
    parameters. Of a mangled name, `_ZN2ck6device6kernelI...`, that is `ck::device::kernel`."""
    if name.startswith("_Z"):
        return "::".join(_mangled_parts(name))
    plain = _ANONYMOUS.sub("", _without_enable_if(name))
    plain = _RETURN_TYPE.sub("", plain)
    return re.split(r"[<(]", plain, maxsplit=1)[0].strip()


def template_text(name: str) -> str:
    """What stands between the function's name and its parameters, where its types are; all of
    `name` where it has no template arguments. A lambda's enclosing function loses its parameters:
    their types are not the kernel's."""
    plain = _OPERATOR_CALL.sub("operator", _ANONYMOUS.sub("", _without_enable_if(name)))
    plain = _ENCLOSING_PARAMETERS.sub("", plain)
    start = plain.find("<")
    return plain[start : _closing(plain, start)] if start >= 0 else plain
