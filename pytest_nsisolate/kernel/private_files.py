# SPDX-License-Identifier: MIT
"""Files with contents of a test's own, and paths that are hidden, on a root that is not its own.

Fact: a file can be bound over another, and its own mount need not be in sight for that.
What we do: they are made on a tmpfs that is mounted on ``/`` and reached by ``/..`` (see
:mod:`pytest_nsisolate.kernel.overlays`), and bound over their targets. Then the tmpfs is unmounted.

Fact: root may open any file, whatever its mode, but no device on a mount that is ``nodev``.
What we do: a hidden file is covered by a whiteout, the device 0:0, which needs no right to make. A
directory is covered by an empty one.

What still fails: a file that has been bound over cannot be removed or replaced by a rename (EBUSY),
and a path that the host does not have cannot be made there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_nsisolate.kernel import syscalls
from pytest_nsisolate.kernel.libc import Step, run_all, step_error
from pytest_nsisolate.kernel.originals import os
from pytest_nsisolate.kernel.overlays import Content, Folder
from pytest_nsisolate.kernel.syscalls import MNT_DETACH, MS_BIND, MS_NODEV, MS_NOSUID


@dataclass(frozen=True, slots=True)
class PrivateFiles:
    """What is bound over the host's files; made in the runner by :func:`plan_private_files`.

    :param inside: contents for a directory that has been hidden.
    """

    stage: Step = field(repr=False, compare=False)
    folders: tuple[Folder, ...]
    contents: tuple[Content, ...]
    binds: tuple[Step, ...] = field(repr=False, compare=False)
    inside: tuple[Content, ...]
    unstage: Step = field(repr=False, compare=False)

    def apply(self) -> None:
        """In the child, when its other mounts are made. Afterwards it stands in ``/``.

        :raises StepError: naming the call and the path.
        """
        self.stage.run()
        try:
            mask = os.umask(0)
            os.chdir("/..")
            for folder in self.folders:
                folder.make()
            for content in self.contents:
                content.make()
            run_all(self.binds)
            os.umask(0o022)
            for content in self.inside:
                os.makedirs(os.path.dirname(content.path), 0o755, exist_ok=True)
                content.make()
            self.unstage.run()
            os.chdir("/")
            os.umask(mask)
        except OSError as error:
            raise step_error("prepare files", "mount", error) from error


def plan_private_files(
    folders: list[Folder], contents: list[Content], inside: list[Content]
) -> PrivateFiles:
    """The calls, worked out in the runner.

    :param folders: empty directories, by the real path that each covers.
    :param contents: files or whiteouts, likewise.
    :param inside: files in one of the folders.
    """
    binds = []
    paths = [folder.path for folder in folders] + [content.path for content in contents]
    for number, path in enumerate(paths):
        call = syscalls.prepare_mount(str(number), path, None, MS_BIND)
        binds.append(Step(f"bind over {path}", "mount", call))
    count = len(folders)
    flags = MS_NOSUID | MS_NODEV
    stage = syscalls.prepare_mount("tmpfs", "/", "tmpfs", flags, "mode=0755")
    return PrivateFiles(
        stage=Step("mount tmpfs on /", "mount", stage),
        folders=tuple(Folder(str(n), one.mode, one.owner) for n, one in enumerate(folders)),
        contents=tuple(
            Content(str(n), one.content, one.mode, one.owner)
            for n, one in enumerate(contents, count)
        ),
        binds=tuple(binds),
        inside=tuple(inside),
        unstage=Step("unmount tmpfs", "mount", syscalls.prepare_umount2(".", MNT_DETACH)),
    )
