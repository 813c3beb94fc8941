# SPDX-License-Identifier: MIT
"""``user="range"``: more ids than one for a runner without capabilities (subuid(5), newuidmap(1)).

Fact: a process without capabilities may map its own id alone. The programs newuidmap and newgidmap,
which are set-uid, also map the ranges that ``/etc/subuid`` and ``/etc/subgid`` give to its account.
What we do: the runner's own id is root inside, and the ranges follow from 1 on. The runner runs the
two programs when the child has its user namespace.

Fact: code in the runner may wait for every child, and then nobody knows how a program has ended.
What we do: what counts is whether the map has been written.

What still fails: ranges that another source than these files gives (``subid:`` in nsswitch.conf).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.host import Host, facts
from pytest_nsisolate.kernel.idmap import IdMaps
from pytest_nsisolate.kernel.originals import open, os, select, shutil, signal
from pytest_nsisolate.process.channel import STEP_SECONDS

#: Where set-uid programs are, whatever PATH says.
_FOLDERS: Final = "/usr/bin:/usr/sbin:/bin:/sbin:/usr/local/bin:/run/wrappers/bin"

#: More extents than the kernel takes in one page would be refused; nobody has so many.
_MOST_RANGES: Final = 64

#: The first id inside that is not the runner's own.
_FIRST: Final = 1

#: What a program says is cut here.
_MOST_SAID: Final = 500


def range_maps(host: Host) -> IdMaps:
    """The runner's own ids as root, and its ranges.

    :raises StepError: ``find newuidmap`` or ``find a range in ...``: ENOENT.
    """
    programs = {name: _program(f"new{name}map") for name in ("uid", "gid")}

    def write(maps: IdMaps, pid: int) -> None:
        for name, content in (("uid", maps.uid_map), ("gid", maps.gid_map)):
            _run(programs[name], pid, f"/proc/{pid}/{name}_map", content)

    return IdMaps(
        _map("/etc/subuid", host.euid),
        _map("/etc/subgid", host.egid),
        deny_setgroups=False,
        writer=write,
    )


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_FOLDERS}")
    if found is None:
        raise StepError(f"find {name}", "user", errno.ENOENT)
    return found


def _map(file: str, own: int) -> bytes:
    lines = [b"0 %d 1\n" % own]
    inside = _FIRST
    for first, count in _ranges(file):
        lines.append(b"%d %d %d\n" % (inside, first, count))
        inside += count
    if inside == _FIRST:
        raise StepError(f"find a range in {file}", "user", errno.ENOENT)
    return b"".join(lines[: _MOST_RANGES + 1])


def _ranges(file: str) -> Iterator[tuple[int, int]]:
    """First id and count of each range of the account that runs this process."""
    # As the programs do it: by the real id.
    uid = os.getuid()
    owners = {facts.user_name(uid), str(uid)}
    with suppress(OSError), open(file, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            owner, *numbers = line.strip().split(":")
            if owner in owners and len(numbers) == 2 and all(map(str.isdecimal, numbers)):
                first, count = map(int, numbers)
                if count:
                    yield first, count


def _run(program: str, pid: int, written: str, content: bytes) -> None:
    """
    :raises StepError: named after the program, with what it has said.
    """
    step = os.path.basename(program)
    try:
        said = os.memfd_create("nsisolate", os.MFD_CLOEXEC)
        try:
            child = os.posix_spawn(
                program,
                [program, str(pid), *content.decode().split()],
                {"LC_ALL": "C"},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, said, 2),
                    *((os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(2)),
                ],
            )
            in_time = _wait(child)
            if _is_written(written):
                return
            text = os.pread(said, _MOST_SAID, 0).decode(errors="replace").strip()
        finally:
            os.close(said)
    except OSError as error:
        raise StepError(step, "user", error.errno or 0) from error
    raise StepError(step, "user", errno.EPERM if in_time else errno.ETIMEDOUT, text)


def _wait(child: int) -> bool:
    """Reap it, and kill it first if it is late: accounts may be looked up in a network."""
    pidfd = None
    with suppress(ProcessLookupError):  # code in the runner has reaped it
        pidfd = os.pidfd_open(child)
    if pidfd is None:
        return True
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        in_time = bool(poller.poll(STEP_SECONDS * 1000))
        with suppress(ProcessLookupError):
            if not in_time:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(child, 0)
    finally:
        os.close(pidfd)
    return in_time


def _is_written(name: str) -> bool:
    with open(name, "rb") as file:
        return bool(file.read())
