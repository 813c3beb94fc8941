# SPDX-License-Identifier: MIT
"""What the package exports can be had, from an interpreter that has imported nothing of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pytest_nsisolate


@pytest.mark.parametrize("name", [*pytest_nsisolate.__all__, "*"])
def test_every_public_name(name: str) -> None:
    """By itself, in a new process: another name must not have loaded its module."""
    statement = f"from pytest_nsisolate import {name}"
    done = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
