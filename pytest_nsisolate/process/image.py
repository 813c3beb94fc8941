# SPDX-License-Identifier: MIT
"""An archive or an image as the root of tests: unpacked once a run, in a child.

What it may be: a tar, an OCI image layout as a folder or a tar, and what ``docker save`` writes,
each compressed as Python can read it. Layers are laid over one another as the image specification
says, and their digests are checked.

Fact: an archive is no directory that an overlay could lie on, and files on the disk outlive a
runner that is killed.
What we do: it is unpacked to a tmpfs, which is lent from test to test (see
:mod:`pytest_nsisolate.process.lending`).

What still fails: it takes as much memory as it has content.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import new as new_hash
from stat import S_ISDIR, S_ISREG
from typing import IO, TYPE_CHECKING, Any, Final

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.kernel.originals import json, open, os, platform, re
from pytest_nsisolate.kernel.survey import mark_of
from pytest_nsisolate.process.lending import LentTree, TreeBuilder
from pytest_nsisolate.process.unpacking import (
    BadArchiveError,
    Readable,
    Stream,
    Unpacker,
    bound_memory,
    members,
    named,
)
from pytest_nsisolate.request.model import IsolationRequest

if TYPE_CHECKING:
    from pytest_nsisolate.process.launcher import Launcher

#: More time is a refusal.
_SECONDS: Final = 600.0

#: Bytes of a manifest.
_MOST_TEXT: Final = 16 << 20

#: Names in the tar of an image, and nowhere else.
_OF_IMAGES: Final = re.compile(
    r"\.|blobs(/.*)?|(manifest|index)\.json|oci-layout|repositories|[0-9a-f]{64}(\.json|\.tar|/.*)?"
)

_DIGEST: Final = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")

#: By the first bytes of what they read. ``GzipFile`` would take a file for a name.
_COMPRESSIONS: Final = {
    b"\x1f\x8b": ("gzip", "open"),
    b"BZh": ("bz2", "BZ2File"),
    b"\xfd7zXZ\0": ("lzma", "LZMAFile"),
    b"\x5d\0\0": ("lzma", "LZMAFile"),
    b"\x28\xb5\x2f\xfd": ("compression.zstd", "ZstdFile"),
}

_MACHINES: Final = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i386": "386",
    "i586": "386",
    "i686": "386",
    "loongarch64": "loong64",
}


def _readers() -> dict[bytes, Callable[[Any], IO[bytes]] | None]:
    """Imported here, because nothing is to be in a child."""
    found: dict[bytes, Callable[[Any], IO[bytes]] | None] = {}
    for start, (module, name) in _COMPRESSIONS.items():
        found[start] = None
        with suppress(ImportError):
            found[start] = getattr(importlib.import_module(module), name)
    return found


_READERS: Final = _readers()


def mark(path: str) -> tuple[int, ...]:
    """Is another one as soon as the archive is.

    :raises OSError: when it cannot be looked at.
    """
    return mark_of(os.stat(f"{path}/index.json" if os.path.isdir(path) else path))


class Image(LentTree):
    """The tree of one archive.

    :param path: real.
    :param size: of what it may have, as tmpfs(5) takes it.
    :param request: that of a test, whose user namespace it is like.
    :param key: what tells it from other trees, its content as it is now among that.
    """

    def __init__(
        self,
        launcher: Launcher,
        path: str,
        size: str,
        request: IsolationRequest,
        key: tuple[object, ...],
    ) -> None:
        kinds = frozenset({"pid", "mount"}) | request.namespaces & {"user"}
        user = request.user if request.user in ("none", "range") else "map"
        if "user" not in kinds:
            user = "none"
        own = IsolationRequest(kinds, user=user, guarded=request.guarded)
        super().__init__(launcher, ("image", *key), own, _SECONDS)
        self._path = path
        self._size = size

    def _builder(self, count: int) -> TreeBuilder:
        owners = self._launcher.host.privileged or self._request.user == "range"
        return _Builder(self._path, self._size, count, owners=owners)


class _Builder(TreeBuilder):
    """The body of the child that unpacks."""

    def __init__(self, path: str, size: str, count: int, *, owners: bool) -> None:
        super().__init__(f"unpack {path}", count, size)
        self._path = path
        self._owners = owners

    def fill(self) -> None:
        """The archive is open when its tree becomes the root of this process."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            bound_memory()
            os.chroot(".")
        except OSError as error:
            detail = str(error.filename or "")
            raise StepError(self.step, "mount", error.errno or 0, detail) from error
        named(self.step, lambda: self._unpack(fd))

    def _unpack(self, fd: int) -> None:
        unpacker = Unpacker(owners=self._owners, until=monotonic() + _SECONDS)
        unpack(unpacker, fd)
        unpacker.finish()


def unpack(unpacker: Unpacker, fd: int) -> None:
    """All that an archive, or the folder of an image, has.

    :raises BadArchiveError: see :mod:`pytest_nsisolate.process.unpacking`.
    """
    mode = os.fstat(fd).st_mode
    if S_ISDIR(mode):
        _Image(_Folder(fd)).unpack(unpacker)
        return
    if not S_ISREG(mode):
        raise BadArchiveError("something else has taken its place")
    file = open(fd, "rb")
    plain = _decompressed(file)
    members = _members(plain)
    if members is None:
        plain.seek(0)
        unpacker.unpack(Stream(plain), layer=False)
    else:
        _Image(_Archive(plain, members)).unpack(unpacker)


def _decompressed(file: Any) -> Any:
    """
    :raises BadArchiveError: for a compression that this Python does not know.
    """
    start = file.read(6)
    file.seek(0)
    for magic, reader in _READERS.items():
        if start.startswith(magic):
            if reader is None:
                what = _COMPRESSIONS[magic][0].rpartition(".")[2]
                raise BadArchiveError(f"this Python does not know its compression, {what}")
            return reader(file)
    return file


@dataclass(frozen=True, slots=True)
class _Member:
    offset: int
    size: int
    link: str | None


def _members(plain: Any) -> dict[str, _Member] | None:
    """What the tar of an image has, by name; None for another one, after its first files."""
    found: dict[str, _Member] = {}
    for _, member in members(Stream(plain)):
        name = os.path.normpath(member.name)
        if _OF_IMAGES.fullmatch(name) is None:
            return None
        link = None
        if member.issym():
            link = os.path.normpath(os.path.join(os.path.dirname(name), member.linkname))
        elif member.islnk():
            link = os.path.normpath(member.linkname)
        if link is not None or member.isreg():
            found[name] = _Member(member.offset_data, member.size, link)
    return found if found.keys() & {"manifest.json", "index.json"} else None


class _Part:
    """So many bytes of a file, from an offset on."""

    def __init__(self, file: Any, offset: int, size: int) -> None:
        self._file = file
        self._offset = offset
        self._size = size
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        left = self._size - self._at
        content: bytes = self._file.read(left if size < 0 else min(size, left))
        self._at += len(content)
        return content

    def seek(self, position: int) -> None:
        self._file.seek(self._offset + position)
        self._at = position


class _Hashed:
    """A part that is read once from its beginning, and knows the digest of what was read."""

    def __init__(self, part: _Part, kind: str) -> None:
        self._part = part
        self._hash = new_hash(kind)

    def read(self, size: int = -1) -> bytes:
        content = self._part.read(size)
        self._hash.update(content)
        return content

    def seek(self, _: int) -> None:
        """Back to the beginning, after a look at what it is."""
        self._part.seek(0)
        self._hash = new_hash(self._hash.name)

    def check(self, digest: str) -> None:
        while self.read(1 << 20):
            pass
        if digest != f"{self._hash.name}:{self._hash.hexdigest()}":
            raise BadArchiveError(f"what it has as {digest} does not have this digest")


class _Archive:
    """The files of an image in a tar."""

    def __init__(self, plain: Any, members: Mapping[str, _Member]) -> None:
        self._plain = plain
        self._members = members

    def open(self, name: str) -> _Part:
        name = os.path.normpath(name)
        for _ in range(8):
            member = self._members.get(name)
            if member is None:
                raise BadArchiveError(f"it does not have the file {name[:200]!a}")
            if member.link is None:
                break
            name = member.link
        else:
            raise BadArchiveError(f"it has a link to itself: {name[:200]!a}")
        part = _Part(self._plain, member.offset, member.size)
        part.seek(0)
        return part

    def has(self, name: str) -> bool:
        return name in self._members


class _Folder:
    """The files of an image in a folder."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def open(self, name: str) -> _Part:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = os.open(name, flags, dir_fd=self._fd)
        except OSError as error:
            raise BadArchiveError(f"it does not have the file {name}") from error
        status = os.fstat(fd)
        if not S_ISREG(status.st_mode):
            raise BadArchiveError(f"it has something else in place of the file {name}")
        return _Part(open(fd, "rb"), 0, status.st_size)

    def has(self, name: str) -> bool:
        return name == "index.json"


class _Image:
    """Its manifests and layers."""

    def __init__(self, files: _Archive | _Folder) -> None:
        self._files = files

    def unpack(self, unpacker: Unpacker) -> None:
        if self._files.has("manifest.json"):
            self._unpack_saved(unpacker)
        else:
            self._unpack_layout(unpacker)

    def _unpack_saved(self, unpacker: Unpacker) -> None:
        """What ``docker save`` and ``podman save`` write."""
        images = _parsed(self._files.open("manifest.json"))
        if len(images) != 1:
            raise BadArchiveError(f"it has {len(images)} images, and not one: save one alone")
        config = _parsed(self._files.open(_text(images[0]["Config"])))
        digests = config["rootfs"]["diff_ids"]
        layers = images[0]["Layers"]
        if len(digests) != len(layers):
            raise BadArchiveError(f"it has {len(layers)} layers, and digests of {len(digests)}")
        for name, digest in zip(layers, digests, strict=True):
            content = _decompressed(self._files.open(_text(name)))
            unpacker.unpack(Stream(content, _text(digest)), layer=True)

    def _unpack_layout(self, unpacker: Unpacker) -> None:
        """The image specification of the OCI."""
        manifest = self._chosen(_parsed(self._files.open("index.json")), depth=0)
        for layer in manifest["layers"]:
            digest = _text(layer["digest"])
            hashed = _Hashed(self._files.open(_blob(digest)), digest.partition(":")[0])
            unpacker.unpack(Stream(_decompressed(hashed)), layer=True)
            hashed.check(digest)

    def _chosen(self, index: Any, depth: int) -> Any:
        """The one manifest for this machine; an index may have others."""
        machine = platform.machine()
        architecture = _MACHINES.get(machine, machine)
        fitting: list[tuple[str, Any]] = []
        others: list[tuple[str, Any]] = []
        for entry in index["manifests"]:
            found = entry.get("platform") or {"os": "linux", "architecture": architecture}
            name = f"{found.get('os')}/{found.get('architecture')}"
            (fitting if name == f"linux/{architecture}" else others).append((name, entry))
        if not fitting:
            have = ", ".join(sorted({name for name, _ in others})) or "none"
            raise BadArchiveError(f"it has no image for linux/{architecture}, but {have[:200]}")
        if len(fitting) > 1:
            said = f"it has {len(fitting)} images for linux/{architecture}: copy one alone"
            raise BadArchiveError(said)
        digest = _text(fitting[0][1]["digest"])
        hashed = _Hashed(self._files.open(_blob(digest)), digest.partition(":")[0])
        manifest = _parsed(hashed)
        hashed.check(digest)
        if "manifests" not in manifest:
            return manifest
        if depth:
            raise BadArchiveError("it has an index in an index in an index")
        return self._chosen(manifest, depth + 1)


def _parsed(source: Readable) -> Any:
    content = source.read(_MOST_TEXT)
    if len(content) == _MOST_TEXT:
        raise BadArchiveError("it has a manifest of more than 16 MiB")
    return json.loads(content)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise BadArchiveError("it has a manifest with another value where a text should be")
    return value


def _blob(digest: str) -> str:
    if _DIGEST.fullmatch(digest) is None:
        raise BadArchiveError(f"it has a digest of an unknown kind: {digest[:80]!a}")
    kind, _, value = digest.partition(":")
    return f"blobs/{kind}/{value}"
