# SPDX-License-Identifier: MIT
"""The fixture ``module_testbed``; the tests themselves are in ``inner/module_testbeds.py``."""

from __future__ import annotations

from typing import Final

import pytest

from tests.inner_runs import (
    SIDES,
    UNHURRIED,
    Side,
    assert_expected,
    cases,
    run_batch,
    shared_batch,
)
from tests.support import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES


@cases("module_testbeds")
def test_module_testbed(
    tmp_path_factory: pytest.TempPathFactory, side: Side, name: str, expected: tuple[str, ...]
) -> None:
    """A test of the suite is reported as its ``expect`` mark says, and nothing is left."""
    result = shared_batch(tmp_path_factory, "module_testbeds", side, conftest=UNHURRIED)
    assert_expected(result, name, expected)


#: The testbed of a module, made once for its two tests, and torn down with its world.
TWICE: Final = """
import os, socket
import pytest
pytestmark = pytest.mark.isolated(share={share!r})

@pytest.fixture(scope="module")
def hosts(module_testbed):
    lan = module_testbed.network("10.0.0.0/24")
    yield module_testbed.host("a", lan), module_testbed.host("b", lan)
    print("torn down with", *module_testbed.hosts)

@pytest.mark.parametrize("number", range(2))
def test_{name}(module_testbed, hosts, number):
    a, b = hosts
    assert len(module_testbed.hosts) == 2
    b.shell("echo x >> /dev/shm/log")
    assert b.run("cat /dev/shm/log").stdout == "x\\n" * (number + 1)
    assert a.call(socket.gethostbyname, "b") == "10.0.0.2"
"""


#: Only as an argument can it be set up in the world.
IN_A_BODY: Final = """
import pytest

@pytest.mark.isolated(share="module")
def test_body(request):
    with pytest.raises(pytest.fail.Exception, match="that the tests of test_body.py share, as an"):
        request.getfixturevalue("module_testbed")
"""


@pytest.mark.parametrize("side", SIDES)
def test_modules_at_the_same_time(side: Side) -> None:
    """Two worlds with the same addresses, and two modules in the world of the session."""
    shares = {"one": "module", "two": "module", "three": "session", "four": "session"}
    files = {f"test_{n}.py": TWICE.format(name=n, share=share) for n, share in shares.items()}
    files["test_body.py"] = IN_A_BODY
    result = run_batch(files, side, "--nsisolate-jobs=2", timeout=600)
    assert len(result.passed()) == 9, result.text
    for name in shares:
        (last,) = (r for r in result.of(f"test_{name}[1]") if r["when"] == "teardown")
        assert ["Captured stdout teardown", "torn down with a b\n"] in [
            [*section] for section in last["sections"]
        ]


ASKING: Final = """
import pytest

def test_not_isolated(module_testbed):
    pass

@pytest.mark.isolated
def test_alone(module_testbed):
    pass

@pytest.mark.isolated(share="class")
class TestClass:
    def test_in_a_class(self, module_testbed):
        pass

@pytest.mark.isolated(share="module")
def test_right(module_testbed):
    pass
"""


def test_where_it_cannot_be(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Said before any test has run, of each test that has it in no world of its module."""
    result = run_batch({"test_asking.py": ASKING}, "root", clean=False)
    assert result.returncode == 4, result.text
    for test, why in (
        ("test_not_isolated", "this test is not isolated"),
        ("test_alone", "this test shares none"),
        ("test_in_a_class", "share='class' is narrower"),
    ):
        assert f'and {why}: pytestmark = pytest.mark.isolated(share="module")' in result.text
        assert test in result.text
    assert "test_right" not in result.text
