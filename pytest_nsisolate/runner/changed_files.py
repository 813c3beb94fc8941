# SPDX-License-Identifier: MIT
"""What a failed test has changed among its files, for its report; read in the runner.

A test that has crashed or was killed cannot tell any more. The runner can: it has the host's files
beside those of the test (:mod:`pytest_nsisolate.view.files`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pytest

from pytest_nsisolate.process.child_process import ChildProcess

#: Lines in a report; the rest is counted.
_MOST: Final = 12


@dataclass(frozen=True, slots=True)
class Keeping:
    """Where the files of a failed test are kept (``--nsisolate-keep-root``).

    :param base: the base temp.
    """

    base: str
    nodeid: str


def told_with(view: object, child: ChildProcess, keeping: Keeping | None) -> object:
    """The view that a child has sent, with its files below.

    :param view: anything but a text is nothing.
    """
    said = _said(child, keeping)
    if not said:
        return view
    return f"{view}\n{said}" if isinstance(view, str) and view else said


def attach(report: pytest.TestReport, child: ChildProcess, keeping: Keeping | None) -> None:
    """Add them to the report of a child that has told nothing itself."""
    from pytest_nsisolate.view.postmortem import section

    if said := _said(child, keeping):
        section.attach(report, said, [])


def _said(child: ChildProcess, keeping: Keeping | None) -> str:
    """Empty without a root of its own, or if nothing was changed."""
    written = None if child.root is None else child.root.written()
    if written is None:
        return ""
    from pytest_nsisolate.view import files

    try:
        found = files.read_files(written)
    except Exception as error:  # whatever the test has made there
        return f"files: could not be read ({type(error).__name__}: {error})"
    if not found:
        return ""
    told = ["files changed by the test:", *(f"  {x}" for x in files.lines(found, _MOST))]
    if keeping is not None:
        from pytest_nsisolate.runner import kept_files

        try:
            folder = kept_files.keep(found, written, keeping.base, keeping.nodeid)
        except OSError as error:
            told.append(f"they could not be kept ({error})")
        else:
            told.append(f"they are kept in {folder}")
    return "\n".join(told)
