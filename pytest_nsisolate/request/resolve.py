# SPDX-License-Identifier: MIT
"""From the markers of a test and the settings to one :class:`IsolationRequest`.

The markers are merged key by key, from the farthest (module) to the closest (function, or
the parameter set of a parametrized one). Everything that can be wrong with them is found
here, at collection, before any test has run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from pytest_nsisolate.request.files import is_written_to, root_from
from pytest_nsisolate.request.limits import merged
from pytest_nsisolate.request.marker import (
    SWITCHES,
    check_keywords,
    check_mark,
    closest_first,
    near_misses,
)
from pytest_nsisolate.request.model import (
    NEED_MOUNT,
    OF_WORLDS,
    IsolationRequest,
    TimeOffsets,
    complete,
)
from pytest_nsisolate.request.options import Settings
from pytest_nsisolate.request.wording import MarkerProblem, listing, spelled, suggestion

if TYPE_CHECKING:
    from pytest_nsisolate.request.worlds import WorldFixtures

#: The fixture names that an item may name in ``inside``.
KnownFixtures: TypeAlias = Callable[[pytest.Item], frozenset[str]]

#: Keywords about fixtures, about what a test has left, about what may run beside it, and about
#: what a process outside does for it.
MARKER_ONLY = frozenset({"inside", "leftovers", "exclusive", "share", "reach", "tty"})

_STAY = "isolated(False) keeps a test in the runner"


@dataclass(slots=True)
class _Merged:
    """The markers of one test, merged so far."""

    switches: dict[str, bool] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    values: dict[str, Any] = field(default_factory=dict)

    def add(self, values: dict[str, Any], default: frozenset[str]) -> None:
        """Lay a closer marker over the farther ones."""
        # A bare marker names the whole default set, at its own level: a farther net=False does
        # not take net from it. One with keywords names just these.
        if not values:
            self.switches.update(dict.fromkeys(default - {"user"}, True))
        for key, value in values.items():
            if key in SWITCHES:
                self.switches[key] = value
                (self.named.add if value else self.named.discard)(key)
            elif key == "limits":
                self.values[key] = {**self.values.get(key, {}), **value}
            else:
                self.values[key] = value

    def request(self, settings: Settings) -> IsolationRequest:
        """
        :raises MarkerProblem: where the merged markers contradict each other.
        """
        on = {name for name, value in self.switches.items() if value}
        if not on:
            on = set(settings.namespaces - {"user"} - self.switches.keys())
        self._refuse_contradictions(on, settings)
        values = self.values
        user = values.get("user", "map")
        time = values.get("time", TimeOffsets() if "time" in on else None)
        hostname = values.get("hostname")
        named = self.named | ({"time", "user"} & values.keys())
        devices = values.get("devices", ())
        root = root_from(values.get("root", settings.root), settings.rootdir)
        if devices or values.get("tty") or root or values.get("files") or values.get("hide"):
            on.add("mount")
        if values.get("addresses"):
            on.add("net")
        share = values.get("share")
        if share is not None:
            on.add("pid")
        namespaces = complete(on, user, time, hostname)
        return IsolationRequest(
            namespaces=namespaces,
            user=user,
            named=namespaces & named,
            time=time,
            hostname=hostname,
            timeout=values.get("timeout", settings.timeout),
            inside=values.get("inside", frozenset()),
            leftovers=values.get("leftovers", settings.leftovers or "warn"),
            init=values.get("init", settings.init) or share is not None,
            missing=values.get("missing", settings.missing),
            limits=merged(settings.limits, values.get("limits", {})),
            devices=devices,
            caps=values.get("caps", settings.caps),
            no_new_privs=values.get("no_new_privs", False),
            root=root,
            writable=values.get("writable", ()),
            files=_found(values.get("files", ()), settings.rootdir),
            hide=values.get("hide", ()),
            root_size=values.get("root_size"),
            addresses=values.get("addresses", ()),
            exclusive=values.get("exclusive", frozenset()),
            reach=values.get("reach", ()),
            tty=values.get("tty"),
            share=share,
        )

    def _refuse_contradictions(self, on: set[str], settings: Settings) -> None:
        problems = self._contradictions_of_files(settings.root)
        needing = [name for name in NEED_MOUNT if name in on]
        if needing and self.switches.get("mount") is False:
            need = "needs" if len(needing) == 1 else "need"
            problems.append(
                f"isolated(mount=False): {', '.join(needing)} {need} a mount namespace; "
                "leave mount out, or switch off what needs it"
            )
        if "hostname" in self.values and self.switches.get("uts") is False:
            said = spelled({"hostname": self.values["hostname"], "uts": False})
            problems.append(f"{said}: a hostname needs a uts namespace")
        if self.values.get("addresses") and self.switches.get("net") is False:
            said = spelled({"addresses": list(self.values["addresses"]), "net": False})
            problems.append(f"{said}: addresses need a net namespace")
        if "share" in self.values:
            problems += self._contradictions_of_share(settings)
        if self.values.get("devices"):
            given: dict[str, object] = {"devices": list(self.values["devices"])}
            if self.values.get("user") == "none":
                problems.append(
                    f"{spelled({**given, 'user': False})}: without a user namespace a test has the "
                    "host's /dev; leave devices out"
                )
            if self.switches.get("mount") is False:
                said = spelled({**given, "mount": False})
                problems.append(f"{said}: devices need a private /dev")
        if self.values.get("tty") and self.switches.get("mount") is False:
            said = spelled({"tty": self.values["tty"], "mount": False})
            problems.append(f"{said}: a terminal of its own needs a private /dev")
        if self.values.get("reach") and "net" not in on and not self.values.get("addresses"):
            problems.append(
                f"{spelled({'reach': list(self.values['reach'])})}: without a net namespace a test "
                "reaches what the runner reaches; leave reach out, or add net=True"
            )
        # A default set of user alone is the user's choice; one that is emptied is not.
        asked = (
            on
            or {"time", "hostname"} & self.values.keys()
            or self.values.get("user", "none") != "none"
        )
        if not asked and False in self.switches.values():
            said = spelled({name: False for name in SWITCHES if self.switches.get(name) is False})
            problems.append(f"{said}: no namespace is left on; {_STAY}")
        if problems:
            raise MarkerProblem(*problems)

    def _contradictions_of_share(self, settings: Settings) -> list[str]:
        said = {"share": self.values["share"]}
        problems = []
        if self.switches.get("pid") is False:
            problems.append(
                f"{spelled({**said, 'pid': False})}: the end of its PID 1 ends a world, so it "
                "needs a PID namespace"
            )
        if self.values.get("init") is False:
            problems.append(
                f"{spelled({**said, 'init': False})}: PID 1 of a world is an init, and each of "
                "its tests is a process below it"
            )
        for key in ("reach", "tty"):
            if self.values.get(key):
                problems.append(
                    f"{spelled({**said, key: self.values[key]})}: {key} is of one test, not of a "
                    "world that tests share"
                )
        if merged(settings.limits, self.values.get("limits", {})) is not None:
            problems.append(
                f"{spelled(said)}: limits are of one test, not of a world that tests share; "
                "isolated(limits=None) lifts those of the options"
            )
        return problems

    def _contradictions_of_files(self, default_root: str | None) -> list[str]:
        values = self.values
        problems = []
        for key in ("root", "files", "hide"):
            if values.get(key) and self.switches.get("mount") is False:
                said = spelled({key: _as_given(values[key]), "mount": False})
                problems.append(f"{said}: files of its own need a mount namespace")
        root = values.get("root", default_root)
        if root and "root" not in values and self.switches.get("mount") is False:
            problems.append(
                f"isolated(mount=False): the default root {root!r} needs a mount namespace; "
                'leave mount out, or say root="host"'
            )
        if "root_size" in values and not is_written_to(root):
            said = spelled({"root_size": values["root_size"]})
            problems.append(
                f'{said}: only what is written to root="overlay", or to a path, has a limit'
            )
        for path, _ in values.get("files", ()):
            if path in values.get("hide", ()):
                said = spelled({"files": {path: ...}, "hide": [path]})
                problems.append(f"{said}: a file of its own cannot be hidden")
        return problems


def _as_given(value: object) -> object:
    """As a marker has it: lists and dicts have become tuples."""
    if not isinstance(value, tuple):
        return value
    return dict(value) if value and isinstance(value[0], tuple) else list(value)


def _found(
    files: tuple[tuple[str, bytes | Path], ...], rootdir: str
) -> tuple[tuple[str, bytes | Path], ...]:
    """The same, but each Path seen from rootdir.

    :raises MarkerProblem: for a Path that is no file.
    """
    if not any(isinstance(content, Path) for _, content in files):
        return files
    found: list[tuple[str, bytes | Path]] = []
    for path, content in files:
        there = Path(rootdir, content) if isinstance(content, Path) else content
        if isinstance(there, Path) and not there.is_file():
            said = spelled({"files": {path: content}})
            raise MarkerProblem(f"{said}: there is no file {there}")
        found.append((path, there))
    return tuple(found)


def resolve(
    item: pytest.Item, settings: Settings, known_fixtures: KnownFixtures | None = None
) -> IsolationRequest | None:
    """What this test asked for, or None where it is not isolated.

    Mode ``"none"`` makes no difference here: what becomes of a marked test is the caller's.

    :param known_fixtures: gives the names allowed in ``inside``; None checks no names.
    :raises MarkerProblem: for markers that cannot be followed.
    """
    marks = closest_first(item)
    if not marks:
        return _unmarked(settings) if settings.mode == "all" else None
    merged: _Merged | None = None
    problems: list[str] = []
    for mark in reversed(marks):
        try:
            values = check_mark(mark)
        except MarkerProblem as problem:
            problems.extend(problem.problems)
            continue
        if values is None:
            # "Whatever the module says": no marker farther away reaches past an isolated(False).
            merged = None
        else:
            merged = merged or _Merged()
            merged.add(values, settings.namespaces)
    if problems:
        raise MarkerProblem(*problems)
    if merged is None:
        return None
    request = merged.request(settings)
    # In a shared world the name may be of another test's; that is looked at with all of them.
    named = request.inside if request.share is None else frozenset[str]()
    if known_fixtures is not None and named and named is not True:
        refuse_unknown(named, known_fixtures(item))
    return request


def from_keywords(keywords: Mapping[str, object], settings: Settings) -> IsolationRequest:
    """What a call by ``isolate.using(...)`` asks for: as one marker with these keywords does.

    :raises MarkerProblem: for keywords that cannot be followed, said as ``isolate.using(...)``.
    """
    merged = _Merged()
    try:
        merged.add(check_keywords(keywords, MARKER_ONLY), settings.namespaces)
        # What a call leaves behind ends with it, without a word.
        return replace(merged.request(settings), leftovers="ignore")
    except MarkerProblem as found:
        said = (problem.replace(f"; {_STAY}", "") for problem in found.problems)
        problems = [f"isolate.using{problem.removeprefix('isolated')}" for problem in said]
    raise MarkerProblem(*problems)


def _unmarked(settings: Settings) -> IsolationRequest:
    """An unmarked test never asked to be PID 1: same behaviour, other place."""
    time = TimeOffsets() if "time" in settings.namespaces else None
    wanted = settings.namespaces | {"mount"} if settings.root else settings.namespaces
    return IsolationRequest(
        namespaces=complete(wanted, "same", time, None),
        user="same",
        time=time,
        timeout=settings.timeout,
        leftovers=settings.leftovers or "ignore",
        init=True,
        missing=settings.missing,
        limits=merged(settings.limits, {}),
        caps=settings.caps,
        root=root_from(settings.root, settings.rootdir),
    )


def refuse_unknown(inside: frozenset[str], known: frozenset[str]) -> None:
    """
    :raises MarkerProblem: for each name in ``inside`` that is no fixture.
    """
    unknown = sorted(inside - known)
    if unknown:
        raise MarkerProblem(
            *(
                f"{spelled({'inside': name})}: this test knows no fixture {name!r}"
                f"{_did_you_mean(name, known)}"
                for name in unknown
            )
        )


def _did_you_mean(name: str, known: frozenset[str]) -> str:
    guess = suggestion(name, known)
    # All the fixtures of a test are too many for a sentence.
    return f", {guess}" if guess.startswith("did") else ""


def _misses_a_world(item: pytest.Item, request: IsolationRequest | None) -> str:
    """What keeps a test from having a fixture that stands for all tests of a module."""
    names = OF_WORLDS.intersection(getattr(item, "fixturenames", ()))
    if not names or (request is not None and request.share not in (None, "class")):
        return ""
    if request is None:
        now = "this test is not isolated"
    elif request.share is None:
        now = "this test shares none"
    else:
        now = f"share={request.share!r} is narrower"
    return (
        f"the fixture {min(names)!r} is set up in a world that the tests of a module share, and "
        f'{now}: pytestmark = pytest.mark.isolated(share="module")'
    )


def resolve_all(
    items: Sequence[pytest.Item],
    settings: Settings,
    known_fixtures: KnownFixtures | None = None,
    asked: WorldFixtures | None = None,
) -> list[IsolationRequest | None]:
    """:func:`resolve` for every item, in the order of the items.

    :param asked: tells of the fixtures of a shared world; None checks none.
    :raises pytest.UsageError: once, with every problem and every test that has it.
    """
    requests: list[IsolationRequest | None] = []
    problems = near_misses(items)
    for item in items:
        try:
            requests.append(resolve(item, settings, known_fixtures))
        except MarkerProblem as found:
            for problem in found.problems:
                problems.setdefault(problem, []).append(item)
            requests.append(None)
            continue
        if settings.mode != "none" and (problem := _misses_a_world(item, requests[-1])):
            problems.setdefault(problem, []).append(item)
    if any(request is not None and request.share for request in requests):
        from pytest_nsisolate.request import worlds  # few suites share any

        worlds.check(items, requests, asked, problems)
    if problems:
        raise pytest.UsageError(listing(problems))
    return requests
