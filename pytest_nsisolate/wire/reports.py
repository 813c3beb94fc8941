# SPDX-License-Identifier: MIT
"""How the representation of a failure crosses.

Fact: what ``pytest_report_to_serializable`` makes of a failure names the innermost traceback
twice, and what pytest cannot take apart (a doctest's failure, a missing fixture) it turns into
plain text without colours, of which the short summary would repeat the first line.

Consequence: the second copy is left out, since pytest reads the chain; and of a representation
that can only show itself the child sends what it shows, in colours too where the terminal has them.

Nothing here trusts a child: a representation that cannot be shown is :class:`BrokenStream`.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import Any, Final, cast

import pytest

from pytest_nsisolate.errors import BrokenStream
from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel.originals import os
from pytest_nsisolate.wire import tagged_json

_NO_TRACEBACK: Final[dict[str, object]] = {"reprentries": [], "extraline": None, "style": "long"}


def pack(report: pytest.TestReport, data: dict[str, Any], config: pytest.Config) -> dict[str, Any]:
    """In the child: the parts of a frame that stand for one report.

    :param data: what ``pytest_report_to_serializable`` made of it; changed in place.
    """
    told, sent = report.longrepr, data.get("longrepr")
    if sent is None or type(sent) is tuple:
        return {"report": data}
    if issubclass(type(told), str):
        data["longrepr"] = str.__str__(told)
        return {"report": data}
    if isinstance(sent, dict) and "reprtraceback" in sent:
        if sent.get("chain"):
            sent["reprtraceback"] = _NO_TRACEBACK
        return {"report": data}
    if type(sent) is str:
        return {"report": data, "shown": internals.rendered(config, told)}
    text = tagged_json.opaque(told).text  # anything that an item's repr_failure has returned
    data["longrepr"] = text
    return {"report": data, "shown": (f"{text}\n", f"{text}\n")}


def harmless(report: pytest.TestReport) -> pytest.TestReport:
    """A copy in which what cannot be looked at stands by its name, ``str`` and ``repr``."""
    twin = copy(report)
    for name, value in vars(report).items():
        try:
            isinstance(value, os.PathLike)  # as pytest asks of each attribute
        except Exception:
            vars(twin)[name] = tagged_json.opaque(value)
    return twin


def unpack(report: pytest.TestReport, shown: object) -> None:
    """In the runner: put the representation back, and make sure that it can be shown."""
    if shown is not None:
        texts = (report.longrepr, *(shown if isinstance(shown, tuple) else ()))
        if [type(text) for text in texts] != [str, str, str]:
            raise BrokenStream("a representation of the wrong shape")
        report.longrepr = cast("Any", _Shown(*cast("tuple[str, str, str]", texts)))
    found: Any = report.longrepr
    if isinstance(found, tuple):
        if len(found) != 3 or not (found[1] is None or type(found[1]) is int):
            raise BrokenStream("a skip of the wrong shape")
        place: Any = (tagged_json.text_of(found[0]), found[1], tagged_json.text_of(found[2]))
        report.longrepr = place
    elif found is not None and type(found) not in (str, _Shown) and not _is_sound(found):
        try:
            str(found)
        except Exception as error:  # its parts may be anything
            raise BrokenStream(f"a representation that cannot be shown ({error!r})") from error


def _is_sound(found: Any) -> bool:
    """Whether all that will be shown is text, by its types: to show it could take long."""
    try:
        links = getattr(found, "chain", None) or [(found.reprtraceback, found.reprcrash, None)]
        return _are_texts(part for section in found.sections for part in section) and all(
            _is_place(crash)
            and _are_texts(text for text in (joint, traceback.extraline) if text is not None)
            and all(map(_is_entry, traceback.reprentries))
            for traceback, crash, joint in links
        )
    except Exception:  # it does not have the shape of a representation
        return False


def _is_entry(entry: Any) -> bool:
    args, local = getattr(entry, "reprfuncargs", None), getattr(entry, "reprlocals", None)
    return (
        _are_texts(entry.lines)
        and (local is None or _are_texts(local.lines))
        and (args is None or _are_texts(text for pair in args.args for text in pair))
        and _is_place(getattr(entry, "reprfileloc", None))
    )


def _is_place(place: Any) -> bool:
    return place is None or _are_texts((place.path, str(place.lineno), place.message))


def _are_texts(values: Iterable[object]) -> bool:
    return {str}.issuperset(map(type, values))


class _Shown:
    """What a representation that pytest cannot take apart has shown.

    :param text: its ``str``.
    """

    def __init__(self, text: str, plain: str, coloured: str) -> None:
        self._text = text
        self._plain = plain
        self._coloured = coloured

    def __str__(self) -> str:
        return self._text

    def toterminal(self, tw: Any) -> None:
        """As ``TerminalRepr`` of pytest."""
        tw.write(self._coloured if tw.hasmarkup else self._plain)
