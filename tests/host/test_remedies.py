# SPDX-License-Identifier: MIT
"""The table of refusals: each row is reached, by the case it is meant for and before its likes."""

from __future__ import annotations

import ast
import errno
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import pytest_nsisolate
from pytest_nsisolate.host import Host, facts
from pytest_nsisolate.host.refusal import Refusal
from pytest_nsisolate.host.remedies import TABLE, explained
from pytest_nsisolate.host.remedies.table import Case, Row
from pytest_nsisolate.kernel import originals
from pytest_nsisolate.kernel.namespaces import NAMESPACES
from pytest_nsisolate.request.model import UserMode

PACKAGE = Path(pytest_nsisolate.__file__).parent

ROOT = Host(True, True, 0, 0, (1 << 41) - 1, (6, 1))
USER = Host(True, False, 1000, 1000, 0, (6, 1))
BARE_ROOT = Host(True, False, 0, 0, 0, (6, 1))
CONTAINER = Host(True, False, 0, 0, 0xA80425FB, (6, 1), seccomp=2)
NEW = Host(True, False, 1000, 1000, 0, (6, 18))
MAC = Host(False, False, -1, -1, 0, (0, 0))

#: A host on which nothing is special.
ORDINARY: Mapping[str, object] = {
    "userns_clone_off": False,
    "ids_mapped": True,
    "in_chroot": False,
    "apparmor_restricts": False,
    "selinux_enforcing": False,
    "has_namespace": True,
    "namespace_limit": 96365,
    "covers_below": (),
    "is_read_only": False,
    "security_label": "",
    "process_limit": None,
    "place": None,
    "pretender": None,
    "emulation": None,
    "status": {},
    "user_name": "anna",
}


def explain(
    step: str,
    namespace: str | None,
    number: int,
    host: Host,
    *,
    user: UserMode = "map",
    filtered: bool | None = None,
) -> Refusal:
    """A refusal on that host, with its cause and its remedy."""
    return explained(Refusal(step, namespace, number, filtered=filtered), host, user=user)


@dataclass(frozen=True)
class Expected:
    """A refusal on a host with these peculiarities, and words of its cause and its remedy."""

    step: str
    namespace: str | None
    errno: int
    cause: str
    remedy: str
    host: Host = USER
    user: UserMode = "map"
    filtered: bool | None = None
    facts: Mapping[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.step}-{errno.errorcode.get(self.errno, self.errno)}-{self.cause}"


NEWUSER = "unshare(CLONE_NEWUSER)"
NEWNET = "unshare(CLONE_NEWNET)"
APPARMOR = {"apparmor_restricts": True}
APPARMOR_SYSCTL = "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
SECCOMP = "--security-opt seccomp=unconfined"
DEFECT = "please report it"

CASES = [
    Expected("clone", None, errno.ENOSYS, "part of Linux", "--nsisolate=none", host=MAC),
    Expected("import prctl", None, errno.ENOENT, "python-prctl", "libcap-dev"),
    *(
        Expected(
            *("look at the runner", None, errno.EPERM, f"under {name}", f"without {name}"),
            facts={"pretender": name},
        )
        for name in ("fakeroot", "pseudo")
    ),
    Expected(
        *("look at the runner", None, errno.EPERM, "under proot", "outside of proot"),
        facts={"pretender": "proot"},
    ),
    Expected(
        *("look at the runner", None, errno.EPERM, "os.geteuid() is 1000", "without it"),
        facts={"pretender": "something"},
    ),
    Expected(
        *(NEWUSER, "user", errno.EINVAL, "but WSL 1", "--set-version"),
        facts={"emulation": "WSL 1"},
    ),
    Expected(
        *("pidfd_open", None, errno.ENOSYS, "but gVisor", "--runtime=runc"),
        facts={"emulation": "gVisor"},
    ),
    Expected("pipe2", None, errno.EMFILE, "no file descriptor", "ulimit -n"),
    Expected("start the host check", None, errno.ETIMEDOUT, "in time", "doctor again"),
    # user
    Expected(
        *(NEWUSER, "user", errno.EPERM),
        *("unprivileged_userns_clone = 0", "sysctl -w kernel.unprivileged_userns_clone=1"),
        facts={"userns_clone_off": True},
    ),
    Expected(
        *(NEWUSER, "user", errno.EPERM, "not mapped", "unshare --map-current-user"),
        facts={"ids_mapped": False},
    ),
    Expected(
        *(NEWUSER, "user", errno.EPERM, "in a chroot", "pivot_root"),
        facts={"in_chroot": True},
    ),
    Expected(NEWUSER, "user", errno.EPERM, "Docker's default profile", SECCOMP, host=CONTAINER),
    Expected(
        *(NEWUSER, "user", errno.EACCES, "AppArmor", "profile pytest-nsisolate /"),
        facts=APPARMOR,
    ),
    Expected(NEWUSER, "user", errno.EPERM, "chroot, or a security", "outside the chroot"),
    Expected(
        *(NEWUSER, "user", errno.EINVAL, "CONFIG_USER_NS", "as root"),
        facts={"has_namespace": False},
    ),
    Expected(NEWUSER, "user", errno.EINVAL, "more than one thread", "register_at_fork"),
    Expected(
        *(NEWUSER, "user", errno.ENOSPC),
        *("user.max_user_namespaces = 0", "sysctl -w user.max_user_namespaces=16384"),
        facts={"namespace_limit": 0},
    ),
    Expected(NEWUSER, "user", errno.ENOSPC, "32 namespaces deep", "fewer layers"),
    # the others
    Expected(
        *("unshare(CLONE_NEWNS)", "mount", errno.EPERM, "Docker's default profile", SECCOMP),
        filtered=True,
    ),
    Expected(
        *("unshare(CLONE_NEWNS)", "mount", errno.EPERM, "needs CAP_SYS_ADMIN", "no user=False"),
        user="none",
    ),
    Expected(
        *(NEWNET, "net", errno.EPERM, "AppArmor", APPARMOR_SYSCTL),
        facts=APPARMOR,
    ),
    Expected(
        *(NEWNET, "net", errno.EPERM, "RestrictNamespaces=", "RestrictNamespaces=no"),
        host=CONTAINER,
        filtered=False,
    ),
    Expected(
        *("unshare(CLONE_NEWTIME)", "time", errno.EINVAL, "has no time", "time needs 5.6"),
        facts={"has_namespace": False},
    ),
    Expected("unshare(CLONE_NEWPID)", "pid", errno.EINVAL, "already unshared", DEFECT),
    Expected(
        *(NEWNET, "net", errno.ENOSPC),
        *("user.max_net_namespaces = 0", "sysctl -w user.max_net_namespaces=16384"),
        facts={"namespace_limit": 0},
    ),
    Expected(
        *(NEWNET, "net", errno.ENOSPC, "250 ms", "user.max_net_namespaces=16384"),
        facts={"namespace_limit": 3},
    ),
    Expected(
        *("unshare(CLONE_NEWUTS)", "uts", errno.ENOSPC, "limit of uts", "max_uts_namespaces="),
        facts={"namespace_limit": 3},
    ),
    Expected(NEWNET, "net", errno.ENOSPC, "around the runner", "in the outer namespace"),
    # id maps
    Expected(
        *("write uid_map", "user", errno.EPERM, "without CAP_SETFCAP", "--cap-add SETFCAP"),
        host=BARE_ROOT,
    ),
    Expected(
        *("write uid_map", "user", errno.EPERM, "AppArmor", APPARMOR_SYSCTL),
        facts=APPARMOR,
    ),
    Expected(
        *("write setgroups", "user", errno.EACCES, "AppArmor", APPARMOR_SYSCTL),
        facts=APPARMOR,
    ),
    Expected("write uid_map", "user", errno.EACCES, "not dumpable", "getcap"),
    Expected("write setgroups", "user", errno.EROFS, "read-only", "remount,rw /proc"),
    Expected("write uid_map", "user", errno.EPERM, "written twice", DEFECT),
    Expected("write gid_map", "user", errno.EPERM, "setgroups was not denied", DEFECT),
    Expected("wait for the id map", "user", errno.ECONNRESET, "did not write", DEFECT),
    # mounts
    Expected("keep /dev/shm", "ipc", errno.EBUSY, "has to be covered", "--basetemp"),
    Expected("make / private", "mount", errno.EINVAL, "not a mount point", "mount --bind"),
    Expected("bind /proc/sys", "mount", errno.EPERM, "seccomp", SECCOMP, filtered=True),
    Expected(
        *("make / private", "mount", errno.EACCES, "AppArmor", APPARMOR_SYSCTL),
        facts=APPARMOR,
    ),
    Expected(
        *("make / private", "mount", errno.EACCES, "(docker-default (enforce))"),
        "apparmor=unconfined",
        host=ROOT,
        facts={"security_label": "docker-default (enforce)"},
    ),
    Expected(
        *("mount /dev/shm", "ipc", errno.EACCES, "SELinux", "label=disable"),
        facts={"selinux_enforcing": True},
    ),
    Expected("mount /dev/shm", "ipc", errno.EACCES, "a security module", "apparmor=unconf"),
    Expected(
        *("mount proc", "pid", errno.EPERM, "(covered: /proc/kcore)"),
        "systempaths=unconfined; Podman: --security-opt unmask=ALL; Kubernetes:"
        " securityContext: {procMount: Unmasked}",
        facts={"covers_below": ("/proc/kcore",)},
    ),
    Expected(
        *("mount sysfs", "net", errno.EPERM, "(covered: /sys/firmware)", "systempaths="),
        facts={"covers_below": ("/sys/firmware",)},
    ),
    Expected("mount proc", "pid", errno.EPERM, "not in the new pid", DEFECT, filtered=False),
    Expected("mount sysfs", "net", errno.EPERM, "not in the new net", DEFECT, filtered=False),
    Expected("mount sysfs", "net", errno.EBUSY, "not a new one", DEFECT),
    Expected(
        *("mount proc", "pid", errno.EPERM, "needs CAP_SYS_ADMIN", "no user=False"),
        user="none",
    ),
    Expected("mount /dev/mqueue", "ipc", errno.ENODEV, "without the file", "CONFIG_POSIX_MQ"),
    # what a marker grants or takes away
    Expected("fill /dev", "mount", errno.EPERM, "seccomp", SECCOMP, filtered=True),
    Expected("find /dev/kvm", "mount", errno.ENOENT, "no such device", "--device"),
    Expected("find /dev/shm", "mount", errno.ENOTBLK, "no device", "not directories"),
    Expected("drop capabilities", "user", errno.EPERM, "CAP_SETPCAP", "--cap-add SETPCAP"),
    Expected("join a new session keyring", None, errno.EDQUOT, "as many keys", "keys.maxkeys"),
    # testbeds
    Expected("add a bridge", "net", errno.EOPNOTSUPP, "has no bridges", "CONFIG_BRIDGE"),
    Expected("add a veth pair", "net", errno.EOPNOTSUPP, "no veth", "CONFIG_VETH"),
    Expected("open a packet socket", "net", errno.EAFNOSUPPORT, "no packet", "CONFIG_PACKET"),
    Expected("divert lo", "net", errno.EOPNOTSUPP, "has no nf_tables at the", "nft_fwd_netdev"),
    Expected("divert lo", "net", errno.EPERM, "given up the rights", "CAP_NET_ADMIN"),
    Expected("add a rule of NAT", "net", errno.EOPNOTSUPP, "has no nf_tables", "nft_masq"),
    Expected("bind /etc/hosts", "mount", errno.ENOENT, "has no /etc/hosts", "touch /etc/hosts"),
    Expected("add the address 10.0.0.1", "net", errno.EPERM, "given up the rights", "caps="),
    # lo and clocks
    Expected(
        *("set lo up", "net", errno.EPERM, "CAP_NET_ADMIN", "--cap-add NET_ADMIN"),
        user="none",
    ),
    Expected(
        *("set lo up", "net", errno.EPERM, "AppArmor", APPARMOR_SYSCTL),
        facts=APPARMOR,
    ),
    Expected(
        *("write timens_offsets", "time", errno.EPERM, "CAP_SYS_TIME", "--cap-add SYS_TIME"),
        user="none",
    ),
    Expected("write timens_offsets", "time", errno.ERANGE, "below zero", "smaller time="),
    Expected("write timens_offsets", "time", errno.EROFS, "read-only", "remount,rw"),
    Expected("write timens_offsets", "time", errno.EACCES, "already born", DEFECT),
    # processes
    Expected("start the host check", None, 0, "failed by itself", DEFECT),
    Expected(
        "start the host check", None, errno.EPIPE, "filter that kills", SECCOMP, host=CONTAINER
    ),
    Expected("start the host check", None, errno.EPIPE, "was killed", "out-of-memory"),
    Expected(
        *("fork", None, errno.EAGAIN, "pids.max = 100", "raise that limit"),
        facts={"process_limit": "pids.max = 100"},
    ),
    Expected(
        *("start the thread of faulthandler_timeout", None, errno.EAGAIN),
        *("counts as a process", "faulthandler_timeout=0"),
    ),
    Expected("fork", None, errno.EPROTO, "still the runner", "posix.fork"),
    Expected("fork", "pid", errno.ENOMEM, "PID 1 of the new", "dmesg"),
    Expected("fork", None, errno.ENOMEM, "no memory", "memory limit"),
    Expected("pidfd_open", None, errno.ENOSYS, "gVisor", "5.3"),
    Expected("parent-death check", None, errno.ESRCH, "parent process was gone", "killed it"),
    # limits
    Expected("limit processes=1", None, errno.EINVAL, "are the least", "init=False"),
    Expected("limit processes=64", None, errno.EPERM, "does not bind root", "300 processes"),
    Expected("limit files=32", None, errno.EINVAL, "too many files open", "more files"),
    Expected("limit memory=1G", None, errno.ENOMEM, "is used up", "raise that limit"),
    Expected("find a cgroup", None, errno.ENODEV, "delegated to uid 1000", "Delegate=yes"),
    Expected(
        "mkdir cgroup",
        None,
        errno.EROFS,
        "is read-only",
        "--cgroupns=host --volume /sys/fs/cgroup:/sys/fs/cgroup:rw",
    ),
    Expected(
        *("mkdir cgroup", None, errno.EACCES, "not delegated to uid 1000"),
        "systemd-run --user --scope -p Delegate=yes pytest",
    ),
    Expected("join the cgroup", None, errno.EACCES, "a cgroup that is not", "Delegate=yes"),
    Expected("write pid_max", "pid", errno.EINVAL, "below 301", "a larger number"),
    Expected("write pid_max", "pid", errno.ENOSYS, "before Linux 6.14", "RLIMIT_NPROC"),
    Expected("write pid_max", "pid", errno.EACCES, "read-only", "systempaths=", host=NEW),
    Expected("setrlimit(RLIMIT_CPU)", None, errno.EPERM, "CAP_SYS_RESOURCE", "lower limits only"),
    Expected("setrlimit(RLIMIT_CPU)", None, errno.EINVAL, "above the hard one", DEFECT),
    # roots, files, terminals
    Expected("mount overlay on /x", "mount", errno.EINVAL, "two deep", "writable="),
    Expected("mount overlay of /x", "mount", errno.EINVAL, "or the folder is on", "cp -a"),
    Expected("take /x as root", "mount", errno.ENOENT, "does not have", "a fixture"),
    Expected("take /x as root", "mount", errno.ENOTDIR, "below a file", "name a folder"),
    Expected("take /x as root", "mount", errno.EOPNOTSUPP, "a FIFO", "name a folder"),
    Expected("unpack /x", "mount", errno.EBADMSG, "damaged", "docker save"),
    Expected("unpack /x", "mount", errno.ENOSPC, "root_size=", "a folder"),
    Expected("unpack /x", "mount", errno.EINVAL, "do not reach", "a longer range"),
    Expected("unpack /x", "mount", errno.ENOMEM, "1 GiB", "a folder"),
    Expected("unpack /x", "mount", errno.ETIME, "ten minutes", "a folder"),
    Expected("make the ownership layer", "mount", errno.ENOSPC, "no memory", "readonly"),
    Expected("bind /x read-only", "mount", errno.ENOSYS, "mount_setattr", "5.12"),
    Expected("take / as root", "mount", errno.EINVAL, "already", 'root="overlay"'),
    Expected("take /x as root", "mount", errno.EXDEV, "another mount namespace", "cp -a"),
    Expected("take /x as root", "mount", errno.EBUSY, "not the same", "unmount"),
    Expected("look into /x", "mount", errno.EACCES, "may not read", "chmod"),
    Expected("place /x", "mount", errno.EBUSY, "the host's", "another path"),
    Expected("take /x apart", "mount", errno.E2BIG, "more files", "hide="),
    Expected("place /x", "mount", errno.ENOENT, "does not have", 'root="overlay"'),
    Expected("place /x", "mount", errno.EISDIR, "a directory", "hide="),
    Expected("place /x", "mount", errno.ENOTDIR, "below a file", "another path"),
    Expected("find newuidmap", "user", errno.ENOENT, "not installed", "sudo apt install uidmap"),
    Expected(
        *("find a range in /etc/subuid", "user", errno.ENOENT, "gives user anna a range"),
        "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 anna",
    ),
    Expected(
        *("newuidmap", "user", errno.EPERM, "uid 1000 has no account", "/etc/passwd"),
        facts={"user_name": "1000"},
    ),
    Expected(
        *("newgidmap", "user", errno.EPERM, "no_new_privs", "allowPrivilegeEscalation"),
        facts={"status": {"NoNewPrivs": "1"}},
    ),
    Expected("newuidmap", "user", errno.EPERM, "in its own words", "grep anna /etc/subuid"),
    Expected("hide /x", "mount", errno.EBUSY, "needs what lies there", "hide less"),
    Expected("leave /x writable", "mount", errno.ENOENT, "does not have", "before the test"),
    Expected("make / read-only", "mount", errno.ENOSYS, "mount_setattr", "5.12"),
    Expected("set user.* attributes on a tmpfs", "mount", errno.EOPNOTSUPP, "6.1", "6.6"),
    Expected("mount overlay", "mount", errno.ENODEV, "no overlay", "5.11"),
    Expected("pivot_root", "mount", errno.EPERM, "no capability opens", SECCOMP),
    Expected("pivot_root", "mount", errno.EINVAL, "initial ramdisk", "switch_root"),
    Expected("open a terminal", None, errno.ENOSPC, "too many", "no terminal (< /dev/null)"),
    Expected("open a terminal", "mount", errno.ENOSPC, "too many", "leave user=False out"),
    # faults on demand
    Expected("answer system calls", None, errno.EBUSY, "on this process already", "no fault in a"),
    Expected("answer system calls", None, errno.ESRCH, "a thread of the test", "before that thr"),
    Expected("answer system calls", None, errno.EINVAL, "older than Linux 5.19", "newer kernel"),
    Expected("answer system calls", None, errno.ENOSYS, "no seccomp filters", "aarch64"),
    Expected("pidfd_getfd", None, errno.EPERM, "may not look into", "CAP_SYS_PTRACE"),
    Expected("ask the fault supervisor", None, errno.ETIMEDOUT + 1, "has ended, or", "dmesg"),
    Expected("ask the forwarder", None, errno.ECONNRESET, "has ended, or", "dmesg"),
    Expected("open tcp:127.0.0.1:80", "net", errno.EACCES, "below 1024", "net_bind_service"),
    Expected("open tcp:[::1]:80", "net", errno.EADDRNOTAVAIL, "without IPv6", "127.0.0.1"),
    Expected("find the test", None, errno.ESRCH, "was not to be seen", DEFECT),
    # the rest
    Expected("setsid", None, errno.EPERM, "probably the seccomp", SECCOMP, host=CONTAINER),
    Expected("open_tree", None, errno.ENOSYS, "has no such call", "5.12"),
    Expected("clone3", None, errno.ENOSYS, "or a seccomp filter hides it", SECCOMP),
    Expected("keep /dev/shm/x", "ipc", errno.EIO, "no known cause", "dmesg"),
]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Expected:
    """The case, on a host that answers as it says."""
    expected: Expected = request.param
    for name, answer in {**ORDINARY, **expected.facts}.items():
        monkeypatch.setattr(facts, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(originals.os.path, "exists", lambda path: True)
    return expected


@pytest.mark.parametrize("pretend", CASES, indirect=True, ids=str)
def test_a_refusal_is_explained(pretend: Expected) -> None:
    """The cause and the remedy are those of this case and of no neighbour."""
    said = explain(
        *(pretend.step, pretend.namespace, pretend.errno, pretend.host),
        user=pretend.user,
        filtered=pretend.filtered,
    )

    assert pretend.cause in said.cause
    assert pretend.remedy in said.remedy
    assert not re.search(r"\{\w*\}|\{\{", said.cause + said.remedy), "a placeholder is left"


def test_a_proc_that_is_not_there_explains_whatever_it_breaks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Many steps need a file of /proc."""
    monkeypatch.setattr(originals.os.path, "exists", lambda path: False)

    assert explain("read mountinfo", "mount", errno.ENOENT, USER).cause == "/proc is not mounted"


def first_row(expected: Expected, monkeypatch: pytest.MonkeyPatch) -> Row:
    """The row that answers this case."""
    with monkeypatch.context() as patch:
        for name, answer in {**ORDINARY, **expected.facts}.items():
            patch.setattr(facts, name, lambda *_, answer=answer: answer)
        case = Case(
            *(expected.step, expected.namespace, expected.errno),
            *(expected.host, expected.user, expected.filtered),
        )
        return next(row for row in TABLE if row.fits(case))


def test_every_row_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """No row hides behind one that stands above it."""
    reached = [first_row(expected, monkeypatch) for expected in CASES]

    missing = [row.cause for row in TABLE if row not in reached]

    assert missing == ["/proc is not mounted"]  # has a test of its own


def texts_of_the_code() -> Iterator[str]:
    """A pattern for each text of the package, names of steps among them."""
    for path in PACKAGE.rglob("*.py"):
        if "remedies" not in path.parts:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                match node:
                    case ast.Constant(value=str(text)):
                        yield re.escape(text)
                    case ast.JoinedStr(values=[ast.Constant(), *_] as parts):
                        texts = (getattr(part, "value", None) for part in parts)
                        yield "".join(re.escape(t) if isinstance(t, str) else ".+" for t in texts)


def test_no_row_explains_a_step_that_no_code_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that it can do is to stand before the row of another step."""
    steps = {case.step for case in CASES if first_row(case, monkeypatch).steps}
    known = re.compile("|".join(set(texts_of_the_code())))

    assert {step for step in steps if not known.fullmatch(step)} == set()


@pytest.mark.parametrize("namespace", [None, *NAMESPACES])
@pytest.mark.parametrize("host", [ROOT, USER, CONTAINER, MAC])
def test_there_is_an_answer_to_everything(host: Host, namespace: str | None) -> None:
    """An unknown step with an unknown number gets the last row, not an exception."""
    said = explain("do something new", namespace, 9999, host)

    assert said.cause
    assert said.remedy


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_the_apparmor_profile_is_for_this_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """AppArmor knows a program by the file that a symbolic link leads to."""
    monkeypatch.setattr(facts, "apparmor_restricts", lambda: True)
    monkeypatch.setattr(originals.os.path, "realpath", lambda path: f"/real{path}")

    remedy = explain("write uid_map", "user", errno.EPERM, USER).remedy

    assert f"profile pytest-nsisolate /real{sys.executable} flags=(unconfined)" in remedy


@pytest.mark.parametrize(
    ("place", "remedy"),
    [
        ("docker", "Docker: docker run --security-opt seccomp=unconfined"),
        ("podman", "Podman: --security-opt seccomp=unconfined --security-opt unmask=ALL"),
        ("kubernetes", "Kubernetes: securityContext: {seccompProfile: {type: Unconfined},"),
        ("gitlab", "GitLab runner: privileged = true below [runners.docker]"),
        ("github", "GitHub Actions: container: options: --privileged"),
    ],
)
def test_where_the_place_is_known_its_remedy_stands_alone(
    place: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to find out which of five is meant."""
    monkeypatch.setattr(facts, "place", lambda: place)

    said = explain(NEWUSER, "user", errno.EPERM, CONTAINER, filtered=True).remedy
    unmasked = explain("write uid_map", "user", errno.EROFS, ROOT).remedy

    assert said.startswith(remedy)
    assert "; " not in said
    assert ("; Docker" in unmasked) is False
