# SPDX-License-Identifier: MIT
"""Run a suite plain and isolated, and print every difference between the two.

    python tools/parity.py FOLDER
    python tools/parity.py FOLDER -- tests/unit -k parser -p no:randomly
    python tools/parity.py --command ".venv/bin/pytest" --allow parity.toml FOLDER
    python tools/parity.py --namespaces pid,net --plain-twice FOLDER
    python tools/parity.py --root overlay FOLDER

The suite runs once as it is and once with --nsisolate=all, in the same folder, with the same
arguments. A recording plugin notes what every plugin of the runner hears: each report with its
phase, outcome, text, captured output, properties and marks, each warning with its place, what the
summary line counts, and the exit code. Times, addresses and random names are not compared.

pytest-nsisolate has to be installed where the command's pytest is.
The exit code is 0 when nothing differs, 1 when something does (or when an entry of the allow-list
has become needless), 2 when the comparison could not be made.
"""

from __future__ import annotations

import argparse
import difflib
import shlex
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import parity_allow
from parity_compare import RUN, Difference, compare, tests
from parity_runs import BrokenRunError, Recording, Suite, isolating, record

SAME: Final = 0
DIFFERENT: Final = 1
UNUSABLE: Final = 2

#: Lines of one difference that are shown without --full.
_LINES: Final = 30


@dataclass(frozen=True)
class Check:
    """One comparison.

    :param namespaces: the set of the isolated run; None for the default one.
    :param root: likewise its files; None for the host's.
    :param entries: the allow-list.
    :param plain_twice: run plain a second time, and leave out what is unstable by itself.
    :param full: show whole texts.
    """

    suite: Suite
    namespaces: str | None = None
    root: str | None = None
    entries: Sequence[parity_allow.Entry] = ()
    plain_twice: bool = False
    full: bool = False

    def run(self) -> int:
        """Make the comparison, print it, and return the exit code.

        :raises BrokenRunError: when a run gives nothing to compare.
        """
        with tempfile.TemporaryDirectory(prefix="parity-", ignore_cleanup_errors=True) as folder:
            workplace = Path(folder) / "w"
            plain = _recorded(self.suite, "plain", workplace)
            again = _recorded(self.suite, "second plain", workplace) if self.plain_twice else None
            options = isolating(self.namespaces, self.root)
            isolated = _recorded(self.suite, "isolated", workplace, options)
        unstable = [] if again is None else _differences(plain, again)
        found, excused = _without(_differences(plain, isolated), unstable)
        open_, allowed = parity_allow.divide(found, self.entries)
        names = list(dict.fromkeys([*tests(plain.records), *tests(isolated.records)]))
        needless = parity_allow.stale(self.entries, [*found, *excused], names)
        open_ = _without_consequence(open_, [*excused, *(d for d, _ in allowed)])
        _print_list("unstable: plain runs do not agree with each other", _told(unstable))
        _print_list("allowed", [f"{d.nodeid} {d.field}: {e.reason}" for d, e in allowed])
        _print_list("needless entries of the allow-list", [f"{e.test}: {w}" for e, w in needless])
        _print_differences(open_, full=self.full)
        differing = len({difference.nodeid for difference in open_})
        print(f"\n{differing} of {len(names) + 1} differ ({len(names)} tests and the run itself)")
        return DIFFERENT if open_ or needless else SAME


# Runs --------------------------------------------------------------------------------------------


def _recorded(suite: Suite, name: str, workplace: Path, options: Sequence[str] = ()) -> Recording:
    found = record(suite, name, workplace, options)
    last = found.output.strip().rpartition("\n")[2].strip("= ")
    print(f"{name} run: exit code {found.exit}, {found.seconds:.1f} s: {last}", flush=True)
    return found


def _differences(plain: Recording, other: Recording) -> list[Difference]:
    found = compare(plain.records, other.records)
    if plain.exit != other.exit:
        found.append(Difference(RUN, "", "exit", plain.exit, other.exit))
    return found


def _without(
    found: Iterable[Difference], unstable: Iterable[Difference]
) -> tuple[list[Difference], list[Difference]]:
    """The stable differences, and the unstable ones: those in the same field of the same test."""
    known = {(difference.nodeid, difference.field) for difference in unstable}
    rest: tuple[list[Difference], list[Difference]] = ([], [])
    for difference in found:
        rest[(difference.nodeid, difference.field) in known].append(difference)
    return rest


def _without_consequence(
    found: list[Difference], excused: Iterable[Difference]
) -> list[Difference]:
    """Where one test may pass or fail, "some failed" or "none did" is no further difference."""
    if not any(difference.field in ("outcome", "report") for difference in excused):
        return found
    codes = {SAME, DIFFERENT}
    return [d for d in found if d.field != "exit" or {d.plain, d.isolated} != codes]


# Output ------------------------------------------------------------------------------------------


def _print_list(title: str, lines: Sequence[str]) -> None:
    if lines:
        print(f"\n{title}:")
        for line in dict.fromkeys(lines):
            print(f"  {line}")


def _told(differences: Iterable[Difference]) -> list[str]:
    return [f"{difference.nodeid or 'the run'} {difference.field}" for difference in differences]


def _print_differences(differences: Sequence[Difference], *, full: bool) -> None:
    by_test: dict[str, list[Difference]] = {}
    for difference in differences:
        by_test.setdefault(difference.nodeid, []).append(difference)
    for nodeid, found in by_test.items():
        print(f"\n{nodeid or 'the run as a whole'}")
        for difference in found:
            print(f"  {difference.place}: {difference.field}".replace(" : ", " "))
            lines = _shown(difference)
            hidden = 0 if full else max(0, len(lines) - _LINES)
            for line in lines[: len(lines) - hidden]:
                print(f"    {line}")
            if hidden:
                print(f"    ... {hidden} more lines, with --full")


def _shown(difference: Difference) -> list[str]:
    before, after = _as_lines(difference.plain), _as_lines(difference.isolated)
    if len(before) <= 1 and len(after) <= 1:
        return [f"plain:    {''.join(before)}", f"isolated: {''.join(after)}"]
    return list(difflib.unified_diff(before, after, "plain", "isolated", lineterm=""))


def _as_lines(value: Any) -> list[str]:
    """As you would read it: sections with their titles, texts line by line."""
    if value is None:
        return ["(nothing)"]
    if isinstance(value, str):
        return [_visible(line) for line in value.split("\n")]
    if isinstance(value, list):
        return [line for part in value for line in _as_item(part)]
    return [repr(value)]


def _as_item(part: Any) -> list[str]:
    match part:
        case [str(title), str(text)]:  # a section; a user property as well
            return [f"[{title}]", *_as_lines(text)]
        case str():
            return _as_lines(part)
        case _:
            return [repr(part)]


def _visible(line: str) -> str:
    """Without what a terminal, or an encoding, would choke on."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in line
    )


# Command line ------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="parity.py",
        usage="parity.py [option ...] FOLDER [-- PYTEST_ARGUMENT ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where pytest is started")
    parser.add_argument(
        "--command",
        metavar="COMMAND",
        help="what starts pytest there, as a shell would read it (default: this Python -m pytest)",
    )
    parser.add_argument(
        "--namespaces", metavar="LIST", help="as --nsisolate-namespaces (default: all of them)"
    )
    parser.add_argument(
        "--root", metavar="ROOT", help="as --nsisolate-root, such as overlay (default: the host's)"
    )
    parser.add_argument(
        "--allow", type=Path, metavar="FILE", help="TOML file of differences that are right"
    )
    parser.add_argument(
        "--plain-twice",
        action="store_true",
        help="run plain a second time; what differs there is listed as unstable and not counted",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=1800,
        metavar="SECONDS",
        help="for each run (default: %(default)g)",
    )
    parser.add_argument("--full", action="store_true", help="show long differences whole")
    return parser


def _read(argv: Sequence[str]) -> Check:
    """The command line; pytest's arguments are what follows the first ``--``."""
    at = argv.index("--") if "--" in argv else len(argv)
    parser = _parser()
    given = parser.parse_args(argv[:at])
    if not given.folder.is_dir():
        parser.error(f"{given.folder} is no folder")
    try:
        command = shlex.split(given.command) if given.command else [sys.executable, "-m", "pytest"]
    except ValueError as error:
        parser.error(f"--command: {error}")
    if not command:
        parser.error("--command names no command")
    if "/" in command[0]:
        command[0] = str(Path(command[0]).absolute())
    try:
        entries = parity_allow.read(given.allow) if given.allow else []
    except parity_allow.AllowListError as error:
        parser.error(str(error))
    suite = Suite(given.folder, tuple(command), tuple(argv[at + 1 :]), timeout=given.timeout)
    return Check(suite, given.namespaces, given.root, entries, given.plain_twice, given.full)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line tool; returns its exit code."""
    check = _read(sys.argv[1:] if argv is None else argv)
    try:
        return check.run()
    except BrokenRunError as error:
        print(f"parity.py: {error}", file=sys.stderr)
        return UNUSABLE


if __name__ == "__main__":
    sys.exit(main())
