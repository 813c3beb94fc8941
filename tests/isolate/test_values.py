# SPDX-License-Identifier: MIT
"""What crosses from a call by ``isolate``: values and exceptions, there and back on one side."""

from __future__ import annotations

import collections
import dataclasses
import enum
import io
import math
import subprocess
import sys
import threading
import time
import traceback
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nsisolate import IsolatedError
from pytest_nsisolate.wire import exceptions, tagged_json, values
from pytest_nsisolate.wire.values import UnfitError


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Point:
    x: int
    y: object = None
    made: list[str] = dataclasses.field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        ran.append("__post_init__")


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    left: object
    right: object


class Named(NamedTuple):
    first: object
    second: object = None


class Text(str):
    __slots__ = ()


ran: list[str] = []
Old = collections.namedtuple("Old", "a b")  # noqa: PYI024


def over(value: object) -> object:
    """Packed, sent as a frame is, and unpacked."""
    return values.unpack(tagged_json.decode(tagged_json.encode(values.pack(value))))


PLAIN: tuple[Any, ...] = (
    *(None, True, 0, -(2**300), 1.5, math.inf, -0.0, 1 + 2j, "a\ud800b", "", b"\x00\xff"),
    *([], [1, [2]], (), (1, (2,)), {}, {"$": 1, 2: (3,), (4,): 5, None: 6}),
    *({1, (2, "x")}, frozenset({frozenset({1})})),
    *(("t", 1), ("e", "enum", "Enum", "x"), ("d", "os", "x"), ("c", 1.0, 2.0)),
    *(Colour.RED, Level.LOW, Rights.READ | Rights.WRITE, Rights(0), {Colour.RED: Level.LOW}),
    *(Point(1, Pair((1,), Colour.RED)), Pair(1, {2}), {Pair(1, 2)}, {Pair(1, (2,)): 3}),
    *(Named(1, [2]), Old(1, 2)),
)


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: type(value).__name__)
def test_plain_values_cross(value: object) -> None:
    """Equal, of the same type, to the last detail."""
    found = over(value)
    assert found == value
    assert type(found) is type(value)
    assert sorted(repr(found)) == sorted(repr(value))  # a set has no order


_leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    | st.binary() | st.complex_numbers(allow_nan=False) | st.sampled_from([Colour.RED, Level.LOW])
)  # fmt: skip
_keys = st.recursive(_leaves, lambda inner: st.tuples(inner, inner), max_leaves=4)


@settings(deadline=None, database=None)
@given(
    st.recursive(
        _leaves,
        lambda inner: (
            st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(_keys, inner)
            | st.frozensets(_keys) | st.builds(Pair, inner, inner) | st.builds(Named, inner, inner)
        ),
        max_leaves=20,
    )
)  # fmt: skip
def test_any_combination_crosses(value: object) -> None:
    """Whatever is inside of what."""
    assert over(value) == value


def test_nothing_of_the_class_runs() -> None:
    """A dataclass is filled without ``__init__`` and ``__post_init__``."""
    point = Point(1)
    del ran[:]
    assert over(point) == point
    assert not ran


class Local:
    """Not plain."""


def _cycle() -> list[Any]:
    found: list[Any] = []
    found.append({"again": found})
    return found


def _deep() -> list[Any]:
    found: list[Any] = []
    for _ in range(values.MAX_DEPTH + 1):
        found = [found]
    return found


def _unset() -> Point:
    point = Point(1)
    del point.made
    return point


@dataclasses.dataclass
class _Hashed:
    inside: list[int]

    def __hash__(self) -> int:
        return 1


UNFIT = {
    "an object": (Local(), "Local", "result"),
    "in a list": ([1, [object()]], "object", "result[1][0]"),
    "in a dict": ({"a": {(1,): Local()}}, "Local", "result['a'][tuple]"),
    "a key": ({Local: 1}, "type", "a key of result"),
    "in a set": ({1, Local}, "type", "an item of result"),
    "in a dataclass": (Point(1, [io.StringIO()]), "_io.StringIO", "result.y[0]"),
    "in a named tuple": (Named(1, Local()), "Local", "result.second"),
    "a str subclass": (Text("x"), "Text", "result"),
    "a dict subclass": (collections.OrderedDict(), "collections.OrderedDict", "result"),
    "bytearray": (bytearray(), "bytearray", "result"),
    "a struct sequence": (time.gmtime(0), "time.struct_time", "result"),
    "a function": (len, "builtin_function_or_method", "result"),
    "a lock": ([threading.Lock()], "lock", "result[0]"),
    "a cycle": (_cycle(), "list", "result[0]['again']"),
    "too deep": (_deep(), "list", "result" + "[0]" * values.MAX_DEPTH),
    "too many": (list(range(tagged_json.MAX_VALUES)), "list", "result"),
    "an unset field": (_unset(), "Point", "result"),
    "a hash of its own": ({_Hashed([1])}, "set", "result"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_anything_else_is_named_with_its_place(case: str) -> None:
    """Never a description instead of a value."""
    value, type_name, where = UNFIT[case]
    with pytest.raises(UnfitError) as unfit:
        values.pack(value)
    assert unfit.value.type_name.endswith(type_name)
    assert unfit.value.where == where


def test_a_local_class_is_not_found() -> None:
    """A dataclass or an enum that no module has under its name."""

    @dataclasses.dataclass
    class Here:
        x: int

    with pytest.raises(UnfitError, match=r"not found by its name in sys\.modules"):
        values.pack(Here(1))
    with pytest.raises(UnfitError, match="not found"):
        values.pack(enum.Enum("Made", "A").A)  # type: ignore[attr-defined]


FORGED = (
    *(("x",), (), (1,), ("c", 1, 2), ("e", "os", "path", "x"), ("e", "os", "system", "x")),
    *(("e", __name__, "Colour", "BLUE"), ("e", __name__, "Point", "x")),
    ("f", __name__, "Rights", 64),
    *(("d", "subprocess", "Popen", ("args", ["true"])), ("d", __name__, "Point")),
    *(("d", __name__, "Point", ("x", 1)), ("d", __name__, "Point", 1), ("d", "nowhere", "Point")),
    *(("d", __name__, "Point", ("x", 1), ("y", 1), ("made", 1), ("__class__", 1)),),
    *(("n", __name__, "Named", 1), ("n", "builtins", "tuple", 1), ("d", "builtins", "type")),
    *(tagged_json.Opaque("a", "b", "c"), [tagged_json.Opaque("a", "b", "c")], {"k": ("x",)}),
)  # fmt: skip


@pytest.mark.parametrize("data", FORGED, ids=repr)
def test_forged_values_are_refused(data: object) -> None:
    """What a hostile child may send: other shapes, classes of other kinds, missing members."""
    with pytest.raises(UnfitError):
        values.unpack(data)


# Exceptions --------------------------------------------------------------------------------------


class OwnError(Exception):
    def __init__(self, one: int, *, two: int) -> None:
        ran.append("__init__")
        super().__init__(one)
        self.two = two


class FileError(OSError):
    def __init__(self, name: str) -> None:
        super().__init__(2, "no such thing", name)


class SlowError(Exception):
    def __str__(self) -> str:
        return f"at {id(self)}"


def thrown_over(error: BaseException) -> BaseException:
    """Raised, described, sent and made again."""
    try:
        raise error
    except BaseException as raised:
        data = exceptions.describe(raised, raised.__traceback__)
    found: Any = tagged_json.decode(tagged_json.encode(data))
    return exceptions.remake(found)


def _decoding() -> UnicodeDecodeError:
    try:
        b"\xff".decode("ascii")
    except UnicodeDecodeError as error:
        return error
    raise AssertionError


ERRORS = (
    *(ValueError("a", 1), KeyError("k"), StopIteration(3), SystemExit(2), AssertionError()),
    *(OSError(2, "text", "from", None, "to"), FileNotFoundError(2, "t", "f"), _decoding()),
    *(OwnError(1, two=2), FileError("x"), subprocess.CalledProcessError(3, ["x"], b"o")),
    *(subprocess.TimeoutExpired("x", 1.5), SyntaxError("s", ("f", 1, 2, "text", 1, 3))),
    *(pytest.skip.Exception("why"), pytest.fail.Exception("why"), pytest.xfail.Exception("why")),
    *(pytest.exit.Exception("why", 3), KeyboardInterrupt(), ImportError("i")),
    *(ModuleNotFoundError("m", name="json.b", path="/a"), AttributeError("t", name="t", obj=len)),
    NameError("n", name="n"),
)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_exceptions_cross(error: BaseException) -> None:
    """By type and arguments, with plain attributes, without ``__init__``; the traceback a note."""
    del ran[:]
    found = thrown_over(error)
    assert type(found) is type(error)
    assert (found.args, str(found)) == (error.args, str(error))
    before = {k: v for k, v in vars(error).items() if k != "__notes__"}
    assert {k: v for k, v in vars(found).items() if k != "__notes__"} == before
    for name in ("errno", "filename", "filename2", "code", "value", "start", "object", "lineno"):
        assert getattr(found, name, None) == getattr(error, name, None)
    for name in ("name", "path"):
        assert getattr(found, name, None) == getattr(error, name, None)
    assert found.__notes__[-1].startswith("In the isolated child:\nTraceback (most recent call")
    assert "raise error" in found.__notes__[-1]
    assert not ran


def test_no_name_is_suggested_that_the_child_does_not_know() -> None:
    """The object is not here; None, in its place, would have ``__le__``."""
    found = thrown_over(AttributeError("no attribute '__len__'", name="__len__", obj=object()))
    assert traceback.format_exception_only(found)[0] == "AttributeError: no attribute '__len__'\n"


def test_groups_cross() -> None:
    """With their members, some of which may not cross by themselves."""

    class LocalError(Exception):
        pass

    found = thrown_over(
        ExceptionGroup("all", [ValueError(1), ExceptionGroup("b", [LocalError(2)])])
    )
    assert isinstance(found, ExceptionGroup)
    first, second = found.exceptions
    assert isinstance(first, ValueError)
    assert isinstance(second, ExceptionGroup)
    (inner,) = second.exceptions
    assert isinstance(inner, IsolatedError)
    assert inner.type_name.endswith("LocalError")


def test_notes_and_causes_are_told() -> None:
    """Those that the child's exception has had itself."""
    error = ValueError("v")
    error.add_note("mind the gap")
    error.__cause__ = KeyError("because")
    found = thrown_over(error)
    assert found.__notes__[0] == "mind the gap"
    assert "KeyError: 'because'" in found.__notes__[1]


class _BrokenError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "error", [SlowError(), ValueError(object()), _BrokenError()], ids=lambda e: type(e).__name__
)
def test_what_cannot_be_made_again_is_told(error: BaseException) -> None:
    """Arguments that are not plain, or a text that would be another one here."""
    found = thrown_over(error)
    if isinstance(error, _BrokenError):
        assert type(found) is _BrokenError
        return
    assert type(found) is IsolatedError
    assert found.type_name.endswith(type(error).__name__)
    assert "Traceback" in found.traceback


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"lineage": 3},
        {"lineage": [("os", "system")], "args": ("t", "true"), "attributes": {}},
        {"lineage": [("builtins", "int")], "args": ("t",), "attributes": {}},
        {"lineage": [("builtins", "ValueError")], "text": "", "args": ["x"], "attributes": 3},
        {"lineage": [("builtins", "OSError")], "args": ("t",), "attributes": [], "traceback": 7},
        {"lineage": [("builtins", "UnicodeDecodeError")], "args": ("t", 1), "attributes": {}},
        {"lineage": [("builtins", "ExceptionGroup")], "members": [{}], "message": 1, "left": 3},
        {"lineage": [("builtins", "ExceptionGroup")], "members": [1]},
    ],
    ids=repr,
)
def test_forged_exceptions_are_harmless(data: dict[str, Any]) -> None:
    """Nothing is executed, and something is raised in any case."""
    assert isinstance(
        exceptions.remake(data), IsolatedError | ExceptionGroup | ValueError | OSError
    )


def test_nothing_is_imported() -> None:
    """A class of a module that this process does not have stays unknown."""
    assert "antigravity" not in sys.modules
    with pytest.raises(UnfitError, match="has not imported"):
        values.unpack(("d", "antigravity", "Point"))
    assert "antigravity" not in sys.modules
