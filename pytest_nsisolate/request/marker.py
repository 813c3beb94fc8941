# SPDX-License-Identifier: MIT
"""What one ``isolated(...)`` marker may say: each keyword, its type and its range.

A marker is checked for itself here, and merged with the others of its test in
:mod:`pytest_nsisolate.request.resolve`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby, takewhile
from math import isfinite
from typing import Any

import pytest

from pytest_nsisolate.request import files, grants, limits, reach
from pytest_nsisolate.request.model import TimeOffsets
from pytest_nsisolate.request.wording import DOCS, MarkerProblem, short, spelled, suggestion

#: The keywords that switch one namespace on or off, and nothing else.
SWITCHES = ("pid", "mount", "net", "uts", "ipc", "cgroup")

#: What ``pytest --markers`` shows, "@pytest.mark." before it. Its name ends at the first colon.
MARKER_LINE = f"""\
isolated(keyword=value, ...): run this test as PID 1 of fresh Linux namespaces.
  isolated         with a namespace of each kind in the default set
  isolated(False)  in the runner, whatever a farther marker or an option says
  pid= mount= net= uts= ipc= cgroup=
                   bool: a namespace of its own, or the runner's
                   (default: without any True, as in the default set)
  user=            True: power over its own namespaces only; "range": and all
                   ids of /etc/subuid; "same": as the runner; False: the
                   host's root powers (default: True)
  time=            float, or dict of monotonic and boottime: seconds by which
                   the clocks run ahead (default: no time namespace)
  hostname=        str (default: a copy of the host's)
  addresses=       str or list, "10.53.0.1/32": of its lo besides 127.0.0.1
                   and ::1 (default: none)
  timeout=         float or None: seconds for set-up, call and teardown
                   (default: --nsisolate-timeout)
  inside=          str, list of names, or True: wider fixtures that are set up
                   in the test's process (default: none)
  init=            bool: an init is PID 1, and the test its child
                   (default: --nsisolate-init)
  missing=         "fail" or "skip": what becomes of the test where this host
                   refuses (default: --nsisolate-missing)
  leftovers=       "ignore", "warn" or "fail": what becomes of the test if
                   processes are left (default: --nsisolate-leftovers)
  limits=          dict of memory, cpu, processes, files, file_size, or None
                   (default: --nsisolate-limits)
  devices=         str or list of names below /dev: nodes of the host's that
                   it has besides (default: none)
  caps=            str or list of names: the capabilities that are kept
                   (default: --nsisolate-caps)
  reach=           str, int or list of them: addresses and ports of the
                   runner's host, reached at the same address (default: none)
  tty=             bool or (rows, columns): a controlling terminal of its own;
                   the fixture terminal types into it (default: False)
  no_new_privs=    bool: no program gains rights by its file (default: False)
  root=            "host"; "overlay": its files, and what is written is thrown
                   away; "readonly"; "./box": a folder, an archive or an
                   image in place of them
                   (default: --nsisolate-root)
  writable=        str or list of paths: what stays the host's in any root
                   (default: none)
  files=           dict of paths to str, bytes or Path: contents of its own
                   (default: none)
  hide=            str or list of paths: what is not there (default: none)
  root_size=       str or int: what may be written to the overlay; "256M"
                   (default: "50%" of the memory)
  exclusive=       str or list of names: with --nsisolate-jobs, tests with a
                   name in common never run at the same time; "*": this test
                   runs alone (default: none)
  share=           str: the tests that live in one world, one after the other:
                   those of a "class", "module", "package", of the "session",
                   or all that say the same name (default: none)
  More in {DOCS}"""

#: Words of the same stem, or this plugin's name: as a marker that no plugin has registered, each
#: means ``isolated``. The first one is the marker of pytest-isolate, which registers it.
_RELATIVES = frozenset(
    {"isolate", "isolates", "isolating", "isolation", "nsisolate", "nsisolated", "nsisolation"}
)

#: Names of ours that are no markers either: a fixture, the distribution.
_OURS = frozenset({"pid1", "pytest_nsisolate"})

#: __NEW_UTS_LEN, gethostname(2).
HOSTNAME_BYTES = 64
#: KTIME_SEC_MAX / 2, time_namespaces(7): beyond it the kernel refuses an offset (ERANGE).
OFFSET_SECONDS = 4_611_686_018


class _NotAllowedError(Exception):
    """A value is not allowed; the argument is the rest of the sentence."""


def check_mark(mark: pytest.Mark) -> dict[str, Any] | None:
    """The keywords of one marker, their values checked and normalized.

    :returns: None for ``isolated(False)``.
    :raises MarkerProblem: with one sentence for each keyword that is wrong.
    """
    if mark.args:
        if len(mark.args) == 1 and mark.args[0] is False and not mark.kwargs:
            return None
        raise MarkerProblem(_positional(mark))
    return check_keywords(mark.kwargs)


def check_keywords(
    keywords: Mapping[str, object], without: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Keywords of the marker, their values checked and normalized.

    :param without: those that have no meaning where these were given.
    :raises MarkerProblem: with one sentence for each keyword that is wrong.
    """
    values = {}
    problems = []
    known = _CHECKS.keys() - without
    for key, value in keywords.items():
        check = _CHECKS[key] if key in known else None
        said = spelled({key: value})
        if check is None:
            problems.append(f"{said}: unknown keyword {key!r}, {suggestion(key, known)}")
            continue
        try:
            values[key] = check(value)
        except _NotAllowedError as error:
            problems.append(f"{said}: {key} {error}")
    if problems:
        raise MarkerProblem(*problems)
    return values


def _positional(mark: pytest.Mark) -> str:
    said = ", ".join(short(value) for value in mark.args)
    if mark.args == (False,) and mark.args[0] is False:
        keywords = ", ".join(mark.kwargs)
        return f"isolated({said}, ...): False stands alone, it contradicts {keywords}"
    return f"isolated({said}): the only positional argument is False, namespaces are keywords"


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise _NotAllowedError("takes True or False")
    return value


def _user(value: object) -> str:
    # By identity: 1 == True and 0 == False, but neither is meant as a boolean.
    if value is True:
        return "map"
    if value is False:
        return "none"
    if isinstance(value, str) and value in ("range", "same"):
        return value
    raise _NotAllowedError('takes True, "range", "same" or False')


def _seconds(value: object) -> float:
    """A finite float of a real number; booleans are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _NotAllowedError("takes a number of seconds")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not isfinite(seconds):
        raise _NotAllowedError("takes a finite number of seconds")
    return seconds


def _timeout(value: object) -> float | None:
    if value is None:
        return None
    seconds = _seconds(value)
    if seconds <= 0:
        raise _NotAllowedError("takes seconds above 0, or None for no budget")
    return seconds


def _time(value: object) -> TimeOffsets:
    if not isinstance(value, dict):
        offset = _offset(value)
        return TimeOffsets(offset, offset)
    for clock in value:
        if clock not in ("monotonic", "boottime"):
            raise _NotAllowedError(f"knows the clocks monotonic and boottime, not {clock!r}")
    return TimeOffsets(**{clock: _offset(offset) for clock, offset in value.items()})


def _offset(value: object) -> float:
    try:
        seconds = _seconds(value)
    except _NotAllowedError as error:
        either = 'or {"monotonic": seconds, "boottime": seconds}'
        raise _NotAllowedError(f"{error}, {either}") from None
    if abs(seconds) > OFFSET_SECONDS:
        raise _NotAllowedError(f"takes at most {OFFSET_SECONDS} seconds either way")
    return seconds


def _hostname(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise _NotAllowedError("takes a string that is not empty")
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        raise _NotAllowedError("takes a string that has a UTF-8 form") from None
    if "\0" in value:
        raise _NotAllowedError("takes a string without NUL")
    if length > HOSTNAME_BYTES:
        raise _NotAllowedError(f"takes at most {HOSTNAME_BYTES} bytes, this is {length}")
    return value


def _inside(value: object) -> frozenset[str] | bool:
    if value is True:
        return True
    # A lone string is one name, not a list of letters.
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, tuple | list | set | frozenset) or not all(
        isinstance(name, str) and name for name in names
    ):
        raise _NotAllowedError("takes names of fixtures, or True for all")
    return frozenset(names)


def _limits(value: object) -> dict[str, int | None]:
    try:
        return limits.check(value)
    except limits.LimitError as error:
        raise _NotAllowedError(str(error)) from None


def _caps(value: object) -> frozenset[str]:
    try:
        return grants.check_caps(value)
    except grants.PowerError as error:
        raise _NotAllowedError(str(error)) from None


def _files(check: Callable[[object], object]) -> Callable[[object], object]:
    def checked(value: object) -> object:
        try:
            return check(value)
        except files.FilesError as error:
            raise _NotAllowedError(str(error)) from None

    return checked


def _devices(value: object) -> tuple[str, ...]:
    try:
        return grants.check_devices(value)
    except grants.PowerError as error:
        raise _NotAllowedError(str(error)) from None


def _addresses(value: object) -> tuple[str, ...]:
    from pytest_nsisolate.request.addresses import AddressError, check_addresses

    try:
        return check_addresses(value)
    except AddressError as error:
        raise _NotAllowedError(str(error)) from None


def _exclusive(value: object) -> frozenset[str]:
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, tuple | list | set | frozenset) or not all(
        isinstance(name, str) and name for name in names
    ):
        raise _NotAllowedError('takes a name, or names, or "*" for a test that runs alone')
    return frozenset(names)


def _reach(value: object) -> tuple[str, ...]:
    try:
        return reach.check(value)
    except reach.ReachError as error:
        raise _NotAllowedError(str(error)) from None


def _tty(value: object) -> tuple[int, int] | None:
    try:
        return grants.check_tty(value)
    except grants.PowerError as error:
        raise _NotAllowedError(str(error)) from None


def _share(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _NotAllowedError('takes "class", "module", "package", "session", or a name')
    return value


def _leftovers(value: object) -> str:
    if not isinstance(value, str) or value not in ("ignore", "warn", "fail"):
        raise _NotAllowedError('takes "ignore", "warn" or "fail"')
    return value


def _missing(value: object) -> str:
    if not isinstance(value, str) or value not in ("fail", "skip"):
        raise _NotAllowedError('takes "fail" or "skip"')
    return value


_CHECKS: dict[str, Callable[[object], object]] = {
    **dict.fromkeys(SWITCHES, _flag),
    "user": _user,
    "time": _time,
    "hostname": _hostname,
    "addresses": _addresses,
    "timeout": _timeout,
    "inside": _inside,
    "leftovers": _leftovers,
    "limits": _limits,
    "init": _flag,
    "devices": _devices,
    "caps": _caps,
    "no_new_privs": _flag,
    "root": _files(files.check_root),
    "writable": _files(files.check_writable),
    "files": _files(files.check_files),
    "hide": _files(files.check_hide),
    "root_size": _files(files.check_size),
    "reach": _reach,
    "tty": _tty,
    "missing": _missing,
    "exclusive": _exclusive,
    "share": _share,
}


def near_misses(items: Iterable[pytest.Item]) -> dict[str, list[pytest.Item]]:
    """Markers that were meant to be ``isolated``, each with the tests that have it.

    pytest only warns of a marker that it does not know, and the test would run on the host. A
    marker that is registered (``pytest --markers``) is meant as it is, and is left alone.

    :returns: one sentence for each such marker.
    """
    found: dict[str, list[pytest.Item]] = {}
    wrong: dict[str, bool] = {}
    above: dict[Any, frozenset[str]] = {None: frozenset()}

    def misspelt(node: Any) -> frozenset[str]:
        names = frozenset(mark.name for mark in node.own_markers)
        for name in names - wrong.keys():
            wrong[name] = _is_near_miss(name) and name not in _registered(node.config)
        return frozenset(name for name in names if wrong[name])

    for item in items:
        lineage = []
        parent: Any = item.parent
        while parent not in above:
            lineage.append(parent)
            parent = parent.parent
        for node in reversed(lineage):
            above[node] = above[node.parent] | misspelt(node)
        for name in sorted(above[item.parent] | misspelt(item)):
            found.setdefault(_NOT_REGISTERED.format(name=name), []).append(item)
    return found


_NOT_REGISTERED = (
    "@pytest.mark.{name}: nothing has registered this marker, did you mean 'isolated'? "
    "If it is a marker of your own, register it by the ini key markers"
)


def _registered(config: pytest.Config) -> set[str]:
    """The names of all markers, read as pytest reads them (``--strict-markers``)."""
    lines: list[str] = config.getini("markers")
    return {line.partition(":")[0].partition("(")[0].strip() for line in lines}


def _is_near_miss(name: str) -> bool:
    """Whether it differs by its case or by one slip: a letter missing, too many, wrong or early.

    Two slips would take in other words: insulated, violated. Nor is ``isolated_db`` meant.
    """
    said, meant = name.casefold(), "isolated"
    if said in _OURS:
        return True
    if name == meant or not name.isalpha():
        return False
    at = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(said, meant, strict=False)))
    left, right = said[at:], meant[at:]
    return (
        said in _RELATIVES
        or left[1:] in (right, right[1:])
        or left == right[1:]
        or (left[1::-1], left[2:]) == (right[:2], right[2:])
    )


def closest_first(item: pytest.Item) -> list[pytest.Mark]:
    """The ``isolated`` markers of an item, the closest first.

    pytest's own order is right between nodes, and within one node where decorators are
    stacked. It puts the marks of a parameter set behind those of their function, and those of
    a base class before those of the class itself: both are put right here.
    """
    marks: list[pytest.Mark] = []
    for node, pairs in groupby(item.iter_markers_with_node("isolated"), lambda pair: pair[0]):
        own = [mark for _, mark in pairs]
        if len(own) > 1:
            groups = _groups_closest_first(node)
            own.sort(key=lambda mark: _rank(mark, groups))
        marks.extend(own)
    return marks


def _groups_closest_first(node: Any) -> list[list[pytest.Mark]]:
    """Marks of one node that stand before those after them and before those in no group."""
    if isinstance(node, pytest.Class):
        return [_marks_of(cls) for cls in node.obj.__mro__]
    callspec = getattr(node, "callspec", None)
    return [list(callspec.marks)] if callspec is not None else []


def _marks_of(cls: type) -> list[pytest.Mark]:
    marks: Any = cls.__dict__.get("pytestmark", [])
    marks = marks if isinstance(marks, list) else [marks]
    # A pytestmark holds marks, or the decorators that would have stored them.
    return [getattr(mark, "mark", mark) for mark in marks]


def _rank(mark: pytest.Mark, groups: Sequence[Sequence[pytest.Mark]]) -> int:
    for rank, group in enumerate(groups):
        if any(mark is one for one in group):
            return rank
    return len(groups)
