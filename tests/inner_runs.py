# SPDX-License-Identifier: MIT
"""Inner suites that are run once and looked at by many tests, and runs steered from outside.

A suite is a module of ``tests/inner``. Each of its tests says by ``@pytest.mark.expect`` how it
must be reported: :func:`cases` makes one test here of each. Whatever a suite does to itself, after
its run nothing may be left: no process, no descriptor, no signal handler (:func:`assert_clean`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypeVar

import pytest

from tests.hosts import NEEDS_ROOT
from tests.support import INNER, INNER_MODULES, Result, eventually, inner_environment, run_suite

Side: TypeAlias = Literal["root", "user"]

_Test = TypeVar("_Test", bound=Callable[..., None])

#: The same suite as root, and as somebody without a name or a right on this machine.
SIDES: Final = (pytest.param("root", marks=NEEDS_ROOT), pytest.param("user"))

#: The id of that somebody; of no account, so that nothing else runs under it.
NOBODY: Final = 54321

_OPTIONS: Final = ("-p", "watching")

#: A second thread in the runner, which has PID 1 made the long way, by a supervisor.
THREADED: Final = """
import threading
_stop = threading.Event()
_thread = threading.Thread(target=_stop.wait, daemon=True)
_thread.start()
"""


def cases(module: str) -> Callable[[_Test], _Test]:
    """One test per side and per test of ``tests/inner/<module>.py``: (side, name, expectation)."""
    if str(INNER_MODULES) not in sys.path:
        sys.path.append(str(INNER_MODULES))  # where these modules find each other in an inner run
    found = importlib.import_module(f"tests.inner.{module}")
    parameters = []
    for name, function in vars(found).items():
        for mark in getattr(function, "pytestmark", ()) if name.startswith("test_") else ():
            if mark.name == "expect":
                parameters.append(pytest.param(name, mark.args, id=name.removeprefix("test_")))
    sides = pytest.mark.parametrize("side", SIDES)
    expected = pytest.mark.parametrize(("name", "expected"), parameters)

    def parametrize(function: _Test) -> _Test:
        decorated: _Test = sides(expected(function))
        return decorated

    return parametrize


def prefix(side: Side, uid: int = NOBODY) -> tuple[str, ...]:
    """What to put before a command to run it on that side; skips the test where it cannot be."""
    if side == "root" or os.geteuid() != 0:
        return ()
    ids = ("--reuid", str(uid), "--regid", str(uid), "--clear-groups")
    switch = ("setpriv", *ids)
    check = f"import pytest_nsisolate; open({str(INNER_MODULES / 'watching.py')!r}).close()"
    # Through env: setpriv itself still has root's rights when it looks for the program.
    tried = subprocess.run([*switch, "env", sys.executable, "-c", check], capture_output=True)
    if tried.returncode:
        pytest.skip("an ordinary user cannot read this interpreter or this checkout")
    return switch


@contextlib.contextmanager
def suite_folder(files: Mapping[str, str], side: Side, uid: int = NOBODY) -> Iterator[Path]:
    """A folder of its own outside pytest's, which other users may not enter."""
    folder = Path(tempfile.mkdtemp(prefix="nsisolate-"))
    try:
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        if side == "user" and os.geteuid() == 0:
            os.chown(folder, uid, uid)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def source(module: str) -> dict[str, str]:
    """A module of ``tests/inner`` as the one file of a suite."""
    text = (INNER_MODULES / f"{module}.py").read_text(encoding="utf-8")
    return {f"test_{module}.py": text}


def run_batch(
    files: Mapping[str, str],
    side: Side,
    *arguments: str,
    clean: bool = True,
    gone: bool = False,
    uid: int = NOBODY,
    before: tuple[str, ...] = (),
    switch: tuple[str, ...] | None = None,
    **options: Any,
) -> Result:
    """Run a suite on one side and, if asked, make sure that it left nothing.

    :param gone: without ``clean``: look for processes only (a run with several runners).
    :param switch: what makes the ordinary user of the command, in place of :func:`prefix`.
    """
    with suite_folder(files, side, uid) as folder:
        switch = (*(prefix(side, uid) if switch is None else switch), *before)
        env = {**_environment(folder), **options.pop("env", {})}
        result = run_suite(folder, *_OPTIONS, *arguments, prefix=switch, env=env, **options)
        if clean:
            assert_clean(folder, result)
        elif gone:
            assert_nothing_alive(folder)
        return result


def shared_batch(
    factory: pytest.TempPathFactory,
    module: str,
    side: Side,
    *arguments: str,
    conftest: str = "",
    more: Mapping[str, str] | None = None,
) -> Result:
    """:func:`run_batch` of a module, once for all tests and all workers of this run.

    :param more: further files of the suite.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    key = hashlib.sha256(repr((module, side, arguments, conftest)).encode()).hexdigest()[:16]
    kept = base / f"batch-{module}-{key}"
    with open(f"{kept}.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            files = {**source(module), "conftest.py": conftest, **(more or {})}
            result = run_batch(files, side, *arguments, timeout=600)
            kept.write_bytes(pickle.dumps(result))
    found: Result = pickle.loads(kept.read_bytes())
    return found


def _environment(folder: Path) -> dict[str, str]:
    return {
        "ALIVE": str(folder / ".alive"),
        "HOME": str(folder),
        "TAG": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONFAULTHANDLER": "",
    }


#: The conftest of a suite for which a busy machine has time to read everything for a report.
UNHURRIED: Final = """
from pytest_nsisolate.runner import attempt
from pytest_nsisolate.view.postmortem import at_failure
at_failure.SECONDS = attempt.PATIENCE = 60.0
"""


# What a run came to ------------------------------------------------------------------------------


def verdict(result: Result, name: str) -> str:
    """What became of a test: ``passed``, or the phases that did not: ``call xfailed``."""
    said = []
    for report in result.of(name):
        outcome = report["outcome"]
        if report["wasxfail"] is not None:
            outcome = "xfailed" if outcome == "skipped" else "xpassed"
        if outcome != "passed":
            said.append(f"{report['when']} {outcome}")
    return ", ".join(said) or ("passed" if result.of(name) else "never reported")


def said(result: Result, name: str) -> str:
    """Everything that the reports of a test say, captured text included, each text once."""
    texts: dict[str, None] = {}
    for report in result.of(name):
        texts[report["text"]] = None
        texts[str(report["wasxfail"])] = None
        for title, text in report["sections"]:
            texts[f"--- {title} ---\n{text}"] = None
    return "\n".join(texts)


def captured(result: Result, name: str) -> dict[str, str]:
    """The sections of the last report of a test: title to text."""
    return dict(result.of(name)[-1]["sections"])


def assert_expected(result: Result, name: str, expected: tuple[str, ...]) -> None:
    """Hold one test of a suite against its ``expect`` mark; ``!text`` must not be there."""
    outcome, *texts = expected
    everything = said(result, name)
    assert verdict(result, name) == outcome, everything or result.text
    for text in texts:
        if text.startswith("!"):
            assert text[1:] not in everything, everything
        else:
            assert text in everything, everything


# Nothing left ------------------------------------------------------------------------------------


def assert_clean(folder: Path, result: Result) -> None:
    """The runner is as it was before its first test, and no process of the run is alive."""
    found = {r["record"]: r for r in result.records if r["record"] in ("before", "after")}
    assert result.returncode in (0, 1, 2), result.text
    assert set(found) == {"before", "after"}, result.text
    for what in ("descriptors", "children", "mask", "handlers", "namespaces"):
        before, after = found["before"][what], found["after"][what]
        if what == "descriptors" and result.returncode == 2:
            # On a KeyboardInterrupt pytest itself gives capture up before the session ends.
            before = {fd: target for fd, target in before.items() if fd in after}
        assert after == before, f"{what} of the runner: {before} before, {after} after"
    assert_nothing_alive(folder)


def assert_nothing_alive(folder: Path) -> None:
    """Every process of a run is dead: its lock can be taken, and nobody carries its tag."""
    with open(folder / ".alive", "rb") as lock:
        assert eventually(lambda: _can_lock(lock.fileno())), _still_alive(folder)
    assert eventually(lambda: not _still_alive(folder)), _still_alive(folder)


def is_locked(path: Path) -> bool:
    """Somebody holds a lock on this file."""
    with open(path, "rb") as lock:
        return not _can_lock(lock.fileno())


def _can_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _still_alive(folder: Path) -> list[str]:
    """Processes whose environment has the tag of this run; zombies have none."""
    found = []
    tag = f"TAG={folder}".encode()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if tag in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                    found.append(entry + " " + Path(f"/proc/{entry}/cmdline").read_text("utf-8"))
    return found


# Runs steered from outside -----------------------------------------------------------------------


class Running:
    """An inner run under way, in a session of its own. Its tests leave marks as files.

    :param folder: the suite; the marks of its tests appear here.
    """

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self.folder = folder
        self.process = process

    def wait_for(self, mark: str) -> None:
        """Until a test has made this file."""

        def made() -> bool:
            return (self.folder / mark).exists() or self.process.poll() is not None

        assert eventually(made, 60), self.text()
        assert (self.folder / mark).exists(), self.text()

    def text(self) -> str:
        return (self.folder / ".output").read_text(encoding="utf-8", errors="replace")

    def pid1(self) -> int:
        """The host's number of PID 1."""
        (pid,) = (pid for pid in descendants(self.process.pid) if _numbers(pid)[1:] == ["1"])
        return pid

    def supervisor(self) -> int | None:
        """The host's number of the process in the middle, None on the short way."""
        parent = _status(self.pid1())["PPid"]
        return None if parent == str(self.process.pid) else int(parent)

    def watchdog(self) -> int | None:
        """The host's number of the watchdog, None before the first clone."""
        for pid in children(self.process.pid):
            if b"watchdog" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        return None

    def signal(self, number: int) -> None:
        """To the runner's process group, as a terminal does."""
        os.killpg(self.process.pid, number)

    def finish(self) -> Result:
        """Wait for the run to end by itself."""
        returncode = self.process.wait(timeout=120)
        records = [
            json.loads(line)
            for line in (self.folder / ".recording").read_text(encoding="ascii").splitlines()
        ]
        return Result(returncode, self.text(), "", records, [])

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=20)


def start(folder: Path, side: Side, *arguments: str, **env: str) -> Running:
    """Start a suite that lies in a folder (see :func:`suite_folder`)."""
    for name in (".recording", ".journal"):
        (folder / name).write_text("", encoding="ascii")
        (folder / name).chmod(0o666)
    options = [*INNER, *_OPTIONS, "-p", "no:cacheprovider", "--basetemp", str(folder / ".temp")]
    with open(folder / ".output", "w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [*prefix(side), sys.executable, "-m", "pytest", *options, *arguments],
            cwd=folder,
            env=inner_environment(folder, {**_environment(folder), **env}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
    return Running(folder, process)


def descendants(pid: int) -> Iterator[int]:
    """Everything below a process."""
    for child in children(pid):
        yield child
        yield from descendants(child)


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _numbers(pid: int) -> list[str]:
    """Its numbers in the PID namespaces from ours to its own."""
    return _status(pid)["NSpid"].split()


def children(pid: int) -> list[int]:
    """The children of a process, whichever of its threads made them."""
    found: list[int] = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        path = Path(f"/proc/{pid}/task/{thread}/children")
        found += [int(child) for child in path.read_text(encoding="ascii").split()]
    return found
