# SPDX-License-Identifier: MIT
"""The verdict on a request: tried in a real child, on hosts that really refuse."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pytest

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.host import Host
from pytest_nsisolate.host.refusal import Refusal
from pytest_nsisolate.kernel import idmap, mounts, network, originals, process, rlimits
from pytest_nsisolate.kernel.namespaces import NAMESPACES
from pytest_nsisolate.process import child_process, host_check, launch, supervisor
from pytest_nsisolate.process.launcher import Launcher
from pytest_nsisolate.process.plan import Fixed, current_directory
from pytest_nsisolate.request.model import IsolationRequest, UserMode
from tests.hosts import NEEDS_HOSTS, NEEDS_ROOT, run_on
from tests.support import ON_THE_HOST

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")

ALL = frozenset(NAMESPACES)
NOTHING: frozenset[str] = frozenset()

TRY = """
import json, sys
from pytest_nsisolate.process.launcher import Launcher
from pytest_nsisolate.process.plan import Fixed
namespaces, user, named = json.loads(sys.argv[1])
verdict = Launcher(Fixed(())).check.probe(frozenset(namespaces), user, frozenset(named))
why = verdict.refusal or verdict.user_refusal
print(json.dumps({
    "ok": verdict.ok, "leave_out_user": verdict.leave_out_user,
    "step": why and why.step, "namespace": why and why.namespace,
    "errno": why and why.errno_name, "cause": why.cause if why else "",
}))
"""


class Answer(NamedTuple):
    """A verdict, and its refusal or the reason why the user namespace is left out."""

    ok: bool
    leave_out_user: bool
    step: str | None
    namespace: str | None
    errno: str | None
    cause: str


def probe_on(
    host: str, namespaces: frozenset[str] = ALL, user: UserMode = "map", *named: str
) -> Answer:
    """The verdict, as a fresh interpreter on that host comes to it."""
    request = json.dumps([sorted(namespaces), user, named])
    done = run_on(host, sys.executable, "-c", TRY, request)
    assert (done.returncode, done.stderr) == (0, "")
    return Answer(**json.loads(done.stdout))


@dataclass(frozen=True)
class Footprint:
    """Everything of a process that the host check might change."""

    descriptors: tuple[str, ...] = field(default_factory=lambda: tuple(os.listdir("/proc/self/fd")))
    children: str = field(
        default_factory=lambda: Path("/proc/thread-self/children").read_text(encoding="ascii")
    )
    mask: frozenset[int] = field(
        default_factory=lambda: frozenset(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    )
    handlers: tuple[object, ...] = field(
        default_factory=lambda: tuple(map(signal.getsignal, (signal.SIGCHLD, signal.SIGINT)))
    )
    filters: tuple[object, ...] = field(default_factory=lambda: tuple(warnings.filters))
    namespaces: tuple[str, ...] = field(
        default_factory=lambda: tuple(
            os.readlink(f"/proc/self/ns/{name}") for name in sorted(os.listdir("/proc/self/ns"))
        )
    )


@pytest.fixture(autouse=True)
def _nothing_changes() -> Iterator[None]:
    """Every test here checks that this process stayed as it was, whatever the child did."""
    before = Footprint()
    yield
    assert Footprint() == before


@pytest.fixture
def all_gone() -> Iterator[Callable[[], bool]]:
    """Whether every child forked since has ended: they all hold the writing end of a pipe."""
    reading, writing = os.pipe()
    held = [writing]

    def all_gone() -> bool:
        os.close(held.pop())
        poller = select.poll()
        poller.register(reading, 0)  # only the hang-up
        return bool(poller.poll(5000))

    try:
        yield all_gone
    finally:
        for fd in (reading, *held):
            os.close(fd)


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    """Of this process; it leaves nothing behind."""
    launcher = Launcher(Fixed((current_directory(),)))
    yield launcher
    launcher.close()


#: Try everything at once, as for the first test: why not.
Attempt: TypeAlias = Callable[[], Refusal | None]


@pytest.fixture
def attempt(launcher: Launcher) -> Attempt:
    """By the launcher of this process."""
    return lambda: launcher.check.probe(ALL, "map", frozenset({"user"})).refusal


def hang(*_: object, **__: object) -> None:
    """Stand in for a step that never ends."""
    time.sleep(600)


@NEEDS_HOSTS
@pytest.mark.parametrize("host_name", ["plain", "root", "ordinary-user", "only-setfcap"])
@pytest.mark.parametrize("user", ["map", "same"])
def test_everything_can_be_had(host_name: str, user: UserMode) -> None:
    """Root, root of a user namespace, an ordinary user, and uid 0 with next to nothing."""
    verdict = probe_on(host_name, ALL, user)

    assert (verdict.ok, verdict.leave_out_user, verdict.step) == (True, False, None)


@NEEDS_HOSTS
@pytest.mark.parametrize("name", NAMESPACES)
def test_each_namespace_can_be_had_alone(name: str, launcher: Launcher) -> None:
    """As an unprivileged runner needs it: with a user namespace, and mounts for those that ask."""
    needed = {"mount"} if name in ("pid", "net", "ipc") else set()

    verdict = launcher.check.probe(frozenset({"user", name, *needed}), "map", NOTHING)

    assert verdict.refusal is None


REFUSALS = [
    ("no-net", "unshare(CLONE_NEWNET)", "ENOSPC", "user.max_net_namespaces = 0"),
    ("no-user", "unshare(CLONE_NEWUSER)", "ENOSPC", "user.max_user_namespaces = 0"),
    ("no-user-outside", "unshare(CLONE_NEWUSER)", "ENOSPC", "a namespace around it"),
    ("unmapped", "unshare(CLONE_NEWUSER)", "EPERM", "not mapped in the user namespace"),
    ("no-capabilities", "write uid_map", "EPERM", "uid 0 without CAP_SETFCAP"),
    (
        "read-only-proc",
        "write uid_map or write timens_offsets",
        "EROFS",
        "/proc is mounted read-only",
    ),
    ("no-proc", "read mountinfo", "ENOENT", "/proc is not mounted"),
    ("chroot", "unshare(CLONE_NEWUSER)", "EPERM", "the runner is in a chroot"),
    ("chroot-user", "unshare(CLONE_NEWUSER)", "EPERM", "the runner is in a chroot"),
    ("filtered", "unshare(CLONE_NEWUSER)", "EPERM", "Docker's default profile"),
    ("filtered-kill", "start the host check", "EPIPE", "a seccomp filter that kills"),
    ("filtered-mount", "make / private", "EPERM", "the seccomp filter of a container"),
    ("mount-denied", "make / private", "EACCES", "a security module forbids mounting"),
    ("no-pidfd", "pidfd_open", "ENOSYS", "no pidfd_open"),
    ("no-fork", "fork", "EAGAIN", "no other process may be started"),
]


@NEEDS_HOSTS
@pytest.mark.parametrize(("host_name", "step", "error", "cause"), REFUSALS)
def test_a_refusal_names_step_number_and_cause(
    host_name: str, step: str, error: str, cause: str
) -> None:
    """On hosts that refuse for real."""
    verdict = probe_on(host_name)

    # Where /proc is read-only the runner and the supervisor are refused at the same time.
    assert verdict.step in step.split(" or ")
    assert (verdict.ok, verdict.errno) == (False, error)
    assert cause in verdict.cause


@NEEDS_HOSTS
@pytest.mark.parametrize(
    ("host_name", "step", "cause"),
    [
        ("no-net-admin", "set lo up", "CAP_NET_ADMIN"),
        ("no-sys-time", "write timens_offsets", "CAP_SYS_TIME"),
        ("ordinary-user", "unshare(CLONE_NEWTIME)", "CAP_SYS_ADMIN"),
    ],
)
def test_without_a_user_namespace_the_own_capabilities_count(
    host_name: str, step: str, cause: str
) -> None:
    """``user=False`` needs what a container's root often does not have."""
    verdict = probe_on(host_name, ALL - {"user"}, "none")

    assert (verdict.ok, verdict.step, verdict.errno) == (False, step, "EPERM")
    assert cause in verdict.cause


@NEEDS_HOSTS
@pytest.mark.parametrize(
    ("host_name", "step"),
    [
        ("no-user-root", "unshare(CLONE_NEWUSER)"),
        ("no-setfcap", "write uid_map"),
        pytest.param("masked-proc", "mount proc", marks=ON_THE_HOST),
        pytest.param("masked-proc-root", "mount proc", marks=(NEEDS_ROOT, ON_THE_HOST)),
        ("masked-sys", "mount sysfs"),
    ],
)
def test_an_implied_user_namespace_is_left_out_where_root_can_do_without(
    host_name: str, step: str
) -> None:
    """As in a container with CAP_SYS_ADMIN; one that the marker names is refused."""
    implied = probe_on(host_name)
    named = probe_on(host_name, ALL, "map", "user")

    assert (implied.ok, implied.leave_out_user, implied.step) == (True, True, step), implied
    assert (named.ok, named.leave_out_user, named.step) == (False, False, step), named


@NEEDS_HOSTS
def test_a_filter_on_one_namespace_is_told_from_one_on_all() -> None:
    """``unshare(0)`` is granted there, as under RestrictNamespaces= of systemd."""
    script = (
        "import errno, os, sys; from tests.seccomp import deny;"
        "deny('unshare', errno.EPERM, argument=0, mask=0x40000000);"
        "os.execv(sys.executable, [sys.executable, '-c', *sys.argv[1:]])"
    )
    request = json.dumps([sorted(ALL), "map", []])
    here = dict(os.environ, PYTHONPATH=f"{Path(__file__).parents[2]}")

    done = run_on("plain", sys.executable, "-c", script, TRY, request, env=here)

    verdict = Answer(**json.loads(done.stdout))
    assert (verdict.step, verdict.errno) == ("unshare(CLONE_NEWNET)", "EPERM")
    assert "RestrictNamespaces=" in verdict.cause


# What the children do wrong is injected before the fork, which they inherit.


@NEEDS_HOSTS
@pytest.mark.parametrize("where", ["pid1", "supervisor"])
def test_a_step_that_hangs_is_killed(
    where: str, attempt: Attempt, monkeypatch: pytest.MonkeyPatch, all_gone: Callable[[], bool]
) -> None:
    """The runner waits no longer than it said, and nothing of the child is left."""
    if where == "pid1":
        monkeypatch.setattr(mounts, "apply", hang)
    else:
        monkeypatch.setattr(supervisor, "_unshare_and_fork", hang)
    monkeypatch.setattr(child_process, "STEP_SECONDS", 0.2)
    begin = time.monotonic()

    refusal = attempt()

    assert time.monotonic() - begin < 4
    assert refusal is not None
    assert refusal.errno == errno.ETIMEDOUT
    assert all_gone()


@NEEDS_HOSTS
def test_a_child_that_is_killed_is_a_refusal(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch, all_gone: Callable[[], bool]
) -> None:
    """Silence is no consent."""
    reading, writing = os.pipe()

    def stop(*_: object) -> None:
        os.write(writing, b".")
        hang()

    def die(*_: object) -> None:
        os.read(reading, 1)
        os.kill(os.getpid(), signal.SIGKILL)

    # PID 1 has come far enough to die with it, and not to the end.
    monkeypatch.setattr(mounts, "apply", stop)
    monkeypatch.setattr(supervisor, "_watch", die)

    refusal = attempt()

    os.close(reading)
    os.close(writing)
    assert refusal is not None
    assert refusal.detail == "the child was killed by SIGKILL"
    assert all_gone()


def test_a_limit_with_nothing_to_compare_it_with_is_a_refusal(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whether ``pid_max`` is the namespace's own is told by the runner's, if that can be read."""
    launcher.host = replace(launcher.host, kernel=rlimits.FIRST_OWN_PID_MAX)
    monkeypatch.setattr(rlimits, "PID_MAX", str(tmp_path / "pid_max"))

    refusal = launcher.check.try_limit(ALL, "map")

    assert refusal is not None
    assert (refusal.step, refusal.errno_name) == ("read pid_max", "ENOENT")


@NEEDS_HOSTS
def test_a_child_that_ends_without_a_word_is_a_refusal(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a regular exit."""
    monkeypatch.setattr(network, "bring_loopback_up", lambda: os._exit(0))

    refusal = attempt()

    assert refusal is not None
    assert refusal.detail == "PID 1 ended with status 0"


@NEEDS_HOSTS
def test_a_defect_in_the_child_is_reported_as_one(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception that is no refusal is shown, and blamed on us."""

    def fail() -> None:
        raise ValueError("what a defect")

    monkeypatch.setattr(network, "bring_loopback_up", fail)

    refusal = attempt()

    assert refusal is not None
    assert "ValueError: what a defect" in refusal.headline()
    assert "please report it" in refusal.remedy


@NEEDS_HOSTS
def test_an_interrupt_leaves_no_child(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch, all_gone: Callable[[], bool]
) -> None:
    """Ctrl-C while the runner waits: the child is killed and reaped on the way out."""

    def interrupt(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(mounts, "apply", hang)
    monkeypatch.setattr(child_process.ChildProcess, "_await_frames", interrupt)

    with pytest.raises(KeyboardInterrupt):
        attempt()

    assert all_gone()


@NEEDS_HOSTS
def test_a_runner_that_ignores_its_children_can_be_checked(attempt: Attempt) -> None:
    """With SIGCHLD ignored the kernel reaps the child, and there is no status to be had."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert attempt() is None
    finally:
        signal.signal(signal.SIGCHLD, before)


@NEEDS_HOSTS
def test_a_runner_with_threads_gets_no_warning(attempt: Attempt) -> None:
    """Python 3.12 and newer warn of a fork beside threads; here the child calls no user's code."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert attempt() is None
    finally:
        done.set()
        thread.join()


@NEEDS_HOSTS
@pytest.mark.parametrize("host_name", ["plain", "ordinary-user"])
def test_a_hook_that_starts_threads_in_children_is_no_obstacle(host_name: str) -> None:
    """As OpenTelemetry's: beside a thread NEWUSER is EINVAL, so the child is born into it."""
    hook = (
        "import os, threading, time\n"
        "start = lambda: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "os.register_at_fork(after_in_child=start)\n"
    )
    # The offsets of a time namespace want to be written from outside then, which takes root.
    as_root = host_name == "plain" and os.geteuid() == 0
    wanted = ALL if as_root else ALL - {"time"}
    request = json.dumps([sorted(wanted), "map", []])

    done = run_on(host_name, sys.executable, "-W", "error", "-c", hook + TRY, request)

    assert (done.stderr, json.loads(done.stdout)["ok"]) == ("", True)


@pytest.mark.parametrize("call", ["memfd_create", "socketpair", "fork"])
def test_what_fails_in_the_runner_is_a_refusal_too(
    call: str, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of descriptors or of processes: nothing of what was made before stays open."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "injected")

    owner = originals.os if call == "memfd_create" else launch
    monkeypatch.setattr(owner, call, fail)

    refusal = attempt()

    assert refusal is not None
    assert (refusal.step, refusal.errno) == (call, errno.EMFILE)


@NEEDS_HOSTS
def test_an_id_map_that_cannot_be_written_ends_the_child(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch, all_gone: Callable[[], bool]
) -> None:
    """Whoever writes it, runner or child, the other one does not wait for ever."""

    def fail(*_: object) -> None:
        raise StepError("write uid_map", "user", errno.EPERM)

    monkeypatch.setattr(idmap, "write_maps", fail)

    refusal = attempt()

    assert refusal is not None
    assert (refusal.step, refusal.errno) == ("write uid_map", errno.EPERM)
    assert all_gone()


def test_a_missing_prctl_is_a_refusal(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    """python-prctl is compiled, so it is what an installation may lack."""

    def fail() -> None:
        raise ImportError("no module named prctl")

    monkeypatch.setattr(process, "_prctl", fail)

    refusal = attempt()

    assert refusal is not None
    assert (refusal.step, "libcap-dev" in refusal.remedy) == ("import prctl", True)


def test_no_linux_is_a_refusal_without_a_fork(
    launcher: Launcher, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is tried where it cannot work."""
    monkeypatch.setattr(launch, "fork", None)
    launcher.host = Host(False, False, -1, -1, 0, (0, 0))

    refusal = attempt()

    assert refusal is not None
    assert "namespaces are a part of Linux" in refusal.cause


# When the user namespace may be left out.

ROOT = Host(True, True, 0, 0, ~0, (6, 1))
USER = Host(True, False, 1000, 1000, 0, (6, 1))
NO_USER = Refusal("unshare(CLONE_NEWUSER)", "user", errno.ENOSPC)
NO_PROC = Refusal("mount proc", "pid", errno.EPERM)
NO_NET = Refusal("unshare(CLONE_NEWNET)", "net", errno.ENOSPC)
NO_DROP = Refusal("drop capabilities", "user", errno.EPERM)

#: What was tried: the namespaces, and how the user namespace was wanted.
Tried: TypeAlias = list[tuple[frozenset[str], UserMode]]


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tried]:
    """In place of the kernel: one answer for each attempt, and afterwards always yes."""

    def answer(*refusals: Refusal | None) -> Tried:
        answers, tried = iter(refusals), Tried()

        def carry_out(_: Launcher, request: IsolationRequest, *__: object) -> Refusal | None:
            tried.append((request.namespaces, request.user))
            return next(answers, None)

        monkeypatch.setattr(host_check, "_carry_out", carry_out)
        return tried

    return answer


@pytest.mark.parametrize(
    ("host", "user", "named", "error", "left_out"),
    [
        (ROOT, "map", NOTHING, NO_USER, True),
        (ROOT, "same", NOTHING, NO_USER, True),
        (ROOT, "map", NOTHING, NO_PROC, True),
        (ROOT, "map", frozenset({"user"}), NO_USER, False),
        (ROOT, "none", NOTHING, NO_PROC, False),
        (USER, "map", NOTHING, NO_USER, False),
        # A limit that is reached says nothing about user namespaces.
        (ROOT, "map", NOTHING, NO_NET, False),
        # Without the user namespace the test would keep what it was meant to lose.
        (ROOT, "same", NOTHING, NO_DROP, False),
    ],
)
def test_the_user_namespace_is_left_out_only_for_a_reason(
    host: Host,
    user: UserMode,
    named: frozenset[str],
    error: Refusal,
    left_out: bool,
    launcher: Launcher,
    answered: Callable[..., Tried],
) -> None:
    """Implied, a runner with capabilities, and a refusal that goes away without it."""
    tried = answered(error)
    launcher.host = host

    verdict = launcher.check.probe(ALL, user, named)

    again = [(ALL - {"user"}, "none")] if left_out else []
    assert tried == [(ALL, user), *again]
    assert (verdict.leave_out_user, verdict.ok) == (left_out, left_out)


def test_a_refusal_that_stays_without_the_user_namespace_is_the_first_one(
    launcher: Launcher, answered: Callable[..., Tried]
) -> None:
    """The user hears of the request that was made, not of the second try."""
    answered(NO_USER, NO_NET)
    launcher.host = ROOT

    refusal = launcher.check.probe(ALL, "map", NOTHING).refusal

    assert refusal is not None
    assert refusal.step == NO_USER.step


def test_a_refusal_reads_as_what_why_and_what_now() -> None:
    """One line for the step, one for the cause, one for the remedy."""
    refusal = Refusal(
        "set lo up", "net", errno.EPERM, "lo", cause="no capability", remedy="get one"
    )

    assert str(refusal).splitlines() == [
        "set lo up for the net namespace: EPERM, Operation not permitted (lo)",
        "  cause: no capability",
        "  remedy: get one",
    ]


def test_each_kind_of_request_is_tried_once(
    launcher: Launcher, answered: Callable[..., Tried]
) -> None:
    """A run with a thousand isolated tests of one kind forks one throw-away child."""
    tried = answered()

    for _ in range(3):
        launcher.check.probe(ALL, "map", NOTHING)
        launcher.check.probe(ALL, "map", frozenset({"net"}))
        launcher.check.probe(ALL, "same", NOTHING)

    assert len(tried) == 2


def test_notes_tell_once_what_no_report_says(
    launcher: Launcher, answered: Callable[..., Tried]
) -> None:
    """What runs without its user namespace; a refusal is in the reports."""
    answered(None, NO_NET, NO_USER, None, NO_USER, None)
    launcher.host = ROOT

    launcher.check.probe(ALL - {"net"}, "map", NOTHING)
    launcher.check.probe(ALL, "map", NOTHING)
    launcher.check.probe(ALL, "same", NOTHING)
    launcher.check.probe(ALL - {"net"}, "same", NOTHING)

    assert [note.split(": ")[:3] for note in launcher.notes()] == [
        ["nsisolate", "without user", "unshare(CLONE_NEWUSER) for the user namespace"],
    ]
