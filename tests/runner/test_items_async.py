# SPDX-License-Identifier: MIT
"""Async tests and hypothesis: the same isolated as plain."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.support import (
    NEEDS_NAMESPACES,
    differences,
    run_parity,
    run_source,
    terminal,
    write_files,
)

pytestmark = NEEDS_NAMESPACES

ASYNCIO: Final = """
import asyncio, contextvars, warnings
import pytest, pytest_asyncio

var = contextvars.ContextVar("var", default=0)

@pytest_asyncio.fixture
async def fixture():
    await asyncio.sleep(0); print("up"); yield 3; await asyncio.sleep(0); print("down")
@pytest_asyncio.fixture
async def broken(): raise ValueError("async set-up")
@pytest_asyncio.fixture
async def breaking(): yield; raise ValueError("async tear-down")
@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def module(): print("module up"); yield asyncio.get_running_loop(); print("module down")
@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def session(): yield asyncio.get_running_loop(); print("session down")
@pytest_asyncio.fixture
async def context(): var.set(5); yield

@pytest.mark.asyncio
async def test_pass(): await asyncio.sleep(0)
@pytest.mark.asyncio
async def test_fail(): await asyncio.sleep(0); assert 0
@pytest.mark.asyncio
async def test_fixture(fixture): assert fixture == 4
@pytest.mark.asyncio
async def test_broken(broken): pass
@pytest.mark.asyncio
async def test_breaking(breaking): pass
@pytest.mark.asyncio
async def test_context(context): assert var.get() == 5
@pytest.mark.asyncio(loop_scope="module")
async def test_module(module): await asyncio.sleep(0); assert asyncio.get_running_loop() is module
@pytest.mark.asyncio(loop_scope="module")
async def test_module_again(module): await asyncio.sleep(0.001); assert 0
@pytest.mark.asyncio(loop_scope="session")
async def test_session(session):
    await asyncio.sleep(0.001); assert asyncio.get_running_loop() is session
@pytest.mark.asyncio(loop_scope="session")
async def test_both(session, module): await asyncio.sleep(0); assert session is module
@pytest.mark.asyncio(loop_scope="class")
class TestClass:
    async def test_one(self): await asyncio.sleep(0)
    async def test_two(self): await asyncio.sleep(0); assert 0
@pytest.mark.asyncio
@pytest.mark.parametrize("n", [1, 2])
async def test_parameter(n): assert n == 1
@pytest.mark.asyncio
async def test_skip(): pytest.skip("async skip")
@pytest.mark.asyncio
@pytest.mark.xfail(reason="known")
async def test_xfail(): assert 0
@pytest.mark.asyncio
async def test_task_left(): asyncio.get_running_loop().create_task(asyncio.sleep(30), name="left")
@pytest.mark.asyncio
async def test_process(): assert await (await asyncio.create_subprocess_exec("true")).wait() == 1
@pytest.mark.asyncio
async def test_cancelled(): raise asyncio.CancelledError
@pytest.mark.asyncio
async def test_group():
    async def fails(): raise ValueError("in a group")
    async with asyncio.TaskGroup() as group: group.create_task(fails())
@pytest.mark.asyncio
async def test_executor():
    assert await asyncio.get_running_loop().run_in_executor(None, lambda: 4) == 5
@pytest.mark.asyncio
async def test_server():
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await reader.read() == b""
    writer.close(); server.close()
@pytest.mark.asyncio
async def test_never_awaited(): asyncio.sleep(0)
@pytest.mark.asyncio
def test_not_async(): pass
async def test_unmarked(): assert 0
def test_dynamic(request): assert request.getfixturevalue("fixture") == 4
"""

ANYIO: Final = """
import anyio, pytest

pytestmark = pytest.mark.anyio

@pytest.fixture(params=["asyncio", "trio"], scope="module")
def anyio_backend(request): return request.param
@pytest.fixture
async def fixture(): await anyio.sleep(0); print("up"); yield 3; await anyio.sleep(0); print("down")
@pytest.fixture(scope="module")
async def server(): await anyio.sleep(0); print("server up"); yield 3; print("server down")
@pytest.fixture
async def breaking(): yield; raise ValueError("tear-down")

async def test_pass(fixture): await anyio.sleep(0); assert fixture == 3
async def test_fail(fixture): await anyio.sleep(0); assert fixture == 4
async def test_server(server): await anyio.sleep(0.001); assert server == 3
async def test_server_again(server): await anyio.sleep(0.001); assert server == 4
async def test_breaking(breaking): pass
async def test_group():
    async def fails(): raise ValueError("in a group")
    async with anyio.create_task_group() as group: group.start_soon(fails)
async def test_skip(): pytest.skip("async skip")
async def test_process(): assert (await anyio.run_process(["echo", "hi"])).stdout == b"hi"
async def test_thread(): assert await anyio.to_thread.run_sync(lambda: 4) == 5
"""

HYPOTHESIS: Final = """
import time
import pytest
from hypothesis import assume, event, example, given, note, seed, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

settings.register_profile("same", deadline=None, print_blob=True)
settings.load_profile("same")

@given(st.integers())
def test_pass(n): event("even" if n % 2 == 0 else "odd")
@given(st.integers())
def test_fail(n): note(f"large: {n > 100}"); assert n < 100
@example(5)
@given(st.integers())
def test_example(n): assert n != 5
@settings(deadline=1)
@given(st.just(1))
def test_deadline(n): time.sleep(0.05)
@given(st.integers())
def test_unsatisfiable(n): assume(False)
@pytest.fixture
def three(): return 3
@given(st.integers())
def test_function_scope(three, n): assert three == 3
@given(st.lists(st.integers()))
def test_lists(found): assert sorted(found) == found
@given(st.integers(), st.text())
def test_two_failures(n, text):
    if n > 10: raise ValueError("n")
    if len(text) > 3: raise KeyError("text")
@given(st.binary())
def test_blob(found): assert b"\\0" not in found
@seed(3)
@given(st.floats())
def test_seed(found): assert found == found
@pytest.mark.parametrize("k", [1, 2])
@given(n=st.integers(0, 5))
def test_parameter(k, n): assert n * k < 10
@given(st.integers())
def test_skip(n): pytest.skip("in given")
class Machine(RuleBasedStateMachine):
    def __init__(self): super().__init__(); self.n = 0
    @rule(x=st.integers(0, 5))
    def add(self, x): self.n += x
    @invariant()
    def small(self): assert self.n < 8
TestMachine = Machine.TestCase
"""

#: How long the test took beyond its deadline.
_MILLISECONDS: Final = re.compile(r"\d+\.\d+ms")


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_asyncio_tests_are_the_same(tmp_path: Path, mode: str) -> None:
    """Fixtures, loops of every scope, tasks, subprocesses, tests that are not marked."""
    folder = write_files(tmp_path, {"test_it.py": ASYNCIO})
    options = ("-p", "pytest_asyncio.plugin", f"--asyncio-mode={mode}", "-rA")
    plain, isolated = run_parity(folder, *options)
    assert len(plain.reports) > 70, plain.text
    assert differences(plain, isolated) == []
    assert terminal(isolated) == terminal(plain)


def test_anyio_tests_are_the_same(tmp_path: Path) -> None:
    """Under asyncio and trio, with function and module scope."""
    pytest.importorskip("trio")
    folder = write_files(tmp_path, {"test_it.py": ANYIO})
    plain, isolated = run_parity(folder, "-p", "anyio.pytest_plugin", "-rA")
    assert len(plain.reports) > 50, plain.text
    assert differences(plain, isolated) == []
    assert terminal(isolated) == terminal(plain)


def test_hypothesis_tests_are_the_same(tmp_path: Path) -> None:
    """The failing example, how to reproduce it, deadlines, health checks and state machines."""
    folder = write_files(tmp_path, {"test_it.py": HYPOTHESIS})
    options = ("-p", "_hypothesis_pytestplugin", "--hypothesis-seed=0", "-rA")
    plain, isolated = run_parity(folder, *options)
    found = [_MILLISECONDS.sub("...ms", line) for line in differences(plain, isolated)]
    assert all(line.startswith("test_it.py::test_deadline call: text") for line in found), found
    assert "@reproduce_failure" in isolated.failure("test_blob")
    assert "Unreliable" not in isolated.failure("test_deadline")
    assert isolated.summary == plain.summary


def test_the_examples_of_hypothesis_are_the_host_s(tmp_path: Path) -> None:
    """A failing example is found in the database by the next run, in whichever process."""
    source = """
        from hypothesis import given, settings, strategies as st
        from journal import note
        @settings(deadline=None)
        @given(st.integers())
        def test_it(n):
            note(n)
            assert n < 1234
    """
    plugin = ("-p", "_hypothesis_pytestplugin")
    first = run_source(tmp_path, source, *plugin, "--nsisolate=all")
    again = run_source(tmp_path, source, *plugin, "--nsisolate=all")
    assert first.phases("test_it")[1] == "call failed", first.text
    assert "n=1234" in first.failure("test_it")
    assert first.journal[0] == "child 0"
    assert again.journal[0] == "child 1234"


def test_hypothesis_tells_its_statistics(tmp_path: Path) -> None:
    """--hypothesis-show-statistics is told of the test, with its events."""
    source = """
        from hypothesis import event, given, strategies as st
        @given(st.booleans())
        def test_it(flag): event("seen")
    """
    options = ("-p", "_hypothesis_pytestplugin", "--hypothesis-show-statistics")
    result = run_source(tmp_path, source, *options, "--nsisolate=all")
    assert "test_it.py::test_it:" in result.stdout
    assert "* 100.00%, seen" in result.stdout
