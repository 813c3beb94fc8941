# SPDX-License-Identifier: MIT
"""The 32 faults that isolation has to stand, and the tests that make each of them.

The list is older than the code; most have their tests beside the module that answers for them. What
has no other place is here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.hosts import NEEDS_ROOT
from tests.inner_runs import SIDES, Side, run_batch, said, verdict
from tests.support import NEEDS_NAMESPACES

TESTS: Final = Path(__file__).parents[1]

#: Number and fault: where it is made. A name after ``::`` is that of a function in that file.
SCENARIOS: Final[dict[tuple[int, str], tuple[str, ...]]] = {
    (1, "the runner is killed in mid-test, beside a daemon that ignores every signal"): (
        "process/test_supervising.py::test_runner_is_killed",
        "inner/signalled.py::leave_a_daemon",
    ),
    (2, "the runner is killed before its child is armed"): (
        "process/test_supervising.py::test_runner_is_killed_on_the_way_in",
    ),
    (3, "the runner is killed at each step on the way in"): (
        "process/test_supervising.py::test_runner_is_killed_on_the_way_in",
        "process/test_supervising.py::test_runner_is_killed_beside_a_new_supervisor",
    ),
    (4, "the process in the middle is killed"): (
        "process/test_supervising.py::test_supervisor_is_killed",
    ),
    (5, "PID 1 is killed from outside"): ("process/test_supervising.py::test_pid1_is_killed",),
    (6, "os._exit(0), execv of another program"): (
        "inner/outcomes.py::test_exit_0",
        "inner/outcomes.py::test_exec",
    ),
    (7, "abort()"): ("inner/outcomes.py::test_abort", "inner/reaping.py::test_abort"),
    (8, "SIGKILL to itself"): (
        "inner/outcomes.py::test_sigkill_to_itself_is_dropped_by_the_kernel",
        "process/test_init.py::test_every_signal_ends_a_test",
    ),
    (9, "a null pointer"): ("inner/outcomes.py::test_segv",),
    (10, "a daemon that keeps the result's descriptor"): (
        "child/test_leftovers.py::test_daemon_is_gone",
        "inner/isolating.py::test_a_daemon_that_holds_the_pipe_is_not_waited_for",
    ),
    (11, "garbage into every descriptor"): (
        "inner/leaving.py::test_writes_garbage_everywhere",
        "inner/leaving.py::test_a_copy_writes_garbage_everywhere",
    ),
    (12, "every descriptor closed"): ("inner/leaving.py::test_closes_every_descriptor",),
    (13, "a hang that ignores SIGTERM"): ("inner/hanging.py::test_ignoring_all_signals",),
    (14, "a test that stops itself"): ("inner/hanging.py::test_stopped",),
    (15, "C code that holds the GIL"): ("inner/hanging.py::test_gil_held_in_c",),
    (16, "a fork bomb"): (
        "process/test_limits.py::test_a_fork_bomb_does_not_keep_the_host_from_forking",
        "hostile/cases.py::forks_until_nothing_goes",
    ),
    (17, "too much memory, under a limit of the process and of a cgroup"): (
        "hostile/cases.py::takes_all_memory",
        "inner/limited.py::test_memory",
    ),
    # 200 MB on the wire would take 3 s and 1.2 GB of memory here; 50 MB show that time is linear.
    (18, "a result of 50 MB"): (
        "wire/test_frames.py::test_fifty_megabytes_are_read_in_linear_time",
        "child/test_output.py::test_twelve_megabytes",
    ),
    (19, "kill(0), kill(getppid()), kill(-1)"): (
        "child/test_world.py::test_killing_the_parent_hurts_nobody",
        "child/test_world.py::test_kill_minus_1_reaches_all_inside_and_nobody_outside",
        "hostile/cases.py::signals_everybody",
    ),
    (20, "each system call on the way in is refused"): (
        "process/test_faults.py::test_every_call",
        "host/test_remedies.py",
    ),
    (21, "no descriptor, no process, SIGCHLD ignored, a thief of statuses"): (
        "process/test_launch.py::test_descriptors_run_out",
        "process/test_launch.py::test_processes_run_out",
        "process/test_launch.py::test_sigchld_ignored",
        "process/test_launch.py::test_thief",
    ),
    (22, "threads that hold the locks of malloc and stdio; the raw clone hangs there"): (
        "process/test_launch.py::test_threads_that_hold_locks",
        "kernel/test_clone.py::test_without_the_chain_of_c_functions_it_would_hang",
    ),
    (23, "Ctrl-C to the group; Ctrl-Z longer than the budget"): (
        "process/test_supervising.py::test_ctrl_c",
        "child/test_terminal.py::test_ctrl_z_and_a_job_in_the_background",
    ),
    (24, "a shared mount, `ip netns add`, SysV shared memory, a link with a fixed name twice"): (
        "child/test_world_runs.py::test_mounts_stay_inside_where_the_hosts_root_is_shared",
        "parity/test_scenarios.py::test_the_same_names_again",
    ),
    (25, "rm -rf of what is covered; a directory that was opened before"): (
        "kernel/test_mounts.py::test_a_mount_inside_never_reaches_the_host",
        "child/test_world_inherited.py",
    ),
    (26, "a process from outside in its PID namespace that nobody reaps"): (
        "parity/test_scenarios.py::test_a_stranger_in_the_pid_namespace",
    ),
    (27, "a test that gives up its ids, then the runner is killed"): (
        "process/test_supervising.py::test_runner_is_killed",
        "inner/signalled.py::be_hard_to_kill",
    ),
    (28, "the runner is PID 1 itself"): ("process/test_launch.py::test_runner_is_pid1",),
    (29, "hosts that refuse: /proc, filters, chroot, limits, capabilities"): (
        "host/test_hostile_hosts.py::test_a_host",
        "host/test_hostile_hosts.py::test_each_limit",
        "process/test_host_check.py",
    ),
    (30, "8 runners at once; 1,000 in a row with counted descriptors and memory"): (
        "hostile/test_nasty.py::test_eight_runners",
        # 1,000 in a row are a command (python -m tests.hostile.run); this is 75 under 2 workers.
        "hostile/run.py::run",
        "hostile/test_nasty.py::test_many",
        "hostile/test_nasty.py::test_growth_is_judged",
    ),
    (31, "isolation within isolation, three deep"): (
        "host/test_hostile_hosts.py::test_the_plugin_inside_itself",
        "kernel/test_mounts.py::test_an_isolated_test_can_isolate_in_turn",
    ),
    (32, "root writes a sysctl of the host"): (
        "hostile/cases.py::writes_a_sysctl_of_the_host",
        "kernel/test_mounts.py::test_sysctls_of_the_host_are_read_only",
        "kernel/test_mounts.py::test_sysctls_of_own_namespaces_are_writable",
    ),
}


def test_every_scenario_has_its_tests() -> None:
    """What the table names is there."""
    assert [number for number, _ in SCENARIOS] == list(range(1, 33))
    lost = []
    for places in SCENARIOS.values():
        for place in places:
            file, _, name = place.partition("::")
            text = (TESTS / file).read_text(encoding="utf-8")
            if name and not re.search(rf"\bdef {name}\(", text):
                lost.append(place)
    assert lost == []


AGAIN: Final = """
import ctypes, os, subprocess
from pathlib import Path
import pytest

pytestmark = pytest.mark.isolated

@pytest.mark.parametrize("n", range(4))
def test_again(n):
    ip = lambda words: subprocess.run(["ip", *words.split()], check=True)
    ip("link add fixed0 type veth peer name fixed1")
    ip("link set fixed0 up")
    if Path("/run/netns").is_dir():
        ip("netns add fixed")
        ip("link set fixed1 netns fixed")
    libc = ctypes.CDLL(None)
    IPC_CREAT_EXCL = 0o3600
    assert libc.shmget(ctypes.c_int(0x4E5349), ctypes.c_size_t(4096), IPC_CREAT_EXCL) >= 0
    assert libc.msgget(ctypes.c_int(0x4E5349), IPC_CREAT_EXCL) >= 0

@pytest.mark.isolated(False)
def test_nothing_is_outside():
    assert not Path("/sys/class/net/fixed0").exists()
    assert not Path("/run/netns/fixed").exists()
    for kind in ("shm", "msg"):
        assert f" {0x4E5349} " not in Path(f"/proc/sysvipc/{kind}").read_text()
"""


@NEEDS_NAMESPACES
@pytest.mark.parametrize("side", SIDES)
def test_the_same_names_again(side: Side) -> None:
    """Links, networks and keys of IPC of one test are in nobody's way, not in the next one's."""
    result = run_batch({"test_it.py": AGAIN}, side)
    assert result.summary == "5 passed", result.text


#: Puts a process into the first PID namespace below its parent, and does not wait for it. The host
#: check makes one too, which soon is gone.
STRANGER: Final = """
import ctypes, os, signal, sys, time

runner, begun, ready = int(sys.argv[1]), sys.argv[2], sys.argv[3]

def below(process):
    for thread in os.listdir(f"/proc/{process}/task"):
        for pid in open(f"/proc/{process}/task/{thread}/children").read().split():
            yield int(pid)
            yield from below(pid)

def pid1():
    for pid in below(runner):
        lines = open(f"/proc/{pid}/status").read().splitlines()
        numbers = next(line.split()[1:] for line in lines if line.startswith("NSpid"))
        if len(numbers) > 1 and os.path.exists(begun):
            return pid

found = None
while found is None:
    try:
        found = pid1()
    except OSError:
        pass
    time.sleep(0.005)
descriptor = os.pidfd_open(found)
assert ctypes.CDLL(None).setns(descriptor, 0x20000000) == 0
if os.fork() == 0:
    open(ready, "w").close()
signal.pause()
"""

VISITED: Final = """
import os, subprocess, sys, time
from pathlib import Path
import pytest
from pytest_nsisolate.process import channel, child_process, reaping

# What takes ten seconds otherwise.
channel.STEP_SECONDS = child_process.STEP_SECONDS = reaping.STEP_SECONDS = 0.5
HERE = Path(__file__).parent

@pytest.fixture(scope="module")
def stranger():
    marks = (HERE / "begun", HERE / "ready")
    process = subprocess.Popen([sys.executable, HERE / "stranger.py", str(os.getpid()), *marks])
    yield process
    process.kill()
    process.wait()

@pytest.mark.isolated
def test_visited(stranger):
    (HERE / "begun").touch()
    while not (HERE / "ready").exists():
        time.sleep(0.005)

@pytest.mark.isolated
def test_next():
    assert os.getpid() == 1

@pytest.mark.isolated(False)
def test_nobody_is_left(stranger):
    stranger.kill()
    stranger.wait()
    # What it had started has a parent that waits now, so that PID 1 can end.
    children = Path("/proc/thread-self/children").read_text().split()
    for pid in children:
        os.waitpid(int(pid), 0)
"""


@NEEDS_NAMESPACES
@NEEDS_ROOT  # to move into a PID namespace takes CAP_SYS_ADMIN over it
def test_a_stranger_in_the_pid_namespace() -> None:
    """A test whose PID 1 cannot end is given up after a while, says why, and the run goes on."""
    files = {"test_it.py": VISITED, "stranger.py": STRANGER}
    result = run_batch(files, "root", "-p", "no:randomly", clean=False, gone=True)
    assert verdict(result, "test_visited") == "teardown failed", result.text
    assert "zap_pid_ns_processes" in said(result, "test_visited")
    assert verdict(result, "test_next") == "passed", said(result, "test_next")
    assert verdict(result, "test_nobody_is_left") == "passed", said(result, "test_nobody_is_left")
