# SPDX-License-Identifier: MIT
"""What a row of the table is, what it looks at, and the remedies that several rows share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from errno import errorcode
from typing import Final

from pytest_nsisolate.host import CAP_SYS_ADMIN, SECCOMP_FILTER, Host, facts
from pytest_nsisolate.host.remedies import places
from pytest_nsisolate.kernel.namespaces import NAMESPACES
from pytest_nsisolate.kernel.originals import PLATFORM, os, re
from pytest_nsisolate.request.model import UserMode

REPORT: Final = "a defect of pytest-nsisolate: please report it, with the output of its doctor"

FILTER: Final = (
    "a seccomp filter refuses the call (Docker's default profile, Kubernetes' RuntimeDefault)"
)

#: Filled in when a refusal is explained, for the place where the runner is.
UNCONFINE: Final = "{unconfine}"
UNMASK: Final = "{unmask}"

APPARMOR_CAUSE: Final = (
    "AppArmor takes every capability away inside a user namespace of a program without a profile"
    " (kernel.apparmor_restrict_unprivileged_userns = 1, the default of Ubuntu 23.10 and newer)"
)

APPARMOR_REMEDY: Final = (
    f"{places.APPARMOR_SYSCTL} (in CI: a step before pytest);"
    " or, for this interpreter alone, save this as /etc/apparmor.d/pytest-nsisolate and load it"
    " with sudo apparmor_parser -r: abi <abi/4.0>, include <tunables/global>"
    " profile pytest-nsisolate {python} flags=(unconfined) {{ userns, }}"
)


@dataclass(frozen=True, slots=True)
class Case:
    """One refusal, as the rows of the table look at it.

    :param filtered: ``unshare(0)``, which every kernel grants, was refused as well: a seccomp
        filter without any doubt. None where nobody asked.
    """

    step: str
    namespace: str | None
    errno: int
    host: Host
    user: UserMode
    filtered: bool | None = None

    def blames_seccomp(self) -> bool:
        """A filter was seen to be at work, or one is there and nobody looked closer."""
        if self.filtered is None:
            return self.host.seccomp == SECCOMP_FILTER
        return self.filtered

    def words(self) -> dict[str, str]:
        """What the sentences of the table may mention."""
        namespace = self.namespace if self.namespace in NAMESPACES else "user"
        limit = facts.namespace_limit(namespace)
        return {
            "step": self.step,
            "namespace": namespace,
            "errno": errorcode.get(self.errno, str(self.errno)),
            "sysctl": facts.limit_name(namespace),
            "limit": "unknown" if limit is None else str(limit),
            "euid": str(self.host.euid),
            "egid": str(self.host.egid),
            "user_name": facts.user_name(self.host.euid),
            "unconfine": places.unconfine(),
            "unmask": places.unmask(),
            "python": os.path.realpath(sys.executable),
            "platform": PLATFORM,
            "kernel": "{}.{}".format(*self.host.kernel),
            "covers": ", ".join(facts.covers_below("/proc") or ("nothing visible",)),
            "sys_covers": ", ".join(facts.covers_below("/sys") or ("nothing visible",)),
            "processes": facts.process_limit() or "which limit it is cannot be seen from here",
            "label": facts.security_label() or "none",
            "preload": os.environ.get("LD_PRELOAD", ""),
            "emulation": facts.emulation() or "Linux",
        }


@dataclass(frozen=True, slots=True)
class Row:
    """One cause.

    :param steps: regular expression for the steps it concerns, matched from their start.
    :param errnos: the error numbers; empty means any.
    :param when: the question that tells this cause from the others of the same number.
    """

    steps: str
    errnos: tuple[int, ...]
    when: Callable[[Case], bool]
    cause: str
    remedy: str

    def fits(self, case: Case) -> bool:
        """The row explains this refusal."""
        if self.errnos and case.errno not in self.errnos:
            return False
        return re.match(self.steps, case.step) is not None and self.when(case)


def always(_: Case) -> bool:
    """The step and the number alone say it."""
    return True


def apparmor(case: Case) -> bool:
    """Ubuntu's restriction is on, and this runner is one that it is meant for."""
    return case.user != "none" and not case.host.privileged and facts.apparmor_restricts()


def without_user(case: Case) -> bool:
    """The request had no user namespace: the runner's own capabilities have to do."""
    return case.user == "none"


def lacks(capability: int) -> Callable[[Case], bool]:
    """The request had no user namespace, and the runner does not hold the capability."""
    return lambda case: case.user == "none" and not case.host.holds(capability)


def lacks_admin(case: Case) -> bool:
    """The runner is an ordinary user for the kernel, whatever its uid."""
    return not case.host.holds(CAP_SYS_ADMIN)
