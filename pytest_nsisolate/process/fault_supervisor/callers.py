# SPDX-License-Identifier: MIT
"""What a call is about, read from its caller's memory and files.

What is read is true only if the caller still waits afterwards (:meth:`.Listener.is_waiting`).
"""

from __future__ import annotations

import os
import posixpath
import socket
import sys
from collections.abc import Iterator
from typing import Final

from .listener import Notification

_AT_FDCWD: Final = 0xFFFFFF9C
_PAGE: Final = 4096
_LONGEST_PATH: Final = 4096
_LONGEST_ADDRESS: Final = 128


class UnreadableError(Exception):
    """The caller's memory or its files may not be looked at (ptrace(2))."""


def read_memory(pid: int, address: int, size: int) -> bytes:
    """Bytes of the caller's memory, at most so many, and up to the end of what is mapped."""
    found = b""
    try:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            while len(found) < size:
                # Not over the end of a page, behind which there may be nothing.
                step = min(size - len(found), _PAGE - (address + len(found)) % _PAGE)
                try:
                    part = os.pread(memory.fileno(), step, address + len(found))
                except OSError:
                    break
                if not part:
                    break
                found += part
    except (OSError, OverflowError) as error:
        raise UnreadableError from error
    return found


def read_text(pid: int, address: int) -> str:
    """A string of the caller's memory (``\\0`` ends it)."""
    text = b""
    while len(text) < _LONGEST_PATH:
        part = read_memory(pid, address + len(text), 256)
        text += part.partition(b"\0")[0]
        if b"\0" in part or not part:
            break
    return os.fsdecode(text)


def file_of(pid: int, descriptor: int) -> str:
    """Where a descriptor of the caller leads, as ``/proc/PID/fd`` shows it; empty if nowhere."""
    where = "cwd" if descriptor == _AT_FDCWD else f"fd/{descriptor}"
    try:
        return os.readlink(f"/proc/{pid}/{where}").removesuffix(" (deleted)")
    except PermissionError as error:
        raise UnreadableError from error
    except OSError:
        return ""


def address_of(pid: int, position: int, size: int) -> str:
    """A socket address (``127.0.0.1:80``, ``[::1]:80``, a path, ``@name`` if it is abstract)."""
    raw = read_memory(pid, position, min(size, _LONGEST_ADDRESS))
    family = int.from_bytes(raw[:2], sys.byteorder)
    if family == socket.AF_INET and len(raw) >= 8:
        return f"{socket.inet_ntoa(raw[4:8])}:{int.from_bytes(raw[2:4], 'big')}"
    if family == socket.AF_INET6 and len(raw) >= 24:
        host = socket.inet_ntop(socket.AF_INET6, raw[8:24])
        return f"[{host}]:{int.from_bytes(raw[2:4], 'big')}"
    if family == socket.AF_UNIX:
        path = raw[2:]
        if path[:1] == b"\0":
            return "@" + os.fsdecode(path[1:])
        return os.fsdecode(path.partition(b"\0")[0])
    return ""


def status(pid: int) -> dict[str, list[str]]:
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as status:
            lines = [line.partition(":") for line in status]
    except OSError:
        return {}
    return {key: value.split() for key, _, value in lines}


def program(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
            return comm.read().rstrip("\n")
    except OSError:
        return ""


def basename(pid: int) -> str:
    """Of what was typed to start it: ``comm`` has 15 characters, and a script's interpreter."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as line:
            return posixpath.basename(os.fsdecode(line.read(_PAGE).partition(b"\0")[0]))
    except OSError:
        return ""


# Faults -------------------------------------------------------------------------------------------


def pid_namespace(pid: int) -> int:
    """The inode of the PID namespace that a process is in."""
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError as error:
        raise UnreadableError from error


def number(tid: int, level: int) -> int:
    """The number of a thread's process, at a level of nested PID namespaces."""
    numbers = status(tid).get("NStgid", [])
    return int(numbers[level]) if level < len(numbers) else 0


def files(call: Notification, paths: list[list[int]], descriptors: list[int]) -> Iterator[str]:
    """The files that a call names: as it does, whole, and by its descriptors."""
    given = call.arguments
    for position, base in paths:
        text = read_text(call.pid, given[position]) if given[position] else ""
        if text:
            yield text
        if not text.startswith("/"):
            start = file_of(call.pid, _AT_FDCWD if base < 0 else given[base] & 0xFFFFFFFF)
            yield posixpath.normpath(posixpath.join(start, text)) if text else start
        else:
            yield posixpath.normpath(text)
    for position in descriptors:
        yield file_of(call.pid, given[position] & 0xFFFFFFFF)


def addresses(call: Notification, position: int) -> Iterator[str]:
    if position >= 0 and call.arguments[position]:
        size = call.arguments[position + 1]
        yield address_of(call.pid, call.arguments[position], size)
