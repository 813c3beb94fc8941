# SPDX-License-Identifier: MIT
"""Tests that say something before they end, in every phase; each text must be found once."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator

import pytest

pytestmark = pytest.mark.isolated

log = logging.getLogger("suite")


def say(text: str) -> None:
    """By every way that pytest captures."""
    sys.stdout.write(f"out {text}\n")
    sys.stderr.write(f"err {text}\n")
    log.warning("log %s", text)


def crash() -> None:
    ctypes.string_at(0)


@pytest.fixture(scope="module")
def module() -> Iterator[None]:
    say("module setup")
    yield
    say("module teardown")


@pytest.fixture
def function(module: None) -> Iterator[None]:
    say("function setup")
    yield
    say("function teardown")


def test_pass(function: None) -> None:
    say("call")


def test_silent() -> None:
    pass


def test_fail(function: None) -> None:
    say("call")
    raise AssertionError("assert False")


def test_skip(function: None) -> None:
    say("call")
    pytest.skip("from inside")


@pytest.mark.xfail
def test_xfail(function: None) -> None:
    say("call")
    raise AssertionError("assert False")


@pytest.fixture
def broken(module: None) -> Iterator[None]:
    say("broken setup")
    raise LookupError("in set-up")


def test_error(broken: None) -> None:
    pass


@pytest.fixture
def broken_teardown() -> Iterator[None]:
    yield
    say("broken teardown")
    raise LookupError("in teardown")


def test_error_in_teardown(broken_teardown: None) -> None:
    say("call")


@pytest.fixture
def lost() -> None:
    say("lost setup")


@pytest.mark.lost
def test_crash(lost: None) -> None:
    say("lost call")
    crash()


@pytest.mark.lost
def test_exit(lost: None) -> None:
    say("lost call")
    sys.stdout.flush()
    os._exit(0)


@pytest.mark.lost
@pytest.mark.isolated(timeout=0.5)
def test_timeout(lost: None) -> None:
    say("lost call")
    while True:
        pass


def test_after(function: None) -> None:
    say("call")


def test_capsys(capsys: pytest.CaptureFixture[str]) -> None:
    say("call")
    assert capsys.readouterr() == ("out call\n", "err call\n")
    sys.stdout.write("after reading")
    with capsys.disabled():
        sys.stdout.write("<disabled capsys>\n")


def test_capfd(capfd: pytest.CaptureFixture[str]) -> None:
    os.write(1, b"by number")
    subprocess.run(["sh", "-c", "echo by a program; echo error of a program >&2"], check=True)
    assert capfd.readouterr() == ("by numberby a program\n", "error of a program\n")
    with capfd.disabled():
        os.write(1, b"<disabled capfd>\n")


def test_caplog(caplog: pytest.LogCaptureFixture) -> None:
    log.warning("a record")
    log.info("too small")
    assert caplog.messages == ["a record"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        log.info("now")
    assert caplog.text.endswith("now\n")


def test_surrogates() -> None:
    os.write(1, b"raw \xff\xfe byte\n")
    sys.stdout.write("umlaut \xe4, and \0 inside\r\nnext\n")


def test_record_testreport(record_property: Callable[[str, object], None]) -> None:
    record_property("key", "value")
    warnings.warn("a warning", UserWarning, stacklevel=1)


@pytest.mark.isolated(False)
def test_in_the_runner(function: None) -> None:
    say("call")


def test_last(function: None) -> None:
    say("call")
