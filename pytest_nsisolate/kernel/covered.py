# SPDX-License-Identifier: MIT
"""What private mounts cover, and what of it is in use and has to be put back; in the runner."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Final

from pytest_nsisolate.kernel import devices
from pytest_nsisolate.kernel.originals import os

# What is covered, where it exists, for which namespace; by a tmpfs, but for mqueue.
_COVERED: Final = {"/dev/shm": "ipc", "/dev/mqueue": "ipc", "/run/netns": "net"}  # noqa: S108
DEV: Final = "/dev"


def covers(own: frozenset[str], *, own_dev: bool) -> tuple[str, ...]:
    """Real paths that will be covered, of those that are there.

    :param own: the kinds of namespace that the child has for itself.
    :param own_dev: it also has a ``/dev`` of its own.
    """
    wanted = [path for path, namespace in _COVERED.items() if namespace in own]
    if own_dev:
        wanted.append(DEV)  # last: what lies deeper in it is looked for first
    return tuple(os.path.realpath(path) for path in wanted if os.path.isdir(path))


def _in_covered(covers: tuple[str, ...], in_use: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Only what a cover hides: all that was below ``/proc`` and ``/sys`` is there again."""
    for path in in_use:
        real = _real(path)
        for cover in covers:
            if real == cover or real.startswith(f"{cover}/"):
                yield real, cover
                break


def holds_current_directory(covers: tuple[str, ...]) -> bool:
    """Whether the current directory lies in what will be covered; not if it has been removed."""
    try:
        here = os.getcwd()
    except FileNotFoundError:
        return False
    return any(_in_covered(covers, [here]))


def to_keep(covers: tuple[str, ...], in_use: Iterable[str]) -> Iterator[str]:
    """Real paths in use that a cover would hide, the outermost only."""
    yield from outermost(_hidden(covers, in_use))


def _hidden(covers: tuple[str, ...], in_use: Iterable[str]) -> Iterator[str]:
    for real, cover in _in_covered(covers, in_use):
        if cover == DEV and devices.provides(real):
            continue
        if real == cover:
            yield cover
            continue
        # What is not there yet will be made in the nearest directory that is.
        there = real
        while not os.path.lexists(there):
            there = os.path.dirname(there)
        if there != cover:
            yield there


@functools.lru_cache(maxsize=256)
def _real(path: str) -> str:
    # The same few for each test; 10 µs apiece.
    return os.path.realpath(path)


def outermost(paths: Iterable[str]) -> Iterator[str]:
    """Those that lie below no other."""
    last = None
    for path in sorted(set(paths), key=lambda path: path.split("/")):  # parents come first
        if last is None or not path.startswith(f"{last}/"):
            last = path
            yield path
