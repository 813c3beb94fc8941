# SPDX-License-Identifier: MIT
"""What a test was doing when its budget ran out: Python stacks, processes, sockets and network.

Fact: a test that hangs may block every signal, sit in C code that holds the GIL, or have stopped
itself. A watchdog thread in the child would see it, but would also make the test's own
``unshare(CLONE_NEWUSER)`` fail.

Consequence: the fault handler dumps all stacks from a signal handler, in C and without the GIL,
into a memfd of the runner's. The signal is a rarely used real-time one; SIGCONT follows. If nothing
comes, the runner attaches with ptrace, empties the signal mask of the main thread and lets go, so
that the pending signal is delivered.

What still fails: where the test has taken that very signal, or ptrace is not allowed, there are no
Python stacks. Then the kernel's view of each thread stands in: state, wchan, system call, masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pytest_nsisolate.kernel import proc, syscalls
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.originals import open, os, select, signal
from pytest_nsisolate.kernel.signals import stack_signal
from pytest_nsisolate.process.channel import RunnerEnd, read_text

#: Seconds that the fault handler has to write all stacks.
STACK_SECONDS: Final = 0.3

#: Begins what is said of the world, after the stacks.
WORLD: Final = "Processes inside at the timeout:"

#: More processes than this are counted, not listed.
_MOST_PROCESSES: Final = 40


@dataclass(frozen=True, slots=True)
class Seen:
    """One process, read from outside; numbers inside its PID namespace where it has one."""

    host_pid: int
    pid: int
    parent: int
    state: str
    argv: str
    session: int = 0


def gather(end: RunnerEnd, *, init: bool) -> str:
    """Stacks and world of the test, as text for a report. Takes 2 s at most.

    :param init: the test is not PID 1, but its first child.
    """
    processes = list(_descendants(end.forked))
    first = _look(end.forked) if end.direct else None
    if first is not None:
        processes.insert(0, first)
    level = processes[1:] if init else processes
    if end.keeper is not None:
        level = [found for found in processes if found.host_pid == end.pid1]
    if not level or end.pid1_pidfd is None:
        return "The test's process was not to be seen any more."
    # Before the signal, which a test that waits in a system call goes on with.
    world = _world(level[0], processes)
    stacks = _python_stacks(end, level[0]) or _kernel_view(level[0].host_pid)
    return f"{stacks}\n\n{world}"


def cpu_seconds(pid: int) -> float | None:
    """Processor time of a process and of those that it has reaped; also of one that is dead.

    :returns: None when it has been reaped itself.
    """
    content = _read(f"/proc/{pid}/stat")
    return proc.stat(content).cpu_seconds if content else None


def _python_stacks(end: RunnerEnd, test: Seen) -> str:
    before = os.fstat(end.output.fault).st_size
    assert end.pid1_pidfd is not None
    try:
        signal.pidfd_send_signal(end.pid1_pidfd, stack_signal())
        signal.pidfd_send_signal(end.pid1_pidfd, signal.SIGCONT)
        if not _grows(end.output.fault, before) and _open_mask(test.host_pid):
            # Again: a test that stops itself in a loop has done so meanwhile.
            signal.pidfd_send_signal(end.pid1_pidfd, signal.SIGCONT)
            _grows(end.output.fault, before)
    except ProcessLookupError:
        return ""
    text = read_text(end.output.fault)[before:].strip()
    return f"Python stacks at the timeout:\n{text}" if text else ""


def _grows(fd: int, before: int) -> bool:
    """Wait until a dump has arrived and has stopped growing."""
    until = monotonic() + STACK_SECONDS
    size = before
    nothing = select.poll()
    while monotonic() < until:
        nothing.poll(10)
        now = os.fstat(fd).st_size
        if now == size > before:
            return True
        size = now
    return size > before


def _open_mask(pid: int) -> bool:
    """Let pending signals through to a process that blocks them all; False if not allowed.

    One that sleeps uninterruptibly (in vfork(2), on a dead file server) would not stop for it.
    """
    if proc.status(_read(f"/proc/{pid}/status")).get("State", "").startswith("D"):
        return False
    try:
        syscalls.unblock_signals(pid)
    except OSError:
        return False
    return True


def _kernel_view(pid: int) -> str:
    lines = ["No Python stacks: the test has taken or blocks the signal. The kernel's view:"]
    try:
        threads = sorted(os.listdir(f"/proc/{pid}/task"), key=int)
    except OSError:
        return "The test's process was not to be seen any more."
    for thread in threads[:_MOST_PROCESSES]:
        where = f"/proc/{pid}/task/{thread}"
        status = proc.status(_read(f"{where}/status"))
        masks = " ".join(f"{key}={status.get(key, '?')}" for key in ("SigBlk", "SigIgn", "SigCgt"))
        lines.append(
            f"  thread {thread}: state {status.get('State', '?')}, in {_text(f'{where}/wchan')},"
            f" system call {_text(f'{where}/syscall').split(' ')[0]}, {masks}"
        )
    return "\n".join(lines)


def _table(processes: list[Seen]) -> str:
    rows = [f"{'PID':>7} {'PPID':>7} S  COMMAND"]
    for seen in processes[:_MOST_PROCESSES]:
        rows.append(f"{seen.pid:>7} {seen.parent:>7} {seen.state}  {seen.argv}")
    if len(processes) > _MOST_PROCESSES:
        rows.append(f"... and {len(processes) - _MOST_PROCESSES} more")
    return "\n".join([WORLD, *rows])


def _world(test: Seen, processes: list[Seen]) -> str:
    table = _table(processes)
    try:
        from pytest_nsisolate.view.postmortem import (  # only a timeout needs them
            outside,
            unreaped,
        )

        if inherited := [f"{seen.pid} {seen.argv}" for seen in _inherited_zombies(test, processes)]:
            table = f"{table}\n{unreaped.line(inherited)}"
        numbers = {seen.pid: seen.host_pid for seen in processes}
        return f"{table}\n\n{outside.described(test.host_pid, numbers)}"
    except Exception as error:  # no descriptor left, say; that its time is over is told in any case
        return f"{table}\n\nsockets and network: could not be read ({error})"


def _inherited_zombies(test: Seen, processes: list[Seen]) -> Iterator[Seen]:
    """Those that PID 1, the test, cannot have started: another process began their session."""
    for seen in processes:
        mine = seen.parent == test.pid == 1 and seen.state == "Z"
        if mine and seen.session not in (test.session, seen.pid):
            yield seen


def _descendants(pid: int) -> Iterator[Seen]:
    """Everything below a process. Orphans of a PID namespace are children of its PID 1."""
    for child in proc.descendants(pid):
        seen = _look(child)
        if seen is not None:
            yield seen


def _look(pid: int) -> Seen | None:
    status = proc.status(_read(f"/proc/{pid}/status"))
    if "State" not in status:
        return None
    inside = status.get("NSpid", str(pid)).split()
    outer_parent = proc.status(_read(f"/proc/{status.get('PPid', '0')}/status"))
    parents = outer_parent.get("NSpid", status.get("PPid", "0")).split()
    parent = int(parents[-1]) if len(parents) == len(inside) else 0
    argv = _text(f"/proc/{pid}/cmdline").replace("\0", " ").strip() or f"[{status.get('Name')}]"
    session = int((status.get("NSsid") or "0").split()[-1])
    return Seen(pid, int(inside[-1]), parent, status["State"][:1], argv, session)


def _text(path: str) -> str:
    return _read(path).decode(errors="replace")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
