# SPDX-License-Identifier: MIT
"""What the frames of a child mean in the runner.

Reports, warnings, coverage, what other plugins carry, and the state of the session go where pytest
would have put them; at the end the completion record is compared with what was reported. The other
side is :mod:`pytest_nsisolate.child.outgoing`.

Nothing here trusts the child, and nothing here waits for it: :mod:`.attempt` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_nsisolate.errors import BrokenStream
from pytest_nsisolate.integrations import debuggers
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel.clock import monotonic
from pytest_nsisolate.process.channel import Output, read_text
from pytest_nsisolate.runner import notes, reports
from pytest_nsisolate.runner.run import Run
from pytest_nsisolate.view.postmortem import at_failure
from pytest_nsisolate.wire import warnings
from pytest_nsisolate.wire.frames import Frame, Kind
from pytest_nsisolate.wire.tagged_json import text_of

if TYPE_CHECKING:
    from pytest_nsisolate.integrations.coverage import Measurement
    from pytest_nsisolate.process.child_process import ChildProcess
    from pytest_nsisolate.process.limits import HeldLimits


class Ended(NamedTuple):
    """A phase as the runner knows it.

    :param error: what stands for the exception of a report that did not pass.
    :param made_here: no child could tell, and no hook has heard of the exception yet.
    """

    report: pytest.TestReport
    error: BaseException | None
    made_here: bool = False


class Incoming:
    """What one child has said so far.

    :param item: its test.
    """

    def __init__(self, item: pytest.Item, run: Run) -> None:
        self._item = item
        self._run = run
        #: Of coverage, if it is under way.
        self.measurement: Measurement | None = None
        self._measured = False
        #: Makes the reports that the child does not send whole.
        self.plain: internals.PlainPass | None = None
        #: What is asked if the test fails.
        self.post_mortem: at_failure.PostMortem | None = None
        #: All text that has been captured for the item.
        self.captured: reports.Sections = list(internals.report_sections(item))
        #: Those that have been reported.
        self.phases: list[str] = []
        #: The report of the last of them.
        self.last: pytest.TestReport | None = None
        #: How long the fault handler's file was at its end.
        self.faults_said = 0
        #: How the child wants the session to end, if it does.
        self.wish: dict[str, Any] | None = None
        #: When the phase began and ended and how long it took in the child, if the child says so:
        #: launched ahead, it may have been over before the runner asked.
        self.times: tuple[float, float, float] | None = None
        self._done: dict[str, Any] | None = None

    def take(self, frame: Frame) -> None:
        """Any frame but a report, and those that are about the child itself.

        :raises BrokenStream: when it does not belong here, or has the wrong shape.
        """
        match frame.kind:
            case Kind.WARNING:
                self._replay_warning(frame.data)
            case Kind.OUTPUT:
                self.add_captured(reports.read_texts(frame.data.get("fresh")))
            case Kind.EXIT:
                self.wish = frame.data
            case Kind.DONE:
                self._done = frame.data
            case Kind.COVERAGE if self.measurement is not None:
                self.measurement.merge(frame.data)
                self._measured |= frame.data.get("final") is True
            case Kind.VIEW if self.post_mortem is not None:
                self.post_mortem.take_mounts(frame.data)
            case Kind.TIMES:
                self.times = reports.read_times(frame.data)
            case Kind.CARRIED:
                self._hand_over(frame.data.get("data"))
            case _:
                raise BrokenStream(f"an unexpected frame ({frame.kind.name})")

    @contextmanager
    def more_time(self) -> Iterator[None]:
        """What runs in the runner meanwhile belongs to the phase as well."""
        began = monotonic()
        try:
            yield
        finally:
            if self.times is not None:
                start, stop, seconds = self.times
                self.times = start, stop, seconds + monotonic() - began

    def add_captured(self, texts: reports.Sections) -> None:
        """Add text that is in no report yet."""
        self.captured.extend(texts)
        internals.report_sections(self._item).extend(texts)

    def conclude(self, files: Output) -> None:
        """The stream has ended: compare the completion record with what has been reported.

        :param files: where the child's output went.
        :raises BrokenStream: when the two differ.
        """
        if self._done is not None and self._done.get("stashed") is True:
            self._run.notes.add(notes.STASH, self._item.nodeid)
        if self._done is not None and self._done.get("undebugged"):
            debuggers.give_up(text_of(self._done["undebugged"]))
            self._run.notes.add(notes.UNDEBUGGED, self._item.nodeid, debuggers.why())
        if self._done is not None and self._done.get("ended") is True:
            self._run.last_words.append((read_text(files.stdout), read_text(files.stderr)))
        said = self.phases if self._done is None else self._done.get("phases")
        if said != self.phases and self.wish is None:
            raise BrokenStream(f"its completion record names the phases {said!r}")

    def take_coverage_of(self, child: ChildProcess | None) -> None:
        """After a Ctrl-C: of what an ended child has sent, this still counts."""
        if self.measurement is None or child is None:
            return
        while (frame := child.next_frame()) is not None:
            if frame.kind is Kind.COVERAGE:
                with suppress(BrokenStream):
                    self.measurement.merge(frame.data)

    def close_measurement(self, report: pytest.TestReport) -> None:
        """The child was lost: say so if what it ran is missing from the coverage.

        :param report: of the loss.
        """
        if self.measurement is None:
            return
        self.measurement.forget_context()
        if not self._measured:
            done = f"after its {self.phases[-1]} phase" if self.phases else "in its child"
            text = f"What this attempt ran {done} is missing: it ended without handing it over."
            report.sections.append(("Coverage", text))

    # Reports --------------------------------------------------------------------------------------

    def read_phase(self, frame: dict[str, Any], when: str, limits: HeldLimits | None) -> Ended:
        """The report of a phase, and what is new with it.

        :param when: the phase.
        :param limits: of the child; a failure may come of them.
        :raises BrokenStream: for anything else than a report of this phase.
        """
        before = len(self.captured)
        report = reports.read_report(self._item, frame, self.captured, when=when, plain=self.plain)
        internals.report_sections(self._item).extend(self.captured[before:])
        self.phases.append(when)
        said = frame.get("faults")
        self.faults_said = said if isinstance(said, int) else 0
        self._item.user_properties[:] = report.user_properties
        self._adopt_session_state(frame)
        error = reports.stand_in(frame, report) if "error" in frame else None
        if report.failed and limits is not None:
            reports.add_limits(report, limits.met_by_failure(reports.errnos(frame)))
        self.last = report
        return Ended(report, error)

    def read_subtest(self, frame: dict[str, Any]) -> pytest.TestReport:
        """The report of a subtest, which :meth:`log_subtest` is to be given.

        :raises BrokenStream: for anything else.
        """
        report = reports.read_report(self._item, frame, self.captured, when=None)
        failed = frame.get("failed")
        if not isinstance(failed, int):
            raise BrokenStream("a subtest without a count")
        internals.set_failed_subtests(self._item, failed)
        return report

    def log_subtest(self, report: pytest.TestReport) -> None:
        """For the runner's plugins; the child may have shown it itself."""
        with internals.silent_terminal(self._item):
            self._item.ihook.pytest_runtest_logreport(report=report)

    def attach_view(
        self, report: pytest.TestReport, found: dict[str, Any], namespaces: frozenset[str]
    ) -> None:
        """Add to the report of a failure what the test saw of its world.

        :param found: the data of the frame.
        :param namespaces: those of the test.
        """
        # Only a failure needs them; the child of the next one inherits the readings from here.
        from pytest_nsisolate.view.postmortem import listeners, outsiders, section

        at_failure.preload()
        own = []
        if "net" in namespaces:
            own.append(listeners.hint(self._item, found.get("tried")))
        if "pid" in namespaces:
            own.append(outsiders.hint(self._item, found.get("asked")))
        section.attach(report, found.get("text"), found.get("hints"), *own)

    # Others' --------------------------------------------------------------------------------------

    def _hand_over(self, data: object) -> None:
        if not isinstance(data, dict):
            raise BrokenStream("it carried something of the wrong shape")
        try:
            self._item.ihook.pytest_nsisolate_receive(item=self._item, data=data)
        except Exception as error:  # of another plugin, or because of what the child made up
            raise BrokenStream(f"what it carried could not be taken in ({error!r})") from error

    def _replay_warning(self, data: dict[str, Any]) -> None:
        if hasattr(self._item.config, "workerinput"):
            from pytest_nsisolate.integrations.plugins import xdist  # only a worker needs it

            data = xdist.taken(data)
        try:
            warnings.replay(data)
        except (KeyError, TypeError, ValueError) as error:
            raise BrokenStream(f"a warning of the wrong shape ({error!r})") from error

    def _adopt_session_state(self, frame: dict[str, Any]) -> None:
        session = self._item.session
        for name in ("shouldstop", "shouldfail"):
            value = frame.get(name)
            if value:
                setattr(session, name, value if value is True else text_of(value))
        mine = internals.testsuite_properties(self._item.config)
        for entry in frame.get("properties") or ():
            if mine is not None and isinstance(entry, tuple) and len(entry) == 2:
                mine.append((str(entry[0]), str(entry[1])))
        attributes = frame.get("attributes")
        if isinstance(attributes, dict):
            internals.add_junit_attributes(
                self._item, {str(name): str(value) for name, value in attributes.items()}
            )
