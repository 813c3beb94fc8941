# SPDX-License-Identifier: MIT
"""``ipc=True``: shared memory and message queues of the host are unseen, and those of the test
end with it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from examples.system.conftest import Shell

# For the whole file; the controls take themselves out of it.
pytestmark = pytest.mark.isolated(ipc=True)


@pytest.fixture(scope="module")
def segment(host: Shell) -> Iterator[str]:
    """The id of a System V shared memory segment on the host."""
    made = re.search(r"\d+$", host("ipcmk -M 4096"))
    assert made is not None
    yield made[0]
    host(f"ipcrm -m {made[0]}")


def segments(here: Shell) -> list[str]:
    return re.findall(r"^0x\w+ +(\d+)", here("ipcs -m"), re.MULTILINE)


def test_shared_memory_of_the_host_is_unseen(segment: str, here: Shell) -> None:
    """``ipcs`` lists no segment at all, until the test makes one."""
    assert segments(here) == []

    here("ipcmk -M 4096")  # nobody removes it; it ends with the test

    assert len(segments(here)) == 1


@pytest.mark.isolated(False)
def test_control_on_the_host_shared_memory_is_seen(segment: str, here: Shell) -> None:
    """The same ``ipcs`` in the runner lists the host's segment."""
    assert segment in segments(here)


def mq_open(name: str, flags: int) -> int:
    """mq_open(3), which Python does not have; returns a descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)
    opened = libc.mq_open(
        ctypes.c_char_p(name.encode()), ctypes.c_int(flags), ctypes.c_uint(0o600), None
    )
    if opened == -1:
        number = ctypes.get_errno()
        if number == errno.ENOSYS:
            pytest.skip("this kernel was built without POSIX message queues")
        raise OSError(number, os.strerror(number), name)
    return int(opened)


def mq_unlink(name: str) -> None:
    """mq_unlink(3)."""
    ctypes.CDLL(None).mq_unlink(ctypes.c_char_p(name.encode()))


@pytest.fixture(scope="module")
def queue() -> Iterator[str]:
    """The name of a POSIX message queue on the host."""
    name = f"/nsisolate-demo-{secrets.token_hex(4)}"
    os.close(mq_open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR))
    yield name
    mq_unlink(name)


def test_message_queues_of_the_host_are_unseen(queue: str) -> None:
    """There is no queue of that name here, so the test makes its own; it ends with the test."""
    with pytest.raises(FileNotFoundError):
        mq_open(queue, os.O_RDONLY)

    os.close(mq_open(queue, os.O_CREAT | os.O_EXCL | os.O_RDWR))


@pytest.mark.isolated(False)
def test_control_on_the_host_message_queues_are_seen(queue: str) -> None:
    """The same call in the runner opens it."""
    os.close(mq_open(queue, os.O_RDONLY))


@pytest.fixture(scope="module")
def shm_file() -> Iterator[Path]:
    """A file in the host's ``/dev/shm``, where shm_open(3) and semaphores live."""
    path = Path("/dev/shm") / f"nsisolate-demo-{secrets.token_hex(4)}"
    path.touch()
    yield path
    path.unlink()


def test_dev_shm_is_private(shm_file: Path) -> None:
    """``/dev/shm`` is a fresh one: the host's file is not there, the test's ends with it."""
    assert not shm_file.exists()

    shm_file.write_text("ours")


@pytest.mark.isolated(False)
def test_control_on_the_host_dev_shm_is_shared(shm_file: Path) -> None:
    """The same path in the runner is the host's file, and nothing was ever written to it."""
    assert shm_file.read_text() == ""
