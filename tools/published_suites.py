# SPDX-License-Identifier: MIT
"""The suites of published packages, run plain and isolated: nothing may differ.

    python tools/published_suites.py
    python tools/published_suites.py --into DIR pluggy
    python tools/published_suites.py --root overlay

For each package pip downloads two things into DIR: the source distribution, for its tests, and the
package of the same version, which is put on PYTHONPATH for the run and installed nowhere. What is
there already is not downloaded again. The comparison is that of tools/parity.py, with this Python's
pytest and with no other plugin loaded than this project's.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import parity
from parity_runs import BrokenRunError, Suite

#: Held to a version, so that a failure here is ours. None needs more than pytest for its tests.
PACKAGES: Final = {"pluggy": "1.7.0", "iniconfig": "2.3.1", "markupsafe": "3.0.4"}

_ENVIRONMENT: Final = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}


class FetchError(Exception):
    """pip could not get a package; the text holds what it said."""


def fetch(name: str, version: str, into: Path) -> tuple[Path, Path]:
    """The unpacked source distribution, and a directory with the installed package.

    :raises FetchError: when pip fails.
    """
    home = into / f"{name}-{version}"
    if not home.is_dir():
        into.mkdir(parents=True, exist_ok=True)
        # Renamed when it is complete: what was broken off half-way is not taken for a download.
        with tempfile.TemporaryDirectory(dir=into) as folder:
            made = Path(folder) / "made"
            _fetch(name, version, made)
            shutil.move(made, home)
    (source,) = (home / "source").iterdir()
    return source, home / "installed"


def _fetch(name: str, version: str, made: Path) -> None:
    required = f"{name}=={version}"
    # --no-binary for this package alone: what it takes to read its metadata may be wheels.
    _pip("download", "--no-deps", "--no-binary", name, "--dest", str(made), required)
    (archive,) = made.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        # Python 3.11 has the filter from 3.11.4 on; pip has read the same archive just now.
        opened.extraction_filter = getattr(tarfile, "data_filter", None)
        opened.extractall(made / "source")  # noqa: S202
    archive.unlink()
    _pip("install", "--no-deps", "--target", str(made / "installed"), required)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise FetchError(f"pip {' '.join(arguments)} failed:\n{done.stdout.rstrip()}")


def check(name: str, into: Path, root: str | None) -> int:
    """Compare one package's suite; the exit code of ``parity.py``."""
    print(f"\n{name} {PACKAGES[name]}", flush=True)
    try:
        source, installed = fetch(name, PACKAGES[name], into)
        environment = _ENVIRONMENT | {"PYTHONPATH": str(installed)}
        suite = Suite(source, (sys.executable, "-m", "pytest"), environment=environment)
        return parity.Check(suite, root=root).run()
    except FetchError as error:
        print(f"{error}\nIt needs a connection to pip's index (pip help config).", file=sys.stderr)
    except BrokenRunError as error:
        print(error, file=sys.stderr)
    return parity.UNUSABLE


def main(argv: Sequence[str] | None = None) -> int:
    """The command line tool; returns the worst exit code of the suites."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="PACKAGE", help=f"of {', '.join(PACKAGES)}")
    parser.add_argument(
        "--into",
        type=Path,
        default=Path(sys.prefix) / "published-suites",
        metavar="DIR",
        help="where the downloads are kept (default: %(default)s)",
    )
    parser.add_argument("--root", metavar="ROOT", help="as that of parity.py")
    given = parser.parse_args(argv)
    unknown = sorted(set(given.names) - set(PACKAGES))
    if unknown:
        parser.error(f"{unknown[0]} is none of {', '.join(PACKAGES)}")
    into = given.into.absolute()
    return max(check(name, into, given.root) for name in given.names or PACKAGES)


if __name__ == "__main__":
    sys.exit(main())
