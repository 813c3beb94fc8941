# SPDX-License-Identifier: MIT
"""pytest-cov, pytest-mock, pytest-asyncio."""

from __future__ import annotations

from pathlib import Path

from tests.integrations.plugins.installed import needs
from tests.support import (
    NEEDS_NAMESPACES,
    differences,
    run_parity,
    run_source,
    write_files,
)

pytestmark = NEEDS_NAMESPACES


@needs("pytest-cov")
def test_pytest_cov_present_and_idle_changes_nothing(tmp_path: Path) -> None:
    """Loaded, without --cov."""
    write_files(tmp_path, {"test_it.py": "def test_a(): pass\ndef test_b(): assert 0\n"})
    plain, isolated = run_parity(tmp_path, "-p", "pytest_cov")
    assert differences(plain, isolated) == []
    assert isolated.summary == "1 failed, 1 passed"


@needs("pytest-mock", "pytest-asyncio")
def test_mock_and_asyncio_work_inside(tmp_path: Path) -> None:
    """Fixtures of function scope of both; an event loop of the child's own."""
    result = run_source(
        tmp_path,
        """
        import asyncio, os, pytest, pytest_asyncio
        pytestmark = pytest.mark.isolated
        @pytest_asyncio.fixture
        async def number():
            await asyncio.sleep(0)
            yield 3
            await asyncio.sleep(0)
        @pytest.mark.asyncio
        async def test_async(number):
            await asyncio.sleep(0)
            assert (number, os.getpid()) == (3, 1)
        def test_mock(mocker):
            exit = mocker.patch("os._exit")
            os._exit(5)
            exit.assert_called_once_with(5)
        """,
        *(
            "-p",
            "pytest_mock",
            "-p",
            "asyncio",
            "-o",
            "asyncio_default_fixture_loop_scope=function",
        ),
    )
    assert result.returncode == 0, result.text
    assert len(result.passed()) == 2
