# SPDX-License-Identifier: MIT
"""Captured output and log: whole, once, and in the report of the test that made it."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Final

import pytest

from tests.hosts import NEEDS_ROOT
from tests.inner.flood import LINES
from tests.inner_runs import (
    SIDES,
    THREADED,
    Side,
    captured,
    run_batch,
    shared_batch,
    source,
    verdict,
)
from tests.support import NEEDS_NAMESPACES, Result

pytestmark = NEEDS_NAMESPACES

#: What un-isolated pytest does with the same tests is what is right.
PLAIN: Final = ("--nsisolate=none", "--nsisolate-unsafe")

#: But for those whose process dies; un-isolated, the whole run would.
SURVIVORS: Final = ("-m", "not lost")
LOST: Final = ("test_crash", "test_exit", "test_timeout")

#: The folder of a run, and where an object lies in its memory.
_PLACE: Final = re.compile(r"/tmp/nsisolate-\w+|0x[0-9a-f]+")

#: The last part of the text of a failure that was isolated.
_POST_MORTEM: Final = re.compile(r"\n-+ PID 1's view at the failure -+\n.*", re.DOTALL)

#: What the tests of the suite write.
_TEXT: Final = re.compile(
    r"(?:out|err) (?:module |function |broken )?[a-z]+$|<disabled \w+>", re.MULTILINE
)

MODES: Final = ("--capture=fd", "--capture=sys", "--capture=tee-sys", "-s")


def told(result: Result) -> list[tuple[Any, ...]]:
    """All that the reports of survivors say, without times, places and the post-mortem."""
    keys = ("nodeid", "when", "outcome", "wasxfail", "sections", "text", "skip")
    return [
        tuple(_POST_MORTEM.sub("", _PLACE.sub("...", str(report[key]))) for key in keys)
        for report in result.reports
        if not report["nodeid"].endswith(LOST)
    ]


def streamed(result: Result) -> tuple[Counter[str], Counter[str]]:
    """How often each text of a test reached the runner's own streams.

    In no order: the child's teardown may overtake what the terminal says of its call.
    """
    texts = (result.stdout.partition("= FAILURES =")[0], result.stderr)
    out, err = (Counter(_TEXT.findall(text)) for text in texts)
    return out, err


@pytest.mark.parametrize("mode", MODES)
def test_as_without_isolation(tmp_path_factory: pytest.TempPathFactory, mode: str) -> None:
    """In each capture mode an isolated test's sections and streams are those of a plain test."""
    plain = shared_batch(tmp_path_factory, "output", "user", *PLAIN, *SURVIVORS, "-v", mode)
    isolated = shared_batch(tmp_path_factory, "output", "user", "-v", mode)
    assert told(plain) == told(isolated)
    assert streamed(plain) == streamed(isolated)
    assert streamed(plain)[0]["<disabled capfd>"] == 1


@pytest.mark.parametrize(
    ("side", "mode"),
    [pytest.param("root", MODES[0], marks=NEEDS_ROOT), *(("user", mode) for mode in MODES)],
)
@pytest.mark.parametrize("name", LOST)
def test_a_death_takes_nothing_along(
    tmp_path_factory: pytest.TempPathFactory, side: Side, mode: str, name: str
) -> None:
    """What a test has written and logged in each phase is in the report of its crash."""
    result = shared_batch(tmp_path_factory, "output", side, "-v", mode)
    assert verdict(result, name) == "call failed"
    (report,) = (r for r in result.of(name) if r["outcome"] == "failed")
    sections = dict(report["sections"])
    assert len(sections) == len(report["sections"])
    for phase, text in (("setup", "lost setup"), ("call", "lost call")):
        assert sections[f"Captured log {phase}"].endswith(f"log {text}")
        if mode != "-s":
            assert sections[f"Captured stdout {phase}"] == f"out {text}\n"
            assert sections[f"Captured stderr {phase}"] == f"err {text}\n"
    if mode in ("-s", "--capture=tee-sys"):
        assert "out lost call" in result.stdout


@pytest.mark.parametrize("mode", MODES)
def test_nothing_leaks_into_the_next_report(
    tmp_path_factory: pytest.TempPathFactory, mode: str
) -> None:
    """After a crash, an exit and a timeout the next tests report their own texts alone."""
    result = shared_batch(tmp_path_factory, "output", "user", "-v", mode)
    assert captured(result, "test_silent") == {}
    after = captured(result, "test_after")
    assert after == captured(result, "test_in_the_runner")
    for title, text in after.items():
        assert text.count("call") == (1 if title.endswith("call") else 0)
        assert "module" not in text


def test_module_scope_is_told_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a module's fixture writes is in the first test's set-up and the last one's teardown."""
    result = shared_batch(tmp_path_factory, "output", "user", "-v", "--capture=fd")
    first = dict(result.of("test_pass")[0]["sections"])
    assert first["Captured stdout setup"] == "out module setup\nout function setup\n"
    last = dict(result.of("test_last")[-1]["sections"])
    assert last["Captured stdout teardown"] == "out function teardown\nout module teardown\n"
    teller = [r for r in result.reports if "module setup" in str(r["sections"])]
    assert {r["nodeid"].rpartition("::")[2] for r in teller} == {"test_pass"}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ["test_pass", "test_fail", "test_crash", "test_timeout"])
def test_twelve_megabytes(tmp_path_factory: pytest.TempPathFactory, side: Side, name: str) -> None:
    """12 MB on both streams arrive whole, however the test ends, and only in its own report."""
    result = shared_batch(tmp_path_factory, "flood", side, "--show-capture=no")
    assert verdict(result, name) == ("passed" if name == "test_pass" else "call failed")
    sections = captured(result, name)
    size = f"{LINES * 1024} characters, xxx"
    assert sections["Captured stdout call"].startswith(size)
    assert sections["Captured stderr call"].startswith(size)
    assert "the end of the flood" in sections["Captured log call"]
    assert captured(result, "test_silent") == {}


def test_the_long_way(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Beside other threads, where a supervisor makes PID 1, the reports are the same."""
    short = shared_batch(tmp_path_factory, "output", "user", "-v", "--capture=fd")
    long = run_batch({**source("output"), "conftest.py": THREADED}, "user", "-v", "--capture=fd")
    assert told(long) == told(short)
