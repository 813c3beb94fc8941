# SPDX-License-Identifier: MIT
"""``python -m pytest_nsisolate enter``: a shell, or a command, where a held test is."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pexpect
import pytest

from pytest_nsisolate.cli import held as held_tests
from pytest_nsisolate.runner import hold
from tests.hosts import NEEDS_ROOT
from tests.inner_runs import NOBODY, SIDES, Side, assert_nothing_alive, prefix, suite_folder
from tests.pseudo_terminals import CTRL_C, CTRL_Z, at_terminal, pytest_command
from tests.support import NEEDS_NAMESPACES, inner_environment

pytestmark = NEEDS_NAMESPACES

INSIDE: Final = "inside> "
HELD: Final = r"is held open as (\d+);.*to go on\)"

#: What a command tells of the place where it is, a line each.
WHERE: Final = """
hostname
cat /proc/1/comm
echo $(ls /sys/class/net)
for name in user pid mnt net uts ipc cgroup time; do readlink /proc/self/ns/$name; done
pwd
id -u
sed -n 's/CapBnd:.//p' /proc/self/status
"""


@dataclass
class Held:
    """A run of pytest at a terminal, whose first failure is held open.

    :param pid: the number that it has said.
    """

    folder: Path
    side: Side
    pytest: pexpect.spawn[str]
    pid: int

    def command(self, *words: str) -> list[str]:
        enter = [sys.executable, "-m", "pytest_nsisolate", "enter", *words]
        return [*prefix(self.side), "env", *enter]

    @property
    def env(self) -> dict[str, str]:
        home = str(self.folder)
        fixed = {"TAG": home, "HOME": home, "PS1": INSIDE, "SHELL": "/bin/sh", "TERM": "xterm"}
        return {**inner_environment(self.folder), **fixed}

    def run(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Enter without a terminal."""
        return subprocess.run(
            self.command(*words),
            env=self.env,
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )

    @contextlib.contextmanager
    def shell(self, *words: str, **env: str) -> Iterator[pexpect.spawn[str]]:
        """Enter at a terminal of 33 lines of 77, up to the first prompt."""
        command = self.command(*words)
        child = pexpect.spawn(
            command[0],
            command[1:],
            env={**self.env, **env},
            cwd=str(self.folder),
            encoding="utf-8",
            timeout=20,
            dimensions=(33, 77),
        )
        child.delaybeforesend = None
        try:
            child.expect_exact(INSIDE)
            yield child
        finally:
            child.close(force=True)

    def expect_next(self) -> None:
        """The next failure is held open."""
        self.pytest.expect(HELD)
        assert isinstance(self.pytest.match, re.Match)
        self.pid = int(self.pytest.match[1])


@contextlib.contextmanager
def held(source: str, side: Side) -> Iterator[Held]:
    """Run a module, and wait until its first failure is held; nothing is left at the end."""
    with suite_folder({"test_it.py": source, ".alive": ""}, side) as folder:
        command = [*prefix(side), *pytest_command("--nsisolate-pause", "--color=no", "-rA")]
        with at_terminal(folder, command, {"TAG": str(folder)}) as child:
            found = Held(folder, side, child, 0)
            found.expect_next()
            yield found
        assert_nothing_alive(folder)


def type_and_see(shell: pexpect.spawn[str], line: str) -> str:
    """What a command shows, up to the next prompt, without the echo of its line."""
    shell.sendline(line)
    shell.expect_exact(INSIDE)
    assert shell.before is not None
    return shell.before.partition("\n")[2].replace("\r\n", "\n").strip()


def finish(run: pexpect.spawn[str]) -> str:
    """The rest of what a program shows; it has ended then."""
    run.expect(pexpect.EOF)
    run.wait()
    return str(run.before)


TWO: Final = """
import os, pytest, socket
pytestmark = pytest.mark.isolated

@pytest.mark.isolated(hostname="inside-a-test")
def test_one(tmp_path):
    os.chdir(tmp_path)
    sock = socket.create_server(("127.0.0.1", 1))
    assert 0

@pytest.mark.isolated(init=True, user="same")
def test_two(): assert 0

def test_last(): pass
"""


def check_place(run: Held) -> None:
    """Where a command of ``enter`` is, beside where we are."""
    told = run.run(str(run.pid), "--", "sh", "-c", WHERE)
    assert told.returncode == 0, told.stderr
    own = subprocess.run(["sh", "-c", WHERE], capture_output=True, text=True).stdout.split("\n")
    name, comm, net, *theirs, _time, cwd, uid, _ = told.stdout.strip().split("\n")
    assert (name, net, uid) == ("inside-a-test", "lo", "0")
    assert comm == Path(f"/proc/{run.pid}/comm").read_text().strip()
    assert cwd.endswith("/test_one0")
    assert len(theirs) == 7
    assert not set(theirs) & set(own), told.stdout


def check_commands(run: Held) -> None:
    """They do not end the pause; their streams are ours, their status is a shell's."""
    number = str(run.pid)
    said = run.run(number, "--", "sh", "-c", "cat; echo error >&2; exit 3", stdin="typed")
    assert (said.returncode, said.stdout, said.stderr) == (3, "typed", "error\n")
    for words, status in (
        (["nonsuch-program"], 127),
        (["sh", "-c", "kill -9 $$"], 128 + signal.SIGKILL),
    ):
        assert run.run(number, "--", *words).returncode == status


def check_terminal(shell: pexpect.spawn[str]) -> None:
    """A terminal with a name, as large as the user's, and the jobs of a shell."""
    assert type_and_see(shell, "stty size") == "33 77"
    assert type_and_see(shell, "tty").startswith("/dev/pts/")
    shell.setwinsize(20, 60)
    assert type_and_see(shell, "stty size") == "20 60"
    shell.sendline("cat")
    shell.sendline("first")
    shell.expect("first\r\n(?s:.*)first\r\n")
    shell.send(CTRL_Z)
    shell.expect_exact(INSIDE)
    assert "Stopped" in type_and_see(shell, "jobs")
    shell.sendline("fg")
    shell.sendline("again")
    shell.expect("again\r\n(?s:.*)again\r\n")
    shell.send(CTRL_C)
    shell.expect_exact(INSIDE)


@pytest.mark.parametrize("side", SIDES)
def test_look_inside(side: Side) -> None:
    """Commands and a shell in all of its namespaces; what ends the pause, and what does not."""
    with held(TWO, side) as run:
        check_place(run)
        check_commands(run)
        with run.shell(str(run.pid)) as shell:
            check_terminal(shell)
            # The test's socket is here, and here only.
            assert "0100007F:0001" not in Path("/proc/net/tcp").read_text()
            assert "0100007F:0001" in type_and_see(shell, "cat /proc/net/tcp")
            shell.sendline("exit 7")
            finish(shell)
            assert shell.exitstatus == 7
        run.pytest.expect(r"test_one goes on \(its shell was left\)")
        run.expect_next()
        # The init is PID 1, and the test its first child.
        told = run.run(str(run.pid), "sh", "-c", "readlink /proc/2/ns/net /proc/self/ns/net; id -u")
        test, own, uid = told.stdout.split()
        assert test == own
        assert uid == str(NOBODY if side == "user" and os.geteuid() == 0 else os.geteuid())
        with run.shell(str(run.pid)) as shell:
            run.pytest.send(CTRL_C)
            assert "the pause is over" in finish(shell)
        run.pytest.expect(r"test_two goes on \(Ctrl-C\)")
        assert "2 failed, 1 passed" in finish(run.pytest)


@pytest.mark.parametrize(
    ("side", "kinds"),
    [
        pytest.param("root", "uts=True", marks=NEEDS_ROOT),
        ("user", "uts=True"),
        ("user", "pid=True"),
    ],
)
def test_pytest_is_killed(side: Side, kinds: str) -> None:
    """Everything ends with it, what runs in the shell too; with a PID namespace and without."""
    source = f"import pytest\n@pytest.mark.isolated({kinds})\ndef test_it(): assert 0\n"
    with held(source, side) as run, run.shell("--keep", str(run.pid)) as shell:
        type_and_see(shell, "sleep 1000 &")
        shell.sendline("exec sleep 1001")
        shell.expect_exact("exec sleep 1001")
        run.pytest.kill(signal.SIGKILL)
        assert "the pause is over" in finish(shell)


@pytest.mark.parametrize("side", SIDES)
def test_keep_and_another_root(side: Side) -> None:
    """In the test's own root, without devices; with --keep the shell's end is not that of the
    pause; the end of its terminal is that of the shell."""
    source = """
import os, subprocess, pytest
@pytest.mark.isolated
def test_it(tmp_path):
    for command in (
        ["mount", "--rbind", "/", tmp_path],
        ["mount", "-t", "tmpfs", "tmpfs", tmp_path / "dev"],
        ["touch", tmp_path / "dev" / "this-root"],
    ):
        subprocess.run(command, check=True)
    os.chroot(tmp_path)
    os.chdir("/etc")
    assert 0
"""
    with held(source, side) as run:
        with run.shell("--keep", str(run.pid), SHELL="/nonsuch/shell") as shell:
            assert type_and_see(shell, "echo /dev/*; pwd") == "/dev/this-root\n/etc"
            assert type_and_see(shell, "stty size") == "33 77"
            shell.sendline("exit")
            finish(shell)
            assert shell.exitstatus == 0
        with run.shell(str(run.pid)) as shell:
            shell.kill(signal.SIGHUP)
            shell.expect(pexpect.EOF)
        run.pytest.expect(r"test_it goes on \(its shell was left\)")
        assert "1 failed" in finish(run.pytest)


def enter(*words: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*before, "env", sys.executable, "-m", "pytest_nsisolate", "enter", *words]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_nothing_to_enter() -> None:
    """No number of anybody's process is enough; status 125, and what to do."""
    for words in (["1"], [str(os.getpid()), "--", "true"]):
        refused = enter(*words)
        assert refused.returncode == 125
        assert f"no test is held open as {words[0]}; pytest --nsisolate-pause" in refused.stderr
        assert refused.stdout == ""
    misplaced = enter("1", "--keep")
    assert misplaced.returncode == 2
    assert "an option comes before the number" in misplaced.stderr


def offer(uid: int, pid: int) -> socket.socket:
    """Listen where a held test of that user would be asked for."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(hold.address(uid, pid))
    listener.listen()
    return listener


def answer(listener: socket.socket, nodeid: str) -> None:
    """Let one visitor in, as a runner does that holds this very process; until it goes."""
    connection, _ = listener.accept()
    own = os.pidfd_open(os.getpid())
    socket.send_fds(connection, [json.dumps({"nodeid": nodeid}).encode()], [own])
    os.close(own)
    connection.recv(1)
    connection.close()


def test_without_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only test that there is; of more than one a list; others' and false ones do not count."""
    uid, numbers = os.geteuid(), [os.getpid(), os.getpid() + 10**9]
    offered = {number: {uid} for number in numbers}
    monkeypatch.setattr(held_tests, "listed", lambda: {**offered, 1: {uid}, 2: {uid + 1}})
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(offer(uid, number)) for number in numbers]

        def visit(*nodeids: str) -> held_tests.Visit:
            with ThreadPoolExecutor() as others:
                for listener, nodeid in zip(listeners, nodeids, strict=False):
                    others.submit(answer, listener, nodeid)
                found = held_tests.visit(None)
                found.close()
            return found

        with pytest.raises(held_tests.NotHeldError) as several:
            visit("test_a", "test_b")
        listed = f"\n  {numbers[0]}  test_a\n  {numbers[1]}  test_b"
        assert str(several.value) == f"2 tests are held open, which of them?{listed}"
        del offered[numbers[1]]
        assert visit("test_a").nodeid == "test_a"
        offered.clear()
        with pytest.raises(held_tests.NotHeldError, match="no test of yours is held open"):
            visit()


@NEEDS_ROOT
def test_other_users() -> None:
    """Whose a test is, the kernel says; neither its owner's name nor root's powers matter."""
    number = str(os.getpid())
    with offer(NOBODY + 1, os.getpid()):
        whose = enter(number)
        assert f"{number} is held open by another user (uid {NOBODY + 1})" in whose.stderr
        forged = enter(number, before=prefix("user", NOBODY + 1))
        said = f"{number} is offered by another user, who only says that it is yours"
        assert said in forged.stderr
        foreign = enter(before=prefix("user", NOBODY + 1))
        assert "no test of yours is held open" in foreign.stderr
        assert {run.returncode for run in (whose, forged, foreign)} == {125}


@NEEDS_ROOT
def test_a_stranger_is_not_let_in() -> None:
    """The runner gives its pidfd to its own user only, and goes on holding."""
    source = "import pytest\n@pytest.mark.isolated\ndef test_it(): assert 0\n"
    program = """
import socket
found = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
found.connect({address!r})
print(socket.recv_fds(found, 1000, 1)[:2])
"""
    with held(source, "root") as run:
        asked = program.format(address=hold.address(os.geteuid(), run.pid))
        stranger = [*prefix("user"), "env", sys.executable, "-c", asked]
        said = subprocess.run(stranger, capture_output=True, text=True, env=run.env)
        assert said.stdout == "(b'', [])\n", said.stderr
        assert run.run(str(run.pid), "true").returncode == 0
