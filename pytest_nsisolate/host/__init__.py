# SPDX-License-Identifier: MIT
"""What this host is, as far as a few files tell.

Fact: the kernel has no call that says "you may"; what a process may do follows from its
capabilities, its user namespace, sysctls, a seccomp filter and a security module together, and
only trying it for real decides (:mod:`pytest_nsisolate.process.host_check`). But trying costs
forks, and the header of a run is printed before we know whether any test is isolated.

Consequence: here is only what is cheap, below 2 ms and without a fork: who the runner is, and what
tells one cause of a refusal from another. The mode is chosen by capability, never by uid: uid 0 in
a container often holds nothing, and an ordinary user may hold everything.

What still fails: where ``/proc`` is not mounted nothing can be read; the runner then counts as
unprivileged, and the first step that needs ``/proc`` is refused with that as the cause.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from pytest_nsisolate.host import facts
from pytest_nsisolate.kernel.namespaces import NAMESPACES
from pytest_nsisolate.kernel.originals import PLATFORM, os, re

# Bit numbers of the capabilities that decide something here (capabilities(7)).
CAP_SETGID: Final = 6
CAP_SETUID: Final = 7
CAP_SETPCAP: Final = 8
CAP_NET_ADMIN: Final = 12
CAP_SYS_ADMIN: Final = 21
CAP_SYS_TIME: Final = 25
CAP_SETFCAP: Final = 31

#: ``Seccomp:`` of ``/proc/self/status``: a filter is installed (proc_pid_status(5)).
SECCOMP_FILTER: Final = 2


@dataclass(frozen=True, slots=True)
class Host:
    """The runner's standing on this machine when the run began.

    :param linux: the kernel is Linux; without that nothing else counts.
    :param privileged: the runner can write an identity id map and make namespaces without owning
        a user namespace (CAP_SYS_ADMIN, CAP_SETUID and CAP_SETGID are effective).
    :param euid: effective user id, -1 where the platform has none.
    :param egid: effective group id, -1 where the platform has none.
    :param capabilities: the effective set as a bit mask (``CapEff``, capabilities(7)).
    :param kernel: version and patch level, ``(6, 18)``; ``(0, 0)`` where it is not Linux.
    :param seccomp: mode of the runner's seccomp filter: 0 none, 1 strict, 2 filter (seccomp(2)).
    """

    linux: bool
    privileged: bool
    euid: int
    egid: int
    capabilities: int
    kernel: tuple[int, int]
    seccomp: int = 0

    def holds(self, capability: int) -> bool:
        """Whether the capability with this bit number is effective."""
        return bool(self.capabilities >> capability & 1)

    @property
    def mode(self) -> str:
        """``"root"`` or ``"rootless"``: which way into the namespaces the runner takes."""
        return "root" if self.privileged else "rootless"


def examine() -> Host:
    """Look at the runner; reads ``/proc/self/status``, calls nothing that could be refused."""
    if not PLATFORM.startswith("linux"):
        return Host(False, False, -1, -1, 0, (0, 0))
    status = facts.status()
    capabilities = int(status.get("CapEff", "0"), 16)
    needed = 1 << CAP_SYS_ADMIN | 1 << CAP_SETUID | 1 << CAP_SETGID
    return Host(
        linux=True,
        privileged=capabilities & needed == needed,
        euid=os.geteuid(),
        egid=os.getegid(),
        capabilities=capabilities,
        kernel=_kernel_version(os.uname().release),
        seccomp=int(status.get("Seccomp", "0")),
    )


def header_line(host: Host, namespaces: Iterable[str] = NAMESPACES) -> str:
    """The line for pytest's header; no fork, so it promises no more than has been read.

    :param namespaces: the default set of this run.
    """
    reason = known_obstacle(host)
    if reason is not None:
        return f"nsisolate: unavailable: {reason}"
    wanted = frozenset(namespaces)
    offered = [name for name in NAMESPACES if name in wanted and facts.is_offered(name)]
    absent = [name for name in NAMESPACES if name in wanted and name not in offered]
    notes = [f"switched off: {' '.join(absent)}"] if absent else []
    if host.seccomp == SECCOMP_FILTER:
        notes.append("a seccomp filter is on and may refuse some")
    notes.append("tried before the first isolated test")
    return f"nsisolate: {host.mode}, namespaces: {' '.join(offered)} ({'; '.join(notes)})"


def known_obstacle(host: Host) -> str | None:
    """Why nothing can be isolated here, where that is certain without trying; else None."""
    if not host.linux:
        return f"namespaces need Linux, this is {PLATFORM}"
    if not os.path.exists("/proc/self/ns"):
        return "/proc is not mounted"
    pretender = facts.pretender()
    if pretender is not None:
        return f"the runner runs under {pretender}, which answers for the kernel"
    if host.privileged:
        return None
    return next((reason for question, reason in _KEEPS_ORDINARY_USERS if question(host)), None)


#: What takes user namespaces, and with them everything, from a runner without capabilities.
_KEEPS_ORDINARY_USERS: Final[tuple[tuple[Callable[[Host], bool], str], ...]] = (
    (
        lambda _: facts.userns_clone_off(),
        "user namespaces are off for this user (kernel.unprivileged_userns_clone = 0)",
    ),
    (
        lambda _: not facts.has_namespace("user"),
        "the kernel has no user namespaces, and the runner is not root",
    ),
    (
        lambda _: facts.namespace_limit("user") == 0,
        "user namespaces are off (user.max_user_namespaces = 0), and the runner is not root",
    ),
    (
        lambda _: facts.in_chroot(),
        "the runner is in a chroot, where the kernel makes no user namespaces",
    ),
    (
        lambda host: not facts.ids_mapped(host.euid, host.egid),
        "the runner's own ids are not mapped in the user namespace it lives in",
    ),
    (
        lambda host: host.euid == 0 and not host.holds(CAP_SETFCAP) and host.kernel >= (5, 12),
        "the runner is uid 0 without CAP_SETFCAP, so its id cannot be mapped",
    ),
)


def _kernel_version(release: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)
