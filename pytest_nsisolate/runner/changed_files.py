# SPDX-License-Identifier: MIT
"""What a failed test has changed among its files, for its report; read in the runner.

A test that has crashed or was killed has nobody left who could tell, and the runner has the host's
files beside those of the test (:mod:`pytest_nsisolate.view.files`).
"""

from __future__ import annotations

from typing import Final

import pytest

from pytest_nsisolate.process.child_process import ChildProcess

#: Lines in a report; the rest is counted.
_MOST: Final = 12


def told_with(view: object, child: ChildProcess) -> object:
    """The view that a child has sent, with its files below.

    :param view: anything but a text is nothing.
    """
    said = _said(child)
    if not said:
        return view
    return f"{view}\n{said}" if isinstance(view, str) and view else said


def attach(report: pytest.TestReport, child: ChildProcess) -> None:
    """Add them to the report of a child that could not tell anything itself."""
    from pytest_nsisolate.view.postmortem import section

    if said := _said(child):
        section.attach(report, said, [])


def _said(child: ChildProcess) -> str:
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
    return "\n".join(["files changed by the test:", *(f"  {x}" for x in files.lines(found, _MOST))])
