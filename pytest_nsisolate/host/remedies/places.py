# SPDX-License-Identifier: MIT
"""What to write where the runner's container is described, by the tool that makes it.

The one source of these switches: the refusals and the doctor print them, and the complete files in
``docs/ci/`` are tested against them.
"""

from __future__ import annotations

from typing import Final

from pytest_nsisolate.host import facts

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
#: the restriction that AppArmor of ubuntu-24.04 lays on whoever lacks CAP_SYS_ADMIN.
GITHUB: Final = "--privileged"

#: What GitHub's ubuntu-24.04, and any Ubuntu since 23.10, needs before pytest.
APPARMOR_SYSCTL: Final = "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"

#: Hands a cgroup to an ordinary user (systemd-run(1)).
DELEGATE: Final = "systemd-run --user --scope -p Delegate=yes pytest"


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

#: Against the whole confinement of a container.
_UNCONFINE: Final = {
    "docker": f"Docker: docker run {_switches(DOCKER)}",
    "podman": f"Podman: {_switches(PODMAN)}",
    "kubernetes": f"Kubernetes: {_pod(KUBERNETES)}",
    "gitlab": _GITLAB,
    "github": f"GitHub Actions: container: options: {GITHUB}",
}

#: Against what covers parts of ``/proc`` and ``/sys`` alone.
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
