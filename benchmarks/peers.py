# SPDX-License-Identifier: MIT
"""What plain pytest, the peers and this plugin do with the same small suites, as a table.

    python benchmarks/peers.py                 every row
    python benchmarks/peers.py --rows daemon -v    one row, with the commands and their output

The suites are in behaviours.py; the environments are those of overhead.py and some more, one for
each pytest version that a row asks for. The table is Markdown; wrong answers are set in bold.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from accounts import workplace
from behaviours import MARK, ROWS, Row
from contenders import DEFAULT_SET, FORKED, ISOLATE, ISOLATED, PLAIN, Contender
from environments import REPOSITORY, Environments, UnavailableError
from measure import TOKEN, Runner, survivors
from readings import Seen

if TYPE_CHECKING:
    from collections.abc import Sequence

COLUMNS = (PLAIN, FORKED, ISOLATE, ISOLATED, DEFAULT_SET)
LIMIT = 60.0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    keys = [row.key for row in ROWS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=keys, default=keys, metavar="ROW")
    parser.add_argument(
        "--only", nargs="+", choices=[c.key for c in COLUMNS], metavar="NAME", help="some columns"
    )
    parser.add_argument("--envs", type=Path, default=REPOSITORY / ".bench", metavar="DIR")
    parser.add_argument("--here", action="store_true", help="use the running environment for all")
    parser.add_argument("--python", default=sys.executable, help="base of the environments")
    parser.add_argument("--source", type=Path, default=REPOSITORY, help="this plugin's sources")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("-v", "--verbose", action="store_true")
    return parser.parse_args(argv)


def answer(row: Row, contender: Contender, options: argparse.Namespace) -> str:
    """One cell of the table."""
    if contender is PLAIN and not row.unmarked:
        return "-"
    if row.bare and contender.mark:
        contender = replace(contender, mark=contender.mark.partition("(")[0])
    root = None if options.here else options.envs.resolve()
    environments = Environments(
        root, options.python, row.pytest, options.source.resolve(), ("coverage",)
    )
    try:
        interpreter = environments.interpreter(contender)
    except UnavailableError as reason:
        return f"not run: {reason}"
    with workplace(None) as folder:
        runner = Runner(contender, interpreter, folder, None)
        for name, text in row.files.items():
            runner.provide(name, text.replace(MARK, contender.mark))
        seen = observe(row, runner, verbose=options.verbose)
        return row.read(seen)


def observe(row: Row, runner: Runner, *, verbose: bool) -> Seen:
    """Run the suite of a row; processes that it leaves are counted, then killed."""
    token = uuid.uuid4().hex
    probe = runner.folder / "probe.json"
    begin = time.monotonic()
    status: int | None
    try:
        done = runner.pytest(
            ["-p", "bench_probe", "-ra", *row.arguments],
            {"NSIBENCH_PROBE": str(probe), TOKEN: token},
            under=row.under,
            timeout=LIMIT,
        )
        status, output = done.returncode, done.stdout
        if verbose:
            print(f"$ {shlex.join(done.args)}\n{output}", file=sys.stderr)
    except subprocess.TimeoutExpired:
        status, output = None, ""
    seconds = time.monotonic() - begin
    left = list(survivors(token))
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    if "coverage" in row.under:
        report = [str(runner.interpreter.python), "-m", "coverage", "json", "-q"]
        subprocess.run(report, cwd=runner.folder, capture_output=True, check=False)
    told = json.loads(probe.read_text(encoding="utf-8")) if probe.is_file() else {}
    return Seen(status, seconds, len(left), runner.folder, output, **told)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, a row as soon as it is complete."""
    options = arguments(argv)
    columns = [c for c in COLUMNS if not options.only or c.key in options.only]
    print("| behaviour |" + "".join(f" {column.title} |" for column in columns))
    print("|---" * (len(columns) + 1) + "|", flush=True)
    table: dict[str, dict[str, str]] = {}
    for row in ROWS:
        if row.key not in options.rows:
            continue
        cells = {column.key: answer(row, column, options) for column in columns}
        print(f"| {row.title} | " + " | ".join(cells.values()) + " |", flush=True)
        table[row.key] = cells
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
