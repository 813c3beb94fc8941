# SPDX-License-Identifier: MIT
"""The schema of ``doctor --json``: what is printed on real hosts is valid, and nothing else is."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from pytest_nsisolate.cli import doctor_report
from pytest_nsisolate.cli.doctor import schema
from tests.hosts import NEEDS_HOSTS, run_on

DOCTOR: Final = (sys.executable, "-m", "pytest_nsisolate", "doctor")
SCHEMA: Final[dict[str, Any]] = json.loads(schema())

TYPES: Final[dict[str, type]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "null": type(None),
}

#: Keywords of JSON Schema that say nothing about what is valid.
REMARKS: Final = {"$schema", "title", "description"}


def problems(data: Any, schema: dict[str, Any], where: str = "$") -> Iterator[str]:
    """What is wrong with it, by the few keywords of JSON Schema that ours has.

    A member that the schema does not name is a problem too: for users it may come in a new
    version, but then the schema has to have it.
    """
    for keyword, value in schema.items():
        if keyword not in REMARKS:
            yield from CHECKS[keyword](data, value, where, schema)


def check_type(data: Any, value: Any, where: str, _: Any) -> Iterator[str]:
    names = [value] if isinstance(value, str) else value
    fits = any(isinstance(data, TYPES[name]) for name in names)
    if not fits or (isinstance(data, bool) and "boolean" not in names):
        yield f"{where}: {data!r} is no {' or '.join(names)}"


def check_properties(data: Any, value: Any, where: str, _: Any) -> Iterator[str]:
    for name, member in data.items():
        if name in value:
            yield from problems(member, value[name], f"{where}.{name}")
        else:
            yield f"{where}.{name}: not in the schema"


def check_required(data: Any, value: Any, where: str, _: Any) -> Iterator[str]:
    yield from (f"{where}.{name}: missing" for name in value if name not in data)


def check_items(data: Any, value: Any, where: str, schema: Any) -> Iterator[str]:
    low, high = schema.get("minItems", 0), schema.get("maxItems", len(data))
    if not low <= len(data) <= high:
        yield f"{where}: {len(data)} items"
    for index, item in enumerate(data):
        yield from problems(item, value, f"{where}[{index}]")


def check_enum(data: Any, value: Any, where: str, _: Any) -> Iterator[str]:
    if data not in value:
        yield f"{where}: {data!r} is none of {value}"


def check_pattern(data: Any, value: Any, where: str, _: Any) -> Iterator[str]:
    if isinstance(data, str) and not re.search(value, data):
        yield f"{where}: {data!r} does not match {value}"


def check_minimum(data: Any, value: Any, where: str, _: Any) -> Iterator[str]:
    if isinstance(data, int) and data < value:
        yield f"{where}: {data} is less than {value}"


def nothing(*_: Any) -> Iterator[str]:
    yield from ()


CHECKS: Final[dict[str, Callable[[Any, Any, str, Any], Iterator[str]]]] = {
    "type": check_type,
    "properties": check_properties,
    "required": check_required,
    "items": check_items,
    "minItems": nothing,  # with items
    "maxItems": nothing,
    "enum": check_enum,
    "const": lambda data, value, where, _: check_enum(data, [value], where, _),
    "pattern": check_pattern,
    "minimum": check_minimum,
}


def report_on(host: str) -> dict[str, Any]:
    """What the command prints there for machines."""
    report: dict[str, Any] = json.loads(run_on(host, *DOCTOR, "--json").stdout)
    return report


@NEEDS_HOSTS
@pytest.mark.parametrize("host", ["plain", "root", "no-net", "no-user", "no-user-root", "no-pidfd"])
def test_what_is_printed_is_valid(host: str) -> None:
    """Where everything works, where some is refused, and where nothing can be started."""
    assert list(problems(report_on(host), SCHEMA)) == []


@NEEDS_HOSTS
def test_the_check_finds_what_is_wrong() -> None:
    """Each change of a valid report is noticed."""
    report = report_on("plain")

    def changed(*path: Any, value: Any = None) -> list[str]:
        data = copy.deepcopy(report)
        place = data
        for key in path[:-1]:
            place = place[key]
        if value is None:
            del place[path[-1]]
        else:
            place[path[-1]] = value
        return list(problems(data, SCHEMA))

    assert changed("works") == ["$.works: missing"]
    assert changed("version", value=2) == ["$.version: 2 is none of [1]"]
    assert changed("host", "kernel", value=[6]) == ["$.host.kernel: 1 items"]
    assert changed("host", "uid", value=True) == ["$.host.uid: True is no integer"]
    assert changed("host", "capabilities", value="0x1") != []
    assert changed("steps", 0, "result", value="ok") != []
    assert changed("steps", 0, "more", value=1) == ["$.steps[0].more: not in the schema"]


def test_the_command_prints_it_and_tries_nothing() -> None:
    """On any host, with status 0."""
    done = subprocess.run([*DOCTOR, "--schema"], capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout, done.stderr) == (0, schema(), "")


def test_it_is_of_the_version_that_is_printed() -> None:
    """The number stands in both."""
    assert SCHEMA["properties"]["version"] == {"const": doctor_report.VERSION}
    assert SCHEMA["title"].endswith(f"version {doctor_report.VERSION}")
