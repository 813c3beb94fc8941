# SPDX-License-Identifier: MIT
"""What layers and links make of one another, unpacked into a folder."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from pytest_nsisolate.process import unpacking
from pytest_nsisolate.process.unpacking import BadArchiveError, Stream, Unpacker

#: Name, kind, mode, and the content or where a link leads.
Member = tuple[str, bytes, int, str]

FOLDER, FILE, LINK, HARD = tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
LOWER: Final[list[Member]] = [
    ("a", FOLDER, 0o755, ""),
    ("a/x", FOLDER, 0o755, ""),
    ("a/x/old", FILE, 0o644, ""),
]
UPPER: Final[list[Member]] = [
    ("a", FOLDER, 0o755, ""),
    ("a/x", FOLDER, 0o755, ""),
    ("a/x/new", FILE, 0o644, ""),
]


def archive(members: list[Member]) -> io.BytesIO:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as file:
        for name, kind, mode, rest in members:
            member = tarfile.TarInfo(name)
            member.type, member.mode = kind, mode
            if kind == FILE:
                member.size = len(rest)
            else:
                member.linkname = rest
            file.addfile(member, io.BytesIO(rest.encode()))
    made.seek(0)
    return made


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the unpacker, which has no umask."""
    monkeypatch.chdir(tmp_path)
    mask = os.umask(0)
    yield tmp_path
    os.umask(mask)


def unpack(*layers: list[Member], layered: bool = True) -> None:
    unpacker = Unpacker(owners=False, until=time.monotonic() + 60)
    for members in layers:
        unpacker.unpack(Stream(archive(members)), layer=layered)
    unpacker.finish()


def mode(path: Path) -> int:
    return path.lstat().st_mode & 0o7777


def test_what_replaces_a_folder_keeps_its_own_mode(here: Path) -> None:
    """And so does what a link in its place leads to."""
    unpack(
        [("app", FOLDER, 0o755, ""), ("run", FOLDER, 0o777, ""), ("shadow", FILE, 0o600, "x")],
        [("app", FILE, 0o600, "secret"), ("run", LINK, 0o777, "shadow")],
    )
    assert mode(here / "app") == mode(here / "shadow") == 0o600


def test_a_folder_without_an_entry_is_not_for_everybody_to_write(here: Path) -> None:
    unpack([("a/b/c/file", FILE, 0o644, "")], layered=False)
    assert {mode(here / path) for path in ("a", "a/b", "a/b/c")} == {0o755}


@pytest.mark.parametrize("hidden", ["a/.wh..wh..opq", "a/.wh.x"])
@pytest.mark.parametrize("last", [True, False])
def test_whiteouts_hide_what_lies_below_wherever_they_stand(
    here: Path, hidden: str, *, last: bool
) -> None:
    whiteout: list[Member] = [(hidden, FILE, 0o644, "")]
    unpack(LOWER, [*UPPER, *whiteout] if last else [UPPER[0], *whiteout, *UPPER[1:]])
    assert os.listdir(here / "a/x") == ["new"]


def test_a_hard_link_to_itself_by_a_linked_folder(here: Path) -> None:
    """As in a root whose ``/bin`` is a link."""
    unpack(
        [
            ("usr/bin/x", FILE, 0o755, "content"),
            ("bin", LINK, 0o777, "usr/bin"),
            ("bin/x", HARD, 0o755, "usr/bin/x"),
        ],
        layered=False,
    )
    assert (here / "usr/bin/x").read_text() == "content"


def header(kind: bytes, size: int) -> bytes:
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def sparse(blocks: int) -> bytes:
    """The header of a file with holes, which has further ones."""
    content = bytearray(header(tarfile.GNUTYPE_SPARSE, 0))
    content[482] = 1
    content[148:156] = b" " * 8
    content[148:156] = f"{sum(content):06o}\0 ".encode()
    return bytes(content) + (b"0" * 504 + b"\1" + bytes(7)) * blocks


@pytest.mark.parametrize(
    "chain",
    [
        *(
            2 * (header(kind, 9 << 20) + bytes(9 << 20)) + header(FILE, 0)
            for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE)
        ),
        header(tarfile.XGLTYPE, 9 << 20)
        + bytes(9 << 20)
        + header(tarfile.XHDTYPE, 9 << 20)
        + bytes(9 << 20)
        + header(FILE, 0),
        sparse(33 << 10),
    ],
    ids=["long name", "long link", "pax", "global", "sparse"],
)
@pytest.mark.parametrize("before", [b"", header(FILE, 0)], ids=["first", "second"])
def test_the_headers_of_a_file_are_bounded_together(
    here: Path, chain: bytes, before: bytes
) -> None:
    """And not each by itself: all are kept until the last one is there."""
    unpacker = Unpacker(owners=False, until=time.monotonic() + 60)
    with pytest.raises(BadArchiveError, match="headers of more than 16 MiB"):
        unpacker.unpack(Stream(io.BytesIO(before + chain + bytes(1024))), layer=False)


def test_content_is_no_header(here: Path) -> None:
    """Neither what is written, nor what is left out."""
    content = "x" * (17 << 20)
    unpack([("big", FILE, 0o644, content), (".wh.gone", FILE, 0o644, content), *LOWER])
    assert (here / "big").stat().st_size == 17 << 20
    assert (here / "a/x/old").exists()


def test_folders_without_an_entry_count(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may have two thousand of them."""
    monkeypatch.setattr(unpacking, "MOST_FILES", 5)
    unpack([("a/b/c/file", FILE, 0o644, ""), ("a/b/c/other", FILE, 0o644, "")])
    with pytest.raises(BadArchiveError, match="more than 5 files and folders"):
        unpack([("1/2/3/file", FILE, 0o644, ""), ("1/2/4/file", FILE, 0o644, "x")])
    assert not (here / "1/2/4/file").exists()


def test_a_file_below_a_file(here: Path) -> None:
    with pytest.raises(BadArchiveError, match="below what is no folder: 'a/b/c'"):
        unpack([("a", FILE, 0o644, ""), ("a/b/c/file", FILE, 0o644, "")])
