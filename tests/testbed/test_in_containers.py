# SPDX-License-Identifier: MIT
"""Testbeds and ``pid1.loopback`` where Docker's seccomp profile lets isolated tests in at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.containers import CONTAINERS
from tests.hosts import NEEDS_HOSTS
from tests.support import ON_THE_HOST, run_suite, write_files

pytestmark = [NEEDS_HOSTS, ON_THE_HOST]

BOTH: Final = """
import socket, time
import pytest

@pytest.mark.isolated
def test_both(testbed, pid1):
    lan = testbed.network("10.0.0.0/24", "fd00::/64")
    a, b = testbed.host("a", lan), testbed.host("b", lan)
    b.wire.impair(delay=0.001)
    assert a.call(socket.gethostbyname, "b") == "10.0.0.2"
    pid1.loopback.impair(delay=0.02)
    with socket.create_server(("127.0.0.1", 80)):
        start = time.monotonic()
        socket.create_connection(("127.0.0.1", 80)).close()
        assert time.monotonic() - start >= 0.04
    assert testbed.wires[1].counts.lost == 0
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not tmp_path: its parents are for root alone."""
    path = Path(tempfile.mkdtemp(prefix="nsi-"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("name", ["docker-sys-admin-unmasked", "docker-unconfined-user"])
def test_both(folder: Path, name: str) -> None:
    """Under the profile, and without it as an ordinary user."""
    files = write_files(folder, {"test_both.py": BOTH})
    result = run_suite(files, prefix=CONTAINERS[name], cache=False)
    assert result.passed() == {"test_both"}, result.text
