# SPDX-License-Identifier: MIT
"""What can go wrong in the machinery, as types.

Each exception carries its facts as attributes, builds its message from them and survives
``pickle`` and ``copy`` (``__reduce__``), because it may cross a process boundary.
"""

from __future__ import annotations

import errno as errno_names

import pytest

from pytest_nsisolate.kernel.originals import os


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


class IsolatedError(NsisolateError):
    """A function in a child has returned no value, and raised nothing that can be raised here.

    You get this class itself for an exception that cannot be made again: its type is not found by
    name in this process, or its arguments are not plain values. Every other end of a call is a
    subclass.

    :param type_name: module and name of the type of the child's exception.
    :param text: its ``str()``.
    :param traceback: the child's, as text; empty where there is none.
    """

    __module__ = "pytest_nsisolate"

    def __init__(self, type_name: str, text: str, traceback: str = "") -> None:
        super().__init__(type_name, text, traceback)
        self.type_name = type_name
        self.text = text
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.type_name}: {self.text}" if self.text else self.type_name


class NotPlainError(IsolatedError, TypeError):
    """What a function has returned is not plain data.

    :param what: the function.
    :param type_name: of the value that does not cross.
    :param where: its place in what was returned: ``result[0].name``.
    :param why: one clause.
    """

    __module__ = "pytest_nsisolate"

    def __init__(self, what: str, type_name: str, where: str, why: str) -> None:
        super().__init__(type_name, why)
        self.args = (what, type_name, where, why)
        self.what = what
        self.where = where

    def __str__(self) -> str:
        return (
            f"{self.what} ran, but its value does not cross: {self.where} is of type "
            f"{self.type_name}, {self.text}; return plain data, or say trusted=True"
        )


class IsolatedCrash(IsolatedError):
    """The child has ended without an answer.

    In the runner's ``pytest_runtest_makereport`` it is the ``call.excinfo`` of an isolated test
    that crashed, exited, timed out or was refused. A call by ``isolate`` raises one of the
    subclasses.

    :param text: what happened, in one line.
    """

    __module__ = "pytest_nsisolate"

    def __init__(self, text: str) -> None:
        super().__init__("IsolatedCrash", text)
        self.args = (text,)

    def __str__(self) -> str:
        return self.text


class IsolatedSignal(IsolatedCrash):
    """A signal has ended the child.

    :param what: the function that it ran.
    :param signal: the number (signal(7)).
    :param name: its symbol, ``"SIGSEGV"``.
    """

    __module__ = "pytest_nsisolate"

    def __init__(self, what: str, signal: int, name: str) -> None:
        super().__init__(f"{what} was killed by {name}")
        self.args = (what, signal, name)
        self.signal = signal
        self.name = name


class IsolatedExit(IsolatedCrash):
    """The child has ended by itself before it was finished (``os._exit``, ``execve``).

    :param what: the function that it ran.
    :param status: its exit status.
    """

    __module__ = "pytest_nsisolate"

    def __init__(self, what: str, status: int) -> None:
        super().__init__(f"{what} ended with exit status {status} before it was finished")
        self.args = (what, status)
        self.status = status


class IsolatedTimeout(IsolatedCrash):
    """The budget ran out, and the child was killed.

    It is no :class:`TimeoutError`: ``task.result(timeout=...)`` raises one, and the child goes on.

    :param what: the function that it ran.
    :param seconds: the budget.
    :param diagnosis: stacks and processes as they were just before the kill, as text.
    """

    __module__ = "pytest_nsisolate"

    def __init__(self, what: str, seconds: float, diagnosis: str = "") -> None:
        super().__init__(f"{what} timed out after {seconds:g} s")
        self.args = (what, seconds, diagnosis)
        self.seconds = seconds
        self.diagnosis = diagnosis


class IsolatedRefusal(IsolatedCrash):
    """This host has denied a step on the way in; not a line of the function has run.

    :param step: the failing step, with its namespace and the error number.
    :param cause: what about this host makes the kernel refuse.
    :param remedy: what to type or to change.
    :param what: the function or the command that was to run; may be empty.
    """

    __module__ = "pytest_nsisolate"

    def __init__(self, step: StepError, cause: str, remedy: str, what: str = "") -> None:
        head = f"{what}: isolation refused: {step}" if what else f"isolation refused: {step}"
        super().__init__(f"{head}\ncause: {cause}\nremedy: {remedy}")
        self.args = (step, cause, remedy, what)
        self.what = what
        self.step = step
        self.cause = cause
        self.remedy = remedy


class FaultRefusal(NsisolateError):
    """This host does not let ``pid1.fail`` or ``pid1.delay`` answer for the test's system calls.

    :param step: what was refused, with the error number.
    :param cause: what about this host, or this test, makes the kernel refuse.
    :param remedy: what to type or to change.
    """

    __module__ = "pytest_nsisolate"

    def __init__(self, step: StepError, cause: str, remedy: str) -> None:
        super().__init__(step, cause, remedy)
        self.step = step
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        return f"faults refused: {self.step}\ncause: {self.cause}\nremedy: {self.remedy}"


class IsolatedLoss(IsolatedCrash):
    """The child was lost: its stream is broken, or its supervisor was killed.

    :param what: the function that it ran.
    :param reason: in one clause.
    """

    __module__ = "pytest_nsisolate"

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} was lost: {reason}")
        self.args = (what, reason)
        self.reason = reason


class NotAwaitedError(IsolatedError):
    """Tasks were started and never awaited; they were ended.

    :param names: the functions that they ran, with the state that they were in.
    """

    __module__ = "pytest_nsisolate"

    def __init__(self, names: tuple[str, ...]) -> None:
        listed = ", ".join(names)
        super().__init__("NotAwaitedError", f"started by isolate and never awaited: {listed}")
        self.args = (names,)
        self.names = names

    def __str__(self) -> str:
        return self.text


class TestbedError(NsisolateError, ValueError):
    """You ask a testbed for something impossible: a name twice, an address outside of its network.

    :param text: what is impossible, and why, in one sentence.
    """

    __module__ = "pytest_nsisolate"
    __test__ = False  # a module that imports it has no test of this name

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return self.text


class NotReadyError(IsolatedError):
    """A program of a host has ended before it was ready, or was not ready in time.

    :param host: the host.
    :param command: the program, as you would type it.
    :param expected: what it had to do: ``"port 80"``.
    :param became: what it has done instead.
    :param log: what it has written.
    """

    __module__ = "pytest_nsisolate"

    def __init__(self, host: str, command: str, expected: str, became: str, log: str) -> None:
        super().__init__("NotReadyError", f"{host}: {command}: {became}, expected: {expected}")
        self.args = (host, command, expected, became, log)
        self.host = host
        self.command = command
        self.expected = expected
        self.became = became
        self.log = log

    def __str__(self) -> str:
        lines = self.log.rstrip().split("\n")[-20:]
        said = "\n".join(f"  {line}" for line in lines)
        return f"{self.text}\n{said}" if self.log.strip() else f"{self.text} (its log is empty)"


class NsisolateLeftoversWarning(pytest.PytestWarning):
    """Processes were alive when the tear-down of an isolated test had ended (``leftovers="warn"``).

    The text lists them. The warning stands at the first line of the test.
    """

    __module__ = "pytest_nsisolate"


class NsisolateOverrunWarning(pytest.PytestWarning):
    """The relay of a testbed did not keep up, and has lost packets that it should not have lost."""

    __module__ = "pytest_nsisolate"


class failing:  # noqa: N801 (reads as a statement: with failing("fork", None))
    """Name the step and the namespace of any :class:`OSError` raised inside the block.

    A class, because a generator takes twice the calls, and a launch has a dozen of these.

    :raises StepError: with the errno kept and the file name, if there is one, as detail.
    """

    __slots__ = ("_namespace", "_step")

    def __init__(self, step: str, namespace: str | None) -> None:
        self._step = step
        self._namespace = namespace

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if isinstance(error, OSError):
            detail = str(error.filename) if error.filename is not None else ""
            raise StepError(self._step, self._namespace, error.errno or 0, detail) from error
