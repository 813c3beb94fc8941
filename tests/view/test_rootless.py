# SPDX-License-Identifier: MIT
"""The view again, for a runner without privileges."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.hosts import NEEDS_ROOT
from tests.inner_runs import prefix, suite_folder
from tests.support import NEEDS_NAMESPACES, inner_environment

HERE: Final = Path(__file__).parent

#: What may be otherwise for somebody who is nobody; the assertions are the same for all.
MODULES: Final = ("processes", "network", "mounts", "identity", "ipc", "snapshot")


@NEEDS_NAMESPACES
@NEEDS_ROOT
def test_what_the_view_says_holds_without_privileges() -> None:
    """Every datum is what the tools say, for an ordinary user too."""
    with suite_folder({}, "user") as folder:
        done = subprocess.run(
            [
                *(*prefix("user"), sys.executable, "-m", "pytest", "-q", "-W", "error"),
                *("-p", "nsisolate", "-p", "no:cacheprovider", "--basetemp", str(folder / "temp")),
                *(str(HERE / f"test_{name}.py") for name in MODULES),
            ],
            cwd=HERE.parents[1],
            env=inner_environment(folder, {"HOME": str(folder)}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stdout
    counted = re.search(r"(\d+) passed", done.stdout)
    assert counted is not None
    assert int(counted[1]) > 60, done.stdout
    reasons = re.findall(r"^SKIPPED .*?: (.*)$", done.stdout, re.MULTILINE)
    assert all(reason.startswith("needs ") for reason in reasons), reasons
