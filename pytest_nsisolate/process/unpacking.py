# SPDX-License-Identifier: MIT
"""An archive becomes a tree of files, in a child whose root is that tree.

Fact: what an archive names may lead anywhere: ``..``, an absolute name, a link and then a name
through it. tarfile's filters ask where a name leads before it is made, which a second name can
change.
What we do: the child has changed its root to the empty tmpfs that it fills, in namespaces of its
own, so there is nothing else to lead to. Names with ``..`` are refused all the same.

Fact: tarfile ends at a broken header as if it were the end of the archive, and takes an archive
without its end for a whole one.
What we do: a header of our own class says what ended the archive.

Fact: a file may have any number of headers of any length, all of which tarfile keeps until it has
the last. Global headers are kept for good, names of folders until the end, and a decompressor takes
the dictionary that the archive names (4 GiB for xz).
What we do: the headers of one file are bounded, and so is the memory of this process (RLIMIT_DATA),
which the content on the tmpfs does not count for.

Devices are left out, because each test has its own ``/dev``, and so is what overlay would take for
its marks. Holes stay holes: a block of zeros is not written. What is written counts against the
size of the tmpfs.

What still fails: attributes other than ``user.*``; owners, where one id exists.
"""

from __future__ import annotations

import errno
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import new as new_hash
from stat import S_ISDIR
from tarfile import TarFile
from typing import Any, Final, Protocol

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.originals import open, os, resource, shutil

#: Bytes that are read at a time.
_CHUNK: Final = 1 << 20
_BLOCK: Final = 4096

#: Bytes of the headers of one file: names, attributes, where a file has holes. More is a trap, and
#: takes some thirty times as much when it is read.
_MOST_HEADERS: Final = 16 << 20

#: What this process may take beside what it has of its parent. Two million names fit in it.
_MOST_MEMORY: Final = 1 << 30

#: Files and folders of an archive; each takes a kilobyte of the kernel's memory at least.
MOST_FILES: Final = 2_000_000

_XATTR: Final = "SCHILY.xattr.user."

_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"


class Readable(Protocol):
    """What an archive is read from."""

    def read(self, size: int, /) -> bytes:
        """So many bytes, or fewer at the end."""


class BadArchiveError(Exception):
    """The argument says what is wrong with it."""


class Stream:
    """An archive that is read once from its beginning to its end, as tarfile wants it.

    :param digest: what it must have, ``sha256:...``; None: whatever it has.
    """

    def __init__(self, source: Readable, digest: str | None = None) -> None:
        self._source = source
        self._at = 0
        self._left: int | None = None
        self._digest = digest
        self._hash = None
        if digest is not None:
            kind = digest.partition(":")[0]
            if kind not in ("sha256", "sha512"):
                raise BadArchiveError(f"its digest is of an unknown kind: {digest[:80]}")
            self._hash = new_hash(kind)

    def read(self, size: int) -> bytes:
        """See :class:`io.RawIOBase`; never fewer bytes than there are.

        :raises BadArchiveError: for more than headers may have.
        """
        if self._left is not None:
            self._left -= size
            if size < 0 or self._left < 0:
                raise BadArchiveError("it has a file with headers of more than 16 MiB")
        return self._read(size)

    def _read(self, size: int) -> bytes:
        parts = []
        while size > 0 and (part := self._source.read(min(size, _CHUNK))):
            parts.append(part)
            size -= len(part)
            if self._hash is not None:
                self._hash.update(part)
        found = b"".join(parts)
        self._at += len(found)
        return found

    @contextmanager
    def headers(self) -> Iterator[None]:
        """What is read here are the headers of one file."""
        self._left = _MOST_HEADERS
        yield
        self._left = None

    def tell(self) -> int:
        """Bytes that were read."""
        return self._at

    def seek(self, position: int) -> int:
        """Forward only.

        :raises BadArchiveError: backward.
        """
        if position < self._at:
            raise BadArchiveError("it has a member that lies before its header")
        while self._at < position and self._read(min(position - self._at, _CHUNK)):
            pass
        return self._at

    def check(self) -> None:
        """Read the rest.

        :raises BadArchiveError: for another digest.
        """
        while self._read(_CHUNK):
            pass
        if self._hash is not None and self._digest != f"{self._hash.name}:{self._hash.hexdigest()}":
            raise BadArchiveError(f"its content does not have the digest {self._digest}")


class _Header(tarfile.TarInfo):
    """Says what has ended the archive."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> _Header:
        try:
            return super().fromtarfile(tarfile)
        except (BadArchiveError, OSError, EOFError, MemoryError):
            raise
        except Exception as error:
            if type(error).__name__ == "EOFHeaderError":
                raise  # two blocks of zeros
            raise BadArchiveError(f"it is cut off or damaged ({error})") from error


def members(stream: Stream) -> Iterator[tuple[Any, Any]]:
    """A tar that is read forward, with one member after the other.

    :raises BadArchiveError: if it is none.
    """
    source: Any = stream
    archive: Any
    try:
        with stream.headers():
            archive = TarFile(fileobj=source, tarinfo=_Header, errorlevel=2)
    except (tarfile.TarError, ValueError) as error:
        raise BadArchiveError(f"it is no tar archive ({error})") from error
    with archive:
        while True:
            with stream.headers():
                member = archive.next()
            if member is None:
                return
            archive.members.clear()  # it would keep every header
            yield archive, member


class Unpacker:
    """Fills the current directory, which is the root of this process.

    :param owners: every id exists here, and files get theirs.
    :param until: by :func:`~pytest_nsisolate.kernel.clock.monotonic`.
    """

    def __init__(self, *, owners: bool, until: float) -> None:
        self._owners = owners
        self._until = until
        self._left = MOST_FILES
        self._modes: dict[str, tuple[int, float, int]] = {}

    def unpack(self, stream: Stream, *, layer: bool) -> None:
        """One archive, over what is there.

        :param layer: of an image: names say what of the layers below is gone.
        :raises BadArchiveError: for what no archive should have.
        :raises OSError: ENOSPC above all.
        """
        made: set[str] = set()
        for archive, member in members(stream):
            if monotonic() > self._until:
                raise OSError(errno.ETIME, os.strerror(errno.ETIME))
            self._count()
            self._take(archive, member, made if layer else None)
        stream.check()

    def finish(self) -> None:
        """Directories get their modes, which may forbid to write to them."""
        for path in sorted(self._modes, reverse=True):
            mode, time, number = self._modes[path]
            with suppress(FileNotFoundError, NotADirectoryError):
                found = os.lstat(path)
                if not S_ISDIR(found.st_mode) or found.st_ino != number:
                    continue  # something else has taken its place
                os.chmod(path, mode)
                os.utime(path, (time, time), follow_symlinks=False)
        self._modes.clear()

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise BadArchiveError(f"it has more than {MOST_FILES} files and folders")

    def _take(self, archive: Any, member: Any, made: set[str] | None) -> None:
        path = _inside(member.name, "name")
        folder, name = os.path.split(path)
        if made is not None and name.startswith(_WHITEOUT):
            self._hide(folder, name, made)
            return
        if path == ".":
            if member.isdir():
                self._modes["."] = (member.mode & 0o7777, member.mtime, os.stat(".").st_ino)
            return
        self._make_folder(folder)
        if member.isdir():
            if not os.path.isdir(path) or os.path.islink(path):
                _remove(path)
                os.mkdir(path, 0o700)
            self._modes[path] = (member.mode & 0o7777, member.mtime, os.lstat(path).st_ino)
        elif member.issym():
            _remove(path)
            os.symlink(member.linkname, path)
        elif member.islnk():
            self._link(member, path)
        elif member.isreg():
            _remove(path)
            self._write(archive, member, path)
        elif member.isfifo():
            _remove(path)
            os.mkfifo(path, 0o600)
        else:
            return  # a device: each test has its own /dev
        while made is not None and path not in made and path:
            made.add(path)
            path = os.path.dirname(path)
        path = os.path.join(folder, name)
        if not member.islnk():
            self._dress(member, path)

    def _make_folder(self, path: str) -> None:
        """Where a path leads inside, also by a link to what is not there yet."""
        if os.path.isdir(path or "."):
            return
        missing = []
        at = os.path.realpath(path)
        while not os.path.isdir(at):
            missing.append(at)
            at = os.path.dirname(at)
        for folder in reversed(missing):
            self._count()
            try:
                os.mkdir(folder, 0o755)
            except FileExistsError as error:
                said = f"it has a file below what is no folder: {_short(path)}"
                raise BadArchiveError(said) from error

    def _hide(self, folder: str, name: str, made: set[str]) -> None:
        """Whiteouts of OCI image layers: of what lies below, and not of this layer's own."""
        if name == _OPAQUE:
            _remove_below(folder, made)
            return
        gone = name.removeprefix(_WHITEOUT)
        if gone in ("", ".", ".."):
            raise BadArchiveError(f"it has a whiteout of no name: {_short(name)}")
        path = os.path.join(folder, gone)
        if path not in made:
            _remove(path)
        elif os.path.isdir(path) and not os.path.islink(path):
            _remove_below(path, made)

    def _link(self, member: Any, path: str) -> None:
        target = _inside(member.linkname, "link")
        if target == path:
            return
        if not os.path.lexists(target) or (os.path.isdir(target) and not os.path.islink(target)):
            raise BadArchiveError(f"it has a hard link to no file: {_short(member.linkname)}")
        if os.path.lexists(path) and os.path.samestat(os.lstat(target), os.lstat(path)):
            return  # by a folder that is a link
        _remove(path)
        os.link(target, path, follow_symlinks=False)

    def _write(self, archive: Any, member: Any, path: str) -> None:
        file: Any = archive.extractfile(member)
        source = file.raw  # one that reads ahead would have to go back in a file with holes
        parts = [(0, member.size)] if member.sparse is None else member.sparse
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            os.ftruncate(fd, member.size)
            for offset, size in parts:
                left = size
                os.lseek(fd, offset, os.SEEK_SET)
                source.seek(offset)
                while left > 0:
                    content = source.read(min(left, _CHUNK))
                    if not content:
                        raise BadArchiveError(f"it is cut off within {_short(member.name)}")
                    left -= len(content)
                    _write_some(fd, content)
                    if monotonic() > self._until:
                        raise OSError(errno.ETIME, os.strerror(errno.ETIME))
        finally:
            os.close(fd)

    def _dress(self, member: Any, path: str) -> None:
        if self._owners:
            os.chown(path, member.uid, member.gid, follow_symlinks=False)
        for key, value in member.pax_headers.items():
            name = key.removeprefix("SCHILY.xattr.")
            if key.startswith(_XATTR) and not name.startswith("user.overlay."):
                with suppress(OSError):  # as possible
                    os.setxattr(
                        path, name, value.encode("utf-8", "surrogateescape"), follow_symlinks=False
                    )
        if not member.issym() and not member.isdir():
            os.chmod(path, member.mode & 0o7777)
        if not member.isdir():
            os.utime(path, (member.mtime, member.mtime), follow_symlinks=False)


def _remove_below(folder: str, made: set[str]) -> None:
    """What is in it from the layers below."""
    waiting = [folder]
    while waiting:
        folder = waiting.pop()
        with suppress(FileNotFoundError, NotADirectoryError):
            for entry in os.listdir(folder or "."):
                path = os.path.join(folder, entry)
                if path not in made:
                    _remove(path)
                elif os.path.isdir(path) and not os.path.islink(path):
                    waiting.append(path)


def _write_some(fd: int, content: bytes) -> None:
    """But no zeros: a file of the kernel's is full of them."""
    for start in range(0, len(content), _BLOCK):
        block = content[start : start + _BLOCK]
        if block.count(0) == len(block):
            os.lseek(fd, len(block), os.SEEK_CUR)
            continue
        while block:
            block = block[os.write(fd, block) :]


def _inside(name: str, kind: str) -> str:
    """
    :raises BadArchiveError: for a name that leads up, or is none.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name:
        raise BadArchiveError(f"it has a {kind} that leads out of it: {_short(name)}")
    return "/".join(parts) or "."


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        pass  # what is above it is a file; the next call says so
    except IsADirectoryError:
        shutil.rmtree(path)
    except PermissionError:
        if not os.path.isdir(path):
            raise
        shutil.rmtree(path)


def _short(text: str) -> str:
    return ascii(text if len(text) < 100 else f"{text[:96]}...")


def bound_memory() -> None:
    """This process gets no more than :data:`_MOST_MEMORY` (RLIMIT_DATA of getrlimit(2)).

    :raises OSError: without a ``/proc``.
    """
    with open("/proc/self/statm", "rb") as file:
        most = int(file.read().split()[5]) * resource.getpagesize() + _MOST_MEMORY
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == resource.RLIM_INFINITY or most < soft:
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def named(step: str, call: Callable[[], None]) -> None:
    """
    :raises StepError: EBADMSG for a bad archive, ENOMEM for one that takes too much memory; with
        the number of what else fails.
    """
    try:
        call()
    except MemoryError:
        pass  # what its frames hold is let go of before anything else is done
    except BadArchiveError as error:
        raise StepError(step, "mount", errno.EBADMSG, str(error)) from error
    except OSError as error:
        if error.errno is None:  # of gzip and bz2
            raise StepError(step, "mount", errno.EBADMSG, str(error)) from error
        detail = "" if error.filename is None else str(error.filename)
        raise StepError(step, "mount", error.errno, detail) from error
    except (tarfile.TarError, EOFError, ValueError, KeyError, TypeError, RecursionError) as error:
        said = str(error) or type(error).__name__
        raise StepError(step, "mount", errno.EBADMSG, said[:200]) from error
    except Exception as error:  # lzma's and zlib's own
        said = f"{type(error).__name__}: {error}"
        raise StepError(step, "mount", errno.EBADMSG, said[:200]) from error
    else:
        return
    raise StepError(step, "mount", errno.ENOMEM)
