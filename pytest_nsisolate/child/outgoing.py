# SPDX-License-Identifier: MIT
"""What the child tells the runner: reports, what belongs to the session, views, and how it ends.

A report crosses as pytest itself would send it to another process. Most phases only say "passed":
that costs a few comparisons and a frame that was built before. What each frame means to the
runner is in :mod:`pytest_nsisolate.runner.incoming`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel.originals import os, traceback
from pytest_nsisolate.request import limits
from pytest_nsisolate.wire import exceptions, reports, type_names
from pytest_nsisolate.wire.frames import PASSED, PLAIN_DONE, FrameWriter, Kind

if TYPE_CHECKING:
    from pytest_nsisolate.view.fault_engine import Engine
    from pytest_nsisolate.view.postmortem.at_failure import PostMortem

_EVERY_PHASE: Final = [*PASSED]


class Outgoing:
    """The frames of one child.

    Made in the runner, just before the clone; it changes nothing there. It is mute until it has
    its :attr:`writer`, and again in a copy of the child.

    :param item: the test.
    :param fault: the descriptor of the file that the fault handler writes to.
    """

    def __init__(self, item: pytest.Item, fault: int) -> None:
        self._item = item
        self._fault = fault
        #: The child's end of the pipe; only the child has one.
        self.writer: FrameWriter | None = None
        #: Whether a failure may come of the test's limits.
        self.limited = False
        #: Looks at the world if the test fails.
        self.post_mortem: PostMortem | None = None
        #: The way to what answers for the calls of this process, once a fault is wanted.
        self.faults: Engine | None = None
        self._mute = False
        self._subtest_error: BaseException | None = None
        #: Knows the reports that need not be sent whole.
        self.plain = internals.PlainPass(item)
        self._phases: list[str] = []
        self._sections = len(internals.report_sections(item))
        self.take_stock()

    def take_stock(self) -> None:
        """What has been set up to now is the runner's doing, too."""
        item, session = self._item, self._item.session
        self._properties = len(internals.testsuite_properties(item.config) or ())
        self._attributes = dict(internals.junit_attributes(item))
        self._stashed = _stashed(item)
        self._stop = (session.shouldstop, session.shouldfail)

    def send(self, kind: Kind, data: dict[str, object]) -> None:
        """Send one frame.

        :raises OSError: from write(2); EMSGSIZE for a frame that is too large.
        """
        assert self.writer is not None, "only the child sends"
        if not self._mute:  # a copy that warns, say: the runner does not hear it
            self.writer.send(kind, data)

    def abandon(self) -> int:
        """In a copy of the child: it has nothing to tell.

        :returns: the descriptor of the pipe, to get rid of; -1 if this is a copy of a copy.
        """
        self._mute = True
        return -1 if self.writer is None else self.writer.abandon()

    # Reports --------------------------------------------------------------------------------------

    def send_report(self, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
        """The report of a phase, with what is new in the session, and what a failure has seen."""
        self._phases.append(call.when)
        if call.excinfo is None and self._says_nothing(report):
            assert self.writer is not None
            self.writer.send_encoded(Kind.REPORT, PASSED[call.when])
            return
        # Every report repeats what has been captured so far; the wire does not.
        frame = self._serialize(report)
        captured = internals.report_sections(self._item)
        fresh = captured[self._sections :]
        self._sections = len(captured)
        known = {
            (f"Captured {kind} {phase}", text): at
            for at, (phase, kind, text) in enumerate(captured)
        }
        sections = [known.get((title, text), (title, text)) for title, text in report.sections]
        frame["report"]["sections"] = []
        frame |= {"fresh": fresh, "sections": sections, "faults": os.fstat(self._fault).st_size}
        if call.excinfo is not None:
            frame["error"] = _describe_error(call.excinfo.value)
            if self.limited:
                frame["error"]["errnos"] = limits.errnos(call.excinfo.value)
        self._add_session_state(frame)
        error = None if call.excinfo is None else call.excinfo.value
        self._send_with_view(frame, report, error)

    def note_subtest(self, call: pytest.CallInfo[None]) -> None:
        """A subtest is about to log its report, which does not have the exception itself."""
        self._subtest_error = None if call.excinfo is None else call.excinfo.value

    def send_subtest(self, report: pytest.TestReport) -> None:
        """The report of a subtest, which has been logged here."""
        failed = internals.failed_subtests(self._item)
        frame = {**self._serialize(report), "sub": True, "failed": failed}
        error, self._subtest_error = self._subtest_error, None
        self._send_with_view(frame, report, error, subtest=True)

    def hand_over_section(self, when: str, key: str, content: str) -> None:
        """``Item.add_report_section``: send it, as the files are empty now and a hook may hang."""
        if not content:
            return
        item = self._item
        type(item).add_report_section(item, when, key, content)
        before, captured = self._sections, internals.report_sections(item)
        if len(captured) > before:
            self._sections = len(captured)
            try:
                self.send(Kind.OUTPUT, {"fresh": captured[before:]})
            except OSError:
                self._sections = before  # the phase's report will say so

    def _says_nothing(self, report: pytest.TestReport) -> bool:
        """Whether "passed" is all that there is to say, as it is of most phases."""
        session = self._item.session
        return (
            self.plain.fits(report)
            and not os.fstat(self._fault).st_size
            and (session.shouldstop, session.shouldfail) == self._stop
            and len(internals.testsuite_properties(self._item.config) or ()) == self._properties
            and not self._new_junit_attributes()
        )

    def _serialize(self, report: pytest.TestReport) -> dict[str, Any]:
        config = self._item.config
        try:
            data = config.hook.pytest_report_to_serializable(config=config, report=report)
        except Exception:  # an attribute that a hook has added raises when it is read
            report = reports.harmless(report)
            data = config.hook.pytest_report_to_serializable(config=config, report=report)
        return reports.pack(report, data, config)

    def _send_with_view(
        self,
        frame: dict[str, object],
        report: pytest.TestReport,
        error: BaseException | None,
        *,
        subtest: bool = False,
    ) -> None:
        """The report first: it stands, whatever becomes of the view."""
        asks = self.post_mortem if report.failed and not self._mute else None
        if asks is not None:
            frame["view"] = True
        self.send(Kind.REPORT, frame)
        if asks is not None:
            self.send(Kind.VIEW, asks.examine(error, subtest=subtest))

    # The session's --------------------------------------------------------------------------------

    def _add_session_state(self, frame: dict[str, object]) -> None:
        session = self._item.session
        if (session.shouldstop, session.shouldfail) != self._stop:
            frame["shouldstop"], frame["shouldfail"] = session.shouldstop, session.shouldfail
        properties = internals.testsuite_properties(self._item.config)
        if properties is not None and len(properties) > self._properties:
            frame["properties"] = properties[self._properties :]
            self._properties = len(properties)
        if attributes := self._new_junit_attributes():
            frame["attributes"] = attributes
            self._attributes |= attributes

    def _new_junit_attributes(self) -> dict[str, str]:
        attributes = internals.junit_attributes(self._item)
        return {k: v for k, v in attributes.items() if self._attributes.get(k) != v}

    def carry(self) -> None:
        """What other plugins want to keep of this process's memory."""
        carried: dict[str, object] = {}
        for part in self._item.ihook.pytest_nsisolate_carry(item=self._item):
            carried.update(part)
        if carried:
            self.send(Kind.CARRIED, {"data": carried})

    # The end --------------------------------------------------------------------------------------

    def send_done(self, *, alone: bool, ended: bool, undebugged: str) -> None:
        """The completion record (law 1).

        :param alone: no other process is left in the PID namespace.
        :param ended: what the test has left for the end of its process has been done.
        :param undebugged: why the editor could not debug this process; empty if it could.
        """
        stashed = _stashed(self._item) != self._stashed
        plain = alone and not stashed and not ended and not undebugged
        if plain and self._phases == _EVERY_PHASE and self.writer is not None:
            self.writer.send_encoded(Kind.DONE, PLAIN_DONE)
        else:
            done = {"phases": self._phases, "alone": alone, "stashed": stashed}
            said = {"ended": ended, "undebugged": undebugged}
            self.send(Kind.DONE, done | said)

    def send_broken(self, error: BaseException) -> None:
        """A hook of another plugin is broken, or we are: no report of this test stands."""
        self.send(Kind.BROKEN, {"text": _explain(error)})


def wish_to_end(error: BaseException) -> dict[str, object] | None:
    """What an EXIT frame says of an exception that ends the session; None for any other."""
    kind = type(error)  # not isinstance(): an exception may raise when it is asked
    if issubclass(kind, pytest.exit.Exception):
        asked: Any = error
        return {"kind": "exit", "reason": asked.msg, "status": asked.returncode}
    if issubclass(kind, KeyboardInterrupt):
        return {"kind": "interrupt", "place": exceptions.place(error)}
    return None


def _stashed(item: pytest.Item) -> tuple[int, int]:
    """How much the stashes hold that outlive the item."""
    return len(item.session.stash), len(item.config.stash)


def _explain(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:  # of an exception that raises when it is looked at
        return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"


def _describe_error(error: BaseException) -> dict[str, object]:
    """Enough for plugins that look at an exception's type and text in the runner."""
    try:
        text = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as broken:  # the report must get out all the same
        text = f"<str() raised {type(broken).__name__}>"
    return {"lineage": type_names.lineage(type(error)), "text": text}
