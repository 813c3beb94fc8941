# SPDX-License-Identifier: MIT
"""One recorded run of a suite, in surroundings that are the same for each of its runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

TOOLS: Final = Path(__file__).resolve().parent

#: Exit codes after which nothing has been tested, and what they mean.
_NOTHING: Final = {4: "pytest was used wrongly", 5: "no test was collected"}
_TAIL: Final = 40


class BrokenRunError(Exception):
    """A run that cannot be compared; the text says why, and shows the end of its output."""


@dataclass(frozen=True)
class Suite:
    """What is run.

    :param folder: where the command is started.
    :param command: what starts pytest, without arguments.
    :param arguments: pytest's, the same in each run.
    :param environment: variables added to this process's own.
    :param timeout: seconds for each run.
    """

    folder: Path
    command: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 1800


@dataclass(frozen=True)
class Recording:
    """What a run left behind.

    :param records: one per hook call, see ``parity_recording.py``.
    """

    exit: int
    records: list[dict[str, Any]] = field(repr=False)
    output: str = field(repr=False)
    seconds: float


def isolating(namespaces: str | None, root: str | None) -> tuple[str, ...]:
    """The options that make a run the isolated one."""
    chosen = {"namespaces": namespaces, "root": root}
    options = (f"--nsisolate-{name}={value}" for name, value in chosen.items() if value is not None)
    return ("-p", "nsisolate", "--nsisolate=all", *options)


def record(suite: Suite, name: str, workplace: Path, options: Sequence[str] = ()) -> Recording:
    """Run the suite once.

    :param name: of this run, for messages.
    :param workplace: a directory for what is made on the way; the same for each run, and emptied.
    :param options: what makes this run the isolated one; none for a plain one.
    :raises BrokenRunError: when there is nothing to compare.
    """
    recording = _emptied(workplace) / "recording"
    # The suite's arguments after what they may overrule, and before what they may not.
    command = [*suite.command, "-p", "parity_recording", *_same(suite, workplace)]
    started = time.monotonic()
    try:
        done = subprocess.run(
            [*command, *suite.arguments, *options],
            cwd=suite.folder,
            env=_environment(suite, workplace),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=suite.timeout,
            check=False,
        )
    except OSError as error:
        raise BrokenRunError(f"cannot run {suite.command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode("utf-8", "replace")
        late = f"the {name} run did not end within {suite.timeout:g} seconds"
        raise BrokenRunError(_with_tail(late, output)) from None
    seconds = time.monotonic() - started
    output = done.stdout.decode("utf-8", "replace")
    lines = recording.read_text("ascii").splitlines() if recording.exists() else []
    found = Recording(done.returncode, [json.loads(line) for line in lines], output, seconds)
    why = _broken(found, isolated=bool(options))
    if why:
        raise BrokenRunError(_with_tail(f"the {name} run broke: {why}", output))
    return found


def _same(suite: Suite, workplace: Path) -> list[str]:
    """Options that keep one run's traces from the next, and paths the same."""
    options = ["--basetemp", str(workplace / "temp")]
    if "no:cacheprovider" not in suite.arguments:
        options += ["-o", f"cache_dir={workplace / 'cache'}"]
    return options


def _environment(suite: Suite, workplace: Path) -> dict[str, str]:
    found = {
        # The order of sets of strings, thus of parameters and of what is printed.
        "PYTHONHASHSEED": "0",
        **os.environ,
        # Compiled anew in each run: a SyntaxWarning comes with the compilation only.
        "PYTHONPYCACHEPREFIX": str(workplace / "pycache"),
        **suite.environment,
        "RECORDING": str(workplace / "recording"),
    }
    # Last on the path, where it hides nothing.
    path = [*filter(None, [found.get("PYTHONPATH")]), str(TOOLS)]
    return {**found, "PYTHONPATH": os.pathsep.join(path)}


def _emptied(workplace: Path) -> Path:
    # What a test made unremovable, pytest gets rid of when it makes its base directory.
    shutil.rmtree(workplace, ignore_errors=True)
    workplace.mkdir(parents=True, exist_ok=True)
    return workplace


def _broken(found: Recording, *, isolated: bool) -> str | None:
    errors = [r["text"] for r in found.records if r["record"] == "internal error"]
    if errors:
        return f"pytest had an internal error\n{errors[0]}"
    if found.exit in _NOTHING:
        return f"exit code {found.exit}, {_NOTHING[found.exit]}"
    if not any(record["record"] == "end" for record in found.records):
        ended = f"signal {-found.exit}" if found.exit < 0 else f"exit code {found.exit}"
        return f"{ended}, and pytest did not come to its end (or the command is not pytest)"
    if not any(record["record"] == "report" for record in found.records):
        return f"exit code {found.exit}, and no test ran"
    mode = next(record["mode"] for record in found.records if record["record"] == "end")
    if isolated and mode != "all":
        return "it did not isolate; do the arguments or the configuration switch that off?"
    if not isolated and mode == "all":
        return "it isolates by itself, by the arguments or the configuration, and is not plain"
    return None


def _with_tail(why: str, output: str) -> str:
    """The message, and the end of the output."""
    lines = output.splitlines()[-_TAIL:]
    return "\n".join([why, *(f"    | {line}" for line in lines)])
