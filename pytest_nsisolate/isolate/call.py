# SPDX-License-Identifier: MIT
"""The child's side of one call by ``isolate``: settle in, call, send the answer, end.

Fact: the fork happens in the middle of a test, and everything above the call (the test, pytest's
hooks, perhaps an event loop) is in this copy too.

Consequence: as in :mod:`pytest_nsisolate.child.main` nothing returns from here: the raw exit stands
in the outermost ``finally``, and a process that the function has forked and that comes back from
it ends with :data:`~pytest_nsisolate.process.outcome.EXIT_STRAY`.

What the function writes to descriptors goes where it would have gone. Streams in memory
(``capsys``, ``--capture=sys``) become files of the caller's while the call lasts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn
from warnings import warn_explicit

import pytest

from pytest_nsisolate.child import ending, leftovers, output, strays
from pytest_nsisolate.errors import NsisolateLeftoversWarning
from pytest_nsisolate.integrations import debuggers
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel import process
from pytest_nsisolate.kernel.originals import faulthandler, os, pickle, posix, random, traceback
from pytest_nsisolate.kernel.signals import stack_signal
from pytest_nsisolate.process import after_fork
from pytest_nsisolate.process.outcome import EXIT_STRAY
from pytest_nsisolate.wire import exceptions, log_records, values, warnings
from pytest_nsisolate.wire.frames import FrameWriter, Kind

if TYPE_CHECKING:
    import logging

    from pytest_nsisolate.integrations.coverage import Measurement
    from pytest_nsisolate.isolate.unawaited import Unawaited
    from pytest_nsisolate.process.channel import Output

_TOO_LARGE: Final = "and more than one child may send at once"


@dataclass(frozen=True, slots=True)
class Function:
    """What is called, and how its answer crosses.

    :param trusted: by pickle, whatever that runs when it is read (law 7 waived by name).
    :param command: the command that it runs, if that is what it is there for.
    """

    function: Callable[..., object]
    args: tuple[object, ...]
    kwargs: dict[str, object]
    trusted: bool = False
    command: str = ""

    @classmethod
    def of(
        cls, function: object, args: tuple[object, ...], kwargs: dict[str, object], trusted: bool
    ) -> Function:
        """One that a test has named.

        :raises TypeError: for what cannot be called, such as the words of a command.
        """
        __tracebackhide__ = True
        if not callable(function):
            raise TypeError(
                f"not a function: {function!r}. A command is started in a box: "
                "with isolate.open() as box: box.command(...)"
            )
        return cls(function, args, kwargs, trusted)

    @property
    def name(self) -> str:
        """``"serve()"`` or the command, for messages."""
        if self.command:
            return self.command
        found = getattr(self.function, "__qualname__", None) or repr(self.function)
        return f"{found.rpartition('<locals>.')[2]}()"

    def answer(self) -> dict[str, object]:
        """Call it: the data of a RESULT frame."""
        try:
            value = self.function(*self.args, **self.kwargs)
        except BaseException as error:
            below = None if error.__traceback__ is None else error.__traceback__.tb_next
            return {"error": exceptions.describe(error, below), **self._pickled(error)}
        if self.trusted:
            try:
                return {"pickle": pickle.dumps(value)}
            except Exception as error:  # pickle asks the value's own code
                why = f"which pickle refuses ({error})"
                return _unfit(values.UnfitError(type(value).__name__, "result", why))
        try:
            return {"value": values.pack(value)}
        except values.UnfitError as unfit:
            return _unfit(unfit)

    def _pickled(self, error: BaseException) -> dict[str, object]:
        if not self.trusted:
            return {}
        try:
            return {"pickle": pickle.dumps(error)}
        except Exception:  # then by its type and arguments
            return {}


def _unfit(unfit: values.UnfitError) -> dict[str, object]:
    return {"unfit": (unfit.type_name, unfit.where, unfit.why)}


class Call:
    """One call, made ready in the caller and carried out in its child (:meth:`run`).

    :param files: where streams in memory and the fault handler write.
    :param own_pid: whether "am I alone?" has an answer there.
    :param number: of this call in its caller; two children get different random numbers.
    :param unawaited: ends the tasks that the function starts and does not await.
    """

    def __init__(
        self,
        function: Function,
        config: pytest.Config,
        files: Output,
        *,
        own_pid: bool,
        number: int,
        unawaited: Unawaited,
        measurement: Measurement | None,
    ) -> None:
        self._function = function
        self._config = config
        self._files = files
        self._own_pid = own_pid
        after_fork.wake_openssl()
        self._ending = ending.Ending()
        #: To the editor that debugs the caller.
        self.connection: debuggers.Connection | None = None
        self._undebugged = ""
        self._seed = hash((random.getstate(), number))
        self._unawaited = unawaited
        self._measurement = measurement
        self._writer: FrameWriter | None = None
        self._stray = False
        self._ended = False
        self.handlers: list[logging.Handler] = log_records.handlers()

    def run(self, writer: FrameWriter) -> NoReturn:
        """In the child: everything from here to its exit."""
        try:
            self._settle_in(writer)
            writer.send_ready()
            if self.connection is not None:
                self._undebugged = self.connection.attach()
            answer = self._answer()
            output.flush_streams()
            if self._measurement is not None:
                self._measurement.hand_over()
            self._send_answer(answer)
            if self._ending.is_due:
                self._ended = True
                self._send(Kind.ENDING, {})
                self._ending.run(self._end)
            self._end()
        except BaseException as error:
            self._send(Kind.BROKEN, {"text": "".join(traceback.format_exception(error))})
        finally:
            posix._exit(EXIT_STRAY if self._stray else 0)

    def _end(self) -> NoReturn:
        """The completion record. Also called by :mod:`atexit`, which takes no exception from us."""
        try:
            self._leave_if_stray()
            after_fork.finish_multiprocessing()
            if self._ended:
                self._ending.finish()
                output.flush_streams()
            if self._measurement is not None:
                self._measurement.hand_over()
            alone = self._own_pid and process.alone()
            done = {"phases": [], "alone": alone, "undebugged": self._undebugged}
            self._send(Kind.DONE, done)
        except BaseException as error:
            self._send(Kind.BROKEN, {"text": "".join(traceback.format_exception(error))})
        finally:
            posix._exit(EXIT_STRAY if self._stray else 0)

    def _settle_in(self, writer: FrameWriter) -> None:
        self._writer = writer
        _redirect(self._files)
        faulthandler.enable(file=self._files.fault)
        faulthandler.register(stack_signal(), file=self._files.fault, all_threads=True)
        os.register_at_fork(after_in_child=self._after_fork)
        after_fork.end_twinship()
        after_fork.renew_thread_id()
        after_fork.leave_event_loop()
        random.seed(self._seed)
        internals.forget_collected_errors(self._config)
        self._unawaited.forget()
        warnings.divert(lambda data: self._send(Kind.WARNING, data))
        log_records.divert(self.handlers, lambda data: self._send(Kind.LOG, data))
        if self._measurement is not None:
            self._measurement.settle_in(lambda data: self._send(Kind.COVERAGE, data))
        self._ending.begin()

    def _answer(self) -> dict[str, object]:
        answer = self._function.answer()
        self._leave_if_stray()
        try:
            try:
                self._await_threads()
                internals.raise_collected_errors(self._config)
            finally:
                self._unawaited.settle_loose()
        except BaseException as error:
            if "error" not in answer:
                answer = {"error": exceptions.describe(error, error.__traceback__)}
        return answer

    def _await_threads(self) -> None:
        """
        :raises NsisolateLeftoversWarning: if the user's filters make it an error.
        """
        if names := self._ending.await_threads():
            code: Any = getattr(self._function.function, "__code__", None)
            place = ("<function>", 1) if code is None else (code.co_filename, code.co_firstlineno)
            text = leftovers.describe_threads(names, "warn")
            warn_explicit(text, NsisolateLeftoversWarning, *place)

    def _send(self, kind: Kind, data: dict[str, object]) -> None:
        assert self._writer is not None, "only the child sends"
        if not self._stray:
            self._writer.send(kind, data)

    def _send_answer(self, answer: dict[str, object]) -> None:
        try:
            self._send(Kind.RESULT, answer)
        except OSError:
            if "error" in answer:
                raise
            self._send(Kind.RESULT, _unfit(values.UnfitError("object", "result", _TOO_LARGE)))

    def _after_fork(self) -> None:
        """In a process that the function has forked: it has nothing to tell the caller."""
        self._stray = True
        debuggers.mute()
        self._ending.forget()
        log_records.restore(self.handlers)
        if self._measurement is not None:
            self._measurement.leave()
        if self._writer is not None:
            after_fork.cover(self._writer.abandon())

    def _leave_if_stray(self) -> None:
        if self._stray:
            strays.leave(self._function.name)


def is_in_memory(stream: Any) -> bool:
    """Whether a fork copies what is written to this stream, instead of sharing where it goes."""
    if stream is None:
        return False
    try:
        stream.fileno()
    except (OSError, ValueError, AttributeError):
        return True
    return False


def _redirect(files: Output) -> None:
    for name, fd in (("stdout", files.stdout), ("stderr", files.stderr)):
        if is_in_memory(getattr(sys, name)):
            setattr(sys, name, output.MemoryFile(fd))
