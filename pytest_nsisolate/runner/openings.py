# SPDX-License-Identifier: MIT
"""What a child opens before its first fixture, with a helper outside: servers and a terminal."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import pytest

from pytest_nsisolate.child import reach
from pytest_nsisolate.child.helper_channel import or_refuse
from pytest_nsisolate.request.model import IsolationRequest
from pytest_nsisolate.view.terminal.own import OwnTerminal
from pytest_nsisolate.view.terminal.terminal import OWN_TERMINAL
from pytest_nsisolate.wire.frames import FrameWriter

Opening: TypeAlias = Callable[[FrameWriter], None]


def of(item: pytest.Item, request: IsolationRequest) -> list[Opening]:
    """In the runner: what the child is to call."""
    found: list[Opening] = []
    if request.reach:
        found.append(partial(reach.open_up, request.reach))
    if request.tty is not None:
        terminal = item.stash[OWN_TERMINAL] = OwnTerminal(item, request.tty)
        found.append(terminal.open_up)
    return [partial(or_refuse, one) for one in found]
