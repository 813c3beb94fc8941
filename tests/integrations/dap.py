# SPDX-License-Identifier: MIT
"""A small client of the Debug Adapter Protocol, as much of VS Code as a test needs.

It sets breakpoints where the suite says ``# stop``, takes on the child sessions that the adapter
announces (``debugpyAttach``), notes where it is stopped, and goes on.
"""

from __future__ import annotations

import contextlib
import functools
import json
import queue
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Final

import psutil

from tests.support import INNER, eventually, inner_environment

#: Seconds for any answer, and for a whole run.
PATIENCE: Final = 40

_START: Final = ("-p", "no:cacheprovider", "-p", "no:randomly", "-q")


def marked_lines(file: Path) -> list[int]:
    """The lines of a suite at which a debugger shall stop."""
    return [n for n, line in enumerate(file.read_text().splitlines(), 1) if "# stop" in line]


def pytest_arguments(*arguments: str) -> list[str]:
    """Behind ``pytest``, for an inner run under a debugger."""
    return [*INNER, *_START, *arguments]


class Session:
    """One connection to the adapter; events of all sessions come in one queue.

    :param ends: a stream to read from and one to write to.
    :param over: makes the reading end come to its end.
    """

    def __init__(
        self,
        name: str,
        ends: tuple[IO[bytes], IO[bytes]],
        events: queue.Queue[tuple[Session, Any]],
        over: Callable[[], object] = bool,
    ) -> None:
        self.name = name
        self._stream, self._writer = ends
        self._over = over
        self._events = events
        self._answers: dict[int, Any] = {}
        self._changed = threading.Condition()
        self._number = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # closed by the other side
            self._over()
        self._reader.join(PATIENCE)
        for end in (self._stream, self._writer):
            with contextlib.suppress(OSError):
                end.close()

    def send(self, command: str, **arguments: object) -> int:
        """Ask; the answer is waited for by :meth:`answer`."""
        self._number += 1
        request = {"seq": self._number, "type": "request", "command": command}
        data = json.dumps({**request, "arguments": arguments}).encode()
        self._writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(data), data))
        self._writer.flush()
        return self._number

    def answer(self, number: int) -> Any:
        with self._changed:
            assert self._changed.wait_for(lambda: number in self._answers, PATIENCE)
            return self._answers[number]

    def ask(self, command: str, **arguments: object) -> Any:
        return self.answer(self.send(command, **arguments)).get("body", {})

    def _read(self) -> None:
        length = 0
        with contextlib.suppress(OSError):  # the adapter has been ended
            while head := self._stream.readline():
                if head.strip():
                    length = int(head.partition(b":")[2])
                    continue
                message = json.loads(self._stream.read(length))
                if message["type"] == "event":
                    self._events.put((self, message))
                elif message["type"] == "response":
                    with self._changed:
                        self._answers[message["request_seq"]] = message
                        self._changed.notify_all()


class Editor:
    """A run of a suite under debugpy.

    :param follows: whether child sessions are taken on.
    :param leaves_at: the function at whose stop the whole run is ended, as by a click on "stop".
    """

    def __init__(self, suite: Path, *, follows: bool = True, leaves_at: str = "") -> None:
        self.stops: list[str] = []
        """``session function``, for each stop: a child's session is ``isolated``."""
        self.output = ""
        self._suite = suite
        self._follows = follows
        self._leaves_at = leaves_at
        self._events: queue.Queue[tuple[Session, Any]] = queue.Queue()
        self._sessions: list[Session] = []
        self._sockets: list[socket.socket] = []

    def attach(self, *arguments: str, prefix: tuple[str, ...] = (), waits: bool = True) -> int:
        """``python -m debugpy --listen ... -m pytest``; the exit status."""
        address = ("127.0.0.1", _free_port())
        options = ["--listen", "{}:{}".format(*address), *(("--wait-for-client",) if waits else ())]
        command = [*prefix, *_python(), "-m", "debugpy", *options, "-m", "pytest"]
        with self._start([*command, *pytest_arguments(*arguments)]) as process:
            if waits:
                # The adapter listens before it is ready; then it tells the program.
                assert eventually(lambda: _has_connection(process.pid), PATIENCE)
                self._begin(self._connect("main", address), "attach", justMyCode=False)
            return self._follow(process)

    def launch(self, *arguments: str, **env: str) -> int:
        """As VS Code's "Debug Test" does; the exit status of pytest."""
        with self._start([*_python(), "-m", "debugpy.adapter"], pipes=True) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            main = Session("main", (process.stdout, process.stdin), self._events)
            self._sessions.append(main)
            self._begin(
                main,
                "launch",
                module="pytest",
                args=pytest_arguments(*arguments),
                python=_python(),
                cwd=str(self._suite.parent),
                env=inner_environment(self._suite.parent, {**_FAST, **env}),
                console="internalConsole",
                justMyCode=False,
                redirectOutput=True,
            )
            return self._follow(process)

    def _start(self, command: list[str], *, pipes: bool = False) -> subprocess.Popen[bytes]:
        folder = self._suite.parent
        for name in (".recording", ".journal"):
            (folder / name).write_text("", encoding="ascii")
            (folder / name).chmod(0o666)
        with open(folder / ".output", "wb") as output:
            return subprocess.Popen(
                command,
                cwd=folder,
                env=inner_environment(folder, _FAST),
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else output,
                stderr=output,
            )

    def _connect(self, name: str, address: tuple[str, int]) -> Session:
        connection = socket.create_connection(address, PATIENCE)
        connection.settimeout(None)
        ends = connection.makefile("rb"), connection.makefile("wb")
        over = functools.partial(connection.shutdown, socket.SHUT_RDWR)
        self._sessions.append(Session(name, ends, self._events, over))
        self._sockets.append(connection)
        return self._sessions[-1]

    def _begin(self, session: Session, request: str, **arguments: object) -> None:
        """Everything up to the moment at which the debuggee runs."""
        session.ask("initialize", adapterID="debugpy", clientID="tests", linesStartAt1=True)
        began = session.send(request, **arguments)
        self._await("initialized", session)
        lines = [{"line": line} for line in marked_lines(self._suite)]
        session.ask("setBreakpoints", source={"path": str(self._suite)}, breakpoints=lines)
        session.ask("configurationDone")
        session.answer(began)

    def _await(self, event: str, session: Session) -> None:
        """What others say meanwhile is kept for later."""
        others = []
        while True:
            found = self._events.get(timeout=PATIENCE)
            if found[0] is session and found[1]["event"] == event:
                break
            others.append(found)
        for found in others:
            self._events.put(found)

    def _follow(self, process: subprocess.Popen[bytes]) -> int:
        """Until the debuggee has ended; never longer than the patience of this client."""
        status: int | None = None
        until = time.monotonic() + 2 * PATIENCE
        try:
            while status is None and process.poll() is None:
                assert time.monotonic() < until, "it hangs"
                with contextlib.suppress(queue.Empty):
                    session, message = self._events.get(timeout=0.1)
                    status = self._take(session, message["event"], message.get("body", {}))
            return process.wait(PATIENCE) if status is None else status
        finally:
            process.terminate()
            process.wait(PATIENCE)
            for session in self._sessions:
                session.close()
            for connection in self._sockets:
                connection.close()
            self.output += (self._suite.parent / ".output").read_text(errors="replace")

    def _take(self, session: Session, event: str, body: Any) -> int | None:
        if event == "stopped":
            frames = session.ask("stackTrace", threadId=body["threadId"])["stackFrames"]
            self.stops.append(f"{session.name} {frames[0]['name']}")
            if frames[0]["name"] == self._leaves_at:
                self._sessions[0].ask("disconnect", terminateDebuggee=True)
                return -1
            session.ask("continue", threadId=body["threadId"])
        elif event == "debugpyAttach" and self._follows:
            address = body["connect"]["host"], body["connect"]["port"]
            child = self._connect("isolated", address)
            given = {name: value for name, value in body.items() if name not in ("request", "type")}
            self._begin(child, "attach", **given)
        elif event == "output":
            self.output += body["output"]
        elif event == "exited" and session is self._sessions[0]:
            return int(body["exitCode"])
        return None


#: Neither a warning about frozen modules nor a search for every loaded file.
_FAST: Final[Mapping[str, str]] = {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}


def _python() -> list[str]:
    return [sys.executable, "-X", "frozen_modules=off"]


def _has_connection(pid: int) -> bool:
    found = psutil.Process(pid).net_connections("tcp")
    return any(connection.status == psutil.CONN_ESTABLISHED for connection in found)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class PyCharm:
    """The listening side of pydevd's own protocol: each process that it debugs connects.

    :param suite: where breakpoints are set.
    """

    def __init__(self, suite: Path) -> None:
        self.stops: list[str] = []
        self._suite = suite
        self._server = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    def run(self, *arguments: str) -> tuple[int, str]:
        """Exit status and output of pytest under ``python -m pydevd``."""
        port = str(self._server.getsockname()[1])
        pydevd = ("-m", "pydevd", "--multiprocess", "--client", "127.0.0.1", "--port", port)
        done = subprocess.run(
            [*_python(), *pydevd, "--module", "--file", "pytest", *pytest_arguments(*arguments)],
            cwd=self._suite.parent,
            env=inner_environment(self._suite.parent, _FAST),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )
        self._server.close()
        return done.returncode, done.stdout + done.stderr

    def _accept(self) -> None:
        names = iter(["main"])
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            name = next(names, "isolated")
            threading.Thread(target=self._serve, args=(connection, name), daemon=True).start()

    def _serve(self, connection: socket.socket, name: str) -> None:
        def send(*fields: object) -> None:
            connection.sendall(("\t".join(map(str, fields)) + "\n").encode())

        with connection, connection.makefile("rb") as stream:
            send(501, 1, "0.1", "UNIX", "ID")
            for number, line in enumerate(marked_lines(self._suite)):
                place = ("python-line", self._suite, line, *["None"] * 4, "False", "ALL")
                send(111, 3 + 2 * number, number, *place)
            send(101, 999, "")
            for message in stream:
                text = message.decode()
                if text.startswith("105\t"):  # a thread is suspended
                    thread = re.search(r'thread id="([^"]+)', text)
                    function = re.search(r'frame id="\d+" name="([^"]+)', text)
                    assert thread is not None
                    assert function is not None
                    self.stops.append(f"{name} {function[1]}")
                    send(106, 1001, thread[1])
