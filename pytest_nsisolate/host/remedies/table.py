# SPDX-License-Identifier: MIT
"""What a row of the table is, what it looks at, and the remedies that several rows share.

What to write where the runner's container is described, by the tool that makes it, has its one
source here: the refusals and the doctor print it, and the complete files in ``docs/ci/`` are tested
against it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from errno import errorcode
from typing import TYPE_CHECKING, Final

from pytest_nsisolate.host import CAP_SYS_ADMIN, SECCOMP_FILTER, Host, facts
from pytest_nsisolate.kernel.namespaces import NAMESPACES
from pytest_nsisolate.kernel.originals import PLATFORM, os, re

if TYPE_CHECKING:
    from pytest_nsisolate.request.model import UserMode

#: ``docker run --security-opt`` of each. The filter comes first, the mount rule of the profile
#: docker-default shows itself without it, and the masked ``/proc`` without that.
DOCKER: Final = ("seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined")

#: ``podman run --security-opt`` of each.
PODMAN: Final = ("seccomp=unconfined", "unmask=ALL")

#: Of ``securityContext`` in a container of a pod.
KUBERNETES: Final[dict[str, object]] = {
    "seccompProfile": {"type": "Unconfined"},
    "appArmorProfile": {"type": "Unconfined"},
    "procMount": "Unmasked",
}

#: Of the pod itself, without which ``procMount`` is refused.
KUBERNETES_POD: Final[dict[str, object]] = {"hostUsers": False}

#: Of ``[runners.docker]`` in GitLab's config.toml. Its ``security_opt`` goes straight to the
#: daemon, and only Docker's own command line and compose know ``systempaths=unconfined``.
GITLAB: Final[dict[str, object]] = {"privileged": True}

#: ``container: options:`` of a job. Not :data:`DOCKER`: those leave the container's root under
#: the restriction that AppArmor of ubuntu-24.04 lays on processes without CAP_SYS_ADMIN.
GITHUB: Final = "--privileged"

#: What GitHub's ubuntu-24.04, and any Ubuntu since 23.10, needs before pytest.
APPARMOR_SYSCTL: Final = "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"

#: Hands a cgroup to an ordinary user (systemd-run(1)).
DELEGATE: Final = "systemd-run --user --scope -p Delegate=yes pytest"

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
    f"{APPARMOR_SYSCTL} (in CI: a step before pytest);"
    " or, for this interpreter alone, save this as /etc/apparmor.d/pytest-nsisolate and load it"
    " with sudo apparmor_parser -r: abi <abi/4.0>, include <tunables/global>"
    " profile pytest-nsisolate {python} flags=(unconfined) {{ userns, }}"
)


@dataclass(frozen=True, slots=True)
class Case:
    """One refusal, as the rows of the table look at it.

    :param filtered: ``unshare(0)``, which every kernel grants, was refused as well: a seccomp
        filter without any doubt. None where that was not tried.
    """

    step: str
    namespace: str | None
    errno: int
    host: Host
    user: UserMode
    filtered: bool | None = None

    def blames_seccomp(self) -> bool:
        """A filter was seen to be at work, or one is there and ``unshare(0)`` was not tried."""
        if self.filtered is None:
            return self.host.seccomp == SECCOMP_FILTER
        return self.filtered

    def words(self) -> dict[str, str]:
        """What the sentences of the table may mention."""
        if not self.host.linux:
            return {"platform": sys.platform}  # nothing else can be looked up there
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
            "unconfine": unconfine(),
            "unmask": unmask(),
            "python": os.path.realpath(sys.executable),
            "platform": PLATFORM,
            "kernel": "{}.{}".format(*self.host.kernel),
            "covers": ", ".join(facts.covers_below("/proc") or ("nothing visible",)),
            "sys_covers": ", ".join(facts.covers_below("/sys") or ("nothing visible",)),
            "user_name": facts.user_name(self.host.euid),
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


def _switches(options: tuple[str, ...]) -> str:
    return " ".join(f"--security-opt {option}" for option in options)


def flow(value: object) -> str:
    """YAML in one line, of the little that a securityContext needs."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _pod(context: dict[str, object]) -> str:
    return f"securityContext: {flow(context)} with {flow(KUBERNETES_POD)[1:-1]}"


_MASK: Final = {"procMount": KUBERNETES["procMount"]}
_GITLAB: Final = "GitLab runner: privileged = true below [runners.docker] in its config.toml"

#: Remedies for the whole confinement of a container.
_UNCONFINE: Final = {
    "docker": f"Docker: docker run {_switches(DOCKER)}",
    "podman": f"Podman: {_switches(PODMAN)}",
    "kubernetes": f"Kubernetes: {_pod(KUBERNETES)}",
    "gitlab": _GITLAB,
    "github": f"GitHub Actions: container: options: {GITHUB}",
}

#: Remedies for covers on parts of ``/proc`` and ``/sys`` alone.
_UNMASK: Final = {
    "docker": f"Docker: {_switches(DOCKER[-1:])}",
    "podman": f"Podman: {_switches(PODMAN[-1:])}",
    "kubernetes": f"Kubernetes: {_pod(_MASK)}",
    "gitlab": _GITLAB,
    "github": f"GitHub Actions: container: options: {GITHUB}",
    "lxc": "lxcfs: a second, uncovered mount of the same kind anywhere in the container is enough",
}


def unconfine() -> str:
    """What takes the confinement off: for the place where the runner is, or for each."""
    return _for_this_place(_UNCONFINE)


def unmask() -> str:
    """What uncovers ``/proc`` and ``/sys``: for the place where the runner is, or for each."""
    return _for_this_place(_UNMASK)


def _for_this_place(remedies: dict[str, str]) -> str:
    place = facts.place()
    return remedies[place] if place in remedies else "; ".join(remedies.values())
