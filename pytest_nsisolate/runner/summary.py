# SPDX-License-Identifier: MIT
"""What the user reads besides the reports: the header line, the summary, usage errors."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_nsisolate.host import header_line
from pytest_nsisolate.host.refusal import REFUSED
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel.originals import re
from pytest_nsisolate.process.outcome import headline
from pytest_nsisolate.request.model import IsolationRequest
from pytest_nsisolate.request.options import jobs_now
from pytest_nsisolate.request.resolve import resolve_all
from pytest_nsisolate.request.worlds import WorldFixtures
from pytest_nsisolate.runner import surroundings
from pytest_nsisolate.runner.run import RUN, Run

if TYPE_CHECKING:
    from pytest_nsisolate.runner.as_above import Causes

#: The reason of a skip by ``--nsisolate=none``.
LEFT_OUT: Final = "left out by --nsisolate=none"

#: Under this name a worker of pytest-xdist tells the controller of a usage error.
_WORKER_ERROR: Final = "nsisolate_usage_error"

#: Under this name it tells what its host has not given.
_WORKER_NOTES: Final = "nsisolate_notes"

#: Step and cause of each refusal of the run, with the number of its tests.
_REFUSALS: Final = pytest.StashKey[list[tuple[str, int]]]()

#: In the controller: what its workers have told, each sentence once.
_NOTES: Final = pytest.StashKey[dict[str, None]]()


def refuse_namesake(config: pytest.Config) -> None:
    """pytest-isolated owns the same marker, and would run these tests without namespaces.

    :raises pytest.UsageError: if it is installed and active.
    """
    if config.pluginmanager.hasplugin("isolated"):
        raise pytest.UsageError(
            "pytest-nsisolate and pytest-isolated both own the marker 'isolated': "
            "uninstall one of them, or switch it off with -p no:isolated or -p no:nsisolate"
        )


def run_doctor() -> int:
    """Print what this host can do; the exit status is 1 if something is refused."""
    # Only this option needs it, and it takes its time to import.
    from pytest_nsisolate.cli.doctor import doctor

    text, status = doctor()
    sys.stdout.write(f"{text}\n")
    return status


def register_extras(config: pytest.Config, run: Run) -> None:
    """``--nsisolate-stress`` and ``--nsisolate-trace``, of which most runs have none.

    :raises pytest.UsageError: on a bad value.
    """
    often, path = config.getoption("--nsisolate-stress"), config.getoption("--nsisolate-trace")
    worker = hasattr(config, "workerinput")
    if often is not None:
        from pytest_nsisolate.runner.stress import Stress, StressLoop

        if worker or getattr(config.option, "dist", "no") != "no":
            raise pytest.UsageError(
                "--nsisolate-stress has a loop of its own, and pytest-xdist another: "
                "run without -n, or with -n 0"
            )
        try:
            config.pluginmanager.register(StressLoop(Stress.parse(often)), "nsisolate-stress")
        except ValueError as error:
            raise pytest.UsageError(f"--nsisolate-stress: {error}") from None
    if path is not None:
        from pytest_nsisolate.runner.telling import WorkerTrace
        from pytest_nsisolate.runner.trace import Trace

        try:
            run.trace = WorkerTrace(run) if worker else Trace(path, run)
        except OSError as error:
            raise pytest.UsageError(f"--nsisolate-trace: {error}") from None
        run.launcher.traced = True
        config.pluginmanager.register(run.trace, "nsisolate-trace")


def header(run: Run) -> str:
    """The line in the head of a run."""
    if run.settings.mode == "none":
        what = "run in the runner (--nsisolate-unsafe)" if run.settings.unsafe else "skipped"
        return f"nsisolate: off, marked tests are {what}"
    line = header_line(run.launcher.host, run.settings.namespaces)
    jobs = jobs_now(run.config, run.settings)
    if jobs.because is not None:
        return f"{line}; one job, because of {jobs.because}"
    return line if jobs.count == 1 else f"{line}; {jobs.count} jobs"


def check_markers(config: pytest.Config, run: Run, items: list[pytest.Item]) -> None:
    """
    :raises pytest.UsageError: naming every test whose markers cannot be followed.
    """
    _resolve(config, run, items)


def take_requests(config: pytest.Config, run: Run, items: list[pytest.Item]) -> None:
    """Note what each selected test asks for; with ``--nsisolate=none``, skip those that do.

    :raises pytest.UsageError: naming every test whose markers cannot be followed, or another
        plugin that would lose something.
    """
    requests = _resolve(config, run, items)
    run.requests = {
        item: request for item, request in zip(items, requests, strict=True) if request is not None
    }
    if run.settings.mode == "none":
        if not run.settings.unsafe:
            for item in run.requests:
                item.add_marker(pytest.mark.skip(reason=LEFT_OUT))
        run.requests = {}
    if run.requests:
        # Only a run that isolates something imports them.
        from pytest_nsisolate.integrations import plugins

        surroundings.meet_fellows(config, run.launcher)
        try:
            plugins.refuse_incompatible(config, run.requests)
        except pytest.UsageError as error:
            _end_run(config, error)


def can_isolate(config: pytest.Config, run: Run) -> bool:
    """Whether there is anything to isolate, and a way to do it; without one, it is refused."""
    if run.requests and not run.launcher.host.linux:
        from pytest_nsisolate.runner.elsewhere import RefusingHooks  # not needed on Linux

        config.pluginmanager.register(RefusingHooks(run), "nsisolate-elsewhere")
    return bool(run.requests) and run.launcher.host.linux


def _resolve(
    config: pytest.Config, run: Run, items: list[pytest.Item]
) -> list[IsolationRequest | None]:
    try:
        asked = WorldFixtures(_set_up_in_runner, internals.visible_fixtures)
        return resolve_all(items, run.settings, internals.known_fixtures, asked)
    except pytest.UsageError as error:
        _end_run(config, error)
        return [None] * len(items)


def _set_up_in_runner(item: pytest.Item, request: IsolationRequest) -> dict[str, tuple[str, bool]]:
    from pytest_nsisolate.child import fixtures  # only shared worlds need it at collection

    return internals.higher_scopes(item, fixtures.of_runner(item, request))


def _end_run(config: pytest.Config, error: pytest.UsageError) -> None:
    """Raise the error, but not in a worker of pytest-xdist.

    The controller would call a worker's usage error an internal error of its own. So the worker
    runs nothing, and its last message has the error (:func:`raise_for_worker`).
    """
    output: dict[str, Any] | None = getattr(config, "workeroutput", None)
    if output is None:
        raise error
    if _WORKER_ERROR not in output:
        output[_WORKER_ERROR] = str(error)
        config.pluginmanager.register(_NothingToRun())


class _NothingToRun:
    """A worker whose collection has failed ends without running a test."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> bool:
        return True


def raise_for_worker(node: Any) -> None:
    """In the controller: take what a worker of pytest-xdist has told in its last message.

    :raises pytest.UsageError: if it met one.
    """
    output = getattr(node, "workeroutput", {})
    node.config.stash.setdefault(_NOTES, {}).update(dict.fromkeys(output.get(_WORKER_NOTES, ())))
    error = output.get(_WORKER_ERROR)
    if error is not None:
        raise pytest.UsageError(str(error))


def show_side(config: pytest.Config, run: Run) -> None:
    """Behind a line of ``--setup-show``: where the fixture has just been set up or torn down."""
    with internals.capture_disabled(config):
        writer = config.get_terminal_writer()
        side = "runner" if run.keeper is None else "world"
        writer.write(f" [{side}]" if run.in_child is None else " [child]")
        writer.flush()


def explain_comparison(operator: str, left: object, right: object) -> list[str] | None:
    """How data of PID 1's view differ, in ``assert left == right``."""
    view = sys.modules.get("pytest_nsisolate.view.compare")
    lines: list[str] | None = None if view is None else view.explain(operator, left, right)
    return lines


def arrange_reports(config: pytest.Config, run: Run) -> None:
    """At the terminal of a run that isolates, itself or in workers of pytest-xdist."""
    if run.requests or config.pluginmanager.hasplugin("dsession"):
        from pytest_nsisolate.runner import as_above

        internals.show_reports_inside(config, partial(_showing, as_above.Causes()))


@contextmanager
def _showing(causes: Causes, report: Any, writer: Any) -> Iterator[None]:
    told = report.longrepr
    with ExitStack() as stack:
        stack.enter_context(causes.shown_once(report))
        stack.enter_context(internals.red_headline(told))
        if getattr(told, "sections", None):
            from pytest_nsisolate.view.postmortem import section

            stack.enter_context(section.shown_last(told, writer))
        yield


def gather(config: pytest.Config) -> None:
    """Before the summary: a worker hands over what its host has not given, and what refusals have
    in common stands there once.
    """
    output: dict[str, Any] | None = getattr(config, "workeroutput", None)
    if output is not None:
        output[_WORKER_NOTES] = list(config.stash[RUN].launcher.notes())
    reporter: Any = config.pluginmanager.getplugin("terminalreporter")
    if reporter is None:
        return
    config.stash[_REFUSALS] = refusals = _refusals(_unlucky(reporter))
    if refusals:
        from pytest_nsisolate.runner import as_above

        as_above.shorten_skips(reporter.stats.get("skipped", ()))


def summarize(terminalreporter: Any, run: Run) -> None:
    """The lines at the end, for all workers: skipped, refused, or run otherwise than expected."""
    config: pytest.Config = terminalreporter.config
    texts = [headline(getattr(report, "longrepr", None)) for report in _unlucky(terminalreporter)]
    left_out = sum(text == LEFT_OUT for text in texts)
    if left_out:
        terminalreporter.write_line(f"nsisolate: {_tests(left_out)} {LEFT_OUT}", yellow=True)
    for reason, count in config.stash.get(_REFUSALS, ()):
        terminalreporter.write_line(f"nsisolate: {_tests(count)} refused: {reason}", red=True)
    told = config.stash.get(_NOTES, {})
    for line in dict.fromkeys((*run.launcher.notes(), *told)):
        terminalreporter.write_line(line, yellow=True)
    for line in run.notes.lines():
        terminalreporter.write_line(line, yellow=True)


def say_last_words(config: pytest.Config, run: Run) -> None:
    """Print what isolated tests have written at the end of their processes: last, as there."""
    words, run.last_words = run.last_words, []
    if any(map(any, words)):
        with internals.capture_disabled(config):
            for out, err in words:
                sys.stdout.write(out)
                sys.stdout.flush()
                sys.stderr.write(err)
                sys.stderr.flush()


def _unlucky(terminalreporter: Any) -> list[Any]:
    """The reports of all tests that have neither passed nor failed as expected."""
    stats: dict[str, list[Any]] = terminalreporter.stats
    return [report for key in ("error", "failed", "skipped") for report in stats.get(key, ())]


def _refusals(reports: Iterable[Any]) -> list[tuple[str, int]]:
    """Step and cause of each refusal, whether it was an error, a skip or raised by a call."""
    found = Counter(filter(None, (_refusal(getattr(r, "longrepr", None)) for r in reports)))
    return found.most_common()


def _refusal(longrepr: object) -> str | None:
    if isinstance(longrepr, tuple):
        head, _, rest = headline(longrepr).partition(REFUSED)
        return rest if not head or head.endswith(": ") else None
    text = getattr(getattr(longrepr, "reprcrash", None), "message", longrepr)
    first, _, rest = text.partition("\n") if isinstance(text, str) else ("", "", "")
    before, found, step = first.partition(REFUSED)
    if not found or not f"{before}:".startswith((":", "pytest_nsisolate.IsolatedRefusal: ")):
        return None
    cause = re.search(r"^ *cause: (.*)", rest or str(longrepr), re.MULTILINE)
    return step if cause is None else f"{step} ({cause[1]})"


def _tests(count: int) -> str:
    return f"{count} test" if count == 1 else f"{count} tests"
