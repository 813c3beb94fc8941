# SPDX-License-Identifier: MIT
"""Inner runs of pytest, as the tests of the plugin need them.

An inner run is a process of its own, loads no plugin but those named (``-p``), and reports through
``tools/parity_recording.py`` what a plugin in its runner heard. Its suite may import ``journal``.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from parity_compare import compare, neutral
from pytest_nsisolate.host import examine
from pytest_nsisolate.kernel import syscalls

INNER_MODULES: Final = Path(__file__).with_name("inner")
TOOLS: Final = Path(__file__).parents[1] / "tools"

#: What every inner run is started with.
INNER: Final = ("-p", "nsisolate", "-p", "parity_recording")

#: ``INNER_JOBS=4``: every inner run has so many jobs, unless it says otherwise, and must report
#: the same.
_JOBS = tuple(f"--nsisolate-jobs={jobs}" for jobs in [os.environ.get("INNER_JOBS")] if jobs)

#: For a test whose own process writes what is compared in the order of the tests, or which takes
#: the lowest descriptors for its own.
ONE_JOB: Final = "--nsisolate-jobs=1"

#: Variables of the outer run that would steer the inner one.
_OUTER = (
    "PYTHONUNBUFFERED",
    "PYTEST_",
    "NSISOLATE_",
    "COV_",
    "PY_COLORS",
    "FORCE_COLOR",
    "NO_COLOR",
    # pytest, hypothesis and inline-snapshot behave differently where they find a CI system.
    "CI",
    "BUILD_NUMBER",
    "BUILDKITE",
    "GITHUB_ACTIONS",
    "GITLAB_CI",
    "TEAMCITY_VERSION",
    "TF_BUILD",
)

PYTEST_9 = pytest.version_tuple >= (9, 0)
PYTEST_9_1 = pytest.version_tuple >= (9, 1)
PYTEST_9_2 = pytest.version_tuple >= (9, 2)


@dataclass(frozen=True)
class Result:
    """What an inner run left behind, as ``tools/parity_recording.py`` wrote it down.

    :param reports: every report that the runner logged, in order.
    :param warnings: every recorded warning, in order.
    :param journal: the lines that the suite noted.
    """

    returncode: int
    stdout: str
    stderr: str
    records: list[dict[str, Any]] = field(repr=False)
    journal: list[str] = field(repr=False)

    @property
    def reports(self) -> list[dict[str, Any]]:
        return [record for record in self.records if record["record"] == "report"]

    @property
    def warnings(self) -> list[dict[str, Any]]:
        return [record for record in self.records if record["record"] == "warning"]

    @property
    def text(self) -> str:
        """Both streams, for the message of a failed assertion."""
        return f"exit {self.returncode}\n{self.stdout}\n{self.stderr}"

    @property
    def summary(self) -> str:
        """pytest's last line without its frame and its time: ``1 failed, 2 passed``."""
        return self.stdout.strip().splitlines()[-1].strip("= ").rpartition(" in ")[0]

    def of(self, name: str) -> list[dict[str, Any]]:
        """The reports of the test whose node id ends with ``::name``."""
        return [r for r in self.reports if r["nodeid"].endswith(f"::{name}")]

    def phases(self, name: str) -> list[str]:
        """``["setup passed", "call failed", ...]`` of one test."""
        return [f"{r['when']} {r['outcome']}" for r in self.of(name)]

    def failure(self, name: str) -> str:
        """The text of the one failed report of a test."""
        (report,) = (r for r in self.of(name) if r["outcome"] == "failed")
        return str(report["text"])

    def passed(self) -> set[str]:
        """Names of the tests whose three phases passed."""
        names = {r["nodeid"].partition("::")[2] for r in self.reports}
        good = ["setup passed", "call passed", "teardown passed"]
        return {name for name in names if self.phases(name) == good}


def write_files(folder: Path, files: Mapping[str, str]) -> Path:
    """Write a suite: file name to (indented) source. Returns the folder."""
    for name, source in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source), encoding="utf-8")
    return folder


def inner_environment(folder: Path, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of an inner run: nothing of the outer pytest's, no autoload."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(_OUTER)}
    path = [str(INNER_MODULES), str(TOOLS), *filter(None, [clean.get("PYTHONPATH")])]
    return {
        **clean,
        "PYTHONPATH": os.pathsep.join(path),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "RECORDING": str(folder / ".recording"),
        "JOURNAL": str(folder / ".journal"),
        "COLUMNS": "100",
        **(env or {}),
    }


def run_suite(
    folder: Path,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    prefix: tuple[str, ...] = (),
    basetemp: bool = True,
    cache: bool = False,
    python: tuple[str, ...] = (),
    plugins: tuple[str, ...] = INNER,
    stdin: int = subprocess.DEVNULL,
    timeout: float = 120,
) -> Result:
    """Run pytest on a folder in a process of its own, and gather what it said.

    :param env: variables added to those of :func:`inner_environment`.
    :param prefix: a command that starts the other one (see ``tests/hosts.py``).
    :param basetemp: keep its temporary directories below the folder.
    :param cache: with pytest's cache provider.
    :param python: options of the interpreter.
    :param plugins: the options that load this plugin and the recording.
    """
    for name in (".recording", ".journal"):
        (folder / name).write_text("", encoding="ascii")
        (folder / name).chmod(0o666)
    options = [*plugins, *_JOBS]
    if not cache:
        options += ["-p", "no:cacheprovider"]
    if basetemp:
        options += ["--basetemp", str(folder / ".temp")]
    done = subprocess.run(
        [*prefix, sys.executable, *python, "-m", "pytest", *options, *arguments],
        cwd=folder,
        env=inner_environment(folder, env),
        stdin=stdin,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=timeout,
        check=False,
    )
    recorded = (folder / ".recording").read_text(encoding="ascii").splitlines()
    journal = (folder / ".journal").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in recorded]
    return Result(done.returncode, done.stdout, done.stderr, records, journal)


def run_source(folder: Path, source: str, *arguments: str, **options: Any) -> Result:
    """:func:`run_suite` on one module, ``test_it.py``."""
    return run_suite(write_files(folder, {"test_it.py": source}), *arguments, **options)


def eventually(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Poll until it holds; False when the time is over."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def needs(works: bool, reason: str) -> pytest.MarkDecorator:
    """A skip with this reason, unless NSISOLATE_MUST_WORK says that this machine has to work."""
    must_work = os.environ.get("NSISOLATE_MUST_WORK") == "1"
    return pytest.mark.skipif(not works and not must_work, reason=reason)


def _can_isolate() -> bool:
    if sys.platform != "linux":
        return False
    from pytest_nsisolate.process.launcher import Launcher
    from pytest_nsisolate.process.plan import Fixed
    from pytest_nsisolate.request.options import DEFAULT_NAMESPACES

    launcher = Launcher(Fixed(()))
    try:
        return launcher.check.probe(DEFAULT_NAMESPACES, "same", frozenset()).ok
    finally:
        launcher.close()


#: For a test that isolates for real, with the whole default set.
NEEDS_NAMESPACES = needs(_can_isolate(), "this machine refuses namespaces")


#: For a test that makes its own host, or other users' processes.
NEEDS_ROOT = needs(examine().privileged, "needs CAP_SYS_ADMIN and CAP_SETUID")

#: mount_setattr(2) came with Linux 5.12.
NEEDS_MOUNT_SETATTR = needs(syscalls.supports_mount_setattr(), "this kernel has no mount_setattr")

#: An IPv6 stack can be switched off at boot.
NEEDS_IPV6 = needs(Path("/proc/net/if_inet6").exists(), "this kernel has no IPv6")


#: Some containers' kernels have none.
NEEDS_AUTOFS = needs(
    sys.platform == "linux" and "\tautofs" in Path("/proc/filesystems").read_text(encoding="ascii"),
    "this kernel has no autofs",
)


def _static_busybox() -> str:
    found = shutil.which("busybox", path=f"{os.environ.get('PATH', '')}:/bin:/usr/bin")
    if found is None:
        return ""
    with open(found, "rb") as program:
        # The name of the dynamic loader stands in the first page of what needs one.
        return "" if b"/ld-" in program.read(4096) else found


#: A program that is a whole root folder by itself; empty where there is none.
BUSYBOX: Final = _static_busybox()

#: For a test whose root folder has nothing but that.
NEEDS_BUSYBOX = needs(bool(BUSYBOX), "this machine has no static busybox (busybox-static)")


#: ./check installs it.
NEEDS_BUBBLEWRAP = needs(shutil.which("bwrap") is not None, "this machine has no bubblewrap")


#: Where Debian puts the programs of a PostgreSQL server; None where there is none.
POSTGRES: Final = next(iter(sorted(glob.glob("/usr/lib/postgresql/*/bin"))), None)


def needs_program(*names: str) -> pytest.MarkDecorator:
    """A skip where one of these programs is missing, also where NSISOLATE_MUST_WORK is set.

    For what ./check does not install: each is a big package, or one that changes the machine.
    """
    folders = [os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]
    path = os.pathsep.join([*folders, *glob.glob("/usr/lib/postgresql/*/bin")])
    missing = [name for name in names if shutil.which(name, path=path) is None]
    return pytest.mark.skipif(bool(missing), reason=f"this machine has no {', '.join(missing)}")


#: Leaves a test on the host under ``--nsisolate=all``: a negative control, or one that changes the
#: host's own ``/proc``, of which a second one lies covered in an isolated test.
ON_THE_HOST = pytest.mark.on_the_host


# Parity --------------------------------------------------------------------------------------

_SECONDS = re.compile(r"\b\d+\.\d\ds( \(\d+:\d\d:\d\d\))?")


def run_parity(folder: Path, *arguments: str, **options: Any) -> tuple[Result, Result]:
    """The same run twice: plain, and with every test isolated."""
    plain = run_suite(folder, *arguments, **options)
    return plain, run_suite(folder, *arguments, "--nsisolate=all", **options)


def differences(plain: Result, isolated: Result) -> list[str]:
    """What the runners' plugins heard differently, as ``tools/parity.py`` would print it."""
    return [str(difference) for difference in compare(plain.records, isolated.records)]


def terminal(result: Result) -> list[str]:
    """What the terminal showed, without times, addresses and the header's own line."""
    lines = neutral(_SECONDS.sub("#s", result.stdout)).split("\n")
    # A bar is as long as what stands in it leaves it.
    bars = (line.strip("=") if "#s" in line else line for line in lines)
    return [line for line in bars if not line.startswith("nsisolate:")]
