# SPDX-License-Identifier: MIT
"""What needs a runner of its own: another root, another base temp, another pid, two workers."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts import NEEDS_ROOT
from tests.support import NEEDS_NAMESPACES, Result, run_source, run_suite, write_files

pytestmark = NEEDS_NAMESPACES


def all_passed(result: Result, count: int) -> None:
    """Every test of the inner run passed, and there were that many."""
    assert result.returncode == 0, result.text
    assert len(result.passed()) == count, result.text


# Mounts -----------------------------------------------------------------------------------------

SHARED_ROOT = """
    import ctypes, os, subprocess
    import pytest
    from tests.host_observer import Outside, mount_tmpfs, mounts

    @pytest.fixture(scope="module")
    def outside():
        with Outside() as witness:
            yield witness

    @pytest.fixture(scope="module")
    def shared(tmp_path_factory):
        return str(tmp_path_factory.mktemp("shared"))

    @pytest.fixture(scope="module", autouse=True)
    def runner():
        before = mounts()
        yield before
        assert mounts() == before

    def test_control_the_root_is_shared(runner, shared):
        assert all(" shared:" in line for line in runner)
        script = f"mount -t tmpfs leak {shared}"
        command = ["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", script]
        subprocess.run(command, check=True)
        assert len(mounts()) == len(runner) + 1  # it has come out
        subprocess.run(["umount", shared], check=True)

    WAYS = [{}, {"mount": True}, {"user": False}, {"user": "same"}, {"init": True},
            {"user": False, "mount": True}]

    @pytest.mark.parametrize((), [
        pytest.param(marks=pytest.mark.isolated(**way), id=str(n)) for n, way in enumerate(WAYS)
    ])
    def test_mount_is_unseen_outside(runner, shared, outside, tmp_path):
        assert not [line for line in mounts() if " shared:" in line or " master:" in line]
        mount_tmpfs("/etc")
        mount_tmpfs(shared)
        mount_tmpfs(str(tmp_path))
        assert os.listdir("/etc") == []
        assert outside("mounts()") == runner

    @pytest.mark.isolated
    def test_mount_of_the_host_is_unseen_inside(shared, outside):
        outside(f"mount_tmpfs({shared!r})")
        try:
            assert not [line for line in mounts() if shared in line]
            assert outside(f"[line for line in mounts() if {shared!r} in line]")
        finally:
            outside(f"checked(libc().umount({shared.encode()!r}))")
"""

ROOT = str(Path(__file__).parents[2])


@NEEDS_ROOT
def test_mounts_stay_inside_where_the_hosts_root_is_shared(tmp_path: Path) -> None:
    """On a host whose every mount is shared, as under systemd, no mount comes out or goes in."""
    prefix = ("unshare", "--mount", "--propagation", "shared")
    source = f"import sys; sys.path.insert(0, {ROOT!r})"
    files = {"conftest.py": source, "test_it.py": SHARED_ROOT}
    result = run_suite(write_files(tmp_path, files), prefix=prefix)
    all_passed(result, 8)


# Below /dev/shm ---------------------------------------------------------------------------------

IN_USE = """
    import os, sys
    from pathlib import Path
    import pytest

    ROOT = Path(__file__).parent

    @pytest.fixture(scope="module", autouse=True)
    def library(tmp_path_factory):
        # Below a directory that only sys.path names.
        folder = ROOT.with_name(ROOT.name + "-library")
        sys.path.append(str(folder))
        yield folder
        sys.path.remove(str(folder))

    @pytest.fixture(scope="module")
    def kept(tmp_path_factory):
        folder = tmp_path_factory.mktemp("kept")
        (folder / "before").write_text("runner")
        yield folder
        assert (folder / "inside").read_text() == "child"

    WAYS = [{}, {"ipc": True}, {"user": "same"}, {"init": True}]

    @pytest.mark.parametrize((), [
        pytest.param(marks=pytest.mark.isolated(**way), id=str(n)) for n, way in enumerate(WAYS)
    ])
    def test_all_that_is_in_use_is_there(kept, library, tmp_path, pytestconfig):
        assert str(tmp_path).startswith("/dev/shm/")
        assert (kept / "before").read_text() == "runner"
        (kept / "inside").write_text("child")
        (tmp_path / "file").write_text("x")
        assert os.getcwd() == str(ROOT) == str(pytestconfig.rootpath)
        assert os.path.samefile(".", ROOT)
        assert Path("data").read_text() == "relative"
        import late
        assert late.VALUE == 7
        # Nothing else of the host's, and still a place of the test's own.
        names = {ROOT.name, library.name}
        assert set(os.listdir("/dev/shm")) == names
        Path("/dev/shm/own").write_text("x")

    def test_control_the_host_has_more():
        assert (ROOT.with_name(ROOT.name + "-other")).exists()
        assert not Path("/dev/shm/own").exists()
"""


@pytest.fixture
def shm() -> Iterator[Path]:
    """A new directory in /dev/shm, with two neighbours."""
    folder = Path(tempfile.mkdtemp(prefix="nsi-", dir="/dev/shm"))
    neighbours = [folder.with_name(f"{folder.name}-{name}") for name in ("library", "other")]
    for neighbour in neighbours:
        neighbour.mkdir()
    (neighbours[0] / "late.py").write_text("VALUE = 7\n")
    yield folder
    for path in (folder, *neighbours):
        shutil.rmtree(path)


def test_what_is_in_use_below_dev_shm_stays_usable(shm: Path) -> None:
    """Base temp, root directory, working directory and sys.path entries in /dev/shm are kept."""
    write_files(shm, {"test_it.py": IN_USE, "data": "relative"})
    result = run_suite(shm)
    all_passed(result, 5)
    assert list(Path(shm, ".temp").glob("*/file"))  # what tests wrote there is there afterwards


def test_removed_working_directory_is_no_obstacle(tmp_path: Path) -> None:
    """Where a fixture has removed the directory it stands in, the test begins in the root."""
    result = run_source(
        tmp_path,
        """
        import os
        import pytest

        @pytest.fixture(scope="module")
        def gone(tmp_path_factory):
            before = os.getcwd()
            folder = tmp_path_factory.mktemp("gone")
            os.chdir(folder)
            folder.rmdir()
            yield
            os.chdir(before)

        @pytest.mark.isolated
        def test_it(gone):
            with pytest.raises(FileNotFoundError):
                os.getcwd()
        """,
    )
    all_passed(result, 1)


# The clock --------------------------------------------------------------------------------------


def test_durations_are_the_runners(tmp_path: Path) -> None:
    """Clocks that jump inside leave the durations in reports alone, set-up's included."""
    result = run_source(
        tmp_path,
        """
        import time
        import pytest

        @pytest.fixture
        def fixture():
            yield time.monotonic()

        @pytest.mark.parametrize("offset", [
            pytest.param(n, marks=pytest.mark.isolated(time=n, timeout=50)) for n in (1e6, -1, 0.5)
        ])
        def test_jump(fixture, offset): pass

        @pytest.mark.isolated(time=1e6, timeout=1e5, init=True)
        def test_budget_is_not_eaten(): pass
        """,
    )
    all_passed(result, 4)
    assert all(0 <= report["duration"] < 60 for report in result.reports), result.reports


# Two at a time ----------------------------------------------------------------------------------

PORT_80 = """
    import os, socket, time
    from pathlib import Path
    import pytest

    @pytest.mark.isolated
    @pytest.mark.parametrize("me, other", [("a", "b"), ("b", "a")])
    def test_server(me, other):
        meeting = Path(os.environ["MEETING"])
        with socket.create_server(("0.0.0.0", 80)) as server:
            server.settimeout(20)
            (meeting / me).write_text("bound")
            until = time.monotonic() + 20
            while not (meeting / other).exists():
                assert time.monotonic() < until, "the other one has not come"
                time.sleep(0.005)
            with socket.create_connection(("127.0.0.1", 80), 20) as client:
                accepted, _ = server.accept()
                with accepted:
                    accepted.sendall(me.encode())
                assert client.recv(9) == me.encode()
"""


def test_two_servers_on_port_80_at_the_same_time(tmp_path: Path) -> None:
    """Two workers' tests hold 0.0.0.0:80 at once, and each one's client reaches its own."""
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    result = run_source(tmp_path, PORT_80, "-p", "xdist", "-n", "2", env={"MEETING": str(meeting)})
    all_passed(result, 2)
    assert sorted(path.name for path in meeting.iterdir()) == ["a", "b"]


def test_port_cannot_be_bound_twice_on_one_host() -> None:
    """Control: without namespaces the second one is refused."""
    with (
        socket.create_server(("0.0.0.0", 0)) as first,
        pytest.raises(OSError),
        socket.create_server(first.getsockname()),
    ):
        pass


# A runner that is PID 1 -------------------------------------------------------------------------

TWINS = """
    import ctypes, os, random, ssl, tempfile
    import pytest

    def secrets():
        return [ssl.RAND_bytes(8).hex(), next(tempfile._get_candidate_names())]

    @pytest.fixture(scope="module")
    def seen(tmp_path_factory):
        assert os.getpid() == 1
        secrets()
        path = tmp_path_factory.mktemp("seen") / "file"
        path.write_text("")
        yield path
        lines = path.read_text().split() + secrets()
        assert len(lines) == 8 == len(set(lines)), lines

    def test_control_a_bare_clone_repeats_them(seen, tmp_path):
        helper = os.fork()
        if helper == 0:
            ctypes.CDLL(None).unshare(0x20000000)  # CLONE_NEWPID
            twin = os.fork()
            if twin == 0:
                assert os.getpid() == 1
                (tmp_path / "twin").write_text(" ".join(secrets()))
                os._exit(0)
            os.waitpid(twin, 0)
            os._exit(0)
        os.waitpid(helper, 0)
        assert (tmp_path / "twin").read_text().split() == secrets()

    @pytest.mark.isolated
    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_child(seen, n):
        assert os.getpid() == 1
        with seen.open("a") as file:
            print(*secrets(), file=file)
"""


@NEEDS_ROOT
def test_secrets_differ_where_runner_and_child_are_both_pid_1(tmp_path: Path) -> None:
    """In a container the runner is PID 1 too; a bare clone would repeat its random numbers."""
    prefix = ("unshare", "--pid", "--fork", "--mount-proc")
    result = run_source(tmp_path, TWINS, prefix=prefix)
    all_passed(result, 4)


# What is inherited ------------------------------------------------------------------------------

INHERITED = """
    import os, random, sys
    import pytest

    def open_files():
        found = {}
        for name in os.listdir("/proc/self/fd"):
            try:
                found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
            except FileNotFoundError:
                pass
        return found

    def channel(config):
        if not hasattr(config, "workerinput"):
            return set()
        plugins = config.pluginmanager.get_plugins()
        (worker,) = (p for p in plugins if type(p).__name__ == "WorkerInteractor")
        io = worker.channel.gateway._io
        return {io.infile.fileno(), io.outfile.fileno()}

    @pytest.fixture(scope="session")
    def before():
        return open_files()  # the plugin opens nothing before the first clone

    WAYS = [{}, {"time": 1}, {"pid": True}, {"net": True}, {"init": True}, {"user": "same"}]

    @pytest.mark.parametrize("n", [
        pytest.param(n, marks=pytest.mark.isolated(**way)) for n, way in enumerate(WAYS)
    ])
    def test_descriptors(before, n, pytestconfig):
        here = open_files()
        memory = "/memfd:nsisolate-"
        for number, target in before.items():
            now = here[number]
            if number in channel(pytestconfig):
                assert now == os.devnull
            else:
                assert now == target or now.startswith(memory)
        added = [here[number] for number in here.keys() - before.keys()]
        pipes = [target for target in added if target.startswith("pipe:")]
        others = {target for target in added if not target.startswith((memory, "pipe:"))}
        assert len(pipes) == 1, "one way back to the runner"
        assert others <= {os.devnull, "anon_inode:[eventfd]"}, "its turn at the terminal"

    @pytest.fixture(scope="module")
    def seeded():
        random.seed(4711)

    def numbers(generator=random):
        return [generator.random() for _ in range(3)]

    @pytest.mark.isolated
    @pytest.mark.parametrize("n", [1, 2])
    def test_seed_of_the_runner_holds(seeded, n):
        assert numbers() == numbers(random.Random(4711))

    def test_plain_one_has_the_same(seeded):
        assert numbers() == numbers(random.Random(4711))
"""


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "1")], ids=["alone", "worker"])
def test_descriptors_and_randomness(tmp_path: Path, workers: tuple[str, ...]) -> None:
    """The runner's descriptors stay, the plugin's and execnet's are /dev/null; seeds hold."""
    all_passed(run_source(tmp_path, INHERITED, *workers), 9)


def test_standard_input_is_the_runners_with_s(tmp_path: Path) -> None:
    """With ``-s`` an isolated test reads what the runner would have read; captured, it may not."""
    source = """
        import sys
        import pytest

        @pytest.mark.isolated
        @pytest.mark.parametrize("line", ["first", "second"])
        def test_it(line):
            import os
            assert os.read(0, len(line) + 1).decode() == line + chr(10)
    """
    typed = ("sh", "-c", 'printf "first\\nsecond\\n" | "$@"', "sh")
    all_passed(run_source(tmp_path, source, "-s", prefix=typed), 2)
    captured = run_source(tmp_path, source, prefix=typed)
    assert captured.summary == "2 failed", captured.text
