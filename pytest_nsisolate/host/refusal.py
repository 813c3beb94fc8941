# SPDX-License-Identifier: MIT
"""A step that this host denies: which one, why, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from errno import errorcode
from typing import Final

from pytest_nsisolate.errors import NsisolateError, StepError

#: How the text of a refusal begins, in a report and in a skip reason.
REFUSED: Final = "isolation refused: "


@dataclass(frozen=True, slots=True)
class Refusal:
    """A step that this host has denied; no line of the test has run (law 2).

    :param step: the call, as in :class:`~pytest_nsisolate.errors.StepError`.
    :param namespace: the namespace that it serves, or None.
    :param errno: its error number (errno(3)).
    :param detail: a path or a sentence that narrows it down; may be empty.
    :param late: the exception to that: what watches over the test was refused something when the
        test had begun. That is never a reason to skip it.
    :param filtered: whether ``unshare(0)`` was refused too; None where that was not tried.
    :param cause: what about this host makes the kernel refuse; empty before it is looked up
        (:func:`pytest_nsisolate.host.remedies.explained`).
    :param remedy: what to type or to change.
    """

    step: str
    namespace: str | None
    errno: int
    detail: str = ""
    late: bool = False
    filtered: bool | None = None
    cause: str = ""
    remedy: str = ""

    @classmethod
    def of(cls, error: StepError) -> Refusal:
        """The refusal that a failing step stands for."""
        return cls(error.step, error.namespace, error.errno, error.detail)

    @property
    def error(self) -> StepError:
        """The step, as an exception."""
        return StepError(self.step, self.namespace, self.errno, self.detail)

    @property
    def errno_name(self) -> str:
        """The symbol of the error number, ``"EPERM"``."""
        return errorcode.get(self.errno, str(self.errno))

    def headline(self) -> str:
        """The step, the namespace and the error number, in one line."""
        return str(self.error)

    def __str__(self) -> str:
        return f"{self.headline()}\n  cause: {self.cause}\n  remedy: {self.remedy}"


class RefusedError(NsisolateError):
    """A process could not be started; the code that waits for it makes of this what users see.

    :param refusal: with its cause and its remedy.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal

    def __str__(self) -> str:
        return str(self.refusal)
