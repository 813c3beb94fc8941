# SPDX-License-Identifier: MIT
"""Values as tagged JSON: what plain JSON would lose or change is kept, nothing is executed.

Fact: ``json`` turns a tuple into a list, a key ``1`` into ``"1"`` and an enum into its value
without a word, and joins two lone surrogates that happen to stand side by side. pickle and
marshal keep more, but to read them is to run, or to trust, what the sender wrote.

Consequence: every value is looked at by its exact type before ``json`` sees it.

What we do: ``{"$": tag, "v": payload}`` stands for what JSON has no form for. A plain dict with
a key ``"$"`` is tagged as well, so that data cannot pass for a tag. Any object that is not plain
arrives as an :class:`Opaque`: its type's name, its ``str`` and its ``repr``. Only ASCII is
written; types are compared by identity alone, because a metaclass may define ``__eq__`` and
``__hash__``, and an object its ``__class__``.

The reader measures nesting and the number of values before it parses, because ``json`` recurses
on the C stack and turns three bytes (``[],``) into eighty.

What still fails: a ``__repr__`` that never returns (the test's timeout ends it), and a set or
dict in which more than 64 distinct numbers share one hash (refused by the reader: it would
be a denial of service by quadratic insertion).
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from math import isfinite
from typing import Final, Never

from pytest_nsisolate.errors import BrokenStream
from pytest_nsisolate.kernel.originals import json, re

MAX_DEPTH: Final = 100
"""Containers inside containers that are sent; a deeper one arrives as an :class:`Opaque`."""
MAX_VALUES: Final = 300_000
"""Values and keys that one encoding may hold; a container beyond it arrives as an Opaque."""
MAX_LINES: Final = 6_000_000
"""Strings of long lists of strings that one encoding may hold besides: the text of a failure."""
MAX_TEXT: Final = 64 * 1024
"""Characters of an opaque object's name, ``str`` and ``repr`` that are sent, of each."""
MAX_WEIGHT: Final = 13 * (MAX_VALUES + 1)  # two opaque objects as key and value make 25
"""The most brackets and commas that :func:`encode` can write for MAX_VALUES, and a reader takes."""

# A dict with other keys is three JSON levels, ``{"$", "v": [[key, value]]}``; a leaf's tag is two.
_MAX_NESTING: Final = 3 * MAX_DEPTH + 4
_MAX_PLAIN_INT: Final = 2**63 - 1
_MAX_DIGITS: Final = 20
_MAX_NUMBER_TEXT: Final = 40
_MAX_SAME_HASH: Final = 64
_MANY_LINES: Final = 1000
_JOINT: Final = "\x1e"
_SPECIAL_FLOATS: Final = {text: float(text) for text in ("nan", "inf", "-inf")}
_SPLIT_PAIR: Final = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_NOT_STRUCTURE: Final = bytes(set(range(256)) - set(b'[]{},"'))
_STEPS: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
# Through the slots of ``type``: a metaclass may replace the attributes of the same names.
_qualname: Final = type.__dict__["__qualname__"].__get__
_module: Final = type.__dict__["__module__"].__get__


@dataclass(frozen=True, slots=True, repr=False)
class Opaque:
    """What arrives instead of an object that is not plain data.

    :param type_name: module and qualified name of its type (no module for a builtin).
    :param text: what ``str()`` gave, cut at :data:`MAX_TEXT`, or a placeholder saying why not.
    :param repr: what ``repr()`` gave, likewise.
    """

    type_name: str
    text: str
    repr: str

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.repr


def encode(value: object) -> bytes:
    """Write a value as tagged JSON, in ASCII.

    :raises RecursionError: when the caller's stack leaves less than about 300 calls.
    :raises KeyboardInterrupt: when an object's ``repr`` is interrupted, or says so.
    """
    text = _to_json(_Packer(careful=False).pack(value, 0))
    if "\\ud" in text:
        # A surrogate, so perhaps two lone ones that a reader would join: rare, hence a second pass.
        text = _to_json(_Packer(careful=True).pack(value, 0))
    return text.encode("ascii")


def decode(payload: bytes) -> object:
    """Read what :func:`encode` wrote. Nothing is imported, looked up or executed.

    :raises BrokenStream: for anything else, or more than :data:`MAX_WEIGHT`.
    """
    weigh(payload, MAX_WEIGHT)
    return parse(payload)


def weigh(payload: bytes, limit: int) -> int:
    """Count what a JSON text makes values of, before anything is built from it.

    Those are brackets, commas, and the joints of long lists of strings.

    :returns: the count; for a small text those inside of strings are counted too.
    :raises BrokenStream: when there are more than ``limit`` or the nesting is too deep.
    """
    brackets = payload.count(b"[") + payload.count(b"{")
    joints = payload.count(b"\\u001e") + payload.count(b"\\u001E")
    if joints > MAX_LINES:
        raise BrokenStream("too many lines")
    weight = brackets + payload.count(b",")
    if brackets <= _MAX_NESTING and weight <= min(limit, 10_000):
        return weight + joints
    # Left to right, so of any run of backslashes only an odd last one is left to escape a quote.
    text = payload.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NOT_STRUCTURE)
    if text.count(b'"') > 4 * (limit + 1):
        raise BrokenStream("too many values")
    outside = b"".join(text.split(b'"')[::2])
    weight = outside.count(b"[") + outside.count(b"{") + outside.count(b",")
    if weight > limit:
        raise BrokenStream("too many values")
    steps = map(_STEPS.__getitem__, outside.translate(None, b","))
    if max(accumulate(steps), default=0) > _MAX_NESTING:
        raise BrokenStream("nested too deeply")
    return weight + joints


def parse(payload: bytes) -> object:
    """Read tagged JSON that :func:`weigh` has let pass.

    :raises BrokenStream: when it is not ASCII, not JSON, or no tagged JSON of ours.
    """
    try:
        value: object = _from_json(payload.decode("ascii"))
    except BrokenStream as error:
        reason = error.reason
    except (ValueError, TypeError):
        reason = "not valid tagged JSON"
    except (RecursionError, MemoryError) as error:
        reason = f"too large to read ({type(error).__name__})"
    else:
        return value
    # Raised out here: inside, __context__ would keep the error and with it the whole text alive.
    raise BrokenStream(reason)


class _Packer:
    """One encoding: turns a value into what ``json`` writes without loss."""

    __slots__ = ("_active", "_careful", "_left", "_lines_left")

    def __init__(self, *, careful: bool) -> None:
        self._active: set[int] = set()
        self._careful = careful
        self._left = MAX_VALUES
        self._lines_left = MAX_LINES

    def pack(self, value: object, depth: int) -> object:
        kind = type(value)
        if kind is str:
            return self._pack_str(value) if self._careful else value
        if value is None or kind is bool:
            return value
        if kind is int:
            fits = -_MAX_PLAIN_INT <= value <= _MAX_PLAIN_INT  # type: ignore[operator]
            return value if fits else _tagged("int", f"{value:x}")
        if kind is float:
            return value if isfinite(value) else _tagged("float", repr(value))  # type: ignore[arg-type]
        if kind is dict or kind is list or kind is tuple or kind is set or kind is frozenset:
            return self._pack_container(value, kind, depth)
        if kind is bytes:
            return _tagged("bytes", _base64(value))  # type: ignore[arg-type]
        if kind is Opaque:
            return self._pack_opaque(value)  # type: ignore[arg-type]
        return self._pack_opaque(opaque(value))

    def _pack_container(self, value: object, kind: type, depth: int) -> object:
        if kind is list and len(value) > _MANY_LINES:  # type: ignore[arg-type]
            joined = self._join(value)  # type: ignore[arg-type]
            if joined is not None:
                return _tagged("lines", joined)
        size = len(value) * (2 if kind is dict else 1)  # type: ignore[arg-type]
        refusal = ""
        if id(value) in self._active:
            refusal = "contains itself"
        elif depth >= MAX_DEPTH:
            refusal = "nested too deeply to be sent"
        elif size > self._left:
            refusal = "too large to be sent"
        if refusal:
            # Not its repr: of a nested or shared structure that may be endless.
            placeholder = f"<{kind.__name__}: {refusal}>"
            return self._pack_opaque(Opaque(kind.__name__, placeholder, placeholder))
        self._left -= size
        self._active.add(id(value))
        try:
            if kind is dict:
                return self._pack_dict(value, depth + 1)  # type: ignore[arg-type]
            # A copy, because another thread of the test may be changing a list or a set.
            items = [self.pack(item, depth + 1) for item in list(value)]  # type: ignore[call-overload]
            return items if kind is list else _tagged(kind.__name__, items)
        finally:
            self._active.discard(id(value))

    def _join(self, value: list[object]) -> str | None:
        """A long list of strings as one: the lines of a text may be millions."""
        lines = [item for item in value if type(item) is str]
        if len(lines) != len(value) or len(lines) > self._lines_left:
            return None
        joined = _JOINT.join(lines)
        if joined.count(_JOINT) != len(lines) - 1 or (self._careful and _SPLIT_PAIR.search(joined)):
            return None
        self._lines_left -= len(lines)
        return joined

    def _pack_dict(self, value: dict[object, object], depth: int) -> object:
        items = list(value.items())
        for key, _ in items:
            # Before any value is packed: to pack twice at each level would be exponential.
            if type(key) is not str or key == "$" or (self._careful and _SPLIT_PAIR.search(key)):
                break
        else:
            return {key: self.pack(item, depth) for key, item in items}
        pairs = [[self.pack(key, depth), self.pack(item, depth)] for key, item in items]
        return _tagged("dict", pairs)

    def _pack_str(self, value: object) -> object:
        assert isinstance(value, str)
        if _SPLIT_PAIR.search(value) is None:
            return value
        return _tagged("str", _base64(value.encode("utf-8", "surrogatepass")))

    def _pack_opaque(self, value: Opaque) -> object:
        # Checked again, because a test may build an Opaque of anything.
        fields = (value.type_name, value.text, value.repr)
        return _tagged("opaque", [self.pack(_ask(str, field), 0) for field in fields])


def _tagged(tag: str, payload: object) -> dict[str, object]:
    return {"$": tag, "v": payload}


def _base64(value: bytes) -> str:
    return b2a_base64(value, newline=False).decode("ascii")


def opaque(value: object) -> Opaque:
    """Ask a foreign object for its texts; three true strings come back, whatever it answers."""
    return Opaque(_name(type(value)), _ask(str, value), _ask(repr, value))


def text_of(value: object) -> str:
    """A true string for what should have been one."""
    if type(value) is str:
        return value
    try:
        return str(value)
    except ValueError:  # an int of more digits than Python likes to write
        return f"<a value of the type {type(value).__name__}>"


def _name(kind: type) -> str:
    try:
        module: object = _module(kind)
    except AttributeError:  # a class made where there is no __name__ to take
        module = None
    prefix = f"{module}." if type(module) is str and module != "builtins" else ""
    return _cut(f"{prefix}{_cut(_qualname(kind))}")


def _ask(question: Callable[[object], str], value: object) -> str:
    try:
        return _cut(question(value))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit and pytest's outcomes too: a report must get out
        return f"<{question.__name__}() raised {_name(type(error))}>"


def _cut(text: str) -> str:
    """An exact ``str`` of bounded length, also from a subclass that redefines everything."""
    length = str.__len__(text)
    if length <= MAX_TEXT:
        return str.__str__(text)
    note = f"... [{length} characters in all]"
    return str.__getitem__(text, slice(MAX_TEXT - len(note))) + note


def _untag(found: dict[str, object]) -> object:
    """Called for each JSON object, innermost first; so what it finds in one is already decoded."""
    if "$" not in found:
        return found
    tag, payload = found["$"], found.get("v")
    if len(found) != 2 or type(tag) is not str:
        raise BrokenStream("malformed tag")
    if tag in _FROM_LIST and type(payload) is list:
        return _FROM_LIST[tag](payload)
    if tag in _FROM_TEXT and type(payload) is str:
        return _FROM_TEXT[tag](payload)
    raise BrokenStream("unknown tag, or a payload of the wrong type")


def _check_hashes(items: list[object]) -> list[object]:
    # Numbers have predictable hashes: equal ones by the thousand would take the runner for hours.
    if len(items) > _MAX_SAME_HASH:
        counts = Counter(hash(item) for item in items if type(item) is not Opaque)
        if max(counts.values(), default=0) > _MAX_SAME_HASH:
            raise BrokenStream("too many equal hashes")
    return items


def _to_dict(pairs: list[object]) -> dict[object, object]:
    keys = []
    for pair in pairs:
        if type(pair) is not list or len(pair) != 2:
            raise BrokenStream("malformed dict")
        keys.append(pair[0])
    _check_hashes(keys)
    return dict(pairs)  # type: ignore[arg-type]


def _to_opaque(fields: list[object]) -> Opaque:
    if len(fields) != 3 or any(type(field) is not str for field in fields):
        raise BrokenStream("malformed opaque object")
    return Opaque(*fields)  # type: ignore[arg-type]


def _to_int(text: str) -> int:
    # Base 16: linear in time, and exempt from the limit on decimal digits.
    value = int(text, 16)
    if f"{value:x}" != text:
        raise BrokenStream("malformed int")
    return value


def _to_bytes(text: str) -> bytes:
    return a2b_base64(text, strict_mode=True)


def _to_str(text: str) -> str:
    return _to_bytes(text).decode("utf-8", "surrogatepass")


def _to_float(text: str) -> float:
    if text not in _SPECIAL_FLOATS:
        raise BrokenStream("malformed float")
    return _SPECIAL_FLOATS[text]


_FROM_LIST: Final[dict[str, Callable[[list[object]], object]]] = {
    "tuple": tuple,
    "set": lambda items: set(_check_hashes(items)),
    "frozenset": lambda items: frozenset(_check_hashes(items)),
    "dict": _to_dict,
    "opaque": _to_opaque,
}
_FROM_TEXT: Final[dict[str, Callable[[str], object]]] = {
    "int": _to_int,
    "float": _to_float,
    "bytes": _to_bytes,
    "str": _to_str,
    "lines": lambda text: text.split(_JOINT),
}


def _read_int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise BrokenStream("number too long")
    return int(text)


def _read_float(text: str) -> float:
    value = float(text) if len(text) <= _MAX_NUMBER_TEXT else float("inf")
    if not isfinite(value):
        raise BrokenStream("number too long or too large")
    return value


def _refuse_constant(text: str) -> Never:
    raise BrokenStream(f"{text} is not JSON")


# Bound once: no import and no look-up in ``json`` when a test may have patched it.
_to_json: Final = json.JSONEncoder(
    check_circular=False, allow_nan=False, separators=(",", ":")
).encode
_from_json: Final = json.JSONDecoder(
    object_hook=_untag,
    parse_int=_read_int,
    parse_float=_read_float,
    parse_constant=_refuse_constant,
).decode
