# SPDX-License-Identifier: MIT
"""What a run of pytest needs of its machine while a test is elsewhere: paths, descriptors."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest

from pytest_nsisolate.integrations import pytest as internals
from pytest_nsisolate.kernel.originals import os
from pytest_nsisolate.process.launcher import Launcher


def make_launcher(config: pytest.Config) -> Launcher:
    """The launcher of a process that runs tests."""
    return Launcher(PathsInUse(config), lambda: _execnet_descriptors(config))


class PathsInUse:
    """What the test, the runner or another plugin needs, wherever it lies."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def mark(self) -> tuple[object, ...]:
        """The current directory, the base temp and the import path."""
        from pytest_nsisolate.process.plan import current_directory  # not for a run without tests

        return current_directory(), internals.base_temp(self._config), *sys.path

    def paths(self) -> Iterator[str]:
        """Where the suite, Python and its packages are, and what the runner is going to write."""
        from pytest_nsisolate.process.plan import current_directory

        config = self._config
        yield str(config.rootpath)
        yield current_directory()
        yield sys.prefix
        yield sys.base_prefix
        yield from (path for path in sys.path if path)
        base = internals.base_temp(config)
        if base is not None:
            yield base
        yield from internals.files_in_use(config)
        # A data file directly in /dev/shm cannot keep that directory; the runner writes it anyway.
        data_file = os.path.join(current_directory(), os.environ.get("COVERAGE_FILE", "x"))
        data = os.path.dirname(os.path.normpath(data_file))
        if data != "/dev/shm":  # noqa: S108
            yield data

    def stays(self) -> tuple[str, ...]:
        """The base temp, which pytest has resolved: you may want to see later what a test wrote."""
        base = internals.base_temp(self._config)
        return () if base is None else (base,)

    def shown(self) -> Iterator[str]:
        """The suite, Python and its packages: what a test imports and reads as it runs."""
        from pytest_nsisolate.process import interpreter
        from pytest_nsisolate.process.plan import current_directory

        yield str(self._config.rootpath)
        yield current_directory()
        yield from sys.path
        yield from interpreter.folders()


def meet_fellows(config: pytest.Config, launcher: Launcher) -> None:
    """In a worker of pytest-xdist: what one worker makes is for all of them.

    Before the controller hears what was collected: no test of any worker has begun then.
    """
    worker = getattr(config, "workerinput", None)
    if worker is None or launcher.fellows is not None or worker["workercount"] == 1:
        return
    from pytest_nsisolate.process.fellows import Fellows

    own = worker["workerid"]
    names = (f"gw{number}" for number in range(worker["workercount"]))
    with suppress(OSError):  # then it makes its own
        launcher.fellows = Fellows(
            worker["testrunuid"], own, (name for name in names if name != own)
        )


def _execnet_descriptors(config: pytest.Config) -> tuple[int, ...]:
    """In a worker of pytest-xdist: the pipe to the controller, which a child must not write to."""
    for plugin in config.pluginmanager.get_plugins():
        channel = getattr(plugin, "channel", None)
        io = getattr(getattr(channel, "gateway", None), "_io", None)
        files = (getattr(io, "infile", None), getattr(io, "outfile", None))
        found = tuple(file.fileno() for file in files if file is not None)
        if found:
            return found
    return ()
