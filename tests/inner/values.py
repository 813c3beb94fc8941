# SPDX-License-Identifier: MIT
"""Hostile values in every place that a test can put one: reasons, properties, notes, warnings.

``KILLERS`` are those that end a whole un-isolated run (INTERNALERROR), in at least one place.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import os
import pathlib
import sys
import types
import warnings
from typing import Any

import pytest


class Color(enum.Enum):
    RED = 1


class Bits(enum.Flag):
    A = 1
    B = 2


class Number(enum.IntEnum):
    ONE = 1


class Word(str, enum.Enum):  # noqa: UP042
    S = "s"


class Fraction(float):
    def __repr__(self) -> str:
        return "F!"


class Text(str):  # noqa: SLOT000
    def __str__(self) -> str:
        return "other"

    def __repr__(self) -> str:
        return "T!"


class List(list[int]):
    pass


class RaisesRepr:
    def __repr__(self) -> str:
        raise RuntimeError("repr")

    __str__ = __repr__


class ExitsRepr:
    def __repr__(self) -> str:
        raise SystemExit(3)


class SkipsRepr:
    def __repr__(self) -> str:
        pytest.skip("in repr")


class ReprIsNoText:
    def __repr__(self) -> str:
        return 3  # type: ignore[return-value]


class RaisesEq:
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    def __bool__(self) -> bool:
        raise RuntimeError("bool")


class RaisesClass:
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("class")


class LyingClass:
    __class__ = str  # type: ignore[assignment]


class RaisesGetattr:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class RaisesGetattribute:
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class Meta(type):
    def __eq__(cls, other: object) -> bool:
        raise RuntimeError("meta eq")

    def __hash__(cls) -> int:
        raise RuntimeError("meta hash")

    def __getattribute__(cls, name: str) -> Any:
        raise RuntimeError(f"meta {name}")


class OfMeta(metaclass=Meta):
    pass


class LongRepr:
    def __repr__(self) -> str:
        return "x" * 30_000


@dataclasses.dataclass(frozen=True)
class Data:
    x: int = 1


Named = collections.namedtuple("Named", "a b")  # noqa: PYI024

VALUES: dict[str, Any] = {
    "enum": Color.RED,
    "flag": Bits.A | Bits.B,
    "int-enum": Number.ONE,
    "float": Fraction(1.5),
    "list": List([1]),
    "nan": float("nan"),
    "inf": float("inf"),
    "large": -(2**70),
    "huge": 10**5000,
    "bytes": b"\xff\0",
    "bytearray": bytearray(b"x"),
    "complex": 1 + 2j,
    "surrogate": "\ud800",
    "pair": "\ud83d\ude00",
    "escaped": "a\udcffb",
    "nul": "a\0b",
    "codes": "\x1b[31mred\x1b[0m\a\r\x85\u2028",
    "joint": "a\x1eb",
    "empty": "",
    "none": None,
    "true": True,
    "nested": (1, (2, {3}), frozenset([4])),
    "dict": {1: 2, (1, 2): 3, None: 4, "$": 5},
    "tag": {"$": "tuple", "v": []},
    "raises-repr": RaisesRepr(),
    "skips-repr": SkipsRepr(),
    "no-text": ReprIsNoText(),
    "raises-eq": RaisesEq(),
    "raises-getattr": RaisesGetattr(),
    "long-repr": LongRepr(),
    "named": Named(1, 2),
    "data": Data(),
    "function": len,
    "module": sys,
    "type": int,
    "decimal": decimal.Decimal("1.5"),
    "fraction": fractions.Fraction(1, 3),
    "time": datetime.date(2020, 1, 1),
    "path": pathlib.Path("/x"),
    "proxy": types.MappingProxyType({1: 2}),
    "exception": ValueError("x"),
    "ellipsis": ...,
    "lines": "y\n" * 5_000,
}

KILLERS: dict[str, Any] = {
    "number": 3,
    "bytes": b"x",
    "enum": Color.RED,
    "huge": 10**5000,
    "word": Word.S,
    "text": Text("x"),
    "exits-repr": ExitsRepr(),
    "raises-class": RaisesClass(),
    "lying-class": LyingClass(),
    "raises-getattribute": RaisesGetattribute(),
    "of-meta": OfMeta(),
    "meta": OfMeta,
}

RUTHLESS = os.environ.get("VALUES") == "killers"
ALL = KILLERS if RUTHLESS else VALUES
TEXTS = [name for name, value in ALL.items() if RUTHLESS or type(value) is str]
each = pytest.mark.parametrize("name", list(ALL))
each_text = pytest.mark.parametrize("name", TEXTS)


@each
def test_properties(name: str, record_property: Any, request: pytest.FixtureRequest) -> None:
    record_property(name, ALL[name])
    if request.config.option.xmlpath is None:
        request.node.user_properties.append(ALL[name])  # no pair; JUnit's reporter needs one


@each
def test_attribute(name: str, request: pytest.FixtureRequest) -> None:
    request.node.wanted = ALL[name]  # see the suite's conftest


@each_text
def test_section(name: str, request: pytest.FixtureRequest) -> None:
    request.node.add_report_section("call", "own", ALL[name])


@each
def test_skip(name: str) -> None:
    pytest.skip(ALL[name])


@each
def test_fail(name: str) -> None:
    pytest.fail(ALL[name], pytrace=False)


@each
def test_xfail(name: str) -> None:
    pytest.xfail(ALL[name] or "empty")


@each_text
def test_marked(name: str, request: pytest.FixtureRequest) -> None:
    request.applymarker(pytest.mark.xfail(reason=ALL[name]))
    raise AssertionError


@each
def test_argument(name: str) -> None:
    raise ValueError(ALL[name])


@each
def test_notes(name: str) -> None:
    error = ValueError("noted")
    error.__notes__ = [ALL[name], ALL[name]]
    raise error


@each
def test_assertion(name: str) -> None:
    value = ALL[name]
    assert value is each


@each
def test_warning(name: str) -> None:
    class Local(DeprecationWarning):
        pass

    warning = Local("text")
    warning.args = (ALL[name],)
    warnings.warn(warning, stacklevel=1)


@each
def test_state(name: str, request: pytest.FixtureRequest) -> None:
    request.node.keywords[name] = ALL[name]
    request.node.extra_keyword_matches.add(f"extra {name}")
    request.node.stash[pytest.StashKey[Any]()] = ALL[name]
    request.node.user_properties[:] = []
