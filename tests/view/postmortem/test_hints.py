# SPDX-License-Identifier: MIT
"""Hints where the plugin knows more than an error number says, and none where it does not."""

from __future__ import annotations

import errno
import os
import pickle
import re
import shutil
import subprocess
import types
from typing import Any, Final

import pytest

from pytest_nsisolate.view.postmortem import denials, section
from pytest_nsisolate.view.postmortem.denials import Denial
from pytest_nsisolate.view.postmortem.section import HINT_TITLE, TITLE
from tests.inner_runs import NOBODY, SIDES, Side, run_batch
from tests.support import NEEDS_NAMESPACES, Result
from tests.view.postmortem.test_postmortem import section_of

#: The unprivileged runner.
USER: Final = os.geteuid() or NOBODY

ONE_ID: Final = (
    f"hint: an unprivileged runner gives a test one user and one group, its own (0, {USER} "
    "outside): no other can be set or own a file. As root it gives all, "
    'user="range" more; user="same" keeps yours'
)
ONE_ID_SAME: Final = ONE_ID.replace(f"(0, {USER} outside)", f"({USER})").partition(", user")[0]
SETTINGS: Final = (
    "hint: /proc/sys is the machine's and read-only in here, but for the test's own net.*, user.*, "
    "kernel.hostname, kernel.{shm,sem,msg}*, fs.mqueue.*; isolated(False) leaves a test on the host"
)
SYS: Final = (
    "hint: /sys is the machine's and read-only in here; isolated(False) leaves a test on the host"
)


pytestmark = NEEDS_NAMESPACES


def foreign(path: str) -> str:
    return (
        f"hint: {path} is not yours outside, and root in here has no more rights to the host's "
        f"files than user {USER} has. Mount a file of yours over it, or run pytest as root"
    )


SUITE: Final = """
import os, shutil, signal, subprocess, sys
import pytest

isolated = pytest.mark.isolated
PATH = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}

@pytest.fixture
def own(tmp_path):
    (tmp_path / "own").touch()
    return str(tmp_path / "own")

def run(*command, **options):
    subprocess.run(command, check=True, capture_output=True, env=PATH, **options)

# Ids ---------------------------------------------------------------------------------------------
@isolated
def test_chown(own): os.chown(own, 4321, 4321)
@isolated
def test_chown_by_shutil(own): shutil.chown(own, 4321)
@isolated
def test_chown_over_lines(own):
    os.chown(
        own,
        4321,
        4321,
    )
@isolated
def test_chown_wrapped(own):
    try: os.chown(own, 4321, 4321)
    except OSError as error: raise RuntimeError("not installed") from error
@isolated
def test_setuid(): os.setresuid(4321, 4321, 4321)
@isolated
def test_setgroups(): os.setgroups([4321])
@isolated
def test_popen_user(): subprocess.run(["true"], user=4321)
@isolated
def test_popen_groups(): subprocess.run(["true"], extra_groups=[4321])
@isolated
def test_chown_program(own): run("chown", "4321", own)
@isolated
def test_setpriv_program(): run("setpriv", "--reuid=4321", "true")
@isolated(user="same")
def test_chown_same(own): os.chown(own, 4321, 4321)
def test_chown_unmarked(own): os.chown(own, 4321, 4321)
@isolated
def test_other_einval(own):
    # On the same line as the name of such a call, and not by it.
    os.chown; os.lseek(os.open(own, os.O_RDONLY), -1, os.SEEK_SET); os.setuid
@isolated
def test_invented_einval(own): raise OSError(22, "Invalid argument", own)
@isolated(caps=[])
def test_no_right_to_change(own): os.chown("/proc/self", 0, 0)

# Files of the host's -----------------------------------------------------------------------------
@isolated
def test_append(): open("/etc/passwd", "a").close()
@isolated
def test_create():
    if os.environ["SIDE"] == "user": open("/etc/nsisolate-test", "x").close()
@isolated
def test_look(): os.listdir("/root")
@isolated
def test_look_below(): open("/root/nothing", "r+").close()
@isolated
def test_chmod(): os.chmod("/etc/passwd", os.stat("/etc/passwd").st_mode)
@isolated
def test_touch_program():
    # As root it would change the host's.
    if os.environ["SIDE"] == "user": run("touch", "/etc/passwd")
@isolated(user="same")
def test_append_same(): open("/etc/passwd", "a").close()
def test_append_unmarked(): open("/etc/passwd", "a").close()
@isolated
def test_no_program(): subprocess.run(["/etc/passwd"])
@isolated
def test_no_such_program(tmp_path):
    (tmp_path / "nsisolate-nothing").touch()
    os.chdir("/etc")
    subprocess.run(["nsisolate-nothing"], env={"PATH": str(tmp_path)})
@isolated
def test_invented_eacces(own): raise PermissionError(13, "Permission denied", own)
@isolated
def test_program_without_exec(own):
    subprocess.run([own])

# Settings ----------------------------------------------------------------------------------------
@isolated
def test_setting(): open("/proc/sys/kernel/panic", "w").close()
@isolated
def test_setting_updated(): open("/proc/sys/kernel/panic", "r+").close()
@isolated
def test_setting_by_program(): run("sysctl", "-w", "kernel.panic=1")
@isolated
def test_setting_by_shell(): run("sh", "-c", "echo 1 > /proc/sys/kernel/panic")
def test_setting_unmarked(): open("/proc/sys/kernel/panic", "w").close()
@isolated
def test_sys(): open("/sys/kernel/uevent_seqnum", "w").close()
@isolated
def test_cgroup(): os.mkdir("/sys/fs/cgroup/nsisolate-test")
@isolated
def test_own_setting():
    with open("/proc/sys/net/ipv4/ip_forward", "r+") as file: file.write("1")
    assert 0
@isolated
def test_read_only_of_its_own(tmp_path):
    run("mount", "-t", "tmpfs", "-o", "ro", "none", str(tmp_path))
    open(tmp_path / "new", "w").close()

# Orphans -----------------------------------------------------------------------------------------
DAEMON = '''
import os, signal, sys
if os.fork(): os._exit(0)
{}
os.close(1)
signal.pause()
'''

def others():
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]

def status(pid):
    return open(f"/proc/{pid}/stat").read()

def daemon(*commands):
    subprocess.run([sys.executable, "-c", DAEMON.format("\\n".join(commands))], stdout=-1)
    while len(left := [pid for pid in others() if ") Z " not in status(pid)]) > 1:
        os.sched_yield()  # its parent is about to end
    (pid,) = left
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid

def alive(pid):
    try: os.kill(pid, 0)
    except OSError: return False
    return True

DOUBLE = ("os.setsid()", "if os.fork(): os._exit(0)")

@isolated
def test_double_fork(): assert not alive(daemon(*DOUBLE))
@isolated
def test_own_session(): assert not alive(daemon("os.setsid()"))
@isolated
def test_in_the_background(): assert not alive(daemon())
@isolated
def test_stopped_by_a_program():
    pid = daemon(*DOUBLE)
    run("sh", "-c", f"! kill -0 {pid}")
@isolated
def test_says_something_else():
    daemon(*DOUBLE)
    {}["key"]
@isolated
def test_says_so_itself(pid1):
    daemon(*DOUBLE)
    pid1.assert_no_zombies()
@isolated
def test_forgotten_child():
    process = subprocess.Popen(["true"], start_new_session=True)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not alive(process.pid)
@isolated
def test_forgotten_fork():
    if (pid := os.fork()) == 0: os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert not alive(pid)
@isolated(timeout=4)
def test_waits_for_ever():
    pid = daemon(*DOUBLE)
    while alive(pid): signal.pause()
"""

#: By the test, the line that it gets from an unprivileged runner; as the host's root it has none.
ROOTLESS: Final = {
    **dict.fromkeys(
        (
            *("test_chown", "test_chown_by_shutil", "test_chown_over_lines", "test_chown_wrapped"),
            *("test_setuid", "test_setgroups", "test_popen_user", "test_popen_groups"),
            *("test_chown_program", "test_setpriv_program"),
        ),
        ONE_ID,
    ),
    **dict.fromkeys(("test_chown_same", "test_chown_unmarked"), ONE_ID_SAME),
    **dict.fromkeys(("test_append", "test_chmod", "test_touch_program"), foreign("/etc/passwd")),
    "test_create": foreign("/etc"),
    **dict.fromkeys(("test_look", "test_look_below"), foreign("/root")),
}

#: The machine's settings: the host's root owns them, so they are read-only for it in here.
OF_THE_MACHINE: Final = (
    *("test_setting", "test_setting_updated", "test_setting_by_shell", "test_setting_by_program"),
)

#: Read-only for both.
ALWAYS: Final = dict.fromkeys(("test_sys", "test_cgroup"), SYS)

#: No hint: the same number, and another cause.
NEVER: Final = (
    *("test_other_einval", "test_invented_einval", "test_no_right_to_change"),
    *("test_append_same", "test_append_unmarked", "test_no_program", "test_invented_eacces"),
    "test_no_such_program",
    *("test_program_without_exec", "test_own_setting", "test_read_only_of_its_own"),
)

ORPHANS: Final = (
    *("test_double_fork", "test_own_session", "test_in_the_background"),
    *("test_stopped_by_a_program", "test_waits_for_ever"),
)
NO_ORPHANS: Final = (
    *("test_says_something_else", "test_says_so_itself"),
    *("test_forgotten_child", "test_forgotten_fork"),
)

#: What this machine may not have.
MISSING: Final = {
    *(() if shutil.which("sysctl", path="/usr/sbin:/sbin") else ("test_setting_by_program",)),
    *(() if not os.stat("/root").st_mode & 0o007 else ("test_look", "test_look_below")),
}


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> Side:
    found: Side = request.param
    return found


@pytest.fixture
def told(side: Side, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The suite's run, once for each side."""
    kept = tmp_path_factory.getbasetemp() / f"hints-{side}"
    if not kept.exists():
        options = ("--nsisolate=all", "-p", "no:randomly")
        result = run_batch({"test_it.py": SUITE}, side, *options, env={"SIDE": side})
        kept.write_bytes(pickle.dumps(result))
    found: Result = pickle.loads(kept.read_bytes())
    return found


def hints(result: Result, name: str) -> list[str]:
    """The lines in the reports of a test."""
    texts = [str(report["text"]) for report in result.of(name)]
    assert texts, result.text
    return [line for text in texts for line in text.splitlines() if line.startswith("hint: ")]


def test_ids_and_files_that_only_root_has_outside(told: Result, side: Side) -> None:
    """Whoever makes the call, and however it is told; with the ids of both sides."""
    found = {name: hints(told, name) for name in ROOTLESS if name not in MISSING}
    lines = {name: [line] if side == "user" else [] for name, line in ROOTLESS.items()}
    assert found == {name: lines[name] for name in found}


def test_what_was_made_read_only(told: Result, side: Side) -> None:
    """By this plugin: the machine's settings, and its devices."""
    machine = SETTINGS
    if side == "user":  # "run pytest as root" would only lead to the line above
        remedy = "It is the machine's: as root, isolated(False) can change it"
        machine = foreign("/proc/sys/kernel/panic").partition("Mount")[0] + remedy
    expected = {**ALWAYS, **dict.fromkeys(OF_THE_MACHINE, machine)}
    found = {name: hints(told, name) for name in expected if name not in MISSING}
    assert found == {name: [expected[name]] for name in found}


def test_the_same_number_for_another_cause_is_no_hint(told: Result, side: Side) -> None:
    """Negative control: all of these have failed, and nothing is said."""
    failed = {name: any(r["outcome"] == "failed" for r in told.of(name)) for name in NEVER}
    # As root these are let in.
    let_in = {*()} if side == "user" else {"test_append_same", "test_append_unmarked"}
    assert {name for name, has_failed in failed.items() if not has_failed} == let_in
    assert [name for name in NEVER if hints(told, name)] == []


def test_an_orphan_that_has_ended_and_nobody_waits_for(told: Result) -> None:
    """However it was left, if the test waits for its end; its own forgotten children are not."""
    expected = re.compile(
        r"hint: an orphan that has ended is a zombie until PID 1, which is this test, waits for it:"
        r"(?:,? \d+ [(\[]python[\d.]*[)\]])+\. With init=True an init does so"
    )
    for name in ORPHANS:
        (line,) = hints(told, name)
        assert expected.fullmatch(line), line
    assert [name for name in NO_ORPHANS if hints(told, name)] == []


def test_an_unmarked_test_has_its_hint_alone(told: Result, side: Side) -> None:
    """It was promised the behaviour of an un-isolated one, which an ordinary user's has here."""
    text = told.failure("test_setting_unmarked")
    if side == "root":
        assert section_of(text) == SETTINGS
    assert (HINT_TITLE in text, TITLE in text) == (side == "root", False)


# What was denied ---------------------------------------------------------------------------------


def found_in(output: str | bytes) -> list[Denial]:
    error = subprocess.CalledProcessError(1, ["x"], output, None)
    return list(denials.denials(error))


@pytest.mark.parametrize(
    ("output", "number", "path", "calls"),
    [
        ("chown: changing ownership of '/a/b': Invalid argument", "EINVAL", "/a/b", {"chown"}),
        ("install: cannot change owner of '/a': Operation not permitted", "EPERM", "/a", {"chown"}),
        ("su: cannot set groups: Operation not permitted", "EPERM", None, {"setgroups"}),
        ("setpriv: setresuid failed: Invalid argument", "EINVAL", None, {"setuid"}),
        ("touch: cannot touch '/etc/x': Permission denied", "EACCES", "/etc/x", set()),
        ("cat: /etc/shadow: Permission denied", "EACCES", "/etc/shadow", set()),
        ("sh: 1: cannot create /sys/x: Read-only file system", "EROFS", "/sys/x", set()),
        ("mount: /mnt: permission denied.", "EACCES", None, set()),
        ("sh: 1: /etc/passwd: Permission denied", "EACCES", None, set()),
        ("chmod: changing permissions of '/a': Operation not permitted", "EPERM", "/a", set()),
        ('sysctl: permission denied on key "a.b"', "EACCES", "/proc/sys/a/b", set()),
        ('sysctl: setting key "a.b": Read-only file system', "EROFS", "/proc/sys/a/b", set()),
        (
            b"x: cannot open '/\xff': Permission denied",
            "EACCES",
            "/\N{REPLACEMENT CHARACTER}",
            set(),
        ),
    ],
)
def test_programs_say_it_in_the_words_of_strerror(
    output: str | bytes, number: str, path: str | None, calls: set[str]
) -> None:
    """With what they have tried before it, in one line of many."""
    before, after = ("first\n", "\nlast") if isinstance(output, str) else (b"first\n", b"\nlast")
    expected = Denial(getattr(errno, number), path, frozenset(calls))
    assert expected in found_in(before + output + after)  # type: ignore[operator]


@pytest.mark.parametrize(
    "output", ["", "all is well", "Permission denied", "no such file: /etc/x", None, 7, b"\0" * 9]
)
def test_nothing_is_read_into_other_words(output: Any) -> None:
    """Nor into what is no output."""
    assert list(denials.denials(subprocess.CalledProcessError(1, ["x"], output))) == []


def test_what_is_sent_as_hints_is_bounded_and_plain() -> None:
    """A child may send anything."""
    report: Any = types.SimpleNamespace(longrepr="text", sections=[])
    section.attach(report, None, ["a\x1b", 7, "b" * 1000, *["c"] * 100], "")
    ((title, content),) = report.sections
    assert title == HINT_TITLE
    assert content.splitlines()[0] == "a?"
    assert len(content.splitlines()) < 10
    assert max(map(len, content.splitlines())) < 240
