# SPDX-License-Identifier: MIT
"""Tools that look at the same world independently: what they say is what the view must say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

#: An ordinary user's PATH has no ``sbin``, where some of these are.
PATH: Final = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def needs(*tools: str) -> pytest.MarkDecorator:
    """A skip where one of these programs is missing, unless this machine has to have all."""
    missing = [tool for tool in tools if shutil.which(tool, path=PATH) is None]
    must_work = os.environ.get("NSISOLATE_MUST_WORK") == "1"
    reason = f"needs {', '.join(tools)}"
    return pytest.mark.skipif(bool(missing) and not must_work, reason=reason)


NEEDS_PS: Final = needs("ps")
NEEDS_IP: Final = needs("ip")
NEEDS_SS: Final = needs("ss")
NEEDS_FINDMNT: Final = needs("findmnt", "mount")
NEEDS_LSNS: Final = needs("lsns")
NEEDS_CAPSH: Final = needs("capsh")
NEEDS_IPCS: Final = needs("ipcs", "ipcmk")
NEEDS_PRLIMIT: Final = needs("prlimit")


def run(*command: str) -> str:
    """What a program prints, in this process's namespaces."""
    done = subprocess.run(
        [shutil.which(command[0], path=PATH) or command[0], *command[1:]],
        env={**os.environ, "PATH": PATH, "LC_ALL": "C"},
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def run_json(*command: str) -> Any:
    """The same, as JSON."""
    return json.loads(run(*command) or "[]")


@contextmanager
def owned(*command: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is killed and waited for whatever happens, so that no failure hangs."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()
