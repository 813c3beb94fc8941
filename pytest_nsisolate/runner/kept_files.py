# SPDX-License-Identifier: MIT
"""``--nsisolate-keep-root``: copies of what a failed test has written to a root of its own.

The copies lie below the base temp, which pytest cleans (``tmp_path_retention_count``).

What lies in the upper directories is the test's: every step is taken by a descriptor, no link is
followed, nothing but a regular file is opened, and no copy is set-uid or another user's.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import Final

from pytest_nsisolate.kernel.originals import open, os, re
from pytest_nsisolate.process.root import Written
from pytest_nsisolate.view.files import FileEntry, Files, lines, opened_directory

#: Below the base temp.
_FOLDER: Final = "nsisolate-root"

#: In the folder of a test: the copies, and the list of all that was changed.
_COPIES, _LIST = "files", "changes"

#: Bytes for one test; what comes later is only in the list.
_MOST: Final = 1 << 30

_CHUNK: Final = 1 << 20

#: Of a test's name.
_MOST_NAME: Final = 100


def keep(found: Files, written: Written, base: str, nodeid: str) -> str:
    """Copy what was created and modified.

    :param base: the base temp.
    :returns: the folder, which has not been there before.
    :raises OSError: when it cannot be written.
    """
    folder = _new_folder(base, nodeid)
    with open(f"{folder}/{_LIST}", "w", encoding="utf-8", errors="replace") as file:
        file.write("".join(f"{line}\n" for line in lines(found, len(found))))
    keeper = _Keeper(found, f"{folder}/{_COPIES}")
    os.mkdir(keeper.target)
    for number, place in enumerate(("", *written.places)):
        with opened_directory(f"u/{number}", written.tmpfs) as upper:
            keeper.copy_below(upper, place)
    return folder


def _new_folder(base: str, nodeid: str) -> str:
    name = re.sub(r"[^\w.\[\]-]+", "_", nodeid)[-_MOST_NAME:]
    top = f"{base}/{_FOLDER}"
    with suppress(FileExistsError):
        os.mkdir(top, 0o700)
    with opened_directory(top, None):  # a test may have put a link there
        pass
    for number in range(1, 1000):
        folder = f"{top}/{name}{f'-{number}' if number > 1 else ''}"
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)
            return folder
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), f"{base}/{_FOLDER}/{name}")


class _Keeper:
    def __init__(self, found: Files, target: str) -> None:
        self.target = target
        self._changed: dict[str, FileEntry] = {
            entry.path: entry for entry in (*found.created, *found.modified)
        }
        #: Directories that lead to what has changed.
        self._on_the_way = {""}
        for path in self._changed:
            while path := os.path.dirname(path).rstrip("/"):
                self._on_the_way.add(path)
        self._left = _MOST

    def copy_below(self, upper: int, path: str) -> None:
        for name in sorted(os.listdir(upper)):
            below = f"{path}/{name}"
            entry = self._changed.get(below)
            with suppress(FileNotFoundError, PermissionError, NotADirectoryError):
                if below in self._on_the_way or (entry and entry.kind == "directory"):
                    os.makedirs(self.target + below, exist_ok=True)
                    with opened_directory(name, upper) as inner:
                        self.copy_below(inner, below)
                elif entry is not None:
                    os.makedirs(self.target + path, exist_ok=True)
                    self._copy(upper, name, entry)

    def _copy(self, upper: int, name: str, entry: FileEntry) -> None:
        target = self.target + entry.path
        if entry.kind == "link":
            os.symlink(os.readlink(name, dir_fd=upper), target)
        elif entry.kind == "file" and entry.size <= self._left:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
            with open(os.open(name, flags, dir_fd=upper), "rb") as source, open(target, "xb") as to:
                while self._left > 0 and (content := source.read(min(_CHUNK, self._left))):
                    self._left -= to.write(content)
                os.fchmod(to.fileno(), entry.mode & 0o777 | 0o600)
