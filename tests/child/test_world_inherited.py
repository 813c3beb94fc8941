# SPDX-License-Identifier: MIT
"""What an isolated test inherits unchanged, and what must not be the same on both sides.

The class fixtures change the runner, so that "as the runner's" means something; they put it back.
Run as root and, by ``test_world_rootless.py``, as an ordinary user.
"""

from __future__ import annotations

import os
import resource
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import pytest

from tests.support import NEEDS_NAMESPACES, ON_THE_HOST

pytestmark = NEEDS_NAMESPACES

LIMITS: Final = tuple(
    getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")
)

EVERY_WAY: Final = [
    pytest.param(marks=pytest.mark.isolated(), id="default"),
    pytest.param(marks=pytest.mark.isolated(init=True), id="init"),
    pytest.param(marks=pytest.mark.isolated(user="same"), id="same"),
    pytest.param(marks=pytest.mark.isolated(uts=True), id="uts"),
    pytest.param(marks=pytest.mark.isolated(False), id="plain"),
]


@dataclass(frozen=True)
class Surroundings:
    """What a process hands down."""

    cwd: str
    umask: int
    nice: int
    affinity: set[int]
    environment: dict[str, str]
    limits: list[tuple[int, int]]
    stdin: tuple[int, int, int]

    @classmethod
    def of_this_process(cls) -> Surroundings:
        umask = os.umask(0)
        os.umask(umask)
        stdin = os.stat(0)
        # PYTEST_CURRENT_TEST names the phase, which is not the same in a fixture and a test.
        environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
        return cls(
            cwd=os.getcwd(),
            umask=umask,
            nice=os.getpriority(os.PRIO_PROCESS, 0),
            affinity=os.sched_getaffinity(0),
            environment=environment,
            limits=[resource.getrlimit(number) for number in LIMITS],
            stdin=(stdin.st_dev, stdin.st_ino, stdin.st_rdev),
        )


@pytest.fixture(scope="class")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    """A runner with surroundings that nobody has by accident."""
    cwd, umask, affinity = os.getcwd(), os.umask(0o027), os.sched_getaffinity(0)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.chdir(tmp_path_factory.mktemp("somewhere"))
    os.sched_setaffinity(0, {max(affinity)})
    os.environ["NSI_TEST_INHERITED"] = "ä=\nb"
    resource.setrlimit(resource.RLIMIT_NOFILE, (files[0] - 7, files[1]))
    yield Surroundings.of_this_process()
    resource.setrlimit(resource.RLIMIT_NOFILE, files)
    del os.environ["NSI_TEST_INHERITED"]
    os.sched_setaffinity(0, affinity)
    os.umask(umask)
    os.chdir(cwd)


@pytest.mark.parametrize((), EVERY_WAY)
class TestSurroundings:
    def test_are_the_runners(self, changed: Surroundings) -> None:
        """Working directory, umask, nice, affinity, environment, limits, stdin: all inherited."""
        here = Surroundings.of_this_process()
        core = LIMITS.index(resource.RLIMIT_CORE)
        # The one exception: no core files, see below.
        for limits in (here.limits, changed.limits):
            limits[core] = (0, 0)
        assert here == changed
        assert os.environ["NSI_TEST_INHERITED"] == "ä=\nb"
        assert here.umask == 0o027

    def test_working_directory_can_be_used(self, changed: Surroundings) -> None:
        """Names relative to it lead where they did."""
        Path("made-relatively").write_text("x")
        assert Path(changed.cwd, "made-relatively").read_text() == "x"

    def test_sys_path_is_importable(self, changed: Surroundings) -> None:
        """A module that nobody has imported yet can be found."""
        for entry in filter(None, sys.path):
            assert os.path.exists(entry) or not entry.startswith("/dev/shm")


@pytest.fixture(scope="class")
def core_files_allowed() -> Iterator[None]:
    """A runner that may write core files, as far as it is allowed to."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


class TestCoreFiles:
    @pytest.mark.isolated
    def test_there_are_none(self, core_files_allowed: None) -> None:
        """A crash inside leaves no core file behind: 1 byte also keeps pipes from it (core(5))."""
        assert resource.getrlimit(resource.RLIMIT_CORE) in ((0, 0), (1, 1))

    @ON_THE_HOST
    def test_plain_test_has_the_runners_limit(self, core_files_allowed: None) -> None:
        """Control: unmarked, the limit is what the fixture made it."""
        soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
        assert soft == hard


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IO[str]]:
    """A file that the runner keeps open, as a log would be."""
    path = tmp_path_factory.mktemp("log") / "file"
    with path.open("w") as file:
        file.write("runner\n")
        file.flush()
        yield file
    lines = path.read_text().splitlines()
    assert lines[0] == "runner"
    assert set(lines[1:]) <= {"inside"}


@pytest.fixture(scope="module")
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets."""
    with_ends = socket.socketpair()
    yield with_ends
    for end in with_ends:
        end.close()


@pytest.fixture(scope="module")
def inherited_by_programs() -> set[str]:
    """The descriptors of a program that the runner starts."""
    return descriptors_of_a_program()


def descriptors_of_a_program() -> set[str]:
    """The numbers that a program sees that was started with everything inheritable."""
    script = "import os; print(*os.listdir('/proc/self/fd'))"
    command = [sys.executable, "-I", "-S", "-c", script]
    output = subprocess.check_output(command, close_fds=False, text=True)
    return set(output.split())


def open_files() -> dict[int, str]:
    """Number and target of each open descriptor."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            pass  # the one that lists them
    return found


def channel_of_execnet(config: pytest.Config) -> set[int]:
    """In a worker of pytest-xdist: the numbers that lead to the controller."""
    if not hasattr(config, "workerinput"):
        return set()
    plugins: list[Any] = list(config.pluginmanager.get_plugins())
    (worker,) = (plugin for plugin in plugins if type(plugin).__name__ == "WorkerInteractor")
    io = worker.channel.gateway._io
    return {io.infile.fileno(), io.outfile.fileno()}


class TestDescriptors:
    @pytest.mark.parametrize((), EVERY_WAY)
    def test_file_of_a_fixture_can_be_written(self, log: IO[str]) -> None:
        """What a fixture opened in the runner is open inside; the runner reads what came."""
        before = log.tell()
        log.write("inside\n")
        log.flush()
        written = Path(log.name).read_text()
        assert written.endswith("inside\n")
        assert len(written) >= before + len("inside\n")

    @pytest.mark.parametrize((), EVERY_WAY)
    def test_connection_of_a_fixture_works(
        self, connection: tuple[socket.socket, socket.socket]
    ) -> None:
        """So is a connection."""
        here, there = connection
        here.sendall(b"ping")
        assert there.recv(4) == b"ping"

    @pytest.mark.isolated
    def test_the_plugins_own_are_not_to_be_had(self, pytestconfig: pytest.Config) -> None:
        """No pidfd of anybody is open inside, and execnet's channel is /dev/null."""
        here = open_files()
        assert not [target for target in here.values() if "pidfd" in target]
        assert {here[number] for number in channel_of_execnet(pytestconfig)} <= {os.devnull}

    @pytest.mark.parametrize((), EVERY_WAY)
    def test_programs_inherit_none_of_the_plugins(self, inherited_by_programs: set[str]) -> None:
        """A program that the test starts has the descriptors that one of the runner's has."""
        assert descriptors_of_a_program() == inherited_by_programs


@pytest.fixture(scope="module")
def secrets_seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file of numbers that must all differ; the runner adds its own at the end."""
    path = tmp_path_factory.mktemp("secrets") / "seen"
    path.write_text("")
    # Both generators are in use before the first clone.
    ssl.RAND_bytes(8)
    tempfile.mktemp()
    yield path
    note_secrets(path)
    lines = path.read_text().split()
    assert len(lines) == len(set(lines)), lines


def note_secrets(path: Path) -> None:
    """Add a random number of OpenSSL's and a name of tempfile's."""
    with path.open("a") as file:
        file.write(f"{ssl.RAND_bytes(8).hex()} {tempfile.mktemp()}\n")


class TestTwins:
    @pytest.mark.isolated
    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_secrets_differ(self, secrets_seen: Path, number: int) -> None:
        """OpenSSL's random numbers and tempfile's names are never those of another process."""
        note_secrets(secrets_seen)
        lines = secrets_seen.read_text().split()
        assert len(lines) == len(set(lines))
