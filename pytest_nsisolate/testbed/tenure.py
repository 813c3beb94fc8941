# SPDX-License-Identifier: MIT
"""Whose a testbed is: of one test, or of all tests that share a world.

Fact: the tests of a shared world are forks of the process that has made the testbed, one after the
other. What one of them changes in memory is gone with it.
What we do: networks, hosts and their power are the maker's to change, for the next test would know
nothing of it. Wires are a test's to disturb: the process that does it ends with the test.
"""

from __future__ import annotations

from pytest_nsisolate.errors import TestbedError
from pytest_nsisolate.process.after_fork import here


class Tenure:
    """Made with the testbed, by the same process.

    :param shared: forks of this process use it, one after the other.
    """

    def __init__(self, *, shared: bool = False) -> None:
        self.shared = shared
        self._maker = here()

    @property
    def is_maker(self) -> bool:
        """This process has made the testbed."""
        return self._maker is here()

    @property
    def is_guest(self) -> bool:
        """This process is a test that shares the testbed with others."""
        return self.shared and self._maker is not here()

    def check_building(self, what: str) -> None:
        """
        :param what: is made or changed for good.
        :raises TestbedError: in a test that shares the testbed.
        """
        __tracebackhide__ = True
        if self.is_guest:
            raise TestbedError(
                f"module_testbed: {what} is for all tests of the module: "
                "make or change it in a module fixture"
            )

    def check_disturbing(self, wire: str) -> None:
        """
        :raises TestbedError: where a shared testbed is made.
        """
        __tracebackhide__ = True
        if self.shared and not self.is_guest:
            raise TestbedError(
                f"module_testbed: {wire} can be disturbed by each test for itself: "
                "do it in the test, or in a fixture of function scope"
            )
