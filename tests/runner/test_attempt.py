# SPDX-License-Identifier: MIT
"""No false green: what a child must have said before its test counts as passed."""

from __future__ import annotations

from pathlib import Path

from tests.support import NEEDS_NAMESPACES, run_source

pytestmark = NEEDS_NAMESPACES

#: Each test's own process spoils what it is about to say of itself; its body passes.
LIARS = """
import os
import pytest
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.runner.run import RUN
from pytest_nsisolate.wire.frames import Kind

pytestmark = pytest.mark.isolated

@pytest.fixture
def child(request):
    return request.config.stash[RUN].in_child

def test_honest(child): pass

def test_names_fewer_phases(child): child.outgoing._phases.remove("setup")

def test_never_says_that_it_is_done(child): child._finish = lambda: None

def test_says_so_too_early(child):
    child.outgoing.send(Kind.DONE, {"phases": ["setup", "call", "teardown"], "alone": True})
    os._exit(0)

def test_leaves_a_phase_out(child, monkeypatch):
    monkeypatch.setattr(internals, "call_and_report", lambda *_, **__: None)
    monkeypatch.undo = lambda: None

def test_reports_the_wrong_phase(child):
    child.outgoing.writer.send_encoded(Kind.REPORT, b'{"passed": "teardown"}')

def test_reports_a_phase_twice(child):
    for _ in range(2):
        child.outgoing.writer.send_encoded(Kind.REPORT, b'{"passed": "call"}')

def test_after(child): pass
"""


def test_only_a_whole_and_true_record_passes(tmp_path: Path) -> None:
    """Whoever claims less, more, something else or nothing fails, alone, and with the reason."""
    result = run_source(tmp_path, LIARS)

    assert result.returncode == 1
    assert "INTERNALERROR" not in result.text
    failed = {r["nodeid"].partition("::")[2] for r in result.reports if r["outcome"] == "failed"}
    assert failed == {
        "test_names_fewer_phases",
        "test_never_says_that_it_is_done",
        "test_says_so_too_early",
        "test_leaves_a_phase_out",
        "test_reports_the_wrong_phase",
        "test_reports_a_phase_twice",
    }
    assert "its completion record names the phases ['call', 'teardown']" in result.text
    assert "exit status 0 before it was finished" in result.text


BEFORE = """
import logging, os
import pytest

@pytest.fixture(scope="module")
def wide():
    print("printed before")
    logging.getLogger().warning("logged before")

@pytest.mark.isolated
def test_exits(wide): os._exit(3)

@pytest.mark.isolated
def test_passes(): pass
"""


def test_text_from_before_the_clone_is_reported_once(tmp_path: Path) -> None:
    """Each report of a test that dies has it once, those that the runner makes itself too."""
    result = run_source(tmp_path, BEFORE)

    reports = [r for r in result.reports if r["nodeid"].endswith("test_exits")]
    assert [(r["when"], r["outcome"]) for r in reports] == [
        *(("setup", "passed"), ("call", "failed"), ("teardown", "passed")),
    ]
    for report in reports:
        texts = "".join(text for _, text in report["sections"])
        assert (texts.count("printed before"), texts.count("logged before")) == (1, 1), report
    after = [r for r in result.reports if r["nodeid"].endswith("test_passes")]
    assert after
    assert "printed before" not in str(after)
