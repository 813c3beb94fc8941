# SPDX-License-Identifier: MIT
"""The fixtures that tests ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from pytest_nsisolate.run import RUN
from pytest_nsisolate.sight import make_view

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_nsisolate.calls.isolate import Isolate
    from pytest_nsisolate.view import Pid1View

_NOT_ISOLATED = """\
the pid1 fixture shows an isolated test its own world, and {name} is not isolated: \
mark it with @pytest.mark.isolated"""

_UNSAFE = " (marked tests run on the host here, because of --nsisolate=none --nsisolate-unsafe)"


@pytest.fixture
def pid1(request: pytest.FixtureRequest) -> Pid1View:
    """What PID 1 sees: processes, sockets, mounts... as data and assertions (isolated tests only).

    See the reference of pytest-nsisolate for all of them.
    """
    run = request.config.stash[RUN]
    if run.child is None:
        text = _NOT_ISOLATED.format(name=request.node.name)
        pytest.fail(text + (_UNSAFE if run.settings.unsafe else ""), pytrace=False)
    assert run.request is not None
    return make_view(run.request, run.home)


@pytest.fixture(scope="session")
def isolate(request: pytest.FixtureRequest) -> Iterator[Isolate]:
    """Call functions in fresh children: isolate(func, ...), isolate.using(net=True)(func, ...).

    See the how-to of pytest-nsisolate for tasks and boxes.
    """
    run = request.config.stash[RUN]
    if run.settings.mode == "none":
        from pytest_nsisolate.reporting import LEFT_OUT

        pytest.skip(LEFT_OUT)
    if not run.host.linux:
        from pytest_nsisolate.elsewhere import RefusingIsolate

        yield cast("Isolate", RefusingIsolate(run, {}))
        return
    from pytest_nsisolate.calls.isolate import custody_of, make

    made = make(request.config, run)
    yield made
    request.config.pluginmanager.unregister(custody_of(made))
