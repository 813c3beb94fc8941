# SPDX-License-Identifier: MIT
"""The verdict on a request: tried in a real child, on hosts that really refuse."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pytest_nsisolate import probe as probe_module
from pytest_nsisolate import trial, trial_child
from pytest_nsisolate.errors import StepError
from pytest_nsisolate.host import Host, examine
from pytest_nsisolate.kernel import mounts, network, process
from pytest_nsisolate.kernel.namespaces import NAMESPACES
from pytest_nsisolate.probe import HostCheck, probe
from pytest_nsisolate.remedies.table import UserMode
from pytest_nsisolate.trial import Denial, attempt
from tests.hostile import NEEDS_HOSTS, NEEDS_ROOT, run_on

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")

ALL = frozenset(NAMESPACES)
NOTHING: frozenset[str] = frozenset()

TRY = """
import json, sys
from pytest_nsisolate.host import examine
from pytest_nsisolate.probe import probe
namespaces, user, named = json.loads(sys.argv[1])
verdict = probe(frozenset(namespaces), user, frozenset(named), examine())
why = verdict.refusal or verdict.user_refusal
print(json.dumps({
    "ok": verdict.ok, "leave_out_user": verdict.leave_out_user,
    "step": why and why.step, "namespace": why and why.namespace,
    "errno": why and why.errno_name, "cause": why and why.cause, "remedy": why and why.remedy,
}))
"""


def probe_on(
    host: str, namespaces: frozenset[str] = ALL, user: UserMode = "map", *named: str
) -> dict[str, str]:
    """The verdict, as a fresh interpreter on that host comes to it."""
    request = json.dumps([sorted(namespaces), user, named])
    done = run_on(host, sys.executable, "-c", TRY, request)
    assert (done.returncode, done.stderr) == (0, "")
    verdict: dict[str, str] = json.loads(done.stdout)
    return verdict


@dataclass(frozen=True)
class Footprint:
    """Everything of a process that the host check might change."""

    descriptors: tuple[str, ...] = field(default_factory=lambda: tuple(os.listdir("/proc/self/fd")))
    children: str = field(
        default_factory=lambda: Path("/proc/thread-self/children").read_text(encoding="ascii")
    )
    mask: frozenset[int] = field(
        default_factory=lambda: frozenset(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    )
    handlers: tuple[object, ...] = field(
        default_factory=lambda: tuple(map(signal.getsignal, (signal.SIGCHLD, signal.SIGINT)))
    )
    filters: tuple[object, ...] = field(default_factory=lambda: tuple(warnings.filters))
    namespaces: tuple[str, ...] = field(
        default_factory=lambda: tuple(
            os.readlink(f"/proc/self/ns/{name}") for name in sorted(os.listdir("/proc/self/ns"))
        )
    )
    mounts: str = field(default_factory=lambda: Path("/proc/self/mountinfo").read_text())


@pytest.fixture(autouse=True)
def _nothing_changes() -> Iterator[None]:
    """Every test here checks that this process stayed as it was, whatever the child did."""
    before = Footprint()
    yield
    assert Footprint() == before


@pytest.fixture
def tag(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """Mark this test's children; the answer lists those that are alive."""
    marker = os.urandom(8).hex().encode()
    path = Path("/proc/self/comm")
    before = path.read_bytes().strip()
    del before, path

    def children() -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                try:
                    environment = (entry / "environ").read_bytes()
                except OSError:
                    continue
                if marker in environment:
                    found.append(int(entry.name))
        return found

    return children
