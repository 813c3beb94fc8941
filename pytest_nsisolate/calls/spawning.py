# SPDX-License-Identifier: MIT
"""The fork of a call: host check, plan, launch; a refusal is an exception, or by policy a skip."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import pytest

from pytest_nsisolate import launch, outcome, output
from pytest_nsisolate.channel import Output, RunnerEnd
from pytest_nsisolate.errors import IsolatedRefusal, StepError, failing
from pytest_nsisolate.mount_plans import current_directory
from pytest_nsisolate.plan import kept_capabilities, plan_launch
from pytest_nsisolate.remedies import Explanation, explain
from pytest_nsisolate.request import IsolationRequest, may_be_skipped
from pytest_nsisolate.run import Run
from pytest_nsisolate.supervise import Attempt
from pytest_nsisolate.usher import LaunchPlan
from pytest_nsisolate.wire import FrameWriter

if TYPE_CHECKING:
    from pytest_nsisolate.limits.enforcement import Enforcement

#: Makes what the child does, from its files; in the caller, where it costs no page.
Prepare = Callable[[Output], Callable[[FrameWriter], NoReturn]]


def spawn(
    run: Run,
    config: pytest.Config,
    request: IsolationRequest,
    prepare: Prepare,
    *,
    join: int | None = None,
    measured: bool = False,
) -> Attempt:
    """Fork a child into new namespaces, or into those of another process.

    :param prepare: gives what the child runs, and never returns from.
    :param join: a pidfd of that process.
    :raises IsolatedRefusal: when the child cannot be born.
    """
    attempt: Attempt | None = None
    files: Output | None = None
    limits: Enforcement | None = None
    try:
        with failing("prepare the launch", None):
            if join is None:
                request = admitted(run, request)
            files = Output.create()
            shared = run.shared(config)
            plan = _plan(config, request, run, join)
            limits = plan.limits
            body = prepare(files)

        def register(end: RunnerEnd) -> None:
            nonlocal attempt
            attempt = Attempt(
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
        if files is not None and attempt is None:
            files.close()
        if limits is not None and attempt is None:
            limits.release()
        if attempt is not None:
            # A Ctrl-C that has waited for the end of the fork: nobody will ask for this child. When
            # it is known by its number the usher reaps it; else it would be an orphan, and a
            # zombie for ever where the caller is PID 1.
            try:
                attempt.get_ready()
            finally:
                try:
                    attempt.kill()
                finally:
                    attempt.bury()
        if isinstance(error, StepError):
            raise refusal(run, outcome.refused_by(error), request) from None
        raise
    if writer is not None:
        body(writer)
    assert attempt is not None
    return attempt


def admitted(run: Run, request: IsolationRequest) -> IsolationRequest:
    """What this host gives of it: everything, but perhaps an implied user namespace.

    :raises IsolatedRefusal: if it refuses.
    """
    try:
        with failing("examine this host", None):
            verdict = run.host_check.probe(request.namespaces, request.user, request.named)
    except StepError as error:
        raise refusal(run, outcome.refused_by(error), request) from None
    if verdict.refusal is not None:
        found = verdict.refusal
        why = Explanation(found.cause, found.remedy)
        raise refusal(run, outcome.refused_by(found), request, why)
    return request.without_user_namespace() if verdict.leave_out_user else request


def _plan(
    config: pytest.Config, request: IsolationRequest, run: Run, join: int | None
) -> LaunchPlan:
    if join is None:
        return dataclasses.replace(plan_launch(config, request, run), lean=True)
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
    why: Explanation | None = None,
) -> BaseException:
    """What a call raises that this host does not let in."""
    step = StepError(refused.step, refused.namespace, refused.errno, refused.detail)
    why = why or explain(step.step, step.namespace, step.errno, run.host, user=request.user)
    if may_be_skipped(request) and not refused.late:
        return pytest.skip.Exception(f"{outcome.REFUSED}{step} ({why.cause})")
    return IsolatedRefusal(step, why.cause, why.remedy)
