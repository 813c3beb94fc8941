# SPDX-License-Identifier: MIT
"""Real programs on several hosts: the tests are ``examples/hosts``, as root and rootless."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

import pytest

from tests.inner_runs import SIDES, Side, run_batch, verdict
from tests.support import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES

PROGRAMS: Final = Path(__file__).parents[2] / "examples" / "hosts" / "test_programs.py"


def _names() -> list[str]:
    spec = importlib.util.spec_from_file_location("programs", PROGRAMS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [name for name in vars(module) if name.startswith("test_")]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", _names())
def test_a_program(side: Side, name: str) -> None:
    """It does what its test says, or is not installed; nothing is left of it."""
    files = {"test_programs.py": PROGRAMS.read_text(encoding="utf-8")}
    result = run_batch(files, side, "-W", "error", "-k", name, timeout=300)
    if verdict(result, name) == "setup skipped":
        pytest.skip(str(result.of(name)[0]["text"]))
    assert verdict(result, name) == "passed", result.text
