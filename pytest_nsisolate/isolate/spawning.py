# SPDX-License-Identifier: MIT
"""The fork of a call: host check, plan, launch; a refusal is an exception, or by policy a skip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import pytest

from pytest_nsisolate.child import output
from pytest_nsisolate.errors import IsolatedRefusal, StepError, failing
from pytest_nsisolate.host.remedies import Explanation, explain
from pytest_nsisolate.process import launch, outcome
from pytest_nsisolate.process.channel import Output, RunnerEnd
from pytest_nsisolate.process.child_process import ChildProcess
from pytest_nsisolate.process.mount_plans import current_directory
from pytest_nsisolate.process.plan import kept_capabilities, plan_launch
from pytest_nsisolate.process.supervisor import LaunchPlan
from pytest_nsisolate.request.model import IsolationRequest
from pytest_nsisolate.runner.run import Run
from pytest_nsisolate.wire.frames import FrameWriter

if TYPE_CHECKING:
    from pytest_nsisolate.process.limits import HeldLimits

#: Makes what the child does, from its files; in the caller, where it costs no page.
Prepare = Callable[[Output], Callable[[FrameWriter], NoReturn]]


def spawn(
    run: Run,
    config: pytest.Config,
    request: IsolationRequest,
    prepare: Prepare,
    *,
    what: str,
    join: int | None = None,
    measured: bool = False,
) -> ChildProcess:
    """Fork a child into new namespaces, or into those of another process.

    :param prepare: gives what the child runs, and never returns from.
    :param what: the function, the command or the box that it is for.
    :param join: a pidfd of that process.
    :raises IsolatedRefusal: when the child cannot be born.
    """
    __tracebackhide__ = True
    child: ChildProcess | None = None
    files: Output | None = None
    limits: HeldLimits | None = None
    try:
        with failing("prepare the launch", None):
            if join is None:
                request = admitted(run, request, what)
            files = Output.create()
            shared = run.shared(config)
            plan = _plan(config, request, run, join)
            limits = plan.limits
            body = prepare(files)

        def register(end: RunnerEnd) -> None:
            nonlocal child
            child = ChildProcess(
                end,
                maps=plan.maps,
                budget=request.timeout,
                init=plan.init,
                measured=measured,
                limits=limits,
            )

        output.flush_to_terminal(config)
        writer = launch.launch(plan, files, shared, run.held(), register)
    except BaseException as error:
        if files is not None and child is None:
            files.close()
        if limits is not None and child is None:
            limits.release()
        if child is not None:
            # A Ctrl-C that has waited for the end of the fork: nobody will ask for this child. When
            # it is known by its number the supervisor reaps it; else it would be an orphan, and a
            # zombie for ever where the caller is PID 1.
            try:
                child.get_ready()
            finally:
                try:
                    child.kill()
                finally:
                    child.reap()
        if isinstance(error, StepError):
            raise refusal(run, outcome.refused_by(error), request, what) from None
        raise
    if writer is not None:
        body(writer)
    assert child is not None
    return child


def admitted(run: Run, request: IsolationRequest, what: str) -> IsolationRequest:
    """What this host gives of it: everything, but perhaps an implied user namespace.

    :param what: see :func:`spawn`.
    :raises IsolatedRefusal: if it refuses.
    """
    __tracebackhide__ = True
    try:
        with failing("examine this host", None):
            verdict = run.host_check.probe(request.namespaces, request.user, request.named)
    except StepError as error:
        raise refusal(run, outcome.refused_by(error), request, what) from None
    if verdict.refusal is not None:
        found = verdict.refusal
        why = Explanation(found.cause, found.remedy)
        raise refusal(run, outcome.refused_by(found), request, what, why)
    return request.without_user_namespace() if verdict.leave_out_user else request


def _plan(
    config: pytest.Config, request: IsolationRequest, run: Run, join: int | None
) -> LaunchPlan:
    if join is None:
        return replace(plan_launch(config, request, run), lean=True)
    return LaunchPlan(
        namespaces=request.namespaces,
        maps=None,
        maps_by_runner=False,
        mounts=None,
        time=None,
        hostname=None,
        keep_capabilities=kept_capabilities(request, run),
        no_new_privs=request.no_new_privs,
        sheltered=not request.has_host_powers,
        init=False,
        cwd=current_directory(),
        lean=True,
        join=join,
    )


def refusal(
    run: Run,
    refused: outcome.Refused,
    request: IsolationRequest,
    what: str,
    why: Explanation | None = None,
) -> BaseException:
    """What a call raises that this host does not let in."""
    step = StepError(refused.step, refused.namespace, refused.errno, refused.detail)
    why = why or explain(step.step, step.namespace, step.errno, run.host, user=request.user)
    if request.may_be_skipped and not refused.late:
        return pytest.skip.Exception(f"{what}: {outcome.REFUSED}{step} ({why.cause})")
    return IsolatedRefusal(step, why.cause, why.remedy, what)
