# SPDX-License-Identifier: MIT
"""Tests that leave something for the end of their process; what has become of it, they tell last.

What this module has registered, opened and started itself belongs to the runner.
"""

from __future__ import annotations

import atexit
import gc
import gzip
import logging
import logging.handlers
import os
import shelve
import subprocess
import sys
import tempfile
import threading
import weakref
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
KEPT: list[object] = []


def note(text: str) -> None:
    with open(HERE / "notes", "a", encoding="ascii") as file:
        file.write(f"{text}\n")


class Thing:
    pass


# The runner's own, which a child would write, remove or end a second time.
atexit.register(note, "runner: atexit")
RUNNERS_THING = Thing()
weakref.finalize(RUNNERS_THING, note, "runner: finalizer")
RUNNERS_LOG = logging.handlers.MemoryHandler(100, target=logging.FileHandler(HERE / "runner.log"))
logging.getLogger("runner").addHandler(RUNNERS_LOG)
logging.getLogger("runner").warning("once")
RUNNERS_FILE = open(HERE / "runner.txt", "w", encoding="ascii")  # noqa: SIM115 (that is the point)
RUNNERS_FILE.write("once")
RUNNERS_FOLDER = tempfile.TemporaryDirectory(dir=HERE, prefix="runner-")
threading._register_atexit(note, "runner: threads")  # type: ignore[attr-defined]

isolated = pytest.mark.isolated


def leave_everything(name: str) -> None:
    folder = HERE / name
    folder.mkdir()
    atexit.register(note, f"{name}: atexit, last")
    atexit.register(note, f"{name}: atexit, first")
    thing = Thing()
    weakref.finalize(thing, note, f"{name}: finalizer")
    KEPT.append(thing)
    KEPT.append(tempfile.TemporaryDirectory(dir=folder))
    KEPT.append(tempfile.NamedTemporaryFile(dir=folder))  # noqa: SIM115 (it is left open)
    for kind, data in (("w", "text"), ("wb", b"bytes"), ("w+b", b"both")):
        file: Any = open(folder / f"file-{kind}", kind)  # noqa: SIM115
        file.write(data)
        KEPT.append(file)
    zipped = gzip.open(folder / "file.gz", "wb")  # noqa: SIM115
    zipped.write(b"zipped")
    archive = zipfile.ZipFile(folder / "file.zip", "w")
    archive.writestr("member", "text")
    shelf = shelve.open(str(folder / "shelf"))  # noqa: SIM115
    shelf["key"] = "value"
    KEPT.extend((zipped, archive, shelf))
    target = logging.FileHandler(folder / "log")
    logging.getLogger(name).addHandler(logging.handlers.MemoryHandler(100, target=target))
    logging.getLogger(name).warning("buffered")
    threading.Thread(target=_late, args=(f"{name}: thread",)).start()
    pool = ThreadPoolExecutor()
    KEPT.append(pool)
    pool.submit(_late, f"{name}: pool")
    threading._register_atexit(note, f"{name}: threads")  # type: ignore[attr-defined]


def _late(text: str) -> None:
    threading.Event().wait(0.2)
    note(text)


@isolated
def test_everything() -> None:
    leave_everything("everything")


@isolated
def test_everything_after_a_look_at_all_objects() -> None:
    """Which thaws what is inherited; the runner's file is not written all the same."""
    assert any(found is RUNNERS_FILE for found in gc.get_objects())
    leave_everything("thawed")


def test_call(isolate: Any) -> None:
    isolate.using(pid=True)(leave_everything, "call")


@isolated
def test_a_copy_comes_back_from_a_handler() -> None:
    atexit.register(note, "copy: the other handler")
    atexit.register(_fork)


def _fork() -> None:
    if pid := os.fork():
        note(f"copy: status {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")


def _is_due(request: pytest.FixtureRequest) -> bool:
    from pytest_nsisolate.runner.run import RUN

    child = request.config.stash[RUN].in_child
    assert child is not None
    return child._ending.is_due


@isolated
def test_nothing_is_left(
    request: pytest.FixtureRequest, tmp_path: Path, capfd: Any, monkeypatch: Any
) -> None:
    """The control: whatever has ended by itself costs nothing at the end."""
    with tempfile.TemporaryDirectory(), open(tmp_path / "file", "w") as file:
        file.write("text")
    subprocess.run(["true"], check=True)
    sys.stdout.write("text")
    thread = threading.Thread(target=len, args=("",))
    thread.start()
    thread.join()
    with ThreadPoolExecutor() as pool:
        pool.submit(len, "")
    logging.getLogger().warning("text")
    monkeypatch.setenv("NAME", "value")
    capfd.readouterr()
    capfd.close()
    assert not _is_due(request)


@isolated
@pytest.mark.parametrize("what", ["handler", "thread", "finalizer", "file"])
def test_something_is_left(request: pytest.FixtureRequest, tmp_path: Path, what: str) -> None:
    assert not _is_due(request)
    ended = threading.Event()
    if what == "handler":
        atexit.register(len, "")
    elif what == "thread":
        threading.Thread(target=ended.wait).start()
    elif what == "finalizer":
        weakref.finalize(_is_due, len, "")
    else:
        KEPT.append(open(tmp_path / "file", "w"))  # noqa: SIM115
    assert _is_due(request)
    ended.set()
