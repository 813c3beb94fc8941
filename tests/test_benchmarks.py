# SPDX-License-Identifier: MIT
"""The benchmarks still run: tiny counts in the running environment, and not a word about time."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
# As overhead.py chooses it: root measures the default set as root, others as themselves.
OURS = "nsisolate" if os.geteuid() == 0 else "nsisolate-user"

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="they fork and read /proc"),
    pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="they are in the checkout, not the wheel"),
]


def benchmark(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a benchmark in the running environment, without installing anything."""
    # The root of the checkout: there this plugin may be a folder on the path, not installed.
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), *checkout())))
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / script), "--here", *arguments],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=110,
    )


def checkout() -> list[str]:
    """The folder that this plugin was imported from."""
    found = importlib.util.find_spec("pytest_nsisolate")
    return [] if found is None or not found.origin else [str(Path(found.origin).parent.parent)]


@pytest.fixture(scope="session")
def isolates() -> bool:
    """Whether this host gives the namespaces: without them there is one contender less."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest_nsisolate", "doctor"], capture_output=True, timeout=110
    )
    if os.environ.get("NSISOLATE_MUST_WORK") == "1":
        assert done.returncode == 0, done.stdout
    return done.returncode == 0


def measured(done: subprocess.CompletedProcess[str], file: Path) -> dict[str, dict[str, object]]:
    """The data of a successful run."""
    assert done.returncode == 0, done.stdout + done.stderr
    data: dict[str, dict[str, object]] = json.loads(file.read_text(encoding="utf-8"))
    return data


def test_cost_table_has_a_row_for_whoever_can_run_here(tmp_path: Path, isolates: bool) -> None:
    """Plain and the floor always; this plugin where the host gives namespaces."""
    file = tmp_path / "results.json"
    wanted = f"plain,floor,nsisolate-pid,nsisolate-long,{OURS}"
    done = benchmark("overhead.py", f"--only={wanted}", "--rounds=1", "--tests=3", f"--json={file}")

    cost = measured(done, file)["cost"]
    # A host may refuse what the default set does not need, so there is no upper bound then.
    assert set(cost) >= (set(wanted.split(",")) if isolates else {"plain", "floor"}), done.stdout
    assert "floor: fork, protocol, exit" in done.stdout
    assert spent(cost, "plain", "child") == [0, 0]
    for side in ("runner", "child"):
        for key in set(cost) - {"plain"}:
            assert min(spent(cost, key, side)) > 50, (key, side)


def spent(cost: dict[str, object], key: str, side: str) -> list[float]:
    """Faults and calls of one side, per test."""
    entry = cost[key]
    assert isinstance(entry, dict)
    return [entry["spent"][f"{side} {what}"] for what in ("faults", "calls")]


def test_other_studies_answer_too(tmp_path: Path, isolates: bool) -> None:
    """Drift, resident memory and the idle plugin, each with the fewest tests."""
    file = tmp_path / "results.json"
    done = benchmark(
        "overhead.py", "--drift", "--resident=0,1", "--idle", "--rounds=1", "--tests=4",
        f"--json={file}",
    )  # fmt: skip

    data = measured(done, file)
    mine = {OURS} if isolates else set()
    assert set(data["drift"]) >= {"plain"} | mine, done.stdout
    assert {"plain", "floor"} | mine <= set(data["resident"])
    assert set(data["idle"]) == {"plain", "idle"}


def test_coverage_has_its_tax(tmp_path: Path, isolates: bool) -> None:
    """Plain and isolated, each with and without coverage."""
    if not isolates:
        pytest.skip("this host refuses some of the namespaces, so nothing would be isolated")
    file = tmp_path / "tax.json"
    done = benchmark("coverage_tax.py", "--contexts", "--rounds=1", "--tests=4", f"--json={file}")

    found = measured(done, file)["tax"]
    assert set(found) == {"plain", "plain-cov", "isolated", "isolated-cov", "figure"}


def test_the_trace_has_its_tax(tmp_path: Path, isolates: bool) -> None:
    """Without and with it, by turns."""
    if not isolates:
        pytest.skip("this host refuses some of the namespaces, so nothing would be isolated")
    file = tmp_path / "trace.json"
    chosen = ("--only", "empty", "empty-trace")
    done = benchmark("trace_tax.py", *chosen, "--rounds=1", "--tests=4", f"--json={file}")

    assert set(measured(done, file)["trace"]) == {"empty", "empty-trace"}
    assert "empty: the trace costs " in done.stdout


def test_the_view_has_its_cost(tmp_path: Path, isolates: bool) -> None:
    """Empty tests, those beside one that asks, and those that ask."""
    if not isolates:
        pytest.skip("this host refuses some of the namespaces, so nothing would be isolated")
    file = tmp_path / "view.json"
    chosen = ("--only", "beside", "snapshot", "late")
    done = benchmark("view_cost.py", *chosen, "--rounds=1", "--tests=4", f"--json={file}")

    assert set(measured(done, file)["view"]) == {"empty", "beside", "snapshot", "late"}


def test_files_of_its_own_are_measured(tmp_path: Path, isolates: bool) -> None:
    """Each kind, beside the host's files."""
    if not isolates:
        pytest.skip("this host refuses some of the namespaces, so nothing would be isolated")
    file = tmp_path / "root.json"
    kinds = ("overlay", "crowded")
    done = benchmark("root.py", "--only", *kinds, "--rounds=1", "--tests=4", f"--json={file}")

    crowded = {"crowded"} if os.geteuid() == 0 else set()
    assert set(measured(done, file)["root"]) == {"host", "overlay", *crowded}


def test_files_of_its_own_are_measured_rootless(tmp_path: Path, isolates: bool) -> None:
    """As another account, if root asks for one; what only root can set up is left out."""
    if not isolates:
        pytest.skip("this host refuses some of the namespaces, so nothing would be isolated")
    file = tmp_path / "root.json"
    only = ("--user=nobody", "--only", "files", "crowded")
    done = benchmark("root.py", *only, "--rounds=1", "--tests=4", f"--json={file}")

    if "not measured: nobody cannot " in done.stderr:
        pytest.skip("that account cannot use this interpreter")
    assert set(measured(done, file)["root"]) == {"host", "files"}


def test_calls_are_measured(isolates: bool) -> None:
    """One call by ``isolate`` against a bare fork."""
    if not isolates:
        pytest.skip("this host refuses some of the namespaces, so nothing would be isolated")
    done = benchmark("calls.py", "--calls=3")
    assert done.returncode == 0, done.stdout + done.stderr
    for way in ("bare fork", "isolate(func)", "box.run(func)"):
        assert way in done.stdout


def test_the_marker_is_measured_beside_unshare(isolates: bool) -> None:
    """In the same namespaces: a test, a program, an interpreter."""
    if not isolates:
        pytest.skip("this host refuses some of the namespaces, so nothing would be isolated")
    done = benchmark("by_hand.py", "--rounds=1", "--tests=3")
    assert done.returncode == 0, done.stdout + done.stderr
    for kind in ("plain pytest", "isolated", "`true` is inside", "a new Python is inside"):
        assert kind in done.stdout


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("warnings", "kept"),
        ("session-fixture", "up 1, down 1"),
        ("daemon", "gone"),
        ("xfail-raises", "failed"),
        ("coverage", "100 %"),
    ],
)
def test_table_of_behaviours_is_reproduced(
    row: str, expected: str, tmp_path: Path, isolates: bool
) -> None:
    """This plugin's column says what the README says of it."""
    if not isolates:
        pytest.skip("this host refuses some of the namespaces, so nothing would be isolated")
    file = tmp_path / "table.json"
    done = benchmark("peers.py", "--only", "nsisolate", "--rows", row, "--json", str(file))

    assert measured(done, file)[row] == {"nsisolate": expected}, done.stdout + done.stderr


def test_jobs_are_measured_side_by_side() -> None:
    """Three suites, and in each a row for plain pytest and for each number of jobs."""
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), *checkout())))
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "jobs.py", "--rounds=1", "--tests=3", "--jobs=2"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("plain", "isolated, 1 job", "isolated, 2 jobs"):
        assert sum(line.strip().startswith(f"{name} ") for line in done.stdout.splitlines()) == 3
    assert done.stdout.count("x plain") == 3
    assert "x worlds of their own" in done.stdout


def test_a_long_run_is_measured_at_both_ends() -> None:
    """Time, processor time, memory and descriptors, of the beginning and of the end."""
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), *checkout())))
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "jobs.py", "--flat=20"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("wall, ms a test", "cpu, ms a test", "memory, MB", "descriptors"):
        assert name in done.stdout
