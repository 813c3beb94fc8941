# SPDX-License-Identifier: MIT
"""What several tests of the view look at."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.view.tools import owned


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that sleeps for a minute."""
    with owned("sleep", "60") as process:
        yield process
