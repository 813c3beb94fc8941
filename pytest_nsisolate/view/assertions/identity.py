# SPDX-License-Identifier: MIT
"""Assertions on who the test is: its namespaces, names, ids and capabilities."""

from __future__ import annotations

from typing import Literal

from pytest_nsisolate.kernel.namespaces import NAMESPACES
from pytest_nsisolate.view.assertions.failures import failure, listed, no_own
from pytest_nsisolate.view.identity import capability_name
from pytest_nsisolate.view.processes import Process
from pytest_nsisolate.view.readings import Readings
from pytest_nsisolate.view.tables import aligned

CapabilitySet = Literal["effective", "permitted", "inheritable", "bounding", "ambient"]


class IdentityAssertions(Readings):
    """Assertions on the test itself."""

    __slots__ = ()

    def assert_isolated(self, *kinds: str) -> None:
        """The test is in namespaces that are not the runner's.

        :param kinds: ``pid``, ``net``...; none: those that its marker asked for.
        """
        __tracebackhide__ = True
        unknown = set(kinds) - set(NAMESPACES)
        if unknown:
            raise ValueError(f"no kind of namespace: {', '.join(sorted(unknown))}")
        wanted = set(kinds) or set(self._origin.asked)
        shared = sorted(wanted - self.isolated)
        if wanted and not shared:
            return
        here, home = self.namespaces, self.host_namespaces
        rows = [(k, str(here[k]), str(home.get(k, "?"))) for k in NAMESPACES if k in here]
        raise failure(
            f"not isolated: {', '.join(shared) or 'nothing was asked for'}",
            expected=f"namespaces of its own: {', '.join(sorted(wanted)) or 'at least one'}",
            seen=f"of its own: {', '.join(sorted(self.isolated)) or 'none'}",
            text=aligned([("KIND", "HERE", "RUNNER"), *rows]),
            hint=no_own(shared[0]) if shared else None,
        )

    def assert_hostname(self, name: str) -> None:
        """The host name is this, as the test sees it."""
        __tracebackhide__ = True
        if self.hostname == name:
            return
        raise failure(
            "the hostname is another",
            expected=repr(name),
            seen=repr(self.hostname),
            hint=None if "uts" in self.isolated else no_own("uts"),
        )

    def assert_id_map(
        self, inside: int, outside: int, count: int = 1, *, of: Literal["uid", "gid"] = "uid"
    ) -> None:
        """Ids here stand for those outside.

        :param inside: the first one here.
        :param outside: the one that it stands for.
        :param count: how many in a row.
        :param of: users or groups.
        """
        __tracebackhide__ = True
        rows = self.uid_map if of == "uid" else self.gid_map
        for row in rows:
            covered = row.inside <= inside and inside + count <= row.inside + row.size
            if covered and row.outside - row.inside == outside - inside:
                return
        cells = [tuple(map(str, row)) for row in rows]
        raise failure(
            f"{of} {inside} is not mapped like that",
            expected=f"{of} {inside} here is {outside} outside"
            + (f", and {count - 1} more" if count > 1 else ""),
            seen=f"the map of {of}s",
            text=aligned([("INSIDE", "OUTSIDE", "COUNT"), *cells]),
            hint=None if "user" in self.isolated else no_own("user"),
        )

    def assert_capability(
        self, *names: str, of: Process | int | None = None, in_: CapabilitySet = "effective"
    ) -> None:
        """All of these capabilities are held.

        :param names: ``"NET_ADMIN"``, ``"CAP_NET_ADMIN"``.
        :param of: which process; this test's, if left out.
        :param in_: in which of the five sets.
        """
        __tracebackhide__ = True
        held = self._capability_set(of, in_)
        missing = [name for name in map(capability_name, names) if name not in held]
        if missing:
            raise failure(
                f"not held: {', '.join(missing)}",
                expected=f"{', '.join(map(capability_name, names))} in {_set(in_, of)}",
                seen=_summary(held),
            )

    def assert_no_capability(
        self, *names: str, of: Process | int | None = None, in_: CapabilitySet = "effective"
    ) -> None:
        """None of these capabilities is held; without a name, none at all.

        :param names: as for :meth:`assert_capability`, and so are the others.
        """
        __tracebackhide__ = True
        held = self._capability_set(of, in_)
        found = sorted(held & {capability_name(name) for name in names} if names else held)
        if found:
            raise failure(
                f"held: {_summary(frozenset(found))}",
                expected=f"not in {_set(in_, of)}",
                seen=_summary(held),
            )

    def _capability_set(self, of: Process | int | None, name: CapabilitySet) -> frozenset[str]:
        found = self.capabilities if of is None else self.capabilities_of(of)
        chosen: frozenset[str] = getattr(found, name)
        return chosen


def _set(name: CapabilitySet, of: Process | int | None) -> str:
    whose = f"process {of}" if isinstance(of, int) else str(of or "this test")
    return f"the {name} set of {whose}"


def _summary(held: frozenset[str]) -> str:
    return listed(held) or "none"
