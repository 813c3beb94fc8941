# SPDX-License-Identifier: MIT
"""Differences that are right, each with its reason: the allow-list, a TOML file.

.. code-block:: toml

    [[allow]]
    test = "tests/test_daemon.py::test_parent*"
    fields = ["outcome", "text"]
    reason = "asserts that its parent is the runner"

``test`` is a pattern for node ids, in which only ``*`` and ``?`` have a meaning (brackets belong to
parametrized names). ``fields`` are names of ``parity_compare.FIELDS``, or ``["*"]``.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from parity_compare import FIELDS, Difference

ANY: Final = "*"


class AllowListError(Exception):
    """A list that cannot be used; the text names the file and the entry."""


@dataclass(frozen=True)
class Entry:
    """One entry of the list."""

    test: str
    fields: frozenset[str]
    reason: str

    def allows(self, difference: Difference) -> bool:
        """Whether this is the difference that the entry is about."""
        named = ANY in self.fields or difference.field in self.fields
        return named and self.matches(difference.nodeid)

    def matches(self, nodeid: str) -> bool:
        """Whether the test is one of those meant."""
        parts = {"*": ".*", "?": "."}
        pattern = "".join(parts.get(letter, re.escape(letter)) for letter in self.test)
        return re.fullmatch(pattern, nodeid, re.DOTALL) is not None


def read(path: Path) -> list[Entry]:
    """The entries of a file.

    :raises AllowListError: for a file that is not there or not TOML, and for a bad entry.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise AllowListError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AllowListError(f"{path}: {error}") from error
    entries = content.pop("allow", [])
    if content:
        raise AllowListError(f"{path}: unknown key {next(iter(content))!r}; entries are [[allow]]")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise AllowListError(f"{path}: entries are written [[allow]], with two brackets")
    return [_read_entry(f"{path}: entry {n}", entry) for n, entry in enumerate(entries, 1)]


def _read_entry(where: str, entry: dict[str, Any]) -> Entry:
    for key in ("test", "fields", "reason"):
        if not entry.get(key):
            raise AllowListError(f"{where} has no {key}")
    unknown = entry.keys() - {"test", "fields", "reason"}
    if unknown:
        raise AllowListError(f"{where} has an unknown key {min(unknown)!r}")
    test, fields, reason = entry["test"], entry["fields"], entry["reason"]
    if not isinstance(test, str) or not isinstance(reason, str) or not reason.strip():
        raise AllowListError(f"{where}: test and reason are texts, and neither is empty")
    if not isinstance(fields, list) or not all(isinstance(field, str) for field in fields):
        raise AllowListError(f"{where}: fields is a list of names")
    for field in fields:
        if field not in {*FIELDS, ANY}:
            guess = difflib.get_close_matches(field, FIELDS, 1)
            names = f"did you mean {guess[0]!r}?" if guess else f"known are {', '.join(FIELDS)}"
            raise AllowListError(f"{where}: unknown field {field!r}, {names}")
    return Entry(test, frozenset(fields), reason)


def divide(
    differences: Iterable[Difference], entries: Sequence[Entry]
) -> tuple[list[Difference], list[tuple[Difference, Entry]]]:
    """The differences that no entry allows, and the others with the entry that allows them."""
    open_, allowed = [], []
    for difference in differences:
        entry = next((entry for entry in entries if entry.allows(difference)), None)
        if entry is None:
            open_.append(difference)
        else:
            allowed.append((difference, entry))
    return open_, allowed


def stale(
    entries: Iterable[Entry], differences: Iterable[Difference], nodeids: Iterable[str]
) -> list[tuple[Entry, str]]:
    """The entries without a difference, each with what is known of its tests."""
    differences, nodeids = list(differences), list(nodeids)
    found = []
    for entry in entries:
        if not any(entry.allows(difference) for difference in differences):
            here = any(entry.matches(nodeid) for nodeid in nodeids)
            found.append((entry, "no longer differs" if here else "matches no test of this run"))
    return found
