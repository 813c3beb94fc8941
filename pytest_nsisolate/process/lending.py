# SPDX-License-Identifier: MIT
"""Trees of files that are made once a run and handed from child to child.

Fact: a tree on the disk outlives a runner that is killed, and a process that keeps one mounted is a
child that the suite may wait for. A mount that is attached nowhere lives as long as a descriptor of
it, but only the namespace that it is in can clone it, so it serves one child.
What we do: a short-lived child fills a tmpfs and leaves it as such a descriptor. PID 1 of each test
attaches it in its own namespace, clones it there, and sends the clone back for the next one.
Nothing is on the disk, no process waits, and with the runner the kernel frees it.

Workers of pytest-xdist have one tree: a child makes as many descriptors of it as there are workers
(see :mod:`pytest_nsisolate.process.fellows`).

That is the first thing that PID 1 does for its root.

What still fails: where a child dies before that, the tree is made anew.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NoReturn

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.host.refusal import Refusal, RefusedError
from pytest_nsisolate.kernel import overlays, syscalls
from pytest_nsisolate.kernel.libc import step_error
from pytest_nsisolate.kernel.originals import os, posix
from pytest_nsisolate.process.channel import STEP_SECONDS, refuse
from pytest_nsisolate.process.passage import Passage
from pytest_nsisolate.wire.frames import FrameWriter, Kind

if TYPE_CHECKING:
    from pytest_nsisolate.process.launcher import Launcher
    from pytest_nsisolate.request.model import IsolationRequest

_CLONE: Final = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | syscalls.AT_RECURSIVE


def clone(path: str) -> int:
    """In a child: a descriptor of what is mounted there, attached nowhere.

    :raises OSError: when the kernel refuses it.
    """
    return syscalls.open_tree(path, _CLONE)


class Attachment:
    """A tree that a child attaches to its root, and clones there for the next test.

    :param tree: a descriptor of it.
    :param place: a directory that is made for it.
    """

    def __init__(self, tree: int, place: str) -> None:
        self.tree = tree
        self._place = place
        self._move = syscalls.prepare_move_mount(tree, place)
        self._clone = syscalls.prepare_open_tree(place, _CLONE)

    def make(self) -> int:
        """In the child.

        :returns: a descriptor of the clone.
        :raises OSError: when the kernel refuses it.
        """
        os.mkdir(self._place, 0o700)
        self._move()
        os.close(self.tree)
        return self._clone()


class LentTree:
    """A tree of one launcher, and of the other workers of the run; made when it is first taken.

    :param key: the same in two workers if their trees are.
    :param request: for the child that makes it.
    :param seconds: that this child has.
    """

    def __init__(
        self, launcher: Launcher, key: object, request: IsolationRequest, seconds: float
    ) -> None:
        self._launcher = launcher
        self._key = key
        self._request = request
        self._seconds = seconds
        self._trees: list[int] = []
        #: Give the tree of a child that has it, or None.
        self._lent: list[Callable[[], int | None]] = []

    def take(self) -> int:
        """A descriptor of the tree, for the next child; the caller owns it.

        :raises RefusedError: when it cannot be made.
        :raises StepError: as :func:`~pytest_nsisolate.kernel.overlays.check_attributes`.
        """
        while not self._trees and self._lent:
            tree = self._lent.pop()()
            if tree is not None:
                self._trees.append(tree)
        return self._trees.pop() if self._trees else self._make()

    def put(self, tree: int) -> None:
        """It was not needed, or has come back."""
        self._trees.append(tree)

    def lend(self, back: Callable[[], int | None]) -> None:
        """A child has it, which will give it back."""
        self._lent.append(back)

    def end_loan(self, back: Callable[[], int | None]) -> None:
        """The child ends: now or never."""
        if back in self._lent:
            self._lent.remove(back)
            if (tree := back()) is not None:
                self.put(tree)

    def descriptors(self) -> tuple[int, ...]:
        """What is not the child's that is launched now."""
        return tuple(self._trees)

    def close(self) -> None:
        """Let the kernel free it."""
        for tree in self._trees:
            os.close(tree)
        self._trees.clear()
        self._lent.clear()

    def _builder(self, count: int) -> TreeBuilder:
        """What makes so many descriptors of the tree."""
        raise NotImplementedError

    def _make(self) -> int:
        overlays.check_attributes()
        fellows = self._launcher.fellows
        if fellows is None:
            return self._have_made(1)[0]
        return fellows.share(self._key, self._have_made, self._seconds + STEP_SECONDS)

    def _have_made(self, count: int) -> list[int]:
        """
        :raises RefusedError: when it has not been made.
        """
        builder = self._builder(count)
        passage = builder.passage
        try:
            budget = self._seconds + STEP_SECONDS
            child = self._launcher.start(self._request, lambda _: builder, budget=budget)
        except BaseException:
            passage.cancel()
            raise
        passage.passed_on()
        try:
            while child.next_frame() is not None:
                pass
            trees = passage.collect(count)
            if trees:
                found = trees.copy()
                trees.clear()  # they are the caller's
                return found
        finally:
            child.end_and_reap()
            passage.close()
        refusal = child.outcome
        if not isinstance(refusal, Refusal):
            refusal = Refusal(builder.step, "mount", errno.EPIPE, str(refusal))
        raise RefusedError(self._launcher.explained(refusal))


class Loan:
    """A tree that one child gets.

    :param place: where the child attaches it on the tmpfs of its root.
    :raises RefusedError: when it cannot be made.
    """

    def __init__(self, owner: LentTree, place: str) -> None:
        self.attachment = Attachment(owner.take(), place)
        self._owner = owner
        #: The tree is still this process's.
        self._has_it = True
        self._back: Callable[[], int | None] | None = None

    def begin(self, back: Callable[[], int | None]) -> None:
        """There is a child, which has it.

        :param back: gives what the child has sent back, or None.
        """
        if self._has_it:
            self._has_it = False
            os.close(self.attachment.tree)
            self._back = back
            self._owner.lend(back)

    def end(self) -> None:
        """The child ends."""
        if self._back is not None:
            self._owner.end_loan(self._back)

    def cancel(self) -> None:
        """There will be no child."""
        if self._has_it:
            self._has_it = False
            self._owner.put(self.attachment.tree)


class TreeBuilder:
    """The body of the child that makes a tree.

    :param step: what it does, as a refusal names it.
    :param count: of descriptors, each of which serves one child at a time.
    :param size: of the tmpfs, as an option of its own has it.
    :raises StepError: when no descriptor is left.
    """

    def __init__(self, step: str, count: int, size: str | None = None) -> None:
        self.step = step
        self._count = count
        self.passage = Passage()
        self._size = size

    def fill(self) -> None:
        """In the child: the current directory becomes the tree.

        :raises StepError: or an :class:`OSError`, when it cannot.
        """
        raise NotImplementedError

    def __call__(self, writer: FrameWriter) -> NoReturn:
        """In the child."""
        try:
            sys.settrace(None)
            writer.send_ready()
            self._build()
            writer.send(Kind.DONE, {"phases": [], "alone": False})
        except StepError as error:
            refuse(writer, error)
        finally:
            posix._exit(0)

    def _build(self) -> None:
        options = "mode=0755" if self._size is None else f"mode=0755,size={self._size}"
        try:
            flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
            syscalls.prepare_mount("tmpfs", "/", "tmpfs", flags, options)()
            os.umask(0)
            os.chdir("/..")
            # Before a builder changes the root: then it would be none of this process's mounts.
            flags = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC
            trees = [syscalls.open_tree(".", flags) for _ in range(self._count)]
            self.fill()
            self.passage.send(*trees)
        except OSError as error:
            raise step_error(self.step, "mount", error) from error
