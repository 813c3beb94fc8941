# SPDX-License-Identifier: MIT
"""One overlay as the whole root: on a folder, or on an image that has been unpacked.

What lies on the tmpfs is what :mod:`pytest_nsisolate.kernel.overlays` has there. The folder is
attached among it, so that no path of the host's leads to it when the old root is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pytest_nsisolate.kernel import syscalls
from pytest_nsisolate.kernel.libc import Step
from pytest_nsisolate.kernel.overlays import (
    BASE,
    LAYER,
    NEW,
    SKELETON,
    UPPER,
    WORK,
    Content,
    Folder,
    OverlayRoot,
    bind,
    bind_sealed,
    check_attributes,
    exchange,
    overlay_on,
    set_aside,
    tmpfs,
    with_room,
)
from pytest_nsisolate.kernel.readonly import SAFE
from pytest_nsisolate.kernel.syscalls import MS_BIND


def plan_whole_root(
    path: str,
    *,
    top: tuple[int, tuple[int, int] | None],
    folders: Iterable[Folder],
    contents: Sequence[Content],
    binds: Iterable[Step],
    layered: bool,
    flags: int,
    size: str,
) -> OverlayRoot:
    """The calls that make the new root, worked out in the runner.

    :param path: as messages name it.
    :param top: mode and owner of its ``/``.
    :param folders: of the skeleton, at paths inside, in the order in which they are made.
    :param contents: likewise.
    :param layered: there is an ownership layer.
    :param flags: of the overlay.
    :param size: of what may be written, as tmpfs(5) takes it.
    :raises StepError: as :func:`~pytest_nsisolate.kernel.overlays.check_attributes`.
    """
    check_attributes()
    stage = [Folder(name, 0o755) for name in (SKELETON, UPPER, WORK, NEW)]
    stage += (Folder(f"{UPPER}/0", *top), Folder(f"{WORK}/0", 0o700))
    stage += (Folder(SKELETON + one.path, one.mode, one.owner) for one in folders)
    lower = [SKELETON, LAYER, BASE] if layered else [SKELETON, BASE]
    overlay = overlay_on(NEW, path, 0, lower, flags)
    return OverlayRoot(
        places=(),
        stage=Step("mount tmpfs on /", "mount", tmpfs(with_room(size, (), contents))),
        folders=tuple(stage),
        links=(),
        copies=(),
        contents=tuple(
            Content(SKELETON + one.path, one.content, one.mode, one.owner) for one in contents
        ),
        mounts=(
            Step(f"mount overlay of {path}", "mount", overlay.call),
            *binds,
            set_aside(),
        ),
        exchange=exchange(),
    )


def bind_proc(*, whole: bool) -> Iterable[Step]:
    """The test's own ``/proc``.

    :param whole: it mounts one, and shall be able to mount another: see
        :mod:`pytest_nsisolate.kernel.mounts`.
    """
    if whole:
        place = f"{NEW}/proc"
        call = syscalls.prepare_mount("/proc", place, None, MS_BIND)
        yield Step("bind /proc", "pid", call)
        call = syscalls.prepare_mount("proc", f"{place}/sys", "proc", SAFE)
        yield Step("mount proc", "pid", call)
    yield bind("/proc")


def bind_host(path: str, target: str, *, writable: bool) -> Step:
    """What the host has at a path, at another one inside."""
    return bind(path, target) if writable else bind_sealed(path, target)
