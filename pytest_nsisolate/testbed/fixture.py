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
    kept = KeptPackets(made, config, name, keep)
    state = State(made)
    ADDITIONS.append(state)
    config.pluginmanager.register(kept)
    try:
        yield made
        if keep == "all":
            kept.write()
    finally:
        config.pluginmanager.unregister(kept)
        ADDITIONS.remove(state)
        made.close()


class KeptPackets:
    """The file of one test's packets: a hook that hears of its failure."""

    def __init__(self, testbed: Testbed, config: pytest.Config, name: str, keep: str) -> None:
        self._testbed = testbed
        self._base = internals.base_temp(config)
        self._name = _UNFIT.sub("-", name).strip("-")[-_LONGEST_NAME:]
        self._keep = keep

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed and self._keep != "none":
            try:
                said = self.write()
            except OSError as error:
                said = f"not written: {error}"
            if said:
                report.sections.append((SECTION, said))
        return report

    def write(self) -> str:
        """Where it is, and what is in it; empty where there are no packets.

        :raises OSError: when it cannot be written.
        """
        data = self._testbed.pcapng()
        number, missed = self._testbed.packets
        if not number or self._base is None:
            return ""
        folder = os.path.join(self._base, FOLDER)
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, f"{self._name}.pcapng")
        with open(path, "wb") as file:
            file.write(data)
        lost = f", {missed} more were not kept" if missed else ""
        return f"{path} ({number} packets{lost}; an interface for each wire)"
