# SPDX-License-Identifier: MIT
"""Tagged JSON: what goes in comes out, and nothing that comes in can do harm."""

from __future__ import annotations

import enum
import json
import math
import sys
from collections import OrderedDict, namedtuple
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nsisolate.errors import BrokenStream
from pytest_nsisolate.wire import tagged_json
from pytest_nsisolate.wire.tagged_json import Opaque, decode, encode

# Lone surrogates included, which hypothesis leaves out of text() by itself.
TEXT = st.text(st.characters(codec=None, exclude_categories=()))
NUMBERS = st.integers() | st.integers(-(2**200), 2**200) | st.floats(allow_nan=False)
OPAQUES = st.builds(Opaque, TEXT, TEXT, TEXT)
HASHABLE = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT | st.binary() | OPAQUES,
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.frozensets(inner, max_size=4),
    max_leaves=8,
)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(TEXT | st.sampled_from(["$", "v"]), inner, max_size=5)
        | st.dictionaries(HASHABLE, inner, max_size=5)
        | st.sets(HASHABLE, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
    ),
    max_leaves=25,
)


def same(left: object, right: object) -> bool:
    """Equality that tells True from 1, 1 from 1.0 and -0.0 from 0.0, at every depth."""
    if type(left) is not type(right):
        return False
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return same(list(left.items()), list(right.items()))
    if isinstance(left, float) and isinstance(right, float):
        return left.hex() == right.hex()
    return left == right


def opaque(value: object) -> Opaque:
    """What arrives for a value that cannot cross."""
    arrived = decode(encode(value))
    assert isinstance(arrived, Opaque)
    return arrived


@settings(deadline=None)
@given(VALUES)
def test_every_plain_value_arrives_as_it_was(value: object) -> None:
    """Value, type and order are kept, at every depth."""
    assert same(decode(encode(value)), value)


@pytest.mark.parametrize(
    "value",
    [
        -0.0,
        math.inf,
        -math.inf,
        sys.float_info.max,
        5e-324,
        2**63 - 1,
        2**63,
        -(2**63),
        10**10_000,
        -(10**10_000),
        "\ud800",
        "\udfff\ud800",
        "a\ud83d\ude00",
        "\U0001f600",
        "\\ud83d\\ude00",
        "\ud83d\ude00" * 3 + "\U0001f600\0é",
        {"\ud83d\ude00": 1},
        {"$": "tuple", "v": []},
        {"$": {"$": 1}, "v": {"$": "opaque", "v": ["a", "b", "c"]}},
        {"v": 1},
        {1: "a", "1": "b", None: "c", (1, "x"): "d", 2.5: "e"},
        {True: 1},
        bytes(range(256)),
        frozenset({(), frozenset()}),
        {-1, -2, (-1,), (-2,)},
        [[], {}, (), set(), b"", ""],
        Opaque("module.Type", "text", "<repr \ud83d\ude00>"),
    ],
    # By kind and number: the order of a set's repr depends on whether the module was compiled or
    # read from its cache, and so differs between two workers.
    ids=lambda value: type(value).__name__,
)
def test_the_awkward_values_arrive_as_they_were(value: object) -> None:
    """Each of these is lost, changed or refused by plain JSON or by a naive tag."""
    assert same(decode(encode(value)), value)


def test_not_a_number_arrives() -> None:
    """It is equal to nothing, so it has a test of its own."""
    value = decode(encode([math.nan]))

    assert isinstance(value, list)
    assert math.isnan(value[0])


def test_big_ints_do_not_depend_on_the_limit_of_decimal_digits() -> None:
    """A test may set the limit of sys.set_int_max_str_digits, and the runner another."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        assert decode(encode(7**20_000)) == 7**20_000
    finally:
        sys.set_int_max_str_digits(before)


def test_what_is_written_is_strict_ascii_json() -> None:
    """Any other JSON reader understands it: no NaN literal, no raw surrogate."""

    def refuse(text: str) -> None:
        pytest.fail(f"{text} is not JSON")

    payload = encode([math.nan, math.inf, "\ud800é", b"\0", {1: 2}])

    assert payload.isascii()
    assert json.loads(payload, parse_constant=refuse)


class Text(str):
    """A str whose methods all lie."""

    __slots__ = ()

    def __str__(self) -> str:
        return "a lie"

    def __len__(self) -> int:
        return 1

    def __getitem__(self, key: object) -> str:
        raise RuntimeError


class Colour(enum.IntEnum):
    RED = 1


class Name(enum.StrEnum):
    A = "a"


class Number(int):
    def __repr__(self) -> str:
        return "<a number>"


Pair = namedtuple("Pair", "a b")  # noqa: PYI024


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Colour.RED, (f"{__name__}.Colour", "1", "<Colour.RED: 1>")),
        (Name.A, (f"{__name__}.Name", "a", "<Name.A: 'a'>")),
        (Number(3), (f"{__name__}.Number", "<a number>", "<a number>")),
        (Text("truth"), (f"{__name__}.Text", "a lie", "'truth'")),
        (Pair(1, 2), (f"{__name__}.Pair", "Pair(a=1, b=2)", "Pair(a=1, b=2)")),
        (OrderedDict(), ("collections.OrderedDict", "OrderedDict()", "OrderedDict()")),
        (Decimal("1.5"), ("decimal.Decimal", "1.5", "Decimal('1.5')")),
        (bytearray(b"x"), ("bytearray", "bytearray(b'x')", "bytearray(b'x')")),
        (1j, ("complex", "1j", "1j")),
        (ValueError("no"), ("ValueError", "no", "ValueError('no')")),
        (int, ("type", "<class 'int'>", "<class 'int'>")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_other_object_arrives_as_its_names(
    value: object, expected: tuple[str, str, str]
) -> None:
    """Subclasses and enums are not passed off as what they derive from."""
    arrived = opaque(value)

    assert (arrived.type_name, str(arrived), repr(arrived)) == expected


def test_an_opaque_object_within_plain_data_leaves_the_rest_plain() -> None:
    """One foreign object does not cost the report its other values."""
    path = PurePosixPath("/x")

    arrived = decode(encode({"a": (1, path), "b": {path}, path: 2}))

    assert isinstance(arrived, dict)
    (stand_in,) = arrived["b"]
    assert (arrived["a"], str(stand_in), arrived[stand_in]) == ((1, stand_in), "/x", 2)


def test_a_type_that_is_called_opaque_elsewhere_keeps_its_own_name() -> None:
    """Only our own Opaque goes back as itself."""

    class Opaque(tagged_json.Opaque):
        """Derived."""

    assert opaque(Opaque("a", "b", "c")).type_name.endswith("<locals>.Opaque")


class HostileMeta(type):
    """Every question that can be asked of a class raises."""

    def __eq__(cls, other: object) -> bool:
        raise RuntimeError

    def __hash__(cls) -> int:
        raise RuntimeError

    def __getattribute__(cls, name: str) -> Any:
        raise RuntimeError


class Hostile(metaclass=HostileMeta):
    """Every question that can be asked of an object raises."""

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(3)

    def __repr__(self) -> str:
        raise SystemExit(3)


def test_an_object_that_raises_at_every_question_arrives_as_a_placeholder() -> None:
    """__class__, metaclass, str and repr: none is trusted, not even to raise an Exception."""
    expected = ("Hostile", "<str() raised SystemExit>", "<repr() raised SystemExit>")

    arrived = opaque(Hostile())

    name = arrived.type_name.rpartition(".")[2]
    assert (name, str(arrived), repr(arrived)) == expected


def test_a_repr_that_is_no_string_arrives_as_a_placeholder() -> None:
    """Python's own TypeError is the answer."""

    class Numeric:
        def __repr__(self) -> str:
            return 5  # type: ignore[return-value]

    assert repr(opaque(Numeric())) == "<repr() raised TypeError>"


@pytest.mark.parametrize("text", ["x" * 10**7, Text("x" * 10**7)], ids=["str", "subclass"])
def test_a_huge_repr_is_cut(text: str) -> None:
    """What is missing is said; a subclass cannot hide its length."""

    class Huge:
        def __repr__(self) -> str:
            return text

    arrived = repr(opaque(Huge()))

    assert len(arrived) == tagged_json.MAX_TEXT
    assert arrived.endswith("x... [10000000 characters in all]")


def test_a_repr_that_is_a_lying_subclass_of_str_arrives_as_its_true_text() -> None:
    """json's C encoder takes the true text, and so does the length check."""

    class Liar:
        def __repr__(self) -> str:
            return Text("truth")

    arrived = opaque(Liar())

    assert (type(arrived.repr), arrived.repr) == (str, "truth")


def test_a_class_without_module_or_with_an_absurd_name_has_a_type_name() -> None:
    """__module__ may be anything or missing; a name may be as long as memory."""
    nowhere: Any = eval("type('Nowhere', (), {})", {"__builtins__": {"type": type}})
    odd = type("Odd", (), {"__module__": 5})
    long = type("x" * 10**6, (), {})

    names = [opaque(cls()).type_name for cls in (nowhere, odd, long)]

    assert names[0].endswith("Nowhere")
    assert names[1] == "Odd"
    assert len(names[2]) < 2 * tagged_json.MAX_TEXT


def test_an_interrupt_inside_a_repr_is_an_interrupt() -> None:
    """Ctrl-C is the user's, whatever code it happens to hit."""

    class Interrupted:
        def __repr__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode([Interrupted()])


def test_a_cycle_is_cut_where_it_closes() -> None:
    """The way in is kept; a value that is only shared is sent twice."""
    cycle: list[object] = [1]
    cycle.append({"again": cycle})
    shared = ["s"]

    arrived = decode(encode([cycle, shared, shared]))

    placeholder = "<list: contains itself>"
    stand_in = Opaque("list", placeholder, placeholder)
    assert arrived == [[1, {"again": stand_in}], ["s"], ["s"]]


@pytest.mark.parametrize("kind", [list, tuple, frozenset, dict])
def test_deep_nesting_is_cut_at_the_limit(kind: type) -> None:
    """MAX_DEPTH levels cross, in every form, and what is below them has a placeholder."""
    value: Any = kind()
    for _ in range(50_000):
        value = {1: value} if kind is dict else kind([value])

    arrived: Any = decode(encode(value))

    depth = 0
    while not isinstance(arrived, Opaque):
        assert type(arrived) is kind
        level: Any = arrived
        arrived = level[1] if kind is dict else next(iter(level))
        depth += 1
    assert (depth, str(arrived)) == (
        tagged_json.MAX_DEPTH,
        f"<{kind.__name__}: nested too deeply to be sent>",
    )


def test_a_structure_that_shares_without_end_is_cut_by_its_number_of_values() -> None:
    """Ten lists of ten times the next one: ten billion values in a hundred references."""
    value: list[object] = []
    for _ in range(10):
        value = [value] * 10

    payload = encode(value)

    assert b"too large to be sent" in payload
    decode(payload)


def test_odd_keys_at_every_level_cost_no_more_than_others() -> None:
    """Packing a value twice at each level would never end."""
    value: dict[object, object] = {}
    for _ in range(90):
        value = {"a": value, 1: 1}

    assert decode(encode(value)) == value


FEW = 20_000
PAIR = "\ud83d\ude00"


@pytest.mark.parametrize(
    "value",
    [
        dict.fromkeys(range(FEW // 2), b""),
        [{(): ()}] * (FEW // 3),
        [{1: b""}] * (FEW // 3),
        [Opaque(PAIR, PAIR, PAIR)] * FEW,
        ['"[,{\\'] * FEW,
        {Opaque(PAIR, PAIR, PAIR + str(n)): Opaque(PAIR, PAIR, PAIR) for n in range(FEW // 2)},
    ],
    ids=["bytes by int", "tuple keys", "int keys", "opaque", "text", "opaque keys"],
)
def test_whatever_the_writer_allows_the_reader_takes(
    value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heaviest encodings of MAX_VALUES values stay below the MAX_WEIGHT that belongs to it."""
    monkeypatch.setattr(tagged_json, "MAX_VALUES", FEW)

    payload = encode(value)

    assert b"too large" not in payload
    assert tagged_json.weigh(payload, 13 * (FEW + 1)) >= FEW
    assert tagged_json.parse(payload) == value


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        b"nul",
        b"[1,]",
        b'"\x01"',
        "é".encode(),
        b'"\xed\xa0\x80"',
        b"\xff\xfe[\0]\0",
        b"[] []",
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"1" * 21,
        b"1" * 10**6,
        b"0." + b"1" * 50,
        b'{"$":"tuple"}',
        b'{"$":"tuple","v":[],"w":1}',
        b'{"$":"tuple","w":[]}',
        b'{"$":1,"v":[]}',
        b'{"$":[],"v":[]}',
        b'{"$":{"$":"tuple","v":[]},"v":[]}',
        b'{"$":"tuple","v":{"$":"tuple","v":[]}}',
        b'{"$":"tuple","v":"ab"}',
        b'{"$":"list","v":[]}',
        b'{"$":"eval","v":"1"}',
        b'{"$":"set","v":[[]]}',
        b'{"$":"frozenset","v":[{}]}',
        b'{"$":"dict","v":[1]}',
        b'{"$":"dict","v":["ab"]}',
        b'{"$":"dict","v":[[1]]}',
        b'{"$":"dict","v":[[1,2,3]]}',
        b'{"$":"dict","v":[[[],2]]}',
        b'{"$":"int","v":5}',
        b'{"$":"int","v":"0x5"}',
        b'{"$":"int","v":" 5"}',
        b'{"$":"int","v":"1_0"}',
        b'{"$":"int","v":"\\u0665"}',
        b'{"$":"int","v":""}',
        b'{"$":"float","v":"1.0"}',
        b'{"$":"float","v":"infinity"}',
        b'{"$":"bytes","v":"a"}',
        b'{"$":"bytes","v":"=YQ="}',
        b'{"$":"bytes","v":"\\u00e9"}',
        b'{"$":"str","v":"/w=="}',
        b'{"$":"opaque","v":["a","b"]}',
        b'{"$":"opaque","v":["a","b",1]}',
        b"[" * 10**6,
        b"[" * 10**6 + b"]" * 10**6,
        b'{"a":' * 10**6,
        b'{"$":"tuple","v":[' * 10**6,
        b'["\\\\",' + b"[" * 10**6,
        b'["\\"",' + b"[" * 10**6,
        b"\\" + b"[" * 10**6,
        b'\\"' + b"[" * 10**6,
        b"]" * 10**6 + b"[" * 10**6,
        b"[" + b"[]," * tagged_json.MAX_WEIGHT + b"0]",
        b'"' * 40_000_000 + b"[" * 1000,
    ],
    ids=lambda payload: ascii(payload[:40]),
)
def test_what_encode_does_not_write_is_refused(payload: bytes) -> None:
    """Every breach is a BrokenStream, found without executing, recursing or building much."""
    with pytest.raises(BrokenStream):
        decode(payload)


@pytest.mark.parametrize(
    "form",
    ['{"$":"set","v":[%s]}', '{"$":"frozenset","v":[%s]}', '{"$":"dict","v":[%s]}'],
    ids=["set", "frozenset", "dict"],
)
def test_numbers_of_equal_hash_are_refused(form: str) -> None:
    """A hundred thousand multiples of 2**61 - 1 would keep the runner busy for minutes."""
    item = '[{"$":"int","v":"%x"},0]' if "dict" in form else '{"$":"int","v":"%x"}'
    items = ",".join(item % (n * (2**61 - 1)) for n in range(2**3, 100_000))

    with pytest.raises(BrokenStream, match="too many equal hashes"):
        decode((form % items).encode())


def test_brackets_inside_of_strings_are_not_nesting() -> None:
    """Captured output is full of them, and of quotes and backslashes."""
    value = ['["{,\\' * 100_000, '\\"[' * 1000, "\\" * 1001]

    assert decode(encode(value)) == value


def test_a_refusal_does_not_keep_the_text_alive() -> None:
    """JSONDecodeError holds the whole document: a broken stream must not."""
    with pytest.raises(BrokenStream) as caught:
        decode(b"[" + b"x" * 10**6)

    assert (caught.value.__context__, caught.value.__cause__) == (None, None)


@settings(deadline=None)
@given(st.binary(max_size=60) | st.text('{}[]",:$v\\u 0123dopaquetin', max_size=60).map(str.encode))
def test_garbage_is_refused_or_is_plain_data(payload: bytes) -> None:
    """No third outcome."""
    try:
        value = decode(payload)
    except BrokenStream:
        return
    assert same(decode(encode(value)), value)


@settings(deadline=None)
@given(VALUES, st.data())
def test_a_changed_byte_is_refused_or_is_plain_data(value: object, data: st.DataObject) -> None:
    """Near misses of the real format go further into the reader than garbage."""
    payload = bytearray(encode(value))
    payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        arrived = decode(bytes(payload))
    except BrokenStream:
        return
    encode(arrived)
