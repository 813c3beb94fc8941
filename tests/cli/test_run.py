# SPDX-License-Identifier: MIT
"""``python -m pytest_nsisolate run``, as somebody uses it: at a terminal, and in a pipeline."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import pexpect
import pytest

from pytest_nsisolate.__main__ import main
from tests.hosts import NEEDS_HOSTS, run_on
from tests.inner_runs import SIDES, Side, prefix, suite_folder
from tests.pseudo_terminals import CTRL_C, CTRL_D, CTRL_Z, at_terminal
from tests.support import BUSYBOX, NEEDS_BUSYBOX, NEEDS_NAMESPACES, ON_THE_HOST, eventually

pytestmark = NEEDS_NAMESPACES

RUN: Final = (sys.executable, "-m", "pytest_nsisolate", "run")

SECCOMP: Final = Path(__file__).parents[1] / "seccomp.py"

PROMPT: Final = "ready> "

BOTH: Final = pytest.mark.parametrize("side", SIDES)

#: Only a command that hangs takes so long.
PATIENCE: Final = 40


def run(
    *arguments: str, given: bytes = b"", before: Sequence[str] = ()
) -> subprocess.CompletedProcess[bytes]:
    """A command in namespaces, without a terminal."""
    command = [*before, *RUN, *arguments]
    return subprocess.run(command, input=given, capture_output=True, timeout=PATIENCE, check=False)


@contextmanager
def started(*command: str) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """A command in namespaces, without a terminal, and what it writes; killed at the end."""
    popen = subprocess.Popen([*RUN, *command], stdin=-3, stdout=-1, process_group=0)
    with popen as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout
        finally:
            process.kill()


def end_by(number: int, pid: int) -> None:
    """What ends a PID 1 without handlers: the signal three times, each of which was taken."""

    def is_taken() -> bool:
        try:
            status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        except FileNotFoundError:
            return True  # it has ended of it, and was waited for
        return "ShdPnd:\t0000000000000000" in status or "State:\tZ" in status

    for _ in range(3):
        os.kill(pid, number)
        assert eventually(is_taken)


def children(pid: int) -> list[int]:
    """Of a process with one thread."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [*map(int, listed.split())]


def state(pid: int) -> str:
    """One letter (proc_pid_stat(5))."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]


@dataclass
class Place:
    """Somebody's folder, where a root folder lies.

    :param prefix: what runs a command as the owner.
    """

    folder: Path
    prefix: tuple[str, ...]

    @property
    def root(self) -> Path:
        return self.folder / "root"


@contextmanager
def place_of(side: Side) -> Iterator[Place]:
    """A folder whose only program is busybox."""
    before = prefix(side)
    with suite_folder({}, side) as folder:
        folder.chmod(0o755)
        place = Place(folder, before)
        for name in ("bin", "proc", "sys", "dev", "tmp", "etc"):
            (place.root / name).mkdir(parents=True)
        shutil.copy(BUSYBOX, place.root / "bin" / "busybox")
        for name in ("sh", "ps", "tty", "stty", "sleep", "hostname", "ifconfig", "cat", "ls"):
            (place.root / "bin" / name).symlink_to("busybox")
        (place.root / "etc" / "profile").write_text("inside", encoding="ascii")
        yield place


def contents(folder: Path) -> dict[str, tuple[int, ...]]:
    """Everything below a folder, with what changes when somebody touches it."""
    found = [folder, *folder.rglob("*")]
    status = ((path, path.lstat()) for path in found)
    return {
        str(path): (s.st_mode, s.st_uid, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
        for path, s in status
    }


class Shell:
    """A conversation with a shell: each line is answered before the next is typed."""

    def __init__(self, child: pexpect.spawn[str]) -> None:
        self.child = child
        child.expect_exact(PROMPT)

    def answer(self, line: str) -> str:
        """What a line gives, until the next prompt."""
        self.child.send(f"{line}\r")
        self.child.expect_exact(PROMPT)
        text = str(self.child.before).replace("\r", "").replace("\x1b[6n", "")
        return text.partition(f"{line}\n")[2].strip()

    def end(self) -> tuple[int | None, str]:
        """The exit status, and what was said last."""
        self.child.expect(pexpect.EOF)
        self.child.close()
        return self.child.exitstatus, str(self.child.before)


# A root of its own, at a terminal ---------------------------------------------------------------


@NEEDS_BUSYBOX
@BOTH
def test_a_shell_is_pid_1_of_a_root_of_its_own(side: Side) -> None:
    """What ``docker run -it busybox /bin/sh`` shows; and outside nothing has changed."""
    with place_of(side) as place:
        before = contents(place.root), Path("/proc/self/mountinfo").read_text(encoding="utf-8")
        command = [*place.prefix, "env", *RUN, "--root", str(place.root), "--hostname", "box"]
        with at_terminal(place.folder, [*command, "--", "/bin/sh"], {"PS1": PROMPT}) as child:
            shell = Shell(child)
            processes = shell.answer("ps -ef").splitlines()
            assert processes[1].split() == ["1", "0", "/bin/sh"]
            assert len(processes) == 3  # and ps itself
            assert shell.answer("hostname") == "box"
            assert shell.answer("cat /etc/profile") == "inside"
            assert shell.answer("pwd") == "/"
            devices = shell.answer("ls -C -w 200 /dev").split()
            assert {"null", "zero", "full", "random", "urandom", "tty", "ptmx"} < {*devices}
            assert {"pts", "shm", "stdin", "stdout", "stderr"} < {*devices}
            assert not {name for name in devices if name.startswith(("vd", "sd", "mem", "kmsg"))}
            assert shell.answer("ls /dev/pts; tty") == "0     ptmx\n/dev/pts/0"
            assert shell.answer("echo gone > /dev/null; ls -l /dev/null")[:10] == "crw-rw-rw-"
            links = shell.answer("ifconfig -a | busybox grep Link")
            assert [line.split()[0] for line in links.splitlines()] == ["lo"]
            # What the kernel gives only where a whole /proc is in sight.
            nested = "busybox mount -t proc proc /proc && echo mounted"
            assert shell.answer(f"busybox unshare -Urpfm sh -c '{nested}'") == "mounted"
            points = shell.answer("busybox cut -d' ' -f5 /proc/self/mountinfo").split()
            assert {point.split("/")[1] for point in points} == {"", "proc", "sys", "dev"}
            child.send("exit 7\r")
            assert shell.end()[0] == 7
        after = contents(place.root), Path("/proc/self/mountinfo").read_text(encoding="utf-8")
        assert after == before


@NEEDS_BUSYBOX
@BOTH
def test_the_root_folder_is_never_changed(side: Side) -> None:
    """It may write everywhere, and by another name of the folder too; all of it is thrown away."""
    script = "echo gone > /tmp/gone; echo gone > /dev/shm/gone; echo gone > /etc/profile; ls /etc"
    with place_of(side) as place:
        before = contents(place.root)
        for root, cwd in ((str(place.root), None), ("./root", place.folder)):
            ready = (*place.prefix, "env", *(() if cwd is None else ("-C", str(cwd))))
            done = run("--root", root, "sh", "-c", script, before=ready)
            assert (done.returncode, done.stdout, done.stderr) == (0, b"profile\n", b"")
        assert contents(place.root) == before


# At a terminal ----------------------------------------------------------------------------------


def test_keys_and_window_are_those_of_the_inner_terminal(tmp_path: Path) -> None:
    """Ctrl-C, Ctrl-Z, fg and bg, Ctrl-D and the window's size are the inner shell's affair."""
    with at_terminal(tmp_path, [*RUN, "--", "sh", "-i"], {"PS1": PROMPT}) as child:
        shell = Shell(child)
        assert shell.answer("echo $$; tty; stty size").split() == ["1", "/dev/pts/0", "50", "100"]
        child.setwinsize(20, 77)
        # The size is on its way through two terminals.
        waiting = "while [ \"$(stty size)\" != '20 77' ]; do :; done; echo now small"
        assert shell.answer(waiting) == "now small"
        # Ctrl-C ends what is in the foreground, and not the shell, which is PID 1.
        child.send("trap '' TTOU; cat; echo not reached\r")
        child.send("typed\r")
        child.expect_exact("typed\r\ntyped\r\n")
        child.send(CTRL_C)
        child.expect_exact(PROMPT)
        assert shell.answer("echo $? $$") == "130 1"
        # Job control.
        child.send("cat\r")
        child.send("once\r")
        child.expect_exact("once\r\nonce\r\n")
        child.send(CTRL_Z)
        child.expect_exact("Stopped")
        child.expect_exact(PROMPT)
        child.send("fg\r")
        child.expect_exact("fg\r\ncat\r\n")
        child.send("twice\r")
        child.expect_exact("twice\r\ntwice\r\n")
        child.send(CTRL_D)
        child.expect_exact(PROMPT)
        shell.answer("sleep 1000 &")
        assert "sleep 1000" in shell.answer("jobs")
        child.send(CTRL_D)
        status, _ = shell.end()
        assert status == 0


SCRIPT: Final = """
PS1=
before=$(stty -g)
say() {{ [ "$(stty -g)" = "$before" ] && echo "$1 $2 as before"; }}
{run} -- sh -c 'exit 3'; say exit $?
{run} --init -- sh -c 'stty raw; kill -SEGV $$'; say crash $?
{run} --timeout 0.3 -- sh -c 'stty raw -echo; exec sleep 100'; say timeout $?
{run} -- nothing-like-this; say nothing $?
{run} -- sh -c 'echo out; echo err >&2' > {folder}/out 2> {folder}/err; say files $?
sh -c 'echo $$ > {folder}/pid; exec {run} -- sh -c "echo up; exec sleep 100"'; say killed $?
"""


def test_the_terminal_is_given_back(tmp_path: Path) -> None:
    """However it ends, and with what status; what is redirected gets no byte more or less."""
    run_it = " ".join(RUN)
    (tmp_path / "script").write_text(SCRIPT.format(run=run_it, folder=tmp_path), encoding="utf-8")
    with at_terminal(tmp_path, ["sh", str(tmp_path / "script")]) as child:
        for line in ("exit 3", "crash 139", "timeout 124", "nothing 127", "files 0"):
            child.expect_exact(f"{line} as before")
        child.expect_exact("up")
        pid = int((tmp_path / "pid").read_text(encoding="ascii"))
        end_by(signal.SIGTERM, pid)
        child.expect_exact("killed 143 as before")
        child.expect(pexpect.EOF)
    assert (tmp_path / "out").read_bytes() == b"out\n"
    assert (tmp_path / "err").read_bytes() == b"err\n"


def test_the_outer_shell_can_stop_it(tmp_path: Path) -> None:
    """SIGTSTP gives the terminal back to the shell outside, and fg goes on where it was."""
    inner = f"echo $$ > {tmp_path}/pid; exec {' '.join(RUN)} -- sed -u s/^/heard-/"
    with at_terminal(tmp_path, ["sh", "-i"], {"PS1": PROMPT}) as child:
        shell = Shell(child)
        mode = shell.answer("stty -g")
        child.send(f'sh -c "{inner.replace("$", chr(92) + "$")}"\r')
        child.send("one\r")
        child.expect_exact("heard-one\r\n")
        os.kill(int((tmp_path / "pid").read_text(encoding="ascii")), signal.SIGTSTP)
        child.expect_exact("Stopped")
        child.expect_exact(PROMPT)
        assert shell.answer("stty -g") == mode
        child.send("fg\r")
        child.send("two\r")
        child.expect_exact("heard-two\r\n")
        child.send(CTRL_D)
        child.expect_exact(PROMPT)
        assert shell.answer("stty -g") == mode


@pytest.mark.parametrize("stopped", [False, True], ids=["relay", "signals"])
def test_nothing_outlives_its_terminal(tmp_path: Path, stopped: bool) -> None:
    """When the window is closed, even what ignores SIGHUP is gone.

    Whoever goes on after a stop sees the SIGHUP and the SIGCONT of the kernel before it reads.
    """
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    script = f"trap '' HUP TERM INT; exec 3> {pipe}; echo up; setsid sleep 1000 & wait"
    with at_terminal(tmp_path, [*RUN, "--", "sh", "-c", script]) as child, pipe.open("rb") as held:
        child.expect_exact("up")
        window: Any = child
        if stopped:
            window.kill(signal.SIGSTOP)
            assert eventually(lambda: state(window.pid) == "T")
        window.ptyproc.fileobj.close()
        window.closed = window.ptyproc.closed = True
        assert held.read() == b""  # comes when the last who could write has gone
        assert child.wait() == 129


# In a pipeline ----------------------------------------------------------------------------------

SAME_USER: Final = f"test $(id -u) = {os.geteuid()} && test $(uname -n) = box"

#: Arguments, then the exit status and what standard error begins with.
STATUSES: Final = (
    *((("sh", "-c", f"exit {status}"), status, b"") for status in (1, 97, 255)),
    (("--init", "--", "sh", "-c", "kill -TERM $$"), 143, b""),
    # PID 1 gets no signal that it has no handler for.
    (("--", "sh", "-c", "kill -TERM $$; kill -KILL $$; exit 9"), 9, b""),
    (("--", "nothing-like-this"), 127, b"run: nothing-like-this: command not found\n"),
    (("--", "/etc/passwd"), 126, b"run: /etc/passwd: Permission denied\n"),
    (("--chdir", "/nowhere", "--", "true"), 125, b"run: /nowhere: No such file or directory\n"),
    (("--timeout", "0.2", "--", "sleep", "100"), 124, b"run: timed out after 0.2 s\n"),
    (("--chdir", "/proc/self", "--", "grep", "-q", "^Pid:.1$", "status"), 0, b""),
    (("--hostname", "box", "--user", "same", "--", "sh", "-c", SAME_USER), 0, b""),
    # Only what is named.
    (
        ("--net", "--", "sh", "-c", "test $(id -u)$(ls /sys/class/net) = 0lo && test $$ != 1"),
        0,
        b"",
    ),
)


def test_exit_statuses_are_the_command_s() -> None:
    """As of a command that a shell runs; nothing is added to what it says."""
    for some in (STATUSES[0::3], STATUSES[1::3], STATUSES[2::3]):
        running = [
            subprocess.Popen([*RUN, *arguments], stdin=-3, stdout=-1, stderr=-1)
            for arguments, _, _ in some
        ]
        for process, (arguments, status, said) in zip(running, some, strict=True):
            out, err = process.communicate(timeout=PATIENCE)
            assert (arguments, process.returncode, out, err) == (arguments, status, b"", said)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [("--timeout 0.2 -- sleep 100", 124), ("--caps= --net -- true", 0), ("-- exit-5", 127)],
)
def test_without_standard_error(arguments: str, status: int) -> None:
    """What cannot be said does not change the exit status."""
    script = '"$@" 2>&-'
    done = subprocess.run(["sh", "-c", script, "sh", *RUN, *arguments.split()], stdin=-3)
    assert done.returncode == status


def test_streams_that_are_no_terminal_are_inherited() -> None:
    """A pipe gets every byte, and those of standard error are not mixed in."""
    noise = random.Random(1).randbytes(500_000)
    done = run("sh", "-c", "echo beside >&2; exec cat", given=noise)
    assert (done.returncode, done.stderr) == (0, b"beside\n")
    assert done.stdout == noise


def test_arguments_reach_the_command_as_they_are() -> None:
    """Also those that look like options of ours, and a second pair of dashes."""
    done = run("--", "echo", "--pid", "--", "a  b", "", "é")
    assert done.stdout.decode() == "--pid -- a  b  é\n"


def test_signals_reach_the_command() -> None:
    """PID 1's handlers run; with an init so does what signals do by themselves."""
    handling = "trap 'exit 5' TERM; trap 'exit 6' INT; echo up; while :; do sleep 0.02; done"
    for arguments, number, status in (
        (("sh", "-c", handling), signal.SIGTERM, 5),
        (("sh", "-c", handling), signal.SIGINT, 6),
        (("--init", "sh", "-c", "echo up; exec sleep 100"), signal.SIGHUP, 129),
        (("--init", "sh", "-c", "echo up; exec sleep 100"), signal.SIGUSR1, 138),
    ):
        with started(*arguments) as (process, said):
            assert said.readline() == b"up\n"
            process.send_signal(number)
            assert process.wait(PATIENCE) == status, arguments


def test_a_pid_1_without_handlers_is_ended_by_the_third_signal() -> None:
    """Nobody has to look for the process in the middle to be rid of it."""
    with started("sh", "-c", "echo up; exec sleep 100") as (process, said):
        assert said.readline() == b"up\n"
        end_by(signal.SIGINT, process.pid)
        assert process.wait(PATIENCE) == 130


def test_ctrl_z_holds_the_command_too() -> None:
    """SIGTSTP for a run without a terminal stops PID 1, and SIGCONT lets it go on."""
    with started("sh", "-c", "echo up; while :; do sleep 0.02; done") as (process, said):
        assert said.readline() == b"up\n"
        process.send_signal(signal.SIGTSTP)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        (supervisor,) = children(process.pid)
        (pid1,) = children(supervisor)
        assert eventually(lambda: state(pid1) == "T")
        process.send_signal(signal.SIGCONT)
        assert eventually(lambda: state(pid1) in "SR")


def test_nothing_outlives_a_run_that_is_killed() -> None:
    """SIGKILL leaves no time for anything: who holds the pipe inside is gone all the same."""
    script = "trap '' TERM INT HUP; setsid sleep 1000 & echo up; wait"
    for arguments in (("sh", "-c", script), ("--init", "sh", "-c", script)):
        with started(*arguments) as (process, said):
            assert said.readline() == b"up\n"
            process.kill()
            assert said.read() == b""


def test_a_run_that_ends_takes_what_it_has_left_with_it() -> None:
    """What a command leaves behind is gone when the run has ended, not only some time later."""
    for name in ("--pid", "--net"):
        done = run(name, "sh", "-c", "setsid sleep 1000 >/dev/null & echo left")
        assert done.stdout == b"left\n"


@ON_THE_HOST
def test_without_run_all_processes_are_seen() -> None:
    """The control: the same command without a PID namespace sees this test, and is not PID 1."""
    for before, alone in (((), False), (RUN, True)):
        seen = subprocess.check_output([*before, "ps", "-e", "-o", "pid="], stdin=-3, text=True)
        assert (str(os.getpid()) in seen.split()) is not alone
        assert (seen.split() == ["1"]) is alone


# What is refused --------------------------------------------------------------------------------


@NEEDS_HOSTS
def test_a_refusal_says_why_and_what_to_do() -> None:
    """Step, namespace, error number, cause and remedy; the exit status is no command's."""
    done = run_on("no-net", *RUN, "true")
    assert done.returncode == 125
    assert done.stderr.startswith("run: isolation refused: unshare(CLONE_NEWNET) for the net")
    assert "ENOSPC" in done.stderr
    assert "cause: " in done.stderr
    assert "remedy: " in done.stderr
    assert run_on("no-net", *RUN, "--pid", "true").returncode == 0


@pytest.mark.parametrize("side", SIDES)
def test_what_it_writes_to_an_overlay_is_thrown_away(side: Side) -> None:
    """The host's files, and a shell that may remove them."""
    before = (*prefix(side), "env")
    script = "touch /etc/nsi-made && rm /usr/bin/env && cat /etc/nsi-made && [ ! -e /usr/bin/make ]"
    options = ("--root", "overlay", "--root-size", "16M", "--hide", "/usr/bin/make")
    done = run(*options, "sh", "-c", script, before=before)
    assert (done.returncode, done.stderr) == (0, b"")
    assert not os.path.exists("/etc/nsi-made")
    assert os.path.exists("/usr/bin/env")
    done = run("--root", "readonly", "sh", "-c", "touch /var/tmp/nsi-made", before=before)
    assert b"Read-only file system" in done.stderr


@NEEDS_HOSTS
@NEEDS_BUSYBOX
def test_a_refused_root_is_a_refusal_too() -> None:
    """As in a container: everything may be mounted, and the root not be exchanged."""
    with place_of("user") as place:
        filtered = (sys.executable, str(SECCOMP), "pivot_root=EPERM", "--")
        done = run("--root", str(place.root), "sh", before=filtered)
    assert done.returncode == 125
    text = done.stderr.decode()
    assert text.startswith("run: isolation refused: pivot_root for the mount namespace: EPERM")
    assert "which no capability opens\nremedy: " in text


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("/", "take / as root for the mount namespace: EINVAL"),
        ("/nowhere", "take /nowhere as root for the mount namespace: ENOENT"),
        ("/etc/passwd/x", "take /etc/passwd/x as root for the mount namespace: ENOTDIR"),
        ("/etc/passwd", "unpack /etc/passwd for the mount namespace: EBADMSG"),
        ("/proc", "take /proc as root for the mount namespace: EBUSY"),
    ],
)
def test_a_path_that_is_no_root(root: str, said: str) -> None:
    """Nothing is started; the message says what to do."""
    done = run("--root", root, "true")
    assert done.returncode == 125
    text = done.stderr.decode()
    assert text.startswith(f"run: isolation refused: {said}")
    assert "\nremedy: " in text


def test_options_that_cannot_be_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said in terms of what was typed, before anything has been started."""
    for arguments, said in (
        ((), "a command is missing"),
        (("--no-mount", "--", "true"), "--no-mount: pid, net, ipc need a mount namespace"),
        (("--hostname", "x", "--no-uts", "true"), "--hostname x --no-uts: a hostname needs"),
        (("--caps", "chown,foo", "true"), "--caps chown,foo: caps knows no capability 'foo'"),
        (("--user", "none", "--devices", "fuse", "true"), "--devices fuse --user none: "),
        (("--timeout", "0", "true"), "--timeout 0.0: timeout takes seconds above 0"),
        (("--root-size", "1M", "true"), "only what is written to root="),
        (("--hide", "x", "true"), "--hide x: hide takes absolute paths"),
        (("--root", str(tmp_path), "--no-mount", "true"), "files of its own need a mount"),
    ):
        monkeypatch.setattr(sys, "argv", ["pytest_nsisolate", "run", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
