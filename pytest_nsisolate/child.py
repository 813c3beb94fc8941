# SPDX-License-Identifier: MIT
"""The child's side: what is left of the item's phases, and then the exit.

Fact: the clone happens in the middle of the set-up phase, below pytest's own frames, and a copy of
pytest that returns through all of them goes on with the next test: two sessions, two reports.

Consequence: the child goes back up through the set-up hooks, because their second halves belong to
the phase, but only as far as our ``pytest_runtest_makereport``, the outermost. There
:meth:`Child.end_phase` takes over, runs call and teardown itself and ends the process by
``posix._exit`` in a ``finally``. (``os._exit`` may be somebody's patch: coverage's saves data, and
so does a test's own mock.) ``atexit``, ``multiprocessing``'s finalizers and the reporters never
run. Whatever slips past that meets :meth:`Child.barrier` round the protocol and round the loop.

A process that the test forks may return from the test body too: it is told apart by a flag that an
at-fork hook sets, never by its pid (the runner and the child may both be PID 1).
"""

from __future__ import annotations

import faulthandler
import os
import posix
import random
import sys
import traceback
from typing import Any, Final, NoReturn

import pytest

from pytest_nsisolate import evidence, output, ownership, warning_frames
from pytest_nsisolate import pytest_internals as internals
from pytest_nsisolate.channel import Output
from pytest_nsisolate.kernel import process
from pytest_nsisolate.wire import FrameWriter, Kind

#: The reports of phases about which there is nothing else to say (see ``PlainPass``).
_PASSED: Final = {
    when: b'{"passed": "%s"}' % when.encode() for when in ("setup", "call", "teardown")
}

#: The completion record of nearly every test.
_EVERY_PHASE: Final = ["setup", "call", "teardown"]
_DONE: Final = b'{"phases": ["setup", "call", "teardown"], "alone": true}'

#: Exit status of a copy of the child that came back from the test body.
EXIT_STRAY: Final = 98


class Child:
    """The one isolated test that a process exists for.

    Made in the runner, just before the clone, where getting things ready costs no page; it
    changes nothing there. The child calls :meth:`settle_in` first.

    :param item: the test.
    :param nextitem: what pytest runs after it.
    :param files: where output goes.
    :param inside: higher-scope fixtures that are set up in the child.
    :param own_pid: whether "am I alone?" has an answer there.
    """

    def __init__(
        self,
        item: pytest.Item,
        nextitem: pytest.Item | None,
        files: Output,
        *,
        inside: frozenset[str],
        own_pid: bool,
    ) -> None:
        config, session = item.config, item.session
        self._item = item
        self._nextitem = nextitem
        self._own_pid = own_pid
        self._fault = files.fault
        self._redirection = output.Redirection(files, config)
        self._adoption = ownership.Adoption(item, inside)
        self._plain = internals.PlainPass(item)
        self._watchdog = _watchdog(config)
        self._silence = internals.Silence(config, _is_kept)
        self._records_warnings = config.pluginmanager.hasplugin("warnings")
        # A fork reseeds :mod:`random`; who seeded it wants the same numbers here as anywhere.
        self._randomness = random.getstate()
        self._writer: FrameWriter | None = None
        self._stray = False
        #: Whether a phase's hooks are at work; reports that are made then are those of subtests.
        self.in_phase = True
        self._phases: list[str] = []
        self._properties = len(internals.testsuite_properties(config) or ())
        self._sections = len(internals.report_sections(item))
        self._stop = (session.shouldstop, session.shouldfail)

    # Before the first fixture ---------------------------------------------------------------------

    def settle_in(self, writer: FrameWriter) -> None:
        """Make this copy of pytest the child's own: output, faults, warnings, finalizers."""
        self._writer = writer
        self._redirection.apply()
        faulthandler.enable(file=self._fault)
        faulthandler.register(evidence.stack_signal(), file=self._fault, all_threads=True)
        if self._watchdog is not None:
            # A thread, which no fork takes along.
            timeout, descriptor, leave = self._watchdog
            faulthandler.dump_traceback_later(timeout, file=descriptor, exit=leave)
        os.register_at_fork(after_in_child=self._after_fork)
        _end_twinship()
        random.setstate(self._randomness)
        if self._records_warnings:
            warning_frames.divert(lambda data: self._send(Kind.WARNING, data))
        self._silence.fall()
        self._adoption.apply()
        writer.send_encoded(Kind.READY, b"{}")

    def _send(self, kind: Kind, data: dict[str, object]) -> None:
        assert self._writer is not None, "only the child sends"
        self._writer.send(kind, data)

    def hear_report(self, report: pytest.TestReport) -> None:
        """``pytest_runtest_logreport`` in the child: only subtests log their reports here."""
        self.leave_if_stray()
        failed = internals.failed_subtests(self._item)
        frame = {"sub": True, "report": self._serialize(report), "failed": failed}
        self._send(Kind.REPORT, frame)

    def stop_clock(self) -> None:
        """``pytest_enter_pdb``: nobody's budget runs while somebody types."""
        self._send(Kind.PAUSE, {})

    def start_clock(self) -> None:
        """``pytest_leave_pdb``."""
        self._send(Kind.RESUME, {})

    # The phases -----------------------------------------------------------------------------------

    def _run_rest(self, call: pytest.CallInfo[None], report: pytest.TestReport) -> NoReturn:
        """From the end of set-up to the end of this process (``_pytest.runner.runtestprotocol``).

        :param call: of the set-up phase, which has just ended here.
        :param report: its report.
        """
        try:
            item, option = self._item, self._item.config.option
            self._tell(call, report)
            if internals.check_interactive_exception(call, report):
                item.ihook.pytest_exception_interact(node=item, call=call, report=report)
            if report.passed:
                if option.setupshow:
                    internals.show_item(item)
                if not option.setuponly:
                    internals.call_and_report(item, "call", log=False)
            internals.call_and_report(item, "teardown", log=False, nextitem=self._nextitem)
            self._finish()
        except BaseException as error:
            self._give_up(error)
        finally:
            self._exit(0)

    def barrier(self, error: BaseException | None) -> NoReturn:
        """Nothing above this frame is the child's business.

        :param error: what came up from below, if anything did: ``pytest.exit`` during set-up, a
            Ctrl-C, or an error in another plugin's hook.
        """
        try:
            self.leave_if_stray()
            self._give_up(error or RuntimeError("the child came back from the test's protocol"))
        finally:
            self._exit(0)

    def end_phase(self, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
        """A phase has its report. After set-up this does not return."""
        if call.when == "setup":
            self._run_rest(call, report)
        self._tell(call, report)

    def _tell(self, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
        output.flush_streams()
        self._phases.append(call.when)
        self._send_report(call, report)

    def _send_report(self, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
        if call.excinfo is None and self._says_nothing(report):
            assert self._writer is not None
            self._writer.send_encoded(Kind.REPORT, _PASSED[call.when])
            return
        # Every report repeats what the earlier phases captured; the wire does not.
        data = {**self._serialize(report), "sections": []}
        captured = internals.report_sections(self._item)
        fresh = captured[self._sections :]
        self._sections = len(captured)
        known = {
            (f"Captured {kind} {phase}", text): at
            for at, (phase, kind, text) in enumerate(captured)
        }
        sections = [known.get((title, text), (title, text)) for title, text in report.sections]
        faults = os.fstat(self._fault).st_size
        frame = {"report": data, "fresh": fresh, "sections": sections, "faults": faults}
        if hasattr(report.longrepr, "toterminal") and isinstance(data["longrepr"], str):
            frame["shown"] = True
        if call.excinfo is not None:
            frame["error"] = _describe_error(call.excinfo.value)
        self._add_session_state(frame)
        self._send(Kind.REPORT, frame)

    def _says_nothing(self, report: pytest.TestReport) -> bool:
        """Whether "passed" is all that there is to say, as it is of most phases."""
        session = self._item.session
        return (
            self._plain.fits(report)
            and not os.fstat(self._fault).st_size
            and (session.shouldstop, session.shouldfail) == self._stop
            and len(internals.testsuite_properties(self._item.config) or ()) == self._properties
        )

    def _serialize(self, report: pytest.TestReport) -> dict[str, Any]:
        config = self._item.config
        data: dict[str, Any] = config.hook.pytest_report_to_serializable(
            config=config, report=report
        )
        return data

    def _add_session_state(self, frame: dict[str, object]) -> None:
        session = self._item.session
        if (session.shouldstop, session.shouldfail) != self._stop:
            frame["shouldstop"], frame["shouldfail"] = session.shouldstop, session.shouldfail
        properties = internals.testsuite_properties(self._item.config)
        if properties is not None and len(properties) > self._properties:
            frame["properties"] = properties[self._properties :]
            self._properties = len(properties)

    # The end --------------------------------------------------------------------------------------

    def _finish(self) -> None:
        _finish_multiprocessing()
        alone = self._own_pid and process.alone()
        if alone and self._phases == _EVERY_PHASE and self._writer is not None:
            self._writer.send_encoded(Kind.DONE, _DONE)
        else:
            self._send(Kind.DONE, {"phases": self._phases, "alone": alone})

    def _give_up(self, error: BaseException) -> None:
        """An exception ends the session, or a hook of another plugin is broken: tell the runner."""
        frame: dict[str, object]
        if isinstance(error, pytest.exit.Exception):
            frame = {"kind": "exit", "reason": error.msg, "status": error.returncode}
        elif isinstance(error, KeyboardInterrupt):
            frame = {"kind": "interrupt"}
        else:
            text = "".join(traceback.format_exception(error))
            self._send(Kind.BROKEN, {"text": text})
            return
        try:
            internals.tear_everything_down(self._item.session)
        except BaseException as failure:
            traceback.print_exception(failure)
        output.flush_streams()
        self._send(Kind.EXIT, frame)
        self._finish()

    def _exit(self, status: int) -> NoReturn:
        try:
            output.flush_streams()
        finally:
            posix._exit(status)

    # Copies ---------------------------------------------------------------------------------------

    def _after_fork(self) -> None:
        """In a process that the test has forked: it has nothing to tell the runner."""
        self._stray = True
        if self._writer is not None:
            _cover(self._writer.abandon())

    def leave_if_stray(self) -> None:
        """End a copy of this process that the test has forked, and that has come back from it."""
        if self._stray:
            text = f"pytest-nsisolate: a process forked by {self._item.nodeid} returned from it\n"
            os.write(2, text.encode())
            posix._exit(EXIT_STRAY)


def _cover(descriptor: int) -> None:
    """Put ``/dev/null`` over the frame pipe: what a copy writes to that number reaches nobody."""
    try:
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, descriptor, inheritable=False)
        os.close(null)
    except OSError:
        pass  # abandoned before, or closed by the test


def _is_kept(plugin: object) -> bool:
    """Who hears the reports of subtests in the child: the session (``-x``), live logs, and us."""
    kind = type(plugin)
    return isinstance(plugin, pytest.Session) or kind.__name__ in {
        "LoggingPlugin",
        "OutermostHooks",
    }


def _describe_error(error: BaseException) -> dict[str, object]:
    """Enough for plugins that look at an exception's type and text in the runner."""
    kind = type(error)
    try:
        text = str(error)
    except Exception as broken:  # the report must get out all the same
        text = f"<str() raised {type(broken).__name__}>"
    return {"module": kind.__module__, "name": kind.__qualname__, "text": text}


def _watchdog(config: pytest.Config) -> tuple[float, int, bool] | None:
    """``faulthandler_timeout``: seconds, where to write, and whether to leave then."""
    descriptor = internals.fault_handler_descriptor(config)
    timeout = internals.fault_timeout(config)
    if timeout <= 0 or descriptor is None:
        return None
    return timeout, descriptor, internals.exits_on_fault_timeout(config)


def _end_twinship() -> None:
    """Runner and child may have one pid between them, which some libraries take for "no fork".

    OpenSSL then does not reseed, ``tempfile`` repeats its names, and :mod:`multiprocessing` would
    run the runner's finalizers.
    """
    ssl: Any = sys.modules.get("_ssl")
    if ssl is not None:
        ssl.RAND_add(os.urandom(32), 32.0)
    tempfile: Any = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile._name_sequence = None
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        # The runner's: by pid they would be taken for this process's own.
        util._finalizer_registry.clear()


def _finish_multiprocessing() -> None:
    """What the test has left to :mod:`multiprocessing` to clean up at exit, which never comes."""
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        util._run_finalizers()
