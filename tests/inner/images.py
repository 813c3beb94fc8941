# SPDX-License-Identifier: MIT
"""Tests whose root is an archive or an image; the archives are made here, hostile ones too.

The unmarked tests run in the runner.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import lzma
import os
import platform
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_nsisolate import Pid1View

expect = pytest.mark.expect("passed")
isolated = pytest.mark.isolated

ROOT: Final = os.geteuid() == 0
HERE: Final = Path(__file__).parent
#: Beside the suite, which every root shows.
OUTSIDE: Final = HERE.with_name(f"{HERE.name}-outside")
BUSYBOX: Final = shutil.which("busybox", path=f"{os.environ.get('PATH', '')}:/bin:/usr/bin") or ""

#: One entry: name, content (None: a directory), and what else its header has.
Entry = tuple[str, "bytes | None", dict[str, Any]]

BASE: Final[list[Entry]] = [
    ("./", None, {"mode": 0o755}),
    ("bin", None, {}),
    ("bin/busybox", b"", {"mode": 0o755}),
    ("bin/sh", b"", {"type": tarfile.LNKTYPE, "linkname": "bin/busybox"}),
    ("etc", None, {}),
    ("etc/name", b"base", {"mode": 0o640, "uid": 7, "gid": 8, "mtime": 1_000_000}),
    ("etc/link", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/name"}),
    ("etc/old/file", b"old", {}),
    ("etc/old/other", b"old", {}),
    ("closed", None, {"mode": 0o500}),
    ("closed/file", b"x", {}),
    ("fifo", b"", {"type": tarfile.FIFOTYPE}),
    ("dev/null", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}),
    ("marked", b"x", {"pax_headers": {"SCHILY.xattr.user.note": "hello"}}),
    ("set", b"x", {"mode": 0o4755}),
]


def tar(entries: list[Entry], sealed: bool = True) -> bytes:
    buffer = io.BytesIO()
    archive = tarfile.TarFile(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT)
    for name, content, more in entries:
        header = tarfile.TarInfo(name)
        header.mode = 0o755 if content is None else 0o644
        data = Path(BUSYBOX).read_bytes() if name == "bin/busybox" else content or b""
        header.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
        header.size = len(data)
        for key, value in more.items():
            setattr(header, key, value)
        archive.addfile(header, io.BytesIO(data))
    if sealed:
        archive.close()
    return buffer.getvalue()


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


LAYERS: Final[list[list[Entry]]] = [
    BASE,
    [
        ("etc/new", b"new", {}),
        ("etc/.wh.name", b"", {}),
        ("etc/old/kept", b"kept", {}),
        ("etc/old/.wh..wh..opq", b"", {}),
    ],
]


def layout(layers: list[list[Entry]], wrong: bool = False) -> dict[str, bytes]:
    """The files of an OCI image layout, the layers compressed."""
    files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}

    def blob(content: bytes) -> dict[str, object]:
        name = digest(content)
        files[f"blobs/sha256/{name[7:]}"] = content
        return {"digest": name, "size": len(content)}

    blobs = [blob(gzip.compress(tar(entries), mtime=0)) for entries in layers]
    manifest = blob(json.dumps({"schemaVersion": 2, "layers": blobs}).encode())
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    here = {**manifest, "platform": {"os": "linux", "architecture": machine}}
    other = {**manifest, "platform": {"os": "linux", "architecture": "other"}}
    index = blob(json.dumps({"manifests": [other, here]}).encode())
    files["index.json"] = json.dumps({"manifests": [index]}).encode()
    if wrong:
        name = f"blobs/sha256/{str(blobs[0]['digest'])[7:]}"
        files[name] = gzip.compress(tar(layers[1]), mtime=0)
    return files


def saved(layers: list[list[Entry]], wrong: bool = False) -> dict[str, bytes]:
    """What ``docker save`` writes."""
    tars = [tar(entries) for entries in layers]
    names = [f"{number:064x}/layer.tar" for number in range(len(tars))]
    digests = [digest(content) for content in tars]
    if wrong:
        digests[0] = digests[1]
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": digests}}).encode()
    name = f"{digest(config)[7:]}.json"
    manifest = [{"Config": name, "RepoTags": ["box:1"], "Layers": names}]
    files = dict(zip(names, tars, strict=True))
    return {**files, name: config, "manifest.json": json.dumps(manifest).encode()}


def packed(files: dict[str, bytes]) -> bytes:
    return tar([(name, content, {}) for name, content in files.items()])


def through() -> list[Entry]:
    """A link out of the archive, and then names through it."""
    return [
        ("out", b"", {"type": tarfile.SYMTYPE, "linkname": str(OUTSIDE)}),
        ("out/made", b"made", {}),
        ("up", b"", {"type": tarfile.SYMTYPE, "linkname": "../../../../../../../.."}),
        (f"up{OUTSIDE}/made too", b"made", {}),
    ]


def holes() -> bytes:
    """A file of 4 GiB with four bytes in it, as GNU tar stores it."""
    sizes = f"{4096:011o}\0{4:011o}\0".encode()
    header = bytearray(tarfile.TarInfo("holes").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"00000000004\0"
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386 : 386 + 24] = sizes
    header[483:495] = f"{1 << 32:011o}\0".encode()
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header) + b"here" + bytes(508) + bytes(1024)


def damaged() -> bytes:
    """The second header is no header: tarfile takes it for the end."""
    content = bytearray(tar([("a", b"a", {}), ("b", b"b", {})]))
    content[1024:1034] = b"not a name"
    return bytes(content)


def dictionary() -> bytes:
    """It asks for a dictionary of 2 GiB."""
    content = bytearray(lzma.compress(tar([("x", b"x", {})]), format=lzma.FORMAT_ALONE))
    content[1:5] = (1 << 31).to_bytes(4, "little")
    return bytes(content)


def header() -> bytes:
    """A header of pax that says it is 256 MiB long."""
    found = tarfile.TarInfo("x")
    found.type = tarfile.XHDTYPE
    found.size = 256 << 20
    return found.tobuf() + bytes(66 << 20)


HOSTILE: Final[dict[str, Callable[[], bytes]]] = {
    "through.tar": lambda: tar(through()),
    "absolute.tar": lambda: tar([(f"{OUTSIDE}/absolute", b"made", {})]),
    "dots.tar": lambda: tar([("../made", b"made", {})]),
    "hard.tar": lambda: tar([("x", b"", {"type": tarfile.LNKTYPE, "linkname": "../../file"})]),
    "none.tar": lambda: tar([("x", b"", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"})]),
    "devices.tar": lambda: tar(
        [
            ("disk", b"", {"type": tarfile.BLKTYPE, "devmajor": 8, "devminor": 0}),
            ("gone", b"", {"type": tarfile.CHRTYPE, "devmajor": 0, "devminor": 0}),
            ("opaque", None, {"pax_headers": {"SCHILY.xattr.user.overlay.opaque": "y"}}),
            ("opaque/file", b"x", {}),
        ]
    ),
    "big.tar": lambda: tar([("big", os.urandom(2 << 20), {})]),
    "holes.tar": holes,
    "zeros.tar.gz": lambda: gzip.compress(tar([("zeros", bytes(8 << 20), {})])),
    "cut.tar": lambda: tar(BASE)[: 1 << 20],
    "endless.tar": lambda: tar([("a", b"x" * 512, {})], sealed=False),
    "damaged.tar": damaged,
    "cut.tar.gz": lambda: gzip.compress(tar(BASE))[:5000],
    "header.tar.gz": lambda: gzip.compress(header()),
    "dictionary.tar.lzma": dictionary,
    "wrong.oci.tar": lambda: packed(layout(LAYERS, wrong=True)),
    "wrong.saved.tar": lambda: packed(saved(LAYERS, wrong=True)),
    "two.tar": lambda: packed(
        {"manifest.json": json.dumps([{"Config": "x", "Layers": []}] * 2).encode()}
    ),
    "climbing.tar": lambda: packed(
        {"manifest.json": b'[{"Config": "../../etc/passwd", "Layers": []}]'}
    ),
}

GOOD: Final[dict[str, Callable[[], bytes]]] = {
    "base.tar": lambda: tar(BASE),
    "base.tar.gz": lambda: gzip.compress(tar(BASE), mtime=0),
    "image.oci.tar": lambda: packed(layout(LAYERS)),
    "image.saved.tar": lambda: packed(saved(LAYERS)),
    "image.saved.tar.gz": lambda: gzip.compress(packed(saved(LAYERS)), mtime=0),
}


@pytest.fixture(scope="session", autouse=True)
def archives() -> Iterator[None]:
    OUTSIDE.mkdir()
    for name, made in {**GOOD, **HOSTILE}.items():
        (HERE / name).write_bytes(made())
    for name, content in layout(LAYERS).items():
        (HERE / "layout" / name).parent.mkdir(parents=True, exist_ok=True)
        (HERE / "layout" / name).write_bytes(content)
    shutil.copytree(HERE / "layout", HERE / "piped")
    for blob in (HERE / "piped" / "blobs" / "sha256").iterdir():
        blob.unlink()
        os.mkfifo(blob)
    for kind, module in (("xz", "lzma"), ("bz2", "bz2")):
        compressor = pytest.importorskip(module)
        (HERE / f"base.tar.{kind}").write_bytes(compressor.compress(tar(BASE)))
    yield
    shutil.rmtree(OUTSIDE)


def refused(attempt: Callable[[], object]) -> str:
    """The name of the error that it meets, ``""`` for none."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def text(path: str) -> str:
    return Path(path).read_text(encoding="ascii")


def check_base() -> None:
    script = ["/bin/sh", "-c", "echo $((1 + 1))"]
    assert subprocess.run(script, capture_output=True, check=True).stdout == b"2\n"
    assert text("/etc/link") == "base"
    status = os.stat("/etc/name")
    assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o640, 1_000_000)
    if ROOT:
        assert (status.st_uid, status.st_gid) == (7, 8)
    assert os.path.samefile("/bin/sh", "/bin/busybox")
    assert stat.S_IMODE(os.stat("/closed").st_mode) == 0o500
    assert text("/closed/file") == "x"
    assert stat.S_ISFIFO(os.stat("/fifo").st_mode)
    assert stat.S_IMODE(os.stat("/set").st_mode) == 0o4755
    assert os.getxattr("/marked", "user.note") == b"hello"
    assert os.stat("/dev/null").st_rdev == os.makedev(1, 3)


@expect
def test_an_archive(isolate: Any) -> None:
    """Of each compression that Python reads."""
    for kind in ("tar", "tar.gz", "tar.xz", "tar.bz2"):
        isolate.using(root=HERE / f"base.{kind}")(check_base)


def change(pid1: Pid1View) -> None:
    assert text("/etc/name") == "base"
    Path("/etc/name").write_text("changed", encoding="ascii")
    shutil.rmtree("/etc/old")
    pid1.assert_files(modified="/etc/name", deleted="/etc/old")


@isolated(root="./base.tar.gz")
@expect
def test_what_was_changed(pid1: Pid1View) -> None:
    change(pid1)


@isolated(root="./base.tar.gz")
@expect
def test_it_is_new_for_each_test(pid1: Pid1View) -> None:
    change(pid1)


@isolated(root="./base.tar.gz", user="same", files={"/etc/own": "own"}, hide="/etc/old")
@expect
def test_by_the_same_user_with_contents() -> None:
    assert text("/etc/own") == "own"
    assert not os.path.lexists("/etc/old")
    assert refused(lambda: Path("/etc/made").touch()) == ""


def check_layers() -> None:
    assert sorted(os.listdir("/etc")) == ["link", "new", "old"]
    assert os.listdir("/etc/old") == ["kept"]
    assert text("/etc/new") == "new"
    assert os.access("/bin/sh", os.X_OK)


@expect
def test_an_image(isolate: Any) -> None:
    """Layers over one another; what whiteouts name is gone, but nothing of their own layer."""
    for name in ("image.oci.tar", "layout", "image.saved.tar", "image.saved.tar.gz"):
        isolate.using(root=HERE / name)(check_layers)


@expect
def test_another_archive_of_the_same_name(isolate: Any) -> None:
    archive = HERE / "changing.tar"
    archive.write_bytes(tar([("first", b"", {})]))
    assert isolate.using(root=archive)(os.path.exists, "/first")
    archive.write_bytes(tar([("second file", b"more", {})]))
    assert not isolate.using(root=archive)(os.path.exists, "/first")


# Hostile ones ------------------------------------------------------------------------------------


#: Before 3.11.4 it trusted everything.
TRUSTING: Final[dict[str, Any]] = (
    {"filter": "fully_trusted"} if hasattr(tarfile, "data_filter") else {}
)


@expect
def test_what_they_do_to_tarfile(tmp_path: Path) -> None:
    """A negative control: they are what they are meant to be."""
    for name in ("through.tar", "absolute.tar", "dots.tar"):
        folder = tmp_path / name / "below"
        folder.mkdir(parents=True)
        with tarfile.open(HERE / name) as archive:
            archive.extractall(folder, **TRUSTING)
    made = [OUTSIDE / "made", OUTSIDE / "absolute", tmp_path / "dots.tar" / "made"]
    assert [path for path in made if not path.exists()] == []
    for path in OUTSIDE.iterdir():
        path.unlink()
    with tarfile.open(HERE / "damaged.tar") as archive:
        assert archive.getnames() == ["a"]


@isolated(root="./through.tar")
@expect
def test_links_out_and_names_through_them() -> None:
    """They lead to places inside."""
    assert text(f"{OUTSIDE}/made") == "made"
    assert os.readlink("/out") == str(OUTSIDE)


@isolated(root="./absolute.tar")
@expect
def test_an_absolute_name_is_one_inside() -> None:
    assert text(f"{OUTSIDE}/absolute") == "made"


@isolated(root="./devices.tar")
@expect
def test_devices_and_marks_of_overlay_are_left_out() -> None:
    assert not os.path.lexists("/disk")
    assert not os.path.lexists("/gone")
    assert refused(lambda: os.getxattr("/opaque", "user.overlay.opaque")) == "ENODATA"
    assert text("/opaque/file") == "x"


@isolated(root="./holes.tar", root_size="1M")
@expect
def test_holes_take_no_room() -> None:
    status = os.stat("/holes")
    assert status.st_size == 1 << 32
    assert status.st_blocks * 512 < 1 << 16
    with open("/holes", "rb") as file:
        file.seek(4096)
        assert file.read(4) == b"here"


@isolated(root="./zeros.tar.gz", root_size="1M")
@expect
def test_zeros_take_no_room() -> None:
    status = os.stat("/zeros")
    assert status.st_size == 8 << 20
    assert status.st_blocks == 0


def bad(said: str) -> pytest.MarkDecorator:
    return pytest.mark.expect("setup failed", "unpack ", "EBADMSG", said, "make it anew")


@isolated(root="./dots.tar")
@bad("a name that leads out of it: '../made'")
def test_dots() -> None: ...


@isolated(root="./hard.tar")
@bad("a link that leads out of it: '../../file'")
def test_a_hard_link_out() -> None: ...


@isolated(root="./none.tar")
@bad("a hard link to no file: '/etc/passwd'")
def test_a_hard_link_to_a_file_of_the_hosts() -> None: ...


@isolated(root="./big.tar", root_size="1M")
@pytest.mark.expect("setup failed", "unpack ", "ENOSPC", "raise root_size=")
def test_more_than_the_limit() -> None: ...


@isolated(root="./cut.tar")
@bad("unexpected end of data")
def test_cut_off_within_a_file() -> None: ...


@isolated(root="./endless.tar")
@bad("cut off or damaged")
def test_cut_off_between_files() -> None: ...


@isolated(root="./damaged.tar")
@bad("cut off or damaged")
def test_a_damaged_header() -> None: ...


@isolated(root="./cut.tar.gz")
@bad("end-of-stream marker")
def test_cut_off_and_compressed() -> None: ...


@isolated(root="./header.tar.gz")
@bad("headers of more than 16 MiB")
def test_a_header_that_would_fill_the_memory() -> None: ...


@isolated(root="./dictionary.tar.lzma")
@pytest.mark.expect("setup failed", "unpack ", "ENOMEM", "more than 1 GiB", "compress it anew")
def test_a_dictionary_that_would_fill_the_memory() -> None: ...


@isolated(root="./wrong.oci.tar")
@bad("does not have this digest")
def test_a_layer_with_another_digest() -> None: ...


@isolated(root="./wrong.saved.tar")
@bad("does not have the digest sha256:")
def test_a_saved_layer_with_another_digest() -> None: ...


@isolated(root="./piped")
@bad("it has something else in place of the file blobs/sha256/")
def test_a_fifo_in_place_of_a_layer() -> None: ...


@isolated(root="./two.tar")
@bad("it has 2 images, and not one")
def test_two_images() -> None: ...


@isolated(root="./climbing.tar")
@bad("does not have the file '../../etc/passwd'")
def test_a_manifest_that_names_a_file_outside() -> None: ...


@isolated(root=__file__)
@bad("cut off or damaged")
def test_no_archive() -> None: ...


@expect
def test_nothing_was_made_outside() -> None:
    assert os.listdir(OUTSIDE) == []
    assert not (HERE.parent / "made").exists()
