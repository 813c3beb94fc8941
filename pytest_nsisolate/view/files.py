# SPDX-License-Identifier: MIT
"""What a test has changed among its files, in an overlay of the host's or of a folder.

Fact: an overlay copies a file up when it is opened for writing, and a directory above whatever is
made in it. Consequence: what lies in the upper directory is compared with what lay below, by kind,
mode, owner and content; a time alone is no change.

Only the upper directories are read, so this costs what was written and not what exists. They are
the test's: every step is taken by a descriptor, no link is followed, and nothing but a regular file
is opened. The runner reads them too, when the test has crashed.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from difflib import unified_diff
from hashlib import sha256
from stat import (
    S_IFBLK,
    S_IFCHR,
    S_IFDIR,
    S_IFIFO,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    S_IFSOCK,
    S_IMODE,
    S_ISCHR,
    S_ISDIR,
    S_ISREG,
)
from typing import Final, Literal, TypeAlias

from pytest_nsisolate.kernel.originals import open, os
from pytest_nsisolate.process.root import Written

Kind: TypeAlias = Literal["file", "directory", "link", "socket", "fifo", "device"]

#: More is not looked at, and the record says so.
MOST: Final = 10_000

#: Bytes of a file that are compared; a longer one goes by its size and time.
_MOST_COMPARED: Final = 64 << 20
_MOST_IN_ALL: Final = 512 << 20

#: Python's own copies of what it has imported; a question about files does not mean these.
_CACHE: Final = "__pycache__"

_OPAQUE: Final = "user.overlay.opaque"

_KINDS: Final[dict[int, Kind]] = {
    S_IFREG: "file",
    S_IFDIR: "directory",
    S_IFLNK: "link",
    S_IFSOCK: "socket",
    S_IFIFO: "fifo",
    S_IFCHR: "device",
    S_IFBLK: "device",
}


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file that was created or modified, as it is now, or deleted, as it was.

    :param path: absolute, as the test sees it.
    :param mode: the permission bits, with set-uid and the like.
    :param size: bytes.
    """

    path: str
    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    _written_at: int = field(default=0, repr=False, compare=False)

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class Files:
    """What a test has changed among its files, at one moment; false if nothing.

    Base temp, what ``writable=`` names, and ``__pycache__`` are not in it. What is in a directory
    that was deleted as a whole is not listed.

    :param created: are there only now.
    :param modified: are there in another kind, mode, owner or content.
    :param deleted: are there no more.
    :param complete: nothing is missing, as it would be of more than 10,000 changes, or in a
        directory that may not be read.
    """

    created: tuple[FileEntry, ...] = ()
    modified: tuple[FileEntry, ...] = ()
    deleted: tuple[FileEntry, ...] = ()
    complete: bool = True
    _written: Written | None = field(default=None, repr=False, compare=False)

    def __bool__(self) -> bool:
        return bool(self.created or self.modified or self.deleted)

    def __len__(self) -> int:
        return len(self.created) + len(self.modified) + len(self.deleted)

    def __str__(self) -> str:
        return "\n".join(lines(self)) or "no file was changed"

    def __sub__(self, earlier: Files) -> Files:
        """What was changed from one moment to a later one: ``later - earlier``.

        A file that was written again counts as modified, also with the content that it had. One
        that is again as it was before the test is created anew, modified back, or deleted.
        """
        if not isinstance(earlier, Files):
            return NotImplemented
        before, now = _by_path(earlier), _by_path(self)
        found: dict[str, list[FileEntry]] = {"created": [], "modified": [], "deleted": []}
        for path in sorted({*before, *now}):
            was, entry = before.get(path, _SAME), now.get(path, _SAME)
            word = _step(was, entry)
            shown = entry[1] or was[1]
            if word and shown:
                found[word].append(shown)
        complete = self.complete and earlier.complete
        changes = {word: tuple(entries) for word, entries in found.items()}
        return Files(**changes, complete=complete, _written=self._written)

    def diff(self, path: str | os.PathLike[str]) -> str:
        """A unified diff of a file, from what it was to what it is; of binary content, its hashes.

        :returns: an empty text where the content is the same.
        :raises RuntimeError: without ``root="overlay"``.
        """
        if self._written is None:
            raise RuntimeError(NO_OVERLAY)
        return _Layers(self._written).diff(os.fspath(path))


_State: TypeAlias = tuple[str, FileEntry | None]

_SAME: Final[_State] = ("", None)


def _by_path(files: Files) -> dict[str, _State]:
    words = ("created", "modified", "deleted")
    return {entry.path: (word, entry) for word in words for entry in getattr(files, word)}


def _step(before: _State, now: _State) -> str:
    """How one comes from the first state to the second; empty: they are the same."""
    (was, old), (word, new) = before, now
    if was == word:
        return "" if word == "deleted" or _marks(old) == _marks(new) else "modified"
    if word == "deleted" or (was, word) == ("created", ""):
        return "deleted"
    there = was != "deleted" and (was, word) != ("", "created")
    return "modified" if there else "created"


def _marks(entry: FileEntry | None) -> tuple[object, ...]:
    """What differs between two moments if the file does; of a directory, not what is in it."""
    if entry is None:
        return ()
    style = (entry.kind, entry.mode, entry.uid, entry.gid)
    return style if entry.kind == "directory" else (*style, entry.size, entry._written_at)


#: What there is to say without one.
NO_OVERLAY: Final = (
    "only a test with a root of its own knows which files it has changed: "
    'add root="overlay" to its marker, or the path of one, and pid1 to its arguments'
)


def read_files(written: Written) -> Files:
    """What was changed until now.

    :raises OSError: when the descriptors are gone.
    """
    return _Layers(written).read()


def lines(files: Files, most: int = 20) -> list[str]:
    """A line each, bounded."""
    found = []
    one_id = files._written is not None and files._written.one_id
    for word in ("created", "modified", "deleted"):
        entries: tuple[FileEntry, ...] = getattr(files, word)
        for entry in entries:
            size = f", {entry.size} bytes" if entry.kind == "file" else ""
            # Where one id exists, whose they are tells nothing; root is whom one expects.
            usual = one_id or (entry.uid, entry.gid) == (0, 0)
            owner = "" if usual else f" {entry.uid}:{entry.gid}"
            detail = f"{entry.kind} {entry.mode:04o}{owner}{size}"
            found.append(f"{word:8}  {_plain(entry.path)}  ({detail})")
    more = len(found) - most
    return [*found[:most], f"... and {more} more"] if more > 0 else found


class _Layers:
    """The upper directories, and what lay below them."""

    def __init__(self, written: Written) -> None:
        self._written = written
        self._found: dict[str, list[FileEntry]] = {"created": [], "modified": [], "deleted": []}
        self._left = MOST
        self._blind = False
        self._bytes = _MOST_IN_ALL
        root = os.fstat(written.tmpfs)
        self._root = (root.st_uid, root.st_gid)

    def read(self) -> Files:
        for number, place in enumerate(("", *self._written.places)):
            with opened_directory(f"u/{number}", self._written.tmpfs) as upper:
                self._walk(upper, place, number, merged=True)
        found = {
            word: tuple(sorted(entries, key=lambda entry: entry.path))
            for word, entries in self._found.items()
        }
        return Files(**found, complete=self._left > 0 and not self._blind, _written=self._written)

    def _walk(self, upper: int, path: str, number: int, *, merged: bool) -> None:
        """
        :param merged: there was a directory at this path before, too.
        """
        with os.scandir(upper) as entries:
            names = [entry.name for entry in entries]
        for name in sorted(names):
            if name == _CACHE or self._left <= 0:
                continue
            self._left -= 1
            with suppress(FileNotFoundError):  # gone meanwhile
                self._look(upper, name, f"{path}/{name}", number, merged=merged)

    def _look(self, upper: int, name: str, path: str, number: int, *, merged: bool) -> None:
        now = os.stat(name, dir_fd=upper, follow_symlinks=False)
        # Where there was a link to a directory, what that has was not at this path.
        before = self._before(path, number) if merged else None
        if _is_whiteout(now):
            if before is not None:
                self._add("deleted", path, before)
            return
        is_directory = S_ISDIR(now.st_mode)
        merged = is_directory and before is not None and S_ISDIR(before.st_mode)
        if before is None:
            self._add("created", path, now)
        elif self._differ(upper, name, path, now, before, number):
            self._add("modified", path, now)
        if not is_directory:
            return
        try:
            with opened_directory(name, upper) as inner:
                if merged and _is_opaque(inner):
                    self._replaced(inner, path, number)
                self._walk(inner, path, number, merged=merged)
        except PermissionError:
            self._blind = True

    def _replaced(self, upper: int, path: str, number: int) -> None:
        """The directory was removed and made anew: what is not there again is deleted."""
        there = {_CACHE, *os.listdir(upper)}
        with suppress(OSError):
            with opened_directory(self._path(path), self._written.host) as below:
                names = set(os.listdir(below)) - there
            for name in sorted(names):
                if (before := self._before(f"{path}/{name}", number)) is not None:
                    self._add("deleted", f"{path}/{name}", before)

    def _differ(
        self,
        upper: int,
        name: str,
        path: str,
        now: os.stat_result,
        before: os.stat_result,
        number: int,
    ) -> bool:
        kind = S_IFMT(now.st_mode)
        if kind != S_IFMT(before.st_mode) or self._is_restyled(now, before):
            return True
        if kind == S_IFLNK:
            return os.readlink(name, dir_fd=upper) != self._link_before(path, number)
        if kind != S_IFREG:
            return False
        if now.st_size != before.st_size:
            return True
        if now.st_size <= min(_MOST_COMPARED, self._bytes):
            self._bytes -= now.st_size
            with suppress(PermissionError):
                return _content(name, upper) != self._content_before(path, number)
        return now.st_mtime_ns != before.st_mtime_ns

    def _is_restyled(self, now: os.stat_result, before: os.stat_result) -> bool:
        """Mode or owner are others, as far as that can be told."""
        if self._written.one_id:
            # The ownership layer has given files to the root of the test's world, and perhaps a
            # directory another mode.
            given = (now.st_uid, now.st_gid) in (self._root, (before.st_uid, before.st_gid))
            return not given or (not S_ISDIR(now.st_mode) and now.st_mode != before.st_mode)
        then = (before.st_mode, before.st_uid, before.st_gid)
        return (now.st_mode, now.st_uid, now.st_gid) != then

    def _add(self, word: str, path: str, status: os.stat_result) -> None:
        entry = FileEntry(
            path,
            _KINDS.get(S_IFMT(status.st_mode), "file"),
            S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_size,
            status.st_mtime_ns,
        )
        self._found[word].append(entry)

    # What lay below -------------------------------------------------------------------------------

    def _given(self, path: str, number: int) -> str:
        """Its name on the tmpfs, if the test was given it; the skeleton's too."""
        if number == 0:
            return f"s{path}"
        return f"g/{number}{path.removeprefix(self._written.places[number - 1])}"

    def _before(self, path: str, number: int) -> os.stat_result | None:
        with suppress(OSError):
            given = os.stat(
                self._given(path, number), dir_fd=self._written.tmpfs, follow_symlinks=False
            )
            return None if _is_whiteout(given) else given
        if number == 0 and not self._written.whole:
            return None  # the skeleton has all that there was
        with suppress(OSError):
            return os.stat(self._path(path), dir_fd=self._written.host, follow_symlinks=False)
        return None

    def _link_before(self, path: str, number: int) -> str:
        with suppress(OSError):
            return os.readlink(self._given(path, number), dir_fd=self._written.tmpfs)
        return os.readlink(self._path(path), dir_fd=self._written.host)

    def _content_before(self, path: str, number: int) -> bytes:
        with suppress(FileNotFoundError, NotADirectoryError):
            return _content(self._given(path, number), self._written.tmpfs)
        return _content(self._path(path), self._written.host)

    def _path(self, path: str) -> str:
        """As the descriptor of the host's root has it."""
        return path if self._written.host is None else path.lstrip("/")

    # Contents -------------------------------------------------------------------------------------

    def diff(self, path: str) -> str:
        """See :meth:`Files.diff`."""
        path = os.path.normpath(path)
        number = next(
            (
                n
                for n, top in enumerate(self._written.places, 1)
                if f"{path}/".startswith(f"{top}/")
            ),
            0,
        )
        before = _or_none(lambda: self._content_before(path, number))
        now = _or_none(lambda: self._content_now(path, number, before))
        if before == now:
            return ""
        try:
            old, new = ((text or b"").decode().splitlines(keepends=True) for text in (before, now))
        except UnicodeDecodeError:
            hashes = ["nothing" if text is None else _hash(text) for text in (before, now)]
            return f"binary content of {path}: {hashes[0]} before, {hashes[1]} now\n"
        names = ["/dev/null" if text is None else path for text in (before, now)]
        found = unified_diff(old, new, names[0], names[1])
        return "".join(line if line.endswith("\n") else f"{line}\n" for line in found)

    def _content_now(self, path: str, number: int, before: bytes | None) -> bytes:
        """What is not in the upper directory is as it was, unless something on the way is gone."""
        top = "" if number == 0 else self._written.places[number - 1]
        name = f"u/{number}{path.removeprefix(top)}"
        try:
            os.stat(name, dir_fd=self._written.tmpfs, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            if before is None or self._is_gone(path, top, number):
                raise
            return before
        return _content(name, self._written.tmpfs)

    def _is_gone(self, path: str, top: str, number: int) -> bool:
        """A directory above it was removed, or removed and made anew."""
        folder = f"u/{number}"
        for part in path.removeprefix(top).strip("/").split("/")[:-1]:
            folder = f"{folder}/{part}"
            try:
                with opened_directory(folder, self._written.tmpfs) as upper:
                    if _is_opaque(upper):
                        return True
            except FileNotFoundError:
                return False
            except OSError:
                return True
        return False


def _or_none(read: Callable[[], bytes]) -> bytes | None:
    """None for what is no regular file, or is not there."""
    try:
        return read()
    except OSError:
        return None


def _content(name: str, folder: int | None) -> bytes:
    """Of a regular file, as far as it is compared; no link is followed.

    :raises OSError: EISDIR, ELOOP and the like for everything else.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not S_ISREG(status.st_mode):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    with open(os.open(name, flags, dir_fd=folder), "rb") as file:
        return file.read(_MOST_COMPARED)


@contextmanager
def opened_directory(name: str, folder: int | None) -> Iterator[int]:
    """A descriptor of it for the block; no link is followed.

    :raises OSError: ELOOP, ENOTDIR and the like for what is no directory.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)


def _is_whiteout(status: os.stat_result) -> bool:
    return S_ISCHR(status.st_mode) and status.st_rdev == 0


def _is_opaque(directory: int) -> bool:
    try:
        return os.getxattr(directory, _OPAQUE) == b"y"
    except OSError:
        return False


def _hash(content: bytes) -> str:
    return f"sha256 {sha256(content).hexdigest()[:16]}"


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
