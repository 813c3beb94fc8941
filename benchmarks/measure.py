# SPDX-License-Identifier: MIT
"""One measured pytest session, and the numbers that come out of several."""

from __future__ import annotations

import json
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accounts import Account, run_as
from contenders import FLOOR, Contender, suite, witness
from environments import Interpreter, UnavailableError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping, Sequence

TOKEN = "NSIBENCH_TOKEN"
# Variables that would load other plugins, move the tests' imports, start coverage, or forbid the
# cache of rewritten modules, which is what makes a plugin's second start cheaper than its first.
DROPPED = (
    "PYTEST_",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PYTHONDONTWRITEBYTECODE",
    "COV_",
    "COVERAGE_",
    "NSIBENCH_",
    "NSISOLATE_",
)


@dataclass(frozen=True, slots=True)
class Spent:
    """What one side of a session has spent in the run loop: processor seconds, faults, calls."""

    cpu: float
    faults: float
    calls: float


@dataclass(frozen=True, slots=True)
class Session:
    """What one pytest session told. Times in seconds, memory in KiB.

    ``stamps`` are the starts of the tests and the end of the loop, counted from its beginning;
    ``left`` are the processes that still ran after the session, by id; ``runner`` and ``children``
    are what they have spent, calls only if they were asked for.
    """

    wall: float
    loop: float
    stamps: tuple[float, ...]
    resident_kib: tuple[int, int]
    descriptors: tuple[int, int]
    unreaped: int
    left: tuple[int, ...]
    runner: Spent
    children: Spent


@dataclass(frozen=True, slots=True)
class Runner:
    """Starts sessions of one contender in a folder of its own."""

    contender: Contender
    interpreter: Interpreter
    folder: Path
    account: Account | None

    def run(self, count: int, resident_mb: int = 0, *, calls: bool = False) -> Session:
        """One session of ``count`` empty tests. UnavailableError if not a clean pass.

        :param calls: count Python's; the times of that session mean nothing.
        """
        name = f"test_empty_{count}.py"
        self.provide(name, suite(self.contender.mark, count))
        record = self.folder / "record.json"
        record.unlink(missing_ok=True)
        token = uuid.uuid4().hex
        begin = time.monotonic()
        done = self.pytest(
            [name],
            {
                "NSIBENCH_RECORD": str(record),
                TOKEN: token,
                "NSIBENCH_RESIDENT_MB": str(resident_mb),
                "NSIBENCH_CALLS": "1" if calls else "",
            },
        )
        wall = time.monotonic() - begin
        data = self._checked(done, record, count)
        return Session(
            wall=wall,
            loop=data["loop"],
            stamps=tuple(data["stamps"]),
            resident_kib=(data["resident_kib"][0], data["resident_kib"][1]),
            descriptors=(data["descriptors"][0], data["descriptors"][1]),
            unreaped=data["children"],
            left=tuple(survivors(token)),
            runner=Spent(**data["spent"][0]),
            children=Spent(**data["spent"][1]),
        )

    def check(self) -> None:
        """Show that the test runs where this contender says it does, or raise UnavailableError.

        A benchmark of a marker that did nothing would be a fine figure.
        """
        paper = self.folder / "where.json"
        paper.unlink(missing_ok=True)
        self.provide("test_where.py", witness(str(paper), self.contender.mark))
        done = self.pytest(["test_where.py"], {})
        if done.returncode or not paper.is_file():
            raise UnavailableError(f"{self.contender.key}: {self._words(done)}")
        where = json.loads(paper.read_text(encoding="utf-8"))
        wanted = self.contender.expects
        if wanted in ("runner", "own process"):
            return
        same = [name for name in wanted.split() if where[name] == _inode(name)]
        if same or where["process"] != 1:
            raise UnavailableError(
                f"{self.contender.key}: not isolated (process {where['process']}, "
                f"same as outside: {' '.join(same) or 'nothing'})"
            )

    def provide(self, name: str, text: str) -> None:
        """A file of this content in the folder."""
        path = self.folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")

    def pytest(
        self,
        arguments: Sequence[str],
        more: Mapping[str, str],
        *,
        under: Sequence[str] = ("-m", "pytest"),
        timeout: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run this contender's pytest in its folder, in an environment of few surprises.

        ``more`` are further environment variables, ``under`` is how Python is told to start
        pytest. Raises subprocess.TimeoutExpired.
        """
        plugins = [*self.contender.plugins, "bench_recorder"]
        command = [str(self.interpreter.python), *under, "-q", "-p", "no:cacheprovider"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(DROPPED)}
        environment |= {
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONPATH": str(self.folder),
        }
        if not self.interpreter.autoload:
            environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
            # The running environment may hold packages by path only.
            environment["PYTHONPATH"] += os.pathsep + os.environ.get("PYTHONPATH", "")
            if self.contender.module:
                plugins.append(self.contender.module)
        for plugin in plugins:
            command += ["-p", plugin]
        command += ["--basetemp", str(self.folder / "base"), *arguments]
        return run_as(self.account, command, self.folder, environment | dict(more), timeout)

    def _checked(
        self, done: subprocess.CompletedProcess[str], record: Path, count: int
    ) -> dict[str, Any]:
        if done.returncode or not record.is_file():
            raise UnavailableError(f"{self.contender.key}: {self._words(done)}")
        data: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        # The floor sends no reports; it ends the session itself if a child fails.
        if self.contender is not FLOOR and data["passed"] != count:
            raise UnavailableError(
                f"{self.contender.key}: {data['passed']} of {count} tests passed"
            )
        return data

    @staticmethod
    def _words(done: subprocess.CompletedProcess[str]) -> str:
        lines = done.stdout.strip().splitlines()
        return f"exit {done.returncode}: " + " / ".join(line.strip() for line in lines[-4:])


def _inode(name: str) -> int:
    return os.stat(f"/proc/self/ns/{name}").st_ino


def survivors(token: str) -> Iterator[int]:
    """Ids of the processes that inherited this token and still run (not zombies)."""
    wanted = f"{TOKEN}={token}".encode()
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in entry.read_bytes().split(b"\0"):
                yield int(entry.parent.name)
        except OSError:
            continue
