# SPDX-License-Identifier: MIT
"""The runner's standard streams, which a test shares.

Fact: O_NONBLOCK belongs to the open file, not to the descriptor (fcntl(2)), and a child has the
runner's standard streams open too. asyncio, ssh and node set it on theirs; the runner's next long
report would end the run with a BlockingIOError.

Consequence: when a phase of a child has ended, the streams are as they were.

What still fails: another process at the same terminal is disturbed until then.
"""

from __future__ import annotations

import pytest

from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel.originals import os


class StandardStreams:
    """Those that were blocking when the run began."""

    def __init__(self, config: pytest.Config) -> None:
        self._blocking = [fd for fd in internals.standard_streams(config) if _blocks(fd)]

    def restore(self) -> None:
        """Make them blocking again."""
        for fd in self._blocking:
            if not _blocks(fd):
                os.set_blocking(fd, True)


def _blocks(fd: int) -> bool:
    try:
        return os.get_blocking(fd)
    except OSError:
        return True  # closed: no process writes there
