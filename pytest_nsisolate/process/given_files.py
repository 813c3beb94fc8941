# SPDX-License-Identifier: MIT
"""``files=`` and ``hide=`` of one request: contents of an overlay, or bound over what is there."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from stat import S_IMODE
from typing import TYPE_CHECKING

from pytest_nsisolate.errors import StepError, failing
from pytest_nsisolate.kernel import overlays, private_files
from pytest_nsisolate.kernel.originals import open, os
from pytest_nsisolate.kernel.survey import Survey, is_in

if TYPE_CHECKING:
    from pytest_nsisolate.request.model import IsolationRequest


@dataclass(frozen=True, slots=True)
class PrivateFilesOnly:
    """What one child does for ``files=`` and ``hide=`` on the host's root."""

    files: private_files.PrivateFiles

    @property
    def mounts(self) -> object:
        """What is bound."""
        return self.files

    def enter(self) -> None:
        """In the child; it stands in ``/`` then.

        :raises StepError: naming the call and the path.
        """
        self.files.apply()

    def launched(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is held."""

    def release(self) -> None:
        """Nothing is held."""

    def descriptors(self) -> tuple[int, ...]:
        """None."""
        return ()

    def written(self) -> None:
        """It is the host's."""


class Wishes:
    """``files=`` and ``hide=`` of one request, held against this host.

    :param needed: real paths that the run itself uses.
    """

    def __init__(
        self,
        request: IsolationRequest,
        owner: Callable[[os.stat_result], tuple[int, int] | None],
        needed: tuple[str, ...],
    ) -> None:
        self._owner = owner
        self.hidden = tuple(os.path.realpath(path) for path in request.hide)
        for path in self.hidden:
            if any(is_in(other, path) for other in needed):
                raise StepError(f"hide {path}", "mount", errno.EBUSY)
        self._files: dict[str, bytes] = {}
        for path, content in request.files:
            self._files[os.path.realpath(path)] = read_content(content)
        self.key = (tuple(self._files.items()), self.hidden)

    def contents(self, survey: Survey, bound: Callable[[str], bool]) -> list[overlays.Content]:
        """For overlays, in which nothing has to be bound."""
        found = [
            overlays.Content(path, None)
            for path in self.hidden
            if survey.place_of(path) not in (None, path)
            and not bound(path)
            and os.path.lexists(path)
        ]
        for path, content in self._files.items():
            if not bound(path):
                found.append(self._content(path, content))
        return found

    def bound(self, bound: Callable[[str], bool]) -> private_files.PrivateFiles | None:
        """For what is no overlay: over what is there."""
        folders, contents, inside = [], [], []
        for path in filter(bound, self.hidden):
            if os.path.isdir(path):
                status = os.stat(path)
                folders.append(overlays.Folder(path, S_IMODE(status.st_mode), self._owner(status)))
            elif os.path.lexists(path):
                contents.append(overlays.Content(path, None))
        for path in filter(bound, self._files):
            content = self._files[path]
            if any(path.startswith(f"{folder.path}/") for folder in folders):
                inside.append(overlays.Content(path, content))
            elif not os.path.exists(path):
                raise StepError(f"place {path}", "mount", errno.ENOENT)
            else:
                contents.append(self._content(path, content))
        if not folders and not contents:
            return None
        return private_files.plan_private_files(folders, contents, inside)

    def _content(self, path: str, content: bytes) -> overlays.Content:
        """With mode and owner of what it takes the place of."""
        if os.path.isdir(path):
            raise StepError(f"place {path}", "mount", errno.EISDIR)
        if _is_below_a_file(path):
            raise StepError(f"place {path}", "mount", errno.ENOTDIR)
        try:
            status = os.stat(path)
        except OSError:
            return overlays.Content(path, content)
        return overlays.Content(path, content, S_IMODE(status.st_mode), self._owner(status))


def _is_below_a_file(path: str) -> bool:
    while not os.path.lexists(path):
        path = os.path.dirname(path)
        if os.path.isfile(path):
            return True
    return False


def read_content(content: bytes | Path) -> bytes:
    """What a file is to have.

    :raises StepError: ``read PATH``.
    """
    if isinstance(content, bytes):
        return content
    path = str(content)
    with failing(f"read {path}", "mount"), open(path, "rb") as file:
        return file.read()
