# SPDX-License-Identifier: MIT
"""Hosts that refuse something, made for real around one command; the machine itself stays as is.

    from tests.hosts import run_on
    done = run_on("no-net", sys.executable, "-m", "pytest", "test_it.py")

or by hand: ``python tests/hosts.py no-net -- python -m pytest_nsisolate doctor``.

Each host is a user namespace, a mount namespace, a smaller set of capabilities or a filter that
ends with the command. All but ``masked-proc-root`` can be made by an ordinary user who may have
user namespaces. Inside, "root" means the capabilities of the user namespace around it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

_HERE: Final = Path(__file__).parent
_SECCOMP: Final = str(_HERE / "seccomp.py")

_AS_ROOT: Final = ("unshare", "--map-root-user")
_AS_USER: Final = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
_KEEP_BUT: Final = ("setpriv", "--inh-caps=-all", "--bounding-set")
_BARE: Final = (*_KEEP_BUT, "-all")

_INIT: Final = ("--mount-proc", "--pid", "--fork", "--kill-child", "--net", "--ipc", "--uts")

#: The machine's root is not held to RLIMIT_NPROC, in a user namespace neither.
_NOBODY: Final = (
    ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "env")
    if hasattr(os, "geteuid") and os.geteuid() == 0
    else ()
)

_CHROOT: Final = """
mount -t tmpfs none /mnt && mkdir /mnt/root
for entry in /*; do
    if [ -L "$entry" ]; then cp -P "$entry" /mnt/root
    elif [ -d "$entry" ]; then mkdir "/mnt/root$entry"; mount --rbind "$entry" "/mnt/root$entry"
    fi
done
exec chroot /mnt/root env -C "$PWD" "$@"
"""


#: One whole /proc or /sys anywhere is enough for the kernel to let others be mounted
#: (mount_too_revealing): that of a chroot somewhere on this machine, say.
MASK_OTHERS: Final = """
while read -r _ _ _ _ point rest; do
    case "$point $rest" in
        "/proc "* | "/sys "*) ;;
        *" - proc "*) mount --bind /dev/null "$point/kmsg" 2>/dev/null || true ;;
        *" - sysfs "*) mount -t tmpfs none "$point/firmware" 2>/dev/null || true ;;
    esac
done < /proc/self/mountinfo
"""
_MASK_PROC: Final = f"{MASK_OTHERS}mount --bind /dev/null /proc/kmsg\n"

_KEEP_CAPS: Final = (*_AS_USER, "--keep-caps")
_DROP: Final = 'exec setpriv --ambient-caps=-all --inh-caps=-all "$@"'

#: Ubuntu's sysctl in a copy of /proc/sys/kernel, and what follows from it in apparmor/.
_APPARMOR: Final = f"""
mount -t tmpfs none /mnt
for file in /proc/sys/kernel/*; do
    [ -d "$file" ] || cat "$file" > "/mnt/${{file##*/}}" 2>/dev/null || true
done
echo 1 > /mnt/apparmor_restrict_unprivileged_userns
mount --bind /mnt /proc/sys/kernel
export PYTHONPATH="{_HERE}/apparmor:{_HERE.parent}:$PYTHONPATH"
{_DROP}
"""


#: Its own text is its first argument.
_DEEPER: Final = """
if unshare --map-root-user true 2>/dev/null; then exec unshare --map-root-user sh -ec "$1" sh "$@"
fi
shift
exec "$@"
"""


def _shell(*prefix: str, script: str) -> tuple[str, ...]:
    """A command prefix that prepares the host by a shell script and executes what follows."""
    return (*prefix, "sh", "-ec", script, "sh")


def _filter(*denials: str) -> tuple[str, ...]:
    return (sys.executable, _SECCOMP, *denials, "--")


#: What to put before a command, by the name of the host.
HOSTS: Final[dict[str, tuple[str, ...]]] = {
    "plain": (),
    "root": _AS_ROOT,
    "ordinary-user": _AS_USER,
    # Limits (namespaces(7), /proc/sys/user).
    "no-net": _shell(*_AS_ROOT, script='echo 0 > /proc/sys/user/max_net_namespaces; exec "$@"'),
    "no-user-root": _shell(
        *_AS_ROOT, script='echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    ),
    "no-user": _shell(
        *(*_AS_USER, "--keep-caps"),
        script="echo 0 > /proc/sys/user/max_user_namespaces;"
        ' exec setpriv --ambient-caps=-all --inh-caps=-all "$@"',
    ),
    "no-user-outside": _shell(
        *_AS_ROOT,
        script=f'echo 1 > /proc/sys/user/max_user_namespaces; exec {" ".join(_AS_USER)} "$@"',
    ),
    "few-uts": _shell(*_AS_ROOT, script='echo 1 > /proc/sys/user/max_uts_namespaces; exec "$@"'),
    # Identities and capabilities (user_namespaces(7), capabilities(7)).
    "unmapped": ("unshare", "--user"),
    "no-capabilities": (*_AS_ROOT, *_BARE),
    "only-setfcap": (*_AS_ROOT, *_KEEP_BUT, "-all,+setfcap"),
    "no-setfcap": (*_AS_ROOT, *_KEEP_BUT, "-setfcap"),
    "no-net-admin": (*_AS_ROOT, *_KEEP_BUT, "-net_admin"),
    "no-sys-time": (*_AS_ROOT, *_KEEP_BUT, "-sys_time"),
    "no-sys-admin": (*_AS_ROOT, *_KEEP_BUT, "-sys_admin"),
    "no-new-privs": (*_AS_USER, "setpriv", "--no-new-privs"),
    "apparmor": _shell(*_KEEP_CAPS, "--mount", script=_APPARMOR),
    # What a container does to /proc, /sys and the root.
    "masked-proc": _shell(*_AS_ROOT, "--mount", script=f'{_MASK_PROC}exec "$@"'),
    "masked-proc-user": _shell(*_KEEP_CAPS, "--mount", script=_MASK_PROC + _DROP),
    "masked-proc-root": _shell("unshare", "--mount", script=f'{_MASK_PROC}exec "$@"'),
    "masked-sys": _shell(
        *_AS_ROOT,
        "--mount",
        script=f'{MASK_OTHERS}mount -t tmpfs none /sys/firmware; exec "$@"',
    ),
    "read-only-proc": _shell(
        *_AS_ROOT, "--mount", script='mount -o remount,bind,ro /proc; exec "$@"'
    ),
    "read-only-proc-user": _shell(
        *(*_KEEP_CAPS, "--mount"), script=f"mount -o remount,bind,ro /proc; {_DROP}"
    ),
    "no-proc": _shell(*_AS_ROOT, "--mount", script='mount -t tmpfs none /proc; exec "$@"'),
    "chroot": _shell(*_AS_ROOT, "--mount", script=_CHROOT),
    "chroot-user": _shell(
        *_AS_ROOT, "--mount", script=_CHROOT.replace('"$@"', " ".join(_BARE) + ' "$@"')
    ),
    # What the runner inherits.
    "few-descriptors": ("prlimit", "--nofile=16"),
    "few-descriptors-user": (*_AS_USER, "prlimit", "--nofile=20"),
    "hardly-any-descriptor": (*_AS_USER, "prlimit", "--nofile=6"),
    "few-processes": (*_NOBODY, "prlimit", "--nproc=1"),
    "sigchld-ignored": _shell(*_AS_USER, script='trap "" CHLD; exec "$@"'),
    "pid-1": (*_AS_ROOT, *_INIT),
    "nested": (*_AS_ROOT, *_INIT, *_AS_ROOT, *_INIT, *_AS_ROOT, *_INIT),
    "too-deep": ("sh", "-ec", _DEEPER, "sh", _DEEPER),
    # Filters (seccomp(2)); the first is what Docker's default profile does.
    "filtered": _filter("unshare=EPERM", "clone3=ENOSYS"),
    "filtered-root": (*_AS_ROOT, *_filter("unshare=EPERM", "clone3=ENOSYS")),
    "filtered-kill": _filter("unshare=KILL"),
    "filtered-mount": _filter("mount=EPERM"),
    "mount-denied": _filter("mount=EACCES"),
    "mount-denied-user": (*_AS_USER, *_filter("mount=EACCES")),
    "no-pidfd": _filter("pidfd_open=ENOSYS"),
    "no-pidfd-user": (*_AS_USER, *_filter("pidfd_open=ENOSYS")),
    "no-helper": _filter("pidfd_getfd=EPERM"),
    "no-fork": _filter("clone=EAGAIN", "clone3=ENOSYS"),
    "fork-kills": _filter("clone=KILL", "clone3=KILL"),
}


def run_on(
    host: str, *command: str, timeout: float = 60, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command on one of :data:`HOSTS`, capturing its output as text.

    Nothing tells it in which CI system this happens, for which the remedies would be others.
    """
    env = {**(os.environ if env is None else env)}
    for name in ("GITHUB_ACTIONS", "GITLAB_CI", "KUBERNETES_SERVICE_HOST", "container"):
        env.pop(name, None)
    return subprocess.run(
        [*HOSTS[host], *command],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=env,
        check=False,
    )


def _can_unshare() -> bool:
    try:
        return run_on("root", "true").returncode == 0
    except OSError:
        return False


def _unless(works: bool, reason: str) -> pytest.MarkDecorator:
    """A skip with this reason, unless NSISOLATE_MUST_WORK says that this machine has to work."""
    must_work = os.environ.get("NSISOLATE_MUST_WORK") == "1"
    return pytest.mark.skipif(not works and not must_work, reason=reason)


#: For a test that makes hostile hosts.
NEEDS_HOSTS = _unless(
    sys.platform == "linux" and _can_unshare(),
    "hostile hosts are user namespaces, and this machine refuses them",
)

#: For a test that needs the powers of the machine's own root.
NEEDS_ROOT = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can make this host"
)


def main(arguments: list[str]) -> None:
    """``HOST -- COMMAND ...``."""
    host, command = arguments[0], arguments[arguments.index("--") + 1 :]
    prepared = [*HOSTS[host], *command]
    os.execvp(prepared[0], prepared)


if __name__ == "__main__":
    main(sys.argv[1:])
