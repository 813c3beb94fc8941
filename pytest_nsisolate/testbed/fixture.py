# SPDX-License-Identifier: MIT
"""A testbed from its first network to its end, and what is kept of it when its test fails."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Literal

import pytest

from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel import process
from pytest_nsisolate.kernel.originals import open, os, re
from pytest_nsisolate.testbed.bed import Testbed
from pytest_nsisolate.testbed.state import State
from pytest_nsisolate.view.postmortem.layout import ADDITIONS

if TYPE_CHECKING:
    from pytest_nsisolate.isolate.fixture import Isolate
    from pytest_nsisolate.request.model import IsolationRequest

#: The folder of such files, in pytest's base temporary directory.
FOLDER: Final = "pcap"

#: The title of the section of a report that names one.
SECTION: Final = "packets"

#: What it takes to make network namespaces, links, and sockets of packets.
_NEEDED: Final = ("CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_NET_RAW")

_UNFIT: Final = re.compile(r"[^A-Za-z0-9_.=-]+")
_LONGEST_NAME: Final = 150


def obstacle(request: IsolationRequest) -> str:
    """Why a test can have no testbed, in the test's own process; empty if it can."""
    if "net" not in request.namespaces:
        return "has no network of its own (net=False)"
    held = process.capabilities().effective
    if missing := [
        name for name in _NEEDED if not held >> process.CAPABILITY_NAMES.index(name) & 1
    ]:
        return (
            f"has no {' and no '.join(missing)}, which it takes to make networks: "
            'leave them to it (caps=), and with user="same" run pytest as root'
        )
    return ""


@contextmanager
def opened(
    config: pytest.Config,
    isolate: Isolate,
    home: Mapping[str, int],
    *,
    name: str,
    keep: Literal["failed", "all", "none"],
) -> Iterator[Testbed]:
    """A testbed, in the process that builds it.

    :param home: the runner's namespaces.
    :param name: of the test, for a file.
    :param keep: of which tests the packets are kept as a file.
    """
    made = Testbed(isolate, home)
    kept = KeptPackets(made, config, keep)
    with shown(config, made, Failure(kept, name)):
        yield made
        if keep == "all":
            kept.write(name)


@contextmanager
def shown(config: pytest.Config, made: Testbed, hooks: object) -> Iterator[None]:
    """A testbed is told of in the report of a failure, and closed with this block.

    :param hooks: what hears of the failure.
    """
    state = State(made)
    ADDITIONS.append(state)
    config.pluginmanager.register(hooks)
    try:
        yield
    finally:
        config.pluginmanager.unregister(hooks)
        ADDITIONS.remove(state)
        made.close()


class Failure:
    """A hook that hears of the failure of the one test that a testbed is for."""

    def __init__(self, kept: KeptPackets, name: str) -> None:
        self._kept = kept
        self._name = name

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        self._kept.add_to(report, self._name)
        return report


class KeptPackets:
    """The files of tests' packets.

    :param keep: of which tests.
    """

    def __init__(self, testbed: Testbed, config: pytest.Config, keep: str) -> None:
        self._testbed = testbed
        self._base = internals.base_temp(config)
        self._keep = keep

    def add_to(self, report: pytest.TestReport, name: str) -> None:
        """Write the file of a failed test, and say so in its report."""
        if report.failed and self._keep != "none":
            try:
                said = self.write(name)
            except OSError as error:
                said = f"not written: {error}"
            if said:
                report.sections.append((SECTION, said))

    def write(self, name: str) -> str:
        """Where it is, and what is in it; empty where there are no packets.

        :param name: of the test.
        :raises OSError: when it cannot be written.
        """
        data = self._testbed.pcapng()
        number, missed = self._testbed.packets
        if not number or self._base is None:
            return ""
        folder = os.path.join(self._base, FOLDER)
        os.makedirs(folder, exist_ok=True)
        name = _UNFIT.sub("-", name).strip("-")[-_LONGEST_NAME:]
        path = os.path.join(folder, f"{name}.pcapng")
        with open(path, "wb") as file:
            file.write(data)
        lost = f", {missed} more were not kept" if missed else ""
        return f"{path} ({number} packets{lost}; an interface for each wire)"
