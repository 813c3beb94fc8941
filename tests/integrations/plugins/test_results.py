# SPDX-License-Identifier: MIT
"""What plugins gather in memory arrives in the runner: timings, snapshots, whatever is carried."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.plugins.installed import needs
from tests.support import (
    NEEDS_NAMESPACES,
    ONE_JOB,
    Result,
    differences,
    run_source,
    run_suite,
    write_files,
)

pytestmark = NEEDS_NAMESPACES

# pytest-benchmark --------------------------------------------------------------------------------

BENCHMARKS = """
import os, pytest
@pytest.mark.parametrize("n", [10, 100])
def test_sum(benchmark, n):
    benchmark.group = "sums"
    benchmark.extra_info["n"] = n
    assert benchmark(lambda: sum(range(n))) >= 0
@pytest.mark.benchmark(min_rounds=7, timer=__import__("time").process_time)
def test_pedantic(benchmark):
    benchmark.pedantic(os.getpid, rounds=5, iterations=2)
def test_fails(benchmark): benchmark(lambda: 1 / 0)
def test_calls_late(benchmark):
    benchmark.pedantic(os.getpid, rounds=3)
    assert not "after the benchmark"
def test_without(): pass
"""

BENCHMARK = ("-p", "pytest_benchmark.plugin", "--benchmark-max-time=0.005")


def figures(folder: Path) -> list[dict[str, Any]]:
    """The benchmarks of the JSON file, with the shape of what was measured in place of it."""
    found: list[dict[str, Any]] = json.loads((folder / "b.json").read_text("utf-8"))["benchmarks"]
    for benchmark in found:
        measured = benchmark.pop("stats")
        assert len(measured["data"]) == measured["rounds"] > 0
        assert min(measured["data"]) == measured["min"] <= measured["mean"] <= measured["max"]
        benchmark["stats"] = sorted(measured)
        benchmark["cprofile"] = sorted(e["function_name"] for e in benchmark["cprofile"])
    return found


@needs("pytest-benchmark")
def test_benchmarks_are_measured_in_the_child_and_reported_by_the_runner(tmp_path: Path) -> None:
    """The table, the JSON file with all rounds, the profile; comparison with an earlier run."""
    write_files(tmp_path, {"test_it.py": BENCHMARKS})
    options = (*BENCHMARK, "--benchmark-json=b.json", "--benchmark-cprofile=tottime")
    plain = run_suite(tmp_path, *options)
    expected = figures(tmp_path)
    isolated = run_suite(tmp_path, *options, "--nsisolate=all", "--benchmark-autosave")
    assert differences(plain, isolated) == []
    assert isolated.summary == plain.summary == "2 failed, 4 passed"
    assert figures(tmp_path) == expected
    assert [b["name"] for b in expected][:3] == ["test_sum[10]", "test_sum[100]", "test_pedantic"]
    assert "benchmark 'sums': 2 tests" in isolated.stdout

    compared = run_suite(
        tmp_path,
        *BENCHMARK,
        "--nsisolate=all",
        "--benchmark-compare",
        "--benchmark-compare-fail=min:100000000%",
        "-k",
        "sum",
    )
    assert compared.returncode == 0, compared.text
    assert "benchmark 'sums': 4 tests" in compared.stdout


@needs("pytest-benchmark")
def test_no_benchmark_is_counted_twice(tmp_path: Path) -> None:
    """The child inherits those of the tests before it, and hands over its own, if they are any."""
    result = run_source(
        tmp_path,
        """
        import os, pytest
        def measure(benchmark): benchmark.pedantic(os.getpid, rounds=2)
        def test_plain(benchmark): measure(benchmark)
        @pytest.mark.isolated
        def test_isolated(benchmark): measure(benchmark)
        @pytest.mark.isolated
        def test_dies(benchmark):
            measure(benchmark)
            os._exit(3)
        def test_after(benchmark): measure(benchmark)
        @pytest.mark.isolated
        @pytest.mark.parametrize("lie", [[{}], [7], {"a": 1}, 3, [{"rounds": "x" * 7}]], ids=str)
        def test_lies(lie, request):
            class Liar:
                def pytest_nsisolate_carry(self, item): return {"pytest-benchmark": lie}
            request.config.pluginmanager.register(Liar())
            from pytest_nsisolate.runner.run import RUN
            request.config.stash[RUN].in_child._carries = True
        """,
        *(*BENCHMARK, "--benchmark-json=b.json"),
    )
    assert result.summary == "1 failed, 8 passed, 5 errors", result.text
    assert result.stdout.count("what it carried could not be taken in") >= 5
    saved = json.loads((tmp_path / "b.json").read_text("utf-8"))["benchmarks"]
    assert [b["name"] for b in saved] == ["test_plain", "test_isolated", "test_after"]


# pytest-memray -----------------------------------------------------------------------------------

MEMORY = """
import pytest

@pytest.mark.isolated
def test_marked(): bytearray(20_000_000)
def test_plain(): bytearray(20_000_000)
@pytest.mark.isolated
@pytest.mark.limit_memory("1 MB")
def test_limited(): bytearray(20_000_000)
"""


@needs("pytest-memray")
def test_memory_of_isolated_tests_is_in_the_summary(tmp_path: Path) -> None:
    """Beside that of the others; its limits are judged inside."""
    result = run_source(tmp_path, MEMORY, "-p", "pytest_memray.plugin", "--memray")
    found = re.findall(r"^Allocation results for \S+::(\w+) at", result.stdout, re.MULTILINE)
    assert sorted(found) == ["test_limited", "test_marked", "test_plain"], result.text
    assert result.phases("test_limited")[1] == "call failed"
    assert "was limited to 1.0MiB" in result.failure("test_limited")


# syrupy ------------------------------------------------------------------------------------------

SNAPSHOTS = """
import pytest
from syrupy.extensions.json import JSONSnapshotExtension
class Own(JSONSnapshotExtension): file_extension = "own"
@pytest.fixture
def own(snapshot): return snapshot.use_extension(Own)
@pytest.mark.parametrize("n", [1, 2])
def test_amber(snapshot, n):
    assert {"n": n} == snapshot
    assert [n] == snapshot(name="named")
def test_own(own): assert {"a": 1} == own
def test_plain(snapshot): assert "text" == snapshot
"""


def snapshots(folder: Path) -> dict[str, str]:
    """Every file that syrupy has written."""
    root = folder / "__snapshots__"
    files = [path for path in root.rglob("*") if path.is_file()] if root.exists() else []
    return {str(path.relative_to(root)): path.read_text("utf-8") for path in files}


def counts(result: Result) -> list[str]:
    """syrupy's line of the summary."""
    lines = [line for line in result.stdout.splitlines() if re.match(r"\d+ snapshots? ", line)]
    return [re.sub(r" snapshots?\b", "", line) for line in lines]


@needs("syrupy")
def test_snapshots_are_written_used_and_removed_as_in_a_plain_run(tmp_path: Path) -> None:
    """Written by the child, counted by the runner; nothing that a test uses is removed."""
    changed = SNAPSHOTS.replace('"text"', '"other"').replace("[1, 2])", "[2, 3])")

    def life_of_a_suite(folder: Path, *options: str) -> list[tuple[object, ...]]:
        steps: list[tuple[object, ...]] = []
        for source, update in (
            (SNAPSHOTS, ["--snapshot-update"]),
            (changed, []),
            (changed, ["--snapshot-update"]),
            (changed, []),
        ):
            write_files(folder, {"test_it.py": source})
            result = run_suite(folder, "-p", "syrupy", *options, *update)
            steps.append((result.returncode, result.summary, counts(result), snapshots(folder)))
        return steps

    (tmp_path / "plain").mkdir()
    (tmp_path / "isolated").mkdir()
    plain = life_of_a_suite(tmp_path / "plain")
    isolated = life_of_a_suite(tmp_path / "isolated", "--nsisolate=all")
    assert isolated == plain
    assert [step[0] for step in isolated] == [0, 1, 0, 0]
    assert [step[2] for step in isolated] == [
        ["6 generated."],
        ["2 failed. 3 passed. 2 unused."],
        ["3 passed. 2 generated. 1 updated. 2 unused deleted."],
        ["6 passed."],
    ]


@needs("syrupy", "pytest-xdist")
def test_snapshots_under_xdist(tmp_path: Path) -> None:
    """Each worker tells the controller what its isolated tests have used."""
    write_files(tmp_path, {"test_it.py": SNAPSHOTS})
    options = ("-p", "syrupy", "-p", "xdist", "-n", "2", "--nsisolate=all")
    first = run_suite(tmp_path, *options, "--snapshot-update")
    second = run_suite(tmp_path, *options, "--snapshot-update")
    assert (first.returncode, second.returncode) == (0, 0), first.text + second.text
    assert "6 snapshots generated." in first.stdout
    assert "6 snapshots passed." in second.stdout
    assert "deleted" not in second.stdout
    assert set(snapshots(tmp_path)) == {"test_it.ambr", "test_it/test_own.own"}


# inline-snapshot, pytest-regressions, pytest-datadir ---------------------------------------------

INLINE = """
from inline_snapshot import snapshot
def test_right(): assert 1 + 1 == snapshot(2)
def test_wrong(): assert 1 + 1 == snapshot(3)
"""


@needs("inline-snapshot")
def test_inline_snapshots_compare_and_refuse_to_write(tmp_path: Path) -> None:
    """What they compare with is in the source; what they would write is lost with the child."""
    plugin = ("-p", "inline_snapshot.pytest_plugin")
    write_files(tmp_path, {"test_it.py": INLINE})
    result = run_suite(tmp_path, *plugin, "--nsisolate=all", "--inline-snapshot=disable")
    assert result.summary == "1 failed, 1 passed", result.text
    refused = run_suite(tmp_path, *plugin, "--nsisolate=all", "--inline-snapshot=fix")
    assert refused.returncode == pytest.ExitCode.USAGE_ERROR
    assert "inline-snapshot learns nothing of what isolated tests compare" in refused.stderr
    assert (tmp_path / "test_it.py").read_text("utf-8") == INLINE
    without = run_suite(tmp_path, *plugin, "--inline-snapshot=fix")
    assert "snapshot(3)" not in (tmp_path / "test_it.py").read_text("utf-8"), without.text


@needs("pytest-regressions", "pytest-datadir")
def test_regression_files_are_written_and_compared(tmp_path: Path) -> None:
    """Files are the host's: what the child writes is there in the next run."""
    source = """
        def test_numbers(data_regression, shared_datadir, datadir):
            assert (datadir / "own.txt").read_text() == "own"
            (datadir / "own.txt").write_text("changed")
            data_regression.check({"a": [1, 2], "b": (shared_datadir / "x.txt").read_text()})
        def test_file(file_regression): file_regression.check("contents")
    """
    files = {"test_it.py": source, "data/x.txt": "shared", "test_it/own.txt": "own"}
    options = ("-p", "pytest_regressions.plugin", "-p", "pytest_datadir.plugin", "--nsisolate=all")
    write_files(tmp_path, files)
    first, second = (run_suite(tmp_path, *options) for _ in range(2))
    assert (first.summary, second.summary) == ("2 failed", "2 passed"), first.text + second.text
    assert (tmp_path / "test_it/test_file.txt").read_text("utf-8") == "contents"
    assert (tmp_path / "test_it/own.txt").read_text("utf-8") == "own"


# The hooks for everybody else --------------------------------------------------------------------

CARRYING = {
    "conftest.py": """
        from journal import note
        found = []
        def pytest_nsisolate_carry(item):
            if item.name == "test_refuses": raise ValueError("nothing to carry")
            return {"found": tuple(found), "name": item.name} if found else None
        def pytest_nsisolate_receive(item, data):
            if item.name == "test_bad": raise KeyError("no such key")
            found.extend(data["found"][len(found):])
        def pytest_sessionfinish(): note(found)
    """,
    "below/conftest.py": """
        from journal import note
        def pytest_nsisolate_carry(item): return {"below": {1, 2.5, b"3"}}
        def pytest_nsisolate_receive(item, data): note(sorted(map(repr, data["below"])))
    """,
    "below/test_below.py": """
        import pytest
        @pytest.mark.isolated
        def test_below(): pass
    """,
    "test_it.py": """
        import os, pytest, sys
        pytestmark = pytest.mark.isolated
        @pytest.fixture
        def found(request):
            (plugin,) = (
                p for p in request.config.pluginmanager.get_plugins() if hasattr(p, "found")
            )
            yield plugin.found
            plugin.found.append("after tear-down")
        def test_one(found): found.append((1, {"a": 2.5}))
        def test_fails(found):
            found.append("failed")
            assert 0
        def test_object(found): found.append(os)
        def test_nothing(): pass
        def test_dies(found):
            found.append("lost")
            os._exit(2)
        def test_bad(found): pass
        def test_refuses(): pass
    """,
}


def test_any_plugin_can_carry_what_it_has_gathered(tmp_path: Path) -> None:
    """By two hooks; a failing one fails its test, and a child that dies carries nothing."""
    result = run_suite(write_files(tmp_path, CARRYING), "test_it.py", "below", ONE_JOB)
    assert "INTERNALERROR" not in result.text
    assert result.summary == "2 failed, 6 passed, 2 errors", result.text
    assert "could not be taken in (KeyError('no such key'))" in result.failure("test_bad")
    assert "nothing to carry" in result.failure("test_refuses")
    below, end = result.journal
    assert below == """runner ['1', '2.5', "b'3'"]"""
    assert end.startswith("runner [(1, {'a': 2.5}), 'after tear-down', 'failed', 'after tear-down'")
    assert "lost" not in end
    assert "<module 'os'" in end


def test_the_example_of_the_page_gathers_what_it_shows(tmp_path: Path) -> None:
    """docs/howto/plugins.md: the steps of both tests are in the summary."""
    page = Path(__file__).parents[3] / "docs" / "howto" / "plugins.md"
    blocks = re.findall(
        r"^```py\n# (\w+\.py)\n(.*?)^```$",
        page.read_text("utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    assert [name for name, _ in blocks] == ["conftest.py", "test_steps.py"]
    for jobs in ("1", "2"):
        result = run_suite(write_files(tmp_path, dict(blocks)), f"--nsisolate-jobs={jobs}")
        assert result.summary == "2 passed", result.text
        assert "steps: ['one', 'two']" in result.stdout
