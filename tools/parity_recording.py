# SPDX-License-Identifier: MIT
"""A pytest plugin (``-p parity_recording``): writes down what every plugin of the runner hears.

One JSON line per hook call, in the order in which they came, to the file that the variable
``RECORDING`` names. It imports nothing but pytest and the standard library, because it is loaded
into other people's runs, isolated ones and plain ones.
"""

from __future__ import annotations

import os
import warnings
from _io import open  # the suite's own may be a stand-in
from json import JSONEncoder
from typing import Any, Final

import pytest

#: From this size on, only the size and both ends of a captured text or a repr are recorded.
LONG: Final = 4_000_000
LONG_REPR: Final = 10_000

_encode: Final = JSONEncoder().encode


def pytest_configure(config: pytest.Config) -> None:
    # With pytest-xdist the controller hears what all workers have said.
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Recorder(os.environ["RECORDING"]), "parity-recorder")


class _Recorder:
    def __init__(self, path: str) -> None:
        self._path = path

    def _write(self, record: dict[str, Any]) -> None:
        # Opened for each line: what a test does to descriptors does not reach it.
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(_encode(record) + "\n")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:
            self._write(
                {
                    "record": "collect",
                    "nodeid": str(report.nodeid),
                    "outcome": report.outcome,
                    "text": report.longreprtext,
                }
            )

    def pytest_internalerror(self, excrepr: object) -> None:
        self._write({"record": "internal error", "nodeid": "", "text": str(excrepr)})

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write({"record": "start", "nodeid": str(nodeid)})

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._write({"record": "finish", "nodeid": str(nodeid)})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        longrepr = report.longrepr
        self._write(
            {
                "record": "report",
                "type": type(report).__name__,
                "nodeid": str(report.nodeid),
                "when": report.when,
                "outcome": report.outcome,
                "wasxfail": _text(getattr(report, "wasxfail", None)),
                "skip": repr(longrepr) if isinstance(longrepr, tuple) else None,
                "text": report.longreprtext,
                "longrepr": type(longrepr).__name__,
                "sections": [(title, _short(text)) for title, text in report.sections],
                "properties": [_property(entry) for entry in report.user_properties],
                "location": report.location,
                "keywords": sorted(report.keywords),
                "context": repr(getattr(report, "context", None)),
                "duration": report.duration,
                "worker": getattr(report, "worker_id", None),
            }
        )

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: object
    ) -> None:
        self._write(
            {
                "record": "warning",
                "category": warning_message.category.__name__,
                "text": str(warning_message.message),
                "filename": warning_message.filename,
                "lineno": warning_message.lineno,
                "when": when,
                "nodeid": str(nodeid),
                "location": location,
            }
        )

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """What the last line counts, entry by entry; that it is there says that pytest ended."""
        reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
        stats = {} if reporter is None else reporter.stats
        counted = [
            (category, str(getattr(entry, "nodeid", None) or ""))
            for category, entries in stats.items()
            for entry in entries
            if category
        ]
        mode = _mode(config)
        self._write({"record": "end", "nodeid": "", "counted": counted, "mode": mode})


def _mode(config: pytest.Config) -> str | None:
    """Which tests the plugin isolates; None where it is not loaded, or no longer."""
    if not config.pluginmanager.hasplugin("nsisolate"):
        return None
    return str(config.getoption("--nsisolate") or config.getini("nsisolate"))


def _text(value: object) -> str | None:
    return value if value is None or type(value) is str else _repr(value)


def _property(entry: object) -> str | list[str]:
    return [_repr(part) for part in entry] if type(entry) is tuple else _repr(entry)


def _repr(value: object) -> str:
    """The repr, or why there is none, whatever the object does."""
    try:
        return _short(repr(value), LONG_REPR)
    except BaseException as error:
        return f"<repr() raised {type(error).__qualname__}>"


def _short(text: str, limit: int = LONG) -> str:
    if len(text) < limit:
        return text
    return f"{len(text)} characters, {text[:100]} ... {text[-100:]}"
