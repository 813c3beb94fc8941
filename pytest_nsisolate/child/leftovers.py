# SPDX-License-Identifier: MIT
"""What a test leaves running when its tear-down has ended, and what becomes of the test then.

Fact: what a test has not ended dies with its namespace, and the user does not hear of it. Elsewhere
it would live on: the shutdown that did not work, the daemon that lost its parent.

Consequence: the test's own process looks round after every finalizer and hook of the tear-down, and
before the report of that phase goes out, so that what it finds is a warning or an error of that
phase. Nearly every test learns by one ``kill(-1, 0)`` that it is alone.

What is no leftover: a zombie, which runs no more; a thread that is a daemon, or that ends within
:data:`.ending.THREAD_SECONDS`; the fork server and the resource tracker
of :mod:`multiprocessing`, which end with the process that uses them. A process that has been told
to end gets :data:`GRACE_MS` for that.

What still fails: where ``/proc`` cannot be read any more (a test has covered it, or has another
root) no process can be named, and a zombie counts; without a PID namespace none is found then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from warnings import warn_explicit

import pytest

from pytest_nsisolate.child import ending
from pytest_nsisolate.errors import NsisolateLeftoversWarning
from pytest_nsisolate.kernel import proc, process
from pytest_nsisolate.kernel.originals import open, os, select, time
from pytest_nsisolate.request.options import Leftovers
from pytest_nsisolate.wire import exceptions

#: Milliseconds that a process has to come to its end; they pass only where one is alive.
GRACE_MS: Final = 200

#: The title of the section in the report of the tear-down of a test that had failed before. pytest
#: shows those of "teardown" below the failure of the call.
SECTION: Final = "Processes alive after teardown"

_TRACKER: Final = "from multiprocessing.resource_tracker import main"
_FORK_SERVER: Final = (
    "from multiprocessing.forkserver import main",
    "import sys; from multiprocessing.forkserver import main",  # Python 3.14
)

_MOST_PROCESSES: Final = 40
_MOST_NAMES: Final = 4
_MOST_CHARACTERS: Final = 200
_ENDED: Final = "ZXx"
_UNSEEN: Final = (
    "something was left by the test, alive or a zombie: the test's /proc does not show it any more"
)


class Known(Protocol):
    """As much of a process as tells whose it is."""

    @property
    def pid(self) -> int: ...

    @property
    def ppid(self) -> int: ...

    @property
    def argv(self) -> tuple[str, ...]: ...


def is_infrastructure(argv: Iterable[str]) -> bool:
    """Whether these are the arguments of multiprocessing's resource tracker or fork server.

    By the program text that both are started with. It stays when a process is renamed
    (PR_SET_NAME), and a worker of the fork server has it too.
    """
    return any(argument.startswith((_TRACKER, *_FORK_SERVER)) for argument in argv)


def infrastructure(processes: Iterable[Known]) -> frozenset[int]:
    """The numbers of those that are multiprocessing's own.

    A worker is a fork of the fork server, so its arguments are the server's; its parent's tell.
    """
    own = {p.pid: p for p in processes if is_infrastructure(p.argv)}
    servers = {pid for pid, p in own.items() if any(a.startswith(_FORK_SERVER) for a in p.argv)}
    workers = {pid for pid in servers if own[pid].ppid in servers}
    return frozenset(own.keys() - workers)


@dataclass(frozen=True, slots=True)
class Left:
    """A process that was alive.

    :param state: one letter (proc(5)).
    :param started: seconds on the boot clock.
    """

    pid: int
    ppid: int
    state: str
    name: str
    argv: tuple[str, ...]
    started: float


class LeftoverCheck:
    """Looks round once, in the child. Made in the runner, where it costs the child no page.

    :param policy: what becomes of the test.
    :param own_pid: whether the test has a PID namespace of its own.
    :param init: whether an init stands between the test and its supervisor.
    :param settled: in a world that tests share: the processes that were there before the test.
    """

    def __init__(
        self,
        item: pytest.Item,
        policy: Leftovers,
        *,
        own_pid: bool,
        init: bool,
        settled: frozenset[int] = frozenset(),
    ) -> None:
        self._item = item
        self._policy = policy
        self._own_pid = own_pid
        self._init = init
        self._settled = settled

    def look(self, threads: Sequence[str] = ()) -> str:
        """What is alive, as text for people; empty if nothing is, or with ``leftovers="ignore"``.

        :param threads: the names of those that have been waited for, and have not ended.
        """
        if self._policy == "ignore":
            return ""
        texts = [describe_threads(threads, self._policy)] if threads else []
        if self._own_pid and process.alone():
            return "".join(texts)
        found, waited, pause = self._see(), 0, 1
        while found is not None and waited < GRACE_MS:
            # Not time.sleep(): a test may have replaced it for good.
            select.poll().poll(pause)
            waited += pause
            pause = min(2 * pause, GRACE_MS - waited)
            found = self._see()
        if found is not None:
            texts.append(self._describe(found))
        return "\n".join(texts)

    def judge(self, text: str, error: BaseException | None) -> str:
        """Warn or fail, as if the first line of the test had done so.

        :param text: what :meth:`look` has found.
        :param error: of the phase, which keeps it.
        :returns: what the report is to say of it besides; empty if that is done.
        :raises pytest.fail.Exception: if the test shall fail.
        :raises NsisolateLeftoversWarning: if the user's filters make it an error.
        """
        judgement: BaseException
        path, line = self._place()
        if self._policy == "fail":
            judgement = pytest.fail.Exception(text, pytrace=False)
        else:
            module = getattr(getattr(self._item, "module", None), "__name__", None)
            try:
                warn_explicit(text, NsisolateLeftoversWarning, path, line, module)
            except NsisolateLeftoversWarning as raised:
                judgement = raised.with_traceback(None)
            else:
                return ""
        if error is None or isinstance(error, pytest.skip.Exception):
            exceptions.raise_at(judgement, (path, line))
        return text

    def _place(self) -> tuple[str, int]:
        relative, line, _ = self._item.location
        path = os.path.normpath(os.path.join(self._item.config.rootpath, relative))
        return path, (line or 0) + 1

    # Looking --------------------------------------------------------------------------------------

    def _see(self) -> list[Left] | None:
        """Those alive; None if there are none, an empty list if there are some that are unseen."""
        try:
            pids = self._new() if self._own_pid else self._descendants()
            seen = [found for found in map(_read, sorted(pids)) if found is not None]
        except OSError:
            seen = []
        if not seen:
            if self._settled:
                return None  # others are there in any case
            return None if not self._own_pid or process.alone() else []
        own = infrastructure(seen)
        alive = [found for found in seen if found.state not in _ENDED and found.pid not in own]
        return alive or None

    def _new(self) -> set[int]:
        """In its PID namespace: all but those of the world that it shares with other tests."""
        everybody = _everybody() - self._settled
        return everybody - settled_family(self._settled) if everybody else everybody

    def _descendants(self) -> set[int]:
        """Without a PID namespace: all below the supervisor, but its init and the test."""
        adopter = os.getppid()
        top = adopter
        if self._init:
            init = _read(adopter)
            if init is None:
                return set()
            top = init.ppid
        return {*proc.descendants(top)} - {adopter, os.getpid()}

    # Telling --------------------------------------------------------------------------------------

    def _describe(self, found: list[Left]) -> str:
        if not found:
            lines = [_UNSEEN]
        else:
            count = f"{len(found)} process{'es' if len(found) > 1 else ''}"
            lines = [f"{count} alive after the test: {_names(found)}", *_table(found)]
        lines.append(
            f"leftovers={self._policy!r}: end what a test starts in the test or in a finalizer of "
            "its fixtures, or allow it by isolated(leftovers='ignore')"
        )
        return "\n".join(lines)


def describe_threads(names: Sequence[str], policy: Leftovers) -> str:
    """The text about threads that have been waited for and have not ended."""
    count = f"{len(names)} thread{'s' if len(names) > 1 else ''}"
    listed = ", ".join(_printable(name) for name in names[:_MOST_PROCESSES])
    return (
        f"{count} still at work at the end: {listed}\n"
        f"At its exit Python waits for such threads; they were given {ending.THREAD_SECONDS:g} s\n"
        f"leftovers={policy!r}: end what a test starts, or start it with daemon=True"
    )


def _names(found: list[Left]) -> str:
    counted = Counter(left.name for left in found).most_common()
    names = [
        f"{count} {_printable(name)}" if count > 1 else _printable(name)
        for name, count in counted[:_MOST_NAMES]
    ]
    return ", ".join([*names, *(["..."] if len(counted) > _MOST_NAMES else [])])


def _table(found: list[Left]) -> Iterator[str]:
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    yield f"{'PID':>7} {'PPID':>7} S {'AGE':>9}  COMMAND"
    for left in found[:_MOST_PROCESSES]:
        age = f"{max(now - left.started, 0):.2f} s"
        yield f"{left.pid:>7} {left.ppid:>7} {left.state} {age:>9}  {_command(left)}"
    if len(found) > _MOST_PROCESSES:
        yield f"... and {len(found) - _MOST_PROCESSES} more"


def _command(left: Left) -> str:
    text = " ".join(left.argv) or f"[{left.name}]"
    line = _printable(text[:_MOST_CHARACTERS])
    return f"{line}..." if len(text) > _MOST_CHARACTERS else line


def _printable(text: str) -> str:
    # A control character would break the line, or the terminal.
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def settled_family(settled: frozenset[int]) -> frozenset[int]:
    """In a test of a shared world: what was there before it, and what is below that.

    The init and the keeper, which are above everything, have only themselves there.
    """
    above = {1, os.getppid()}
    return settled | {below for pid in settled - above for below in proc.descendants(pid)}


def _everybody() -> set[int]:
    """All of this PID namespace but PID 1, which is the test or its init, and the test.

    :raises OSError: without a ``/proc``, or with another namespace's, the host's for example.
    """
    proc.check_own()
    return {*proc.pids()} - {1, os.getpid()}


def _read(pid: int) -> Left | None:
    """A process as it is now; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            found = proc.stat(file.read())
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            arguments = proc.arguments(file.read().rstrip(b"\0"))
    except OSError:
        return None
    return Left(
        pid=pid,
        ppid=found.ppid,
        # The first thread of a program may end before the others (pthread_exit(3)): no zombie.
        state="S" if found.state in _ENDED and found.threads > 1 else found.state,
        name=found.name.decode(errors="replace"),
        argv=tuple(argument.decode(errors="replace") for argument in arguments),
        started=found.started,
    )
