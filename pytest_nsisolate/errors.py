# SPDX-License-Identifier: MIT
"""What can go wrong in the machinery, as types.

Each exception carries its facts as attributes, builds its message from them and survives
``pickle`` and ``copy`` (``__reduce__``), because it may cross a process boundary.
"""

from __future__ import annotations

import errno as errno_names
import os
from collections.abc import Iterator
from contextlib import contextmanager


class NsisolateError(Exception):
    """Base of everything that pytest-nsisolate raises itself."""


class StepError(NsisolateError):
    """One step on the way into the namespaces failed.

    You get this as a refusal when the host denies a namespace, with the remedy beside it.

    :param step: what was attempted, in the kernel's words: ``"unshare(CLONE_NEWNET)"``.
    :param namespace: the namespace that the step serves, or None where it serves them all.
    :param errno: the error number of the system call (errno(3)).
    :param detail: a path or a sentence that narrows it down; may be empty.
    """

    def __init__(self, step: str, namespace: str | None, errno: int, detail: str = "") -> None:
        super().__init__(step, namespace, errno, detail)
        self.step = step
        self.namespace = namespace
        self.errno = errno
        self.detail = detail

    @property
    def errno_name(self) -> str:
        """The symbol of the error number, ``"EPERM"``, or the number where it has none."""
        return errno_names.errorcode.get(self.errno, str(self.errno))

    def __str__(self) -> str:
        where = f" for the {self.namespace} namespace" if self.namespace else ""
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.step}{where}: {self.errno_name}, {os.strerror(self.errno)}{detail}"

    def __reduce__(self) -> tuple[type[StepError], tuple[str, str | None, int, str]]:
        return type(self), (self.step, self.namespace, self.errno, self.detail)


class BrokenStream(NsisolateError):
    """A child's stream is not what the protocol allows: that one item fails.

    :param reason: which rule was broken, in one clause.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class IsolatedCrash(Exception):
    """Stands in, for hooks of the runner, for an exception that nobody could raise.

    You see it as ``call.excinfo`` in ``pytest_runtest_makereport`` when an isolated test crashed,
    exited, timed out or was refused.
    """

    __module__ = "pytest_nsisolate"


@contextmanager
def failing(step: str, namespace: str | None) -> Iterator[None]:
    """Name the step and the namespace of any :class:`OSError` raised inside the block.

    :raises StepError: with the errno kept and the file name, if there is one, as detail.
    """
    try:
        yield
    except OSError as error:
        detail = str(error.filename) if error.filename is not None else ""
        raise StepError(step, namespace, error.errno or 0, detail) from error
