# SPDX-License-Identifier: MIT
"""No assertion holds because of how its argument was written, and no message tells of another look.

An assertion that something is absent holds for every mistake in its argument, unless that is
refused.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pytest_nsisolate import Pid1View
from pytest_nsisolate.kernel.process import CAPABILITY_NAMES
from pytest_nsisolate.view import netlink
from pytest_nsisolate.view.assertions import failures, waiting
from tests.support import NEEDS_NAMESPACES
from tests.view.tools import NEEDS_FINDMNT, NEEDS_IP, owned, run

pytestmark = [NEEDS_NAMESPACES, pytest.mark.isolated]

#: Far more than anything here takes.
LONG = 20.0


def server(host: str, *, v6only: bool = False, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """One that waits on port 8080."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, kind)
    if family == socket.AF_INET6:
        found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
    found.bind((host, 8080))
    if kind == socket.SOCK_STREAM:
        found.listen()
    return found


class TestMounts:
    @NEEDS_FINDMNT
    def test_every_way_to_write_a_place(self, pid1: Pid1View, tmp_path: Path) -> None:
        """The kernel writes one, without links."""
        target = tmp_path / "here"
        target.mkdir()
        link = tmp_path / "link"
        link.symlink_to(target)
        run("mount", "-t", "tmpfs", "cache", str(target))
        os.chdir(tmp_path)
        for spelling in (target, f"{target}/", f"/{target}", "here", os.fsencode(target), link):
            assert pid1.assert_mounted(spelling).target == str(target.resolve())
            with pytest.raises(AssertionError, match="something is mounted on"):
                pid1.assert_not_mounted(spelling)


class TestSockets:
    @pytest.mark.parametrize("where", ["8080", ":8080", "127.0.0.1:8080", "[::1]:8080"])
    def test_a_port_is_a_number(self, pid1: Pid1View, where: str) -> None:
        """A text is the path of a Unix socket, which nobody listens on."""
        with server("0.0.0.0"):
            for method in self.methods(pid1):
                with pytest.raises(ValueError, match="a port is a number, 8080"):
                    method(where)

    def test_what_is_neither_port_nor_path(self, pid1: Pid1View) -> None:
        """Nobody can listen there, so that it would always be closed."""
        for method in self.methods(pid1):
            with pytest.raises(ValueError, match="a port is 1 to 65535, not 65536"):
                method(65536)
            with pytest.raises(TypeError, match="a port, or a Unix socket's path as text"):
                method(Path("/run/app.sock"))

    @pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
    @pytest.mark.parametrize(
        ("bound", "v6only", "asked", "taken"),
        [
            ("0.0.0.0", False, "127.0.0.1", True),
            ("0.0.0.0", False, "::1", False),
            ("::", False, "::1", True),
            ("::", False, "127.0.0.1", True),
            ("::", True, "127.0.0.1", False),
            ("::ffff:127.0.0.1", False, "127.0.0.1", True),
            ("127.0.0.1", False, "127.0.0.2", False),
        ],
    )
    def test_who_takes_what_comes_to_a_host(
        self, pid1: Pid1View, kind: int, bound: str, v6only: bool, asked: str, taken: bool
    ) -> None:
        """A socket on all addresses does, of its version or dual-stack; a connection proves it."""
        proto = "tcp" if kind == socket.SOCK_STREAM else "udp"
        with server(bound, v6only=v6only, kind=kind):
            if proto == "tcp":
                assert reachable(asked) is taken
            for method in (pid1.assert_not_listening, self.stays_closed(pid1)):
                if taken:
                    with pytest.raises(AssertionError):
                        method(8080, host=asked, proto=proto)
                else:
                    method(8080, host=asked, proto=proto)

    def test_a_kernel_that_tells_nothing(
        self, pid1: Pid1View, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Then nobody says that a port is closed, or what a socket takes."""
        monkeypatch.setattr(netlink, "_SOCK_DIAG", 255)
        assert netlink.takes_ipv4("tcp", 8080) is None
        with server("::", v6only=True):
            with pytest.raises(AssertionError, match="something listens on tcp port 8080"):
                pid1.assert_not_listening(8080, host="127.0.0.1")
            with pytest.raises(AssertionError, match="hint: something listens on ::, not on"):
                pid1.assert_listening(8080, host="127.0.0.1")

    @pytest.mark.parametrize(
        ("bound", "v6only", "asked", "hint"),
        [
            ("0.0.0.0", False, "127.0.0.1", "0.0.0.0:8080 takes what comes to 127.0.0.1 too"),
            ("0.0.0.0", False, "::1", "something listens on 0.0.0.0, not on ::1"),
            ("::", True, "127.0.0.1", "something listens on ::, not on 127.0.0.1"),
            ("::", False, "127.0.0.1", "[::]:8080 takes what comes to 127.0.0.1 too"),
        ],
    )
    def test_the_hint_is_true(
        self, pid1: Pid1View, bound: str, v6only: bool, asked: str, hint: str
    ) -> None:
        """Who is bound elsewhere, and whether that would do."""
        with server(bound, v6only=v6only), pytest.raises(AssertionError) as caught:
            pid1.assert_listening(8080, host=asked)
        assert f"hint: {hint}" in str(caught.value)

    @staticmethod
    def stays_closed(pid1: Pid1View) -> Callable[..., object]:
        """Without a wait."""
        return lambda *where, **options: pid1.assert_stays_closed(*where, for_=0, **options)

    def methods(self, pid1: Pid1View) -> list[Callable[..., object]]:
        """All that take a port or a path."""
        return [pid1.assert_listening, pid1.assert_not_listening, self.stays_closed(pid1)]


def reachable(host: str) -> bool:
    """Whether a connection comes about."""
    try:
        socket.create_connection((host, 8080), timeout=LONG).close()
    except ConnectionRefusedError:
        return False
    return True


class TestNames:
    def test_a_process_has_no_path(self, pid1: Pid1View, sleeper: subprocess.Popen[bytes]) -> None:
        """Its name is the last part."""
        for method in (pid1.assert_no_process, pid1.assert_process, pid1.assert_daemon):
            with pytest.raises(ValueError, match="no name but a path; the name is 'sleep'"):
                method("/bin/sleep")

    def test_a_capability_has_a_name(self, pid1: Pid1View) -> None:
        """By its number only where the plugin has no name for it."""
        for method in (pid1.assert_no_capability, pid1.assert_capability):
            for number in ("12", "CAP_12", "012"):
                with pytest.raises(ValueError, match=f"'{number}' is written 'CAP_NET_ADMIN'"):
                    method(number)
            with pytest.raises(ValueError, match="'64' is no capability"):
                method("64")
        pid1.assert_no_capability(str(len(CAPABILITY_NAMES)))

    def test_none_is_another_assertion(self, pid1: Pid1View) -> None:
        """``count`` is one or more."""
        for count in (0, -1):
            with pytest.raises(ValueError, match="none is assert_no_process"):
                pid1.assert_process("none", count=count)

    @NEEDS_IP
    def test_a_default_of_one_version(self, pid1: Pid1View) -> None:
        """``0.0.0.0/0`` is not ``::/0``."""
        run("ip", "-6", "route", "add", "default", "dev", "lo")
        assert pid1.assert_route("::/0").version == 6
        assert pid1.assert_route("default").version == 6
        with pytest.raises(AssertionError, match=r"expected: a route to 0\.0\.0\.0/0 in table"):
            pid1.assert_route("0.0.0.0/0")


class TestBounds:
    @pytest.mark.parametrize("within", [-0.5, -1e300, 0])
    def test_less_than_nothing_is_at_once(
        self, pid1: Pid1View, sleeper: subprocess.Popen[bytes], within: float
    ) -> None:
        """And not for ever, as poll(2) has it."""
        pid1.assert_survives(sleeper, 0, within=within)
        with pytest.raises(AssertionError, match="did not die by itself"):
            pid1.assert_dies(sleeper, 0, within=within)

    @pytest.mark.parametrize("within", [1e10, 1e300, math.inf])
    def test_more_than_enough(
        self, pid1: Pid1View, sleeper: subprocess.Popen[bytes], within: float
    ) -> None:
        """It ends when the process does."""
        assert pid1.assert_dies(sleeper, within=within) == -signal.SIGTERM

    def test_no_number_is_no_bound(self) -> None:
        """A NaN is never over."""
        assert waiting.until(lambda: False, math.nan) is False


class TestEnded:
    def test_a_zombie_has_ended(self, pid1: Pid1View) -> None:
        """Before anybody asked; and it may still be waited for."""
        with owned("sh", "-c", "exit 3") as process:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            assert pid1.assert_dies(process, 0) == 3
            assert pid1.assert_dies("sh", 0) == 3
            with pytest.raises(AssertionError, match="it has ended, and its parent has not waited"):
                pid1.assert_dies(process)
            assert process.wait() == 3

    def test_what_was_waited_for_has_ended(
        self, pid1: Pid1View, sleeper: subprocess.Popen[bytes]
    ) -> None:
        """The object knows how, and a row that it has."""
        row = pid1.assert_process(sleeper)
        sleeper.kill()
        sleeper.wait()
        assert pid1.assert_dies(sleeper, 0) == -signal.SIGKILL
        assert pid1.assert_dies(row, 0) is None
        child = multiprocessing.get_context("fork").Process(target=os._exit, args=(5,))
        child.start()
        child.join()
        assert pid1.assert_dies(child, 0) == 5

    def test_a_number_proves_nothing(self, pid1: Pid1View) -> None:
        """That there ever was one."""
        with pytest.raises(AssertionError, match="no process with number 4000"):
            pid1.assert_dies(4000, 0)


def states(*these: object) -> property:
    """An attribute that is each of these when it is asked, and a fault when it is asked again."""
    left = iter(these)
    return property(lambda _: next(left))


class TestLastLook:
    """What comes up after the last look is not in the message."""

    @pytest.mark.parametrize(
        ("attribute", "method", "arguments"),
        [
            ("listening", "assert_listening", (8080,)),
            ("processes", "assert_process", ("none",)),
            ("processes", "assert_daemon", ("none",)),
            ("interfaces", "assert_interface", ("none",)),
            ("routes", "assert_route", ("192.0.2.0/24",)),
            ("mounts", "assert_mounted", ("/none",)),
        ],
    )
    def test_nobody_looks_again(
        self, pid1: Pid1View, attribute: str, method: str, arguments: tuple[Any, ...]
    ) -> None:
        seen = getattr(pid1, attribute)
        kind = type("Once", (Pid1View,), {"__slots__": (), attribute: states(seen)})
        once = kind(pid1._origin)
        with pytest.raises(AssertionError, match="expected:"):
            getattr(once, method)(*arguments)


class TestMessages:
    def test_parents_are_told_apart(self, pid1: Pid1View) -> None:
        """Of two zombies one is the test's."""
        code = "import subprocess, time; child = subprocess.Popen(['true']); time.sleep(60)"
        with owned(sys.executable, "-c", code), owned("true") as mine:
            os.waitid(os.P_PID, mine.pid, os.WEXITED | os.WNOWAIT)
            assert waiting.until(lambda: len(pid1.zombies) == 2, LONG)
            with pytest.raises(AssertionError, match="hint: the parent of 1, this test, has not"):
                pid1.assert_no_zombies()

    def test_names_are_shortened(self, pid1: Pid1View) -> None:
        """The first line stays one to read."""
        with pytest.raises(AssertionError) as caught:
            pid1.assert_interfaces(f"eth{number:03}" for number in range(300))
        first, expected, *_ = str(caught.value).splitlines()
        assert first.startswith("missing: eth000, ")
        assert first.endswith("eth007 and 292 more; too much: lo")
        assert expected.endswith("eth007 and 292 more")

    def test_no_control_character_is_raw(self, pid1: Pid1View, tmp_path: Path) -> None:
        """A program may have any name."""
        program = tmp_path / "c\x1b[2Jd\n"
        program.symlink_to("/bin/sleep")
        with owned(str(program), "60") as process:
            with pytest.raises(AssertionError) as caught:
                pid1.assert_daemon(process)
            process.kill()
        message = str(caught.value)
        assert "\x1b" not in message
        assert re.match(r"process \d+ \(c\?\[2Jd\?\) is no daemon\nexpected: ", message)

    def test_every_line_is_one(self) -> None:
        """The hint too."""
        error = failures.failure("a\nb", expected="c\td", seen="e\x7f", hint="f\rg")
        assert str(error) == "a?b\nexpected: c?d\nseen: e?\nhint: f?g"


class TestStandIns:
    """What a test replaces, of psutil or of what psutil calls, does not change what is seen."""

    @pytest.mark.parametrize("answer", [{}, {"return_value": []}, {"side_effect": OSError}])
    @pytest.mark.parametrize(
        "name",
        [
            *("psutil.pids", "psutil.Process", "psutil.Process.status", "psutil.net_connections"),
            *("psutil._pslinux.Process", "builtins.open", "os.listdir", "os.readlink", "os.stat"),
        ],
    )
    def test_of_processes_and_sockets(self, pid1: Pid1View, name: str, answer: Any) -> None:
        with server("127.0.0.1"), owned("sleep", "600"), mock.patch(name, **answer):
            pid1.assert_process("sleep")
            pid1.assert_listening(8080)
            with pytest.raises(AssertionError):
                pid1.assert_no_process("sleep")
            with pytest.raises(AssertionError):
                pid1.assert_no_leftovers()
            with pytest.raises(AssertionError):
                pid1.assert_not_listening(8080)
