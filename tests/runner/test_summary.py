# SPDX-License-Identifier: MIT
"""What the user reads besides the reports: header, refusals, summary lines, the doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.hosts import HOSTS, NEEDS_HOSTS
from tests.support import NEEDS_NAMESPACES, Result, run_source

REFUSED = "unshare(CLONE_NEWNET) for the net namespace: ENOSPC"

TESTS = """
import pytest
from journal import note

@pytest.fixture(scope="module")
def wide():
    note("+wide")
    yield
    note("-wide")

@pytest.fixture
def narrow(): note("+narrow")

@pytest.mark.isolated(net=True, user=False)
def test_net(wide, narrow): note("net")
@pytest.mark.isolated(net=True, user=False)
@pytest.mark.xfail(reason="cannot excuse a refusal")
def test_xfail(): note("xfail")
@pytest.mark.isolated(uts=True, user=False)
def test_uts(): note("uts")
def test_plain(wide): note("plain")
"""


def run_on(host: str, folder: Path, *arguments: str, **options: Any) -> Result:
    return run_source(folder, TESTS, *arguments, prefix=HOSTS[host], **options)


@NEEDS_HOSTS
def test_a_refused_namespace_is_an_error_that_names_step_errno_cause_and_remedy(
    tmp_path: Path,
) -> None:
    """The body never starts; other tests run; fixtures of the runner are torn down once."""
    result = run_on("no-net", tmp_path)
    assert result.returncode == 1
    assert result.summary == "2 passed, 2 errors", result.text
    assert result.journal == ["runner +wide", "child uts", "runner plain", "runner -wide"]
    assert result.phases("test_net") == ["setup failed", "teardown passed"]
    # A refusal says nothing about the test: xfail does not excuse it.
    assert result.phases("test_xfail") == ["setup failed", "teardown passed"]
    text = result.failure("test_net")
    head, cause, remedy = text.splitlines()
    assert head.startswith(f"isolation refused: {REFUSED}")
    assert "max_net_namespaces" in cause + remedy
    assert f"nsisolate: 2 tests refused: {head.partition(': ')[2]}" in result.stdout


@NEEDS_HOSTS
def test_missing_skip_makes_a_refusal_a_skip_with_the_reason(tmp_path: Path) -> None:
    """--nsisolate-missing=skip: the skip reason says what was refused, and so does the summary."""
    result = run_on("no-net", tmp_path, "--nsisolate-missing=skip", "-rs")
    assert result.returncode == 0
    assert result.summary == "2 passed, 2 skipped", result.text
    assert "net" not in [line.partition(" ")[2] for line in result.journal]
    assert f"isolation refused: {REFUSED}" in result.of("test_net")[0]["skip"]
    assert f"nsisolate: 2 tests refused: {REFUSED}" in result.stdout


@NEEDS_HOSTS
def test_must_work_turns_the_skip_into_a_failure_again(tmp_path: Path) -> None:
    """NSISOLATE_MUST_WORK=1 is for CI: a host that refuses is a broken host."""
    must_work = {"NSISOLATE_MUST_WORK": "1"}
    result = run_on("no-net", tmp_path, "--nsisolate-missing=skip", env=must_work)
    assert result.summary == "2 passed, 2 errors", result.text


IMPLIED = """
import os, pytest
@pytest.mark.isolated
@pytest.mark.parametrize("n", range(4))
def test_it(n): assert os.getpid() == 1
def test_plain(): pass
"""


@NEEDS_HOSTS
@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")], ids=["alone", "workers"])
def test_a_user_namespace_that_is_left_out_is_told(
    tmp_path: Path, workers: tuple[str, ...]
) -> None:
    """Once for all tests and workers, with step and cause, also where everything must work."""
    prefix, must_work = HOSTS["no-user-root"], {"NSISOLATE_MUST_WORK": "1"}
    result = run_source(tmp_path, IMPLIED, *workers, prefix=prefix, env=must_work)
    assert (result.returncode, len(result.passed())) == (0, 5), result.text
    (line,) = (line for line in result.stdout.splitlines() if "without user" in line)
    step = "unshare(CLONE_NEWUSER) for the user namespace: ENOSPC"
    assert line.startswith(f"nsisolate: without user: {step}, "), result.text
    assert "(user.max_user_namespaces = 0)" in line


@NEEDS_HOSTS
def test_the_same_tests_pass_where_nothing_is_refused(tmp_path: Path) -> None:
    """Negative control: the same kind of host without the limit."""
    result = run_on("root", tmp_path)
    assert result.returncode == 0, result.text
    assert len(result.passed()) == 4


@NEEDS_HOSTS
def test_the_header_line_says_what_the_host_gives(tmp_path: Path) -> None:
    """Root or rootless and the namespaces; on a host that refuses, the reason."""
    source = "def test_it(): pass"
    headers = {}
    for host in ("root", "ordinary-user", "no-user"):
        result = run_source(tmp_path, source, prefix=HOSTS[host])
        assert result.returncode == 0, result.text
        (headers[host],) = [
            line for line in result.stdout.splitlines() if line.startswith("nsisolate: ")
        ]
    assert headers["root"].startswith("nsisolate: root, namespaces: user pid mount net uts")
    assert headers["ordinary-user"].startswith("nsisolate: rootless, ")
    assert "max_user_namespaces" in headers["no-user"]


def test_the_header_line_says_when_isolation_is_off(tmp_path: Path) -> None:
    """--nsisolate=none, with and without --nsisolate-unsafe."""
    source = "def test_it(): pass"
    off = run_source(tmp_path, source, "--nsisolate=none")
    assert "nsisolate: off, marked tests are skipped" in off.stdout
    unsafe = run_source(tmp_path, source, "--nsisolate=none", "--nsisolate-unsafe")
    assert (
        "nsisolate: off, marked tests are run in the runner (--nsisolate-unsafe)" in unsafe.stdout
    )


def test_tests_left_out_are_counted_in_the_summary(tmp_path: Path) -> None:
    """A skip by --nsisolate=none is not one that anybody might overlook."""
    result = run_source(tmp_path, TESTS, "--nsisolate=none", "-rs")
    assert result.returncode == 0
    assert result.summary == "1 passed, 3 skipped", result.text
    assert "nsisolate: 3 tests left out by --nsisolate=none" in result.stdout
    assert result.journal == ["runner +wide", "runner plain", "runner -wide"]


@NEEDS_NAMESPACES
def test_no_summary_line_without_a_reason(tmp_path: Path) -> None:
    """Negative control: a run in which nothing was refused says nothing about it."""
    result = run_source(tmp_path, "import pytest\n@pytest.mark.isolated\ndef test_it(): pass\n")
    lines = [line for line in result.stdout.splitlines() if line.startswith("nsisolate:")]
    assert len(lines) == 1, result.text


@NEEDS_HOSTS
@pytest.mark.parametrize(("host", "status"), [("root", 0), ("no-net", 1)])
def test_the_doctor_option_says_what_is_refused(tmp_path: Path, host: str, status: int) -> None:
    """--nsisolate-doctor prints each namespace, runs no test, and exits with 1 on a refusal."""
    result = run_source(tmp_path, TESTS, "--nsisolate-doctor", prefix=HOSTS[host])
    assert result.returncode == status, result.text
    assert result.records == []
    assert "net" in result.stdout
    assert ("max_net_namespaces" in result.stdout) == (status == 1)
