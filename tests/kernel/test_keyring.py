# SPDX-License-Identifier: MIT
"""Leaving the session keyring: done, not needed, or refused. See also ``inner/escaping.py``."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.kernel import keyring

if TYPE_CHECKING:
    from tests.kernel.conftest import InChild


def refusing(*numbers: int) -> tuple[Callable[[], object], list[int]]:
    """A call that fails with these errors, one after the other, and then works; and those left."""
    left = list(numbers)

    def join() -> int:
        if left:
            number = left.pop(0)
            raise OSError(number, os.strerror(number))
        return 1

    return join, left


def test_it_is_left(in_child: InChild) -> None:
    """The real call: it works here, or nobody can have keys here."""
    assert in_child(keyring.leave_session_keyring) is None


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.EACCES])
def test_where_nobody_has_keys_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Docker's filter forbids keyctl, to the test as well: there is nothing to leave."""
    join, left = refusing(number, number)
    monkeypatch.setattr(keyring, "_join", lambda: join)
    keyring.leave_session_keyring()
    assert left == [number]


def test_a_full_quota_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is still sweeping up the keyrings of tests before."""
    join, left = refusing(errno.EDQUOT, errno.EDQUOT)
    monkeypatch.setattr(keyring, "_join", lambda: join)
    keyring.leave_session_keyring()
    assert left == []


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.ENOMEM])
def test_what_lasts_is_a_refusal(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """With the step and the number."""
    join, _ = refusing(*[number] * 1000)
    monkeypatch.setattr(keyring, "_join", lambda: join)
    monkeypatch.setattr(keyring, "_PATIENCE", 0.02)
    with pytest.raises(StepError) as refusal:
        keyring.leave_session_keyring()
    seen = (refusal.value.step, refusal.value.namespace, refusal.value.errno)
    assert seen == ("join a new session keyring", None, number)


def test_an_unknown_machine_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the number of the call is not known, nothing is called."""
    monkeypatch.setattr(keyring, "_SYS_KEYCTL", {})
    keyring._join.cache_clear()
    try:
        keyring.leave_session_keyring()
        assert keyring._join() is None
    finally:
        keyring._join.cache_clear()
