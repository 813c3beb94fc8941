# SPDX-License-Identifier: MIT
"""The options and ini keys, read once into :class:`Settings`.

An option wins over its ini key. Every ini key works in the INI style and as native TOML
(``[tool.pytest]``, pytest 9), and every bad value is one :class:`pytest.UsageError` that
names the option or the key it came from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from math import isfinite
from tomllib import loads
from typing import Any, Literal, TypeAlias, cast

import pytest

from pytest_nsisolate.host.facts import processors
from pytest_nsisolate.integrations import debuggers
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel.namespaces import NAMESPACES
from pytest_nsisolate.kernel.originals import os
from pytest_nsisolate.request.files import FilesError, check_root
from pytest_nsisolate.request.grants import PowerError, read_caps
from pytest_nsisolate.request.limits import NAMES as LIMIT_NAMES
from pytest_nsisolate.request.limits import NO_LIMITS, LimitError, Limits, parse
from pytest_nsisolate.request.wording import DOCS, suggestion

Mode: TypeAlias = Literal["marked", "all", "none"]
Missing: TypeAlias = Literal["fail", "skip"]
Postmortem: TypeAlias = Literal["marked", "all", "none"]
Leftovers: TypeAlias = Literal["ignore", "warn", "fail"]
Pcap: TypeAlias = Literal["failed", "all", "none"]

MODES = ("marked", "all", "none")
MISSING = ("fail", "skip")
LEFTOVERS = ("ignore", "warn", "fail")
PCAP = ("failed", "all", "none")
#: Without ``time``: its offsets are a test's own choice, and it is no part of the default.
DEFAULT_NAMESPACES = frozenset(NAMESPACES) - {"time"}


_NAMES = ", ".join(NAMESPACES)
_LIMITS = ", ".join(LIMIT_NAMES)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line and the configuration file say about isolation.

    :param mode: which tests are isolated (``--nsisolate``).
    :param unsafe: with mode ``"none"``, marked tests run in the runner.
    :param namespaces: the default set, as named: nothing implied is added.
    :param missing: what becomes of a test whose namespaces this host refuses.
    :param timeout: default budget of one attempt in seconds, or None.
    :param init: marked tests run under an init unless their marker says otherwise.
    :param postmortem: in the reports of which failed tests the view of PID 1 is shown.
    :param leftovers: what becomes of a test that leaves processes, unless its marker says; None:
        a warning for a marked test, nothing for an unmarked one.
    :param limits: those of every isolated test, unless its marker says otherwise.
    :param caps: the capabilities that every isolated test keeps, unless its marker says otherwise;
        None for all.
    :param root: that of every isolated test, unless its marker says otherwise; None: the host's.
    :param keep_root: what a failed test has written to a root of its own is kept.
    :param rootdir: from where a marker's relative paths are seen.
    :param pcap: of which tests with a testbed the packets are kept as a file.
    :param jobs: how many isolated tests run at the same time; see :func:`jobs_now`.
    :param pause: a failed test is held open until you have looked inside.
    """

    mode: Mode = "marked"
    unsafe: bool = False
    namespaces: frozenset[str] = DEFAULT_NAMESPACES
    missing: Missing = "fail"
    timeout: float | None = None
    init: bool = False
    postmortem: Postmortem = "marked"
    pause: bool = False
    jobs: int = 1
    leftovers: Leftovers | None = None
    limits: Limits = NO_LIMITS
    caps: frozenset[str] | None = None
    root: str | None = None
    keep_root: bool = False
    rootdir: str = field(default="", compare=False)
    pcap: Pcap = "failed"


def add_options(parser: pytest.Parser) -> None:
    """Register every option and ini key (hook ``pytest_addoption``).

    The options have no defaults of their own, so that None means "not given" and the ini
    key decides.
    """
    group = parser.getgroup("nsisolate", f"Linux namespace isolation (see {DOCS})")
    which = "which tests are isolated: marked (default), all, or none (marked tests are skipped)"
    group.addoption("--nsisolate", choices=MODES, help=which)
    group.addoption(
        "--nsisolate-unsafe",
        action="store_true",
        help="with --nsisolate=none: run the marked tests in the runner, on the host itself",
    )
    default = f"default set of the marker, a comma list of {_NAMES} (default: all but time)"
    group.addoption("--nsisolate-namespaces", metavar="LIST", help=default)
    missing = "a test whose namespaces this host refuses: fail (default) or skip"
    group.addoption("--nsisolate-missing", choices=MISSING, help=missing)
    budget = "budget of an isolated test: seconds for set-up, call and teardown (default: none)"
    group.addoption(
        "--nsisolate-timeout", metavar="SECONDS", help=f"{budget}; 'none' lifts an ini key's"
    )
    init = "marked tests run below an init, too (default: only those that are not marked)"
    group.addoption("--nsisolate-init", action="store_true", default=None, help=init)
    group.addoption(
        "--nsisolate-pause",
        action="store_true",
        help="hold a failed isolated test open, so that you can look inside; needs a terminal",
    )
    jobs = "how many isolated tests run at the same time: a number, or auto (default: 1)"
    group.addoption("--nsisolate-jobs", metavar="N", help=jobs)
    left = "an isolated test that leaves processes: ignore, warn (default where marked) or fail"
    group.addoption("--nsisolate-leftovers", choices=LEFTOVERS, help=left)
    bounds = (
        f"limits of isolated tests, a comma list of {_LIMITS}: memory=1G,cpu=10 (default: none)"
    )
    group.addoption(
        "--nsisolate-limits", metavar="LIST", help=f"{bounds}; 'none' lifts an ini key's"
    )
    kept = "capabilities that isolated tests keep, a comma list: chown,kill; or all (default), none"
    group.addoption(
        "--nsisolate-caps", metavar="LIST", help=f"{kept}; or all but those with a '-': -sys_admin"
    )
    root = (
        "the files of isolated tests: host (default), overlay (thrown away), readonly, or a folder,"
        " an archive or an image in place of them: ./box"
    )
    group.addoption("--nsisolate-root", metavar="ROOT", help=root)
    group.addoption(
        "--nsisolate-keep-root",
        action="store_true",
        help="keep what a failed test has written to its overlay, in the base temp",
    )
    shown = "failed tests whose report shows what PID 1 sees: marked (default), all or none"
    group.addoption("--nsisolate-postmortem", choices=MODES, help=shown)
    packets = "tests whose testbed's packets are written to a file: failed (default), all or none"
    group.addoption("--nsisolate-pcap", choices=PCAP, help=packets)
    group.addoption(
        "--nsisolate-stress",
        metavar="N|TIME",
        help="run the selected tests so often, or so long (30s, 10m), until one fails (default: "
        "once); @SEED behind it has the random numbers of a failure",
    )
    group.addoption(
        "--nsisolate-trace",
        metavar="FILE",
        help="write when what ran, for Perfetto and chrome://tracing (default: nothing)",
    )
    group.addoption(
        "--nsisolate-doctor",
        action="store_true",
        help="print what this host can do, why not, and the remedy; then exit",
    )
    for name, text, standard in (
        ("nsisolate", which, "marked"),
        ("nsisolate_missing", missing, "fail"),
        ("nsisolate_jobs", jobs, "1"),
        ("nsisolate_postmortem", shown, "marked"),
        ("nsisolate_leftovers", left, None),
        ("nsisolate_root", root, None),
        ("nsisolate_pcap", packets, "failed"),
    ):
        parser.addini(name, text, type="string", default=standard)
    parser.addini("nsisolate_namespaces", default, type="args", default=None)
    parser.addini("nsisolate_timeout", budget, type="float", default=None)
    parser.addini("nsisolate_init", init, type="bool", default=False)
    parser.addini("nsisolate_limits", bounds, type="args", default=None)
    parser.addini("nsisolate_caps", kept, type="args", default=None)


def read_settings(config: pytest.Config) -> Settings:
    """Read the options and ini keys; an option wins over its ini key.

    :raises pytest.UsageError: on a bad value; names the option or the ini key.
    """
    unsafe = bool(config.getoption("--nsisolate-unsafe"))
    mode = _choice(*_source(config, "--nsisolate"), MODES)
    if unsafe and mode != "none":
        raise pytest.UsageError("--nsisolate-unsafe has a meaning beside --nsisolate=none only")
    return Settings(
        mode=cast("Mode", mode),
        unsafe=unsafe,
        namespaces=_namespaces(*_source(config, "--nsisolate-namespaces")),
        missing=cast("Missing", _choice(*_source(config, "--nsisolate-missing"), MISSING)),
        timeout=_timeout(*_source(config, "--nsisolate-timeout")),
        init=bool(_source(config, "--nsisolate-init")[1]),
        pause=_pause(config),
        jobs=_jobs(*_source(config, "--nsisolate-jobs")),
        postmortem=cast("Postmortem", _choice(*_source(config, "--nsisolate-postmortem"), MODES)),
        leftovers=_leftovers(*_source(config, "--nsisolate-leftovers")),
        limits=_limits(*_source(config, "--nsisolate-limits")),
        caps=_caps(*_source(config, "--nsisolate-caps")),
        root=_root(*_source(config, "--nsisolate-root")),
        keep_root=bool(config.getoption("--nsisolate-keep-root")),
        rootdir=str(config.rootpath),
        pcap=cast("Pcap", _choice(*_source(config, "--nsisolate-pcap"), PCAP)),
    )


def _source(config: pytest.Config, option: str) -> tuple[str, Any]:
    """The value that counts and the name under which the user knows it."""
    given = config.getoption(option)
    if given is not None:
        return option, given
    key = option.removeprefix("--").replace("-", "_")
    try:
        return f"ini key {key}", config.getini(key)
    except (pytest.UsageError, TypeError, ValueError) as error:
        # pytest < 9.2 lets the bare TypeError or ValueError through.
        written = _written_in_toml(config, key) if key in _ALSO_TEXT else None
        if isinstance(written, str):
            return f"ini key {key}", [written]
        if isinstance(written, dict) and key == "nsisolate_limits":
            return f"ini key {key}", written
        raise pytest.UsageError(f"ini key {key}: {error}") from error


#: Keys of lists that native TOML may write as one text.
_ALSO_TEXT = ("nsisolate_namespaces", "nsisolate_limits", "nsisolate_caps")


def _written_in_toml(config: pytest.Config, key: str) -> object:
    """The raw value of a key in the native TOML table, None if there is none.

    No ini type before pytest 9.2 takes a string and a list of strings, and none at all takes
    both in native TOML; "pid,net" is what the option takes, so the key takes it too.
    """
    path = config.inipath
    if path is None or path.suffix != ".toml":
        return None
    tables = loads(path.read_text(encoding="utf-8"))
    if path.name == "pyproject.toml":
        tables = tables.get("tool", {})
    return cast("object", tables.get("pytest", {}).get(key))


def _choice(source: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise pytest.UsageError(f"{source}: {value!r} is not one of {', '.join(allowed)}")
    return value


def _pause(config: pytest.Config) -> bool:
    """Without a terminal a pause could not be ended, and the run would hang for ever."""
    if not config.getoption("--nsisolate-pause"):
        return False
    if getattr(config.option, "dist", "no") != "no" or hasattr(config, "workerinput"):
        raise pytest.UsageError(
            "--nsisolate-pause needs a terminal, which pytest-xdist's workers have not: "
            "run without -n, or with -n 0"
        )
    if not os.isatty(internals.standard_input(config)):
        raise pytest.UsageError(
            "--nsisolate-pause needs a terminal, at which you can end the pause; "
            "standard input is none"
        )
    return True


def _jobs(source: str, value: object) -> int:
    if value == "auto":
        return processors()
    text = str(value)
    if not (text.isascii() and text.isdecimal() and 1 <= len(text) <= 4 and int(text)):
        raise pytest.UsageError(f"{source}: {value!r} is not a number from 1 to 9999, nor auto")
    return int(text)


@dataclass(frozen=True, slots=True)
class JobsNow:
    """How many isolated tests run at the same time.

    :param because: of which option it is one, whatever was asked for; None if it is not.
    """

    count: int
    because: str | None


def jobs_now(config: pytest.Config, settings: Settings) -> JobsNow:
    """The jobs of this run: one where tests write to the terminal, or ask for it, as they run."""
    if settings.jobs == 1:
        return JobsNow(1, None)
    because = "--nsisolate-pause" if settings.pause else internals.live_option(config)
    if because is None and debuggers.is_active():
        because = "a debugger"
    return JobsNow(settings.jobs if because is None else 1, because)


def _leftovers(source: str, value: str | None) -> Leftovers | None:
    return None if value is None else cast("Leftovers", _choice(source, value, LEFTOVERS))


def _limits(source: str, value: object) -> Limits:
    try:
        return NO_LIMITS if value is None else parse(value)
    except LimitError as error:
        raise pytest.UsageError(f"{source}: {error}") from None


def _caps(source: str, value: str | list[str] | None) -> frozenset[str] | None:
    try:
        return None if value is None else read_caps(value)
    except PowerError as error:
        raise pytest.UsageError(f"{source}: {error}") from None


def _root(source: str, value: str | None) -> str | None:
    try:
        return check_root(value)
    except FilesError as error:
        raise pytest.UsageError(f"{source}: {error}") from None


def _namespaces(source: str, value: str | list[str] | None) -> frozenset[str]:
    if value is None:
        return DEFAULT_NAMESPACES
    text = value if isinstance(value, str) else " ".join(value)
    names = text.replace(",", " ").split()
    for name in names:
        if name not in NAMESPACES:
            guess = suggestion(name, NAMESPACES)
            raise pytest.UsageError(f"{source}: unknown namespace {name!r}, {guess}")
    if not names:
        raise pytest.UsageError(f"{source}: names no namespace")
    return frozenset(names)


def _timeout(source: str, value: str | float | None) -> float | None:
    if value is None or value == "none":
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        seconds = math.nan
    if not (isfinite(seconds) and seconds > 0):
        raise pytest.UsageError(f"{source}: {value!r} is not a finite number of seconds above 0")
    return seconds
