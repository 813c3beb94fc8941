# SPDX-License-Identifier: MIT
"""Run something as another account, in a folder that this account may use."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from environments import Interpreter, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Account:
    """Whose process the session is; None where nothing is to be changed."""

    name: str
    uid: int
    gid: int


def account(name: str) -> Account:
    """The account of this name, from the password database; UnavailableError if there is none."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise UnavailableError(f"there is no account {name!r} here") from None
    return Account(name, entry.pw_uid, entry.pw_gid)


def run_as(
    who: Account | None,
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run to the end as this account, without its and our further groups; None: as we are."""
    # A file and no pipe: a daemon that a test leaves behind would hold the pipe open for us.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=timeout,
            user=None if who is None else who.uid,
            group=None if who is None else who.gid,
            extra_groups=None if who is None else (),
        )
        output.seek(0)
        return subprocess.CompletedProcess(done.args, done.returncode, output.read())


@contextmanager
def workplace(who: Account | None) -> Iterator[Path]:
    """A folder for one contender's sessions, with the plugins that are loaded with ``-p`` in it.

    They are copied because an unprivileged account may not be able to read the repository.
    """
    with tempfile.TemporaryDirectory(prefix="nsibench-") as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        for plugin in HERE.glob("bench_*.py"):
            shutil.copy(plugin, folder / plugin.name)
        if who is not None:
            for path in (folder, *folder.iterdir()):
                os.chown(path, who.uid, who.gid)
        yield folder


def reachable(interpreter: Interpreter, who: Account) -> None:
    """Raise UnavailableError if this account cannot use that interpreter and its packages."""
    command = [str(interpreter.python), "-c", "import pytest"]
    try:
        done = run_as(who, command, Path("/"), dict(os.environ))
    except OSError as error:
        raise UnavailableError(f"{who.name} cannot start {interpreter.python}: {error}") from None
    if done.returncode:
        raise UnavailableError(
            f"{who.name} cannot use {interpreter.python} (choose --envs and "
            "--python where every account may read)"
        )
