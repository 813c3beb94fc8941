# SPDX-License-Identifier: MIT
"""What ``root=``, ``writable=``, ``files=``, ``hide=`` and ``root_size=`` may say.

Spelling and kind are checked here, at collection. Whether this host has a path is asked at the
launch: that is a refusal, about which ``--nsisolate-missing`` decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pytest_nsisolate.kernel.originals import os, re
from pytest_nsisolate.request import limits
from pytest_nsisolate.request.wording import short, suggestion

#: The values of ``root=`` that are words, with the host's own files first.
ROOTS: Final = ("host", "overlay", "readonly")

#: Folders of which each test has its own, whatever its root is.
_OWN: Final = ("/proc", "/sys", "/dev")

_PERCENT: Final = re.compile(r"(\d{1,3})%", re.ASCII)


class FilesError(ValueError):
    """A value is not allowed; the argument is the rest of the sentence."""


def check_root(value: object) -> str | None:
    """The kind of root, or the path of one; None for the host's own files.

    A word is no path, so that a misspelt one is seen: ``./box`` is.

    :raises FilesError: for anything else.
    """
    if value is None or value == "host":
        return None
    if isinstance(value, str) and value in ROOTS:
        return value
    try:
        path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    except Exception:  # of a class of the suite's
        path = None
    if isinstance(path, str) and (isinstance(value, os.PathLike) or re.search(r"[/.]", path)):
        if "\0" in path:
            raise FilesError("takes a path without NUL")
        return path if "/" in path else f"./{path}"
    guess = f", {suggestion(value, ROOTS)}" if isinstance(value, str) else ""
    raise FilesError(f'takes "host", "overlay", "readonly", or a path such as "./box"{guess}')


def root_from(root: str | None, folder: str) -> str | None:
    """The same root, but a path is seen from this folder."""
    if root is None or root in ROOTS:
        return root
    return os.path.normpath(os.path.join(folder, root))


def is_written_to(root: str | None) -> bool:
    """What a test writes to this root is thrown away, and so it may have a limit."""
    return root not in (None, "readonly")


def check_writable(value: object) -> tuple[str, ...]:
    """Paths that stay the host's.

    :raises FilesError: when they cannot be.
    """
    found = sorted({_path(path) for path in _listed(value)})
    for path in found:
        if any(path == own or path.startswith(f"{own}/") for own in _OWN):
            raise FilesError(f"cannot name {short(path)}: that is no part of the root")
    return tuple(found)


def check_hide(value: object) -> tuple[str, ...]:
    """Paths that are not there.

    :raises FilesError: when they cannot be paths.
    """
    return tuple(sorted({_path(path) for path in _listed(value)}))


def check_files(value: object) -> tuple[tuple[str, bytes | Path], ...]:
    """Paths, each with its content, or with the file that has it.

    :raises FilesError: for the first thing that is wrong with it.
    """
    if not isinstance(value, Mapping):
        raise FilesError("takes a dict of paths to text, bytes or Path")
    found: dict[str, bytes | Path] = {}
    for name, content in value.items():
        path = _path(name)
        if path in found:
            raise FilesError(f"names {short(path)} twice")
        found[path] = _content(path, content)
    for path in found:
        above = next((other for other in found if path.startswith(f"{other}/")), None)
        if above is not None:
            raise FilesError(f"makes {short(above)} a file, and has {short(path)} below it")
    return tuple(sorted(found.items()))


def check_size(value: object) -> str:
    """A size as tmpfs(5) takes it: a number of bytes, or a part of the memory (``"50%"``).

    :raises FilesError: when it is neither.
    """
    if isinstance(value, str) and (percent := _PERCENT.fullmatch(value)) is not None:
        if not 1 <= int(percent[1]) <= 100:
            raise FilesError(f"takes 1% to 100% of the memory, not {short(value)}")
        return value
    try:
        size = limits.check({"file_size": value})["file_size"]
    except limits.LimitError:
        size = None
    if size is None or size < 1 << 16:
        raise FilesError(f'takes a size from 64K on, bytes, "256M" or "50%", not {short(value)}')
    return str(size)


def _content(path: str, value: object) -> bytes | Path:
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise FilesError(f"takes text that has a UTF-8 form for {short(path)}") from None
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, Path):
        return value
    raise FilesError(f"takes text, bytes or Path for {short(path)}, not {short(value)}")


def _listed(value: object) -> tuple[object, ...]:
    # A lone path is one path, not a list of letters.
    if isinstance(value, str | os.PathLike):
        return (value,)
    if not isinstance(value, tuple | list | set | frozenset):
        raise FilesError("takes a path, or a list of paths")
    return tuple(value)


def _path(value: object) -> str:
    try:
        path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    except Exception:  # of a class of the suite's
        path = None
    if not isinstance(path, str):
        raise FilesError(f"takes paths, not {short(value)}")
    if not path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise FilesError(f"takes absolute paths without '..', not {short(path)}")
    path = "/" + "/".join(part for part in path.split("/") if part not in ("", "."))
    if path == "/":
        raise FilesError("cannot name the root itself")
    return path
