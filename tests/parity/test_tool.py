# SPDX-License-Identifier: MIT
"""tools/parity.py: it finds what differs, names it, and says so by its exit code."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

import parity_allow
import parity_compare
from parity_compare import FIELDS, compare, neutral
from tests.support import NEEDS_NAMESPACES, PYTEST_9, TOOLS, inner_environment, write_files

PLANTED: Final = """
    import os, warnings
    import pytest

    HERE = os.readlink("/proc/self/ns/pid")
    NETWORK = os.readlink("/proc/self/ns/net")
    def elsewhere(): return os.readlink("/proc/self/ns/pid") != HERE

    def test_outcome(): assert not elsewhere()
    def test_text(): assert elsewhere() is None
    def test_skip(): pytest.skip(f"elsewhere: {elsewhere()}")
    def test_wasxfail(): pytest.xfail(f"elsewhere: {elsewhere()}")
    def test_sections(): print("first line\\nelsewhere:", elsewhere())
    def test_properties(record_property): record_property("elsewhere", elsewhere())
    def test_warning(): warnings.warn(f"elsewhere: {elsewhere()}")
    def test_network(): assert os.readlink("/proc/self/ns/net") == NETWORK
    def test_same(tmp_path): print(tmp_path, HERE)
    @pytest.mark.parametrize("letter", ["[a]", "b"])
    def test_same_with_parameters(letter): assert letter != "b"
"""
SUBTESTS: Final = """
    import os
    HERE = os.readlink("/proc/self/ns/pid")
    def test_report(subtests):
        if os.readlink("/proc/self/ns/pid") != HERE:
            with subtests.test("only here"):
                assert 0
"""


def run_tool(
    folder: Path, *arguments: str, script: str = "parity.py"
) -> subprocess.CompletedProcess[str]:
    """The tool in a process of its own; its suite lies in ``folder/suite``."""
    # Without a path of ours: the tool itself makes its plugin importable.
    path = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    no_index = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    return subprocess.run(
        [sys.executable, str(TOOLS / script), *arguments],
        cwd=folder,
        env=inner_environment(folder, path | no_index),
        capture_output=True,
        text=True,
        timeout=110,
    )


def differing(output: str) -> set[str]:
    """Names of the tests under which the tool has printed differences."""
    return set(re.findall(r"^test_\w+\.py::test_(\S+)$", output, re.MULTILINE))


def suite(folder: Path, **files: str) -> Path:
    """A folder with a suite below it."""
    write_files(folder / "suite", {f"test_{name}.py": text for name, text in files.items()})
    return folder


# The tool ----------------------------------------------------------------------------------------


@NEEDS_NAMESPACES
def test_each_planted_difference_is_found_and_nothing_else(tmp_path: Path) -> None:
    """Each kind of difference is printed below its test, and what is the same is not."""
    files = {"planted": PLANTED} | ({"subtests": SUBTESTS} if PYTEST_9 else {})
    done = run_tool(suite(tmp_path, **files), "suite", "--", "-p", "no:randomly")
    expected = {"outcome", "text", "skip", "wasxfail", "sections", "properties", "warning"}
    expected |= {"network"} | ({"report"} if PYTEST_9 else set())

    assert differing(done.stdout) == expected, done.stdout + done.stderr
    for field in expected - {"network"}:
        below = done.stdout.partition(f"::test_{field}\n")[2].partition("\n\n")[0]
        assert re.search(rf"^  \w+: {field}$", below, re.MULTILINE), below
    assert "    -elsewhere: False\n    +elsewhere: True\n" in done.stdout
    tests = 12 if PYTEST_9 else 11
    assert f"{len(expected)} of {tests + 1} differ ({tests} tests" in done.stdout
    assert done.returncode == 1


@NEEDS_NAMESPACES
def test_an_allowed_difference_is_told_with_its_reason_and_counts_no_more(tmp_path: Path) -> None:
    """Neither it nor the exit code that follows from it; and nobody else's."""
    source = """
        import os
        HERE = os.readlink("/proc/self/ns/pid")
        def test_mine(): assert os.readlink("/proc/self/ns/pid") == HERE
        def test_same(): pass
    """
    entry = """
        [[allow]]
        test = "test_it.py::test_m?n*"
        fields = ["outcome", "text", "counted"]
        reason = "asserts where it runs"
    """
    write_files(suite(tmp_path, it=source), {"allow.toml": entry})
    done = run_tool(tmp_path, "--allow", "allow.toml", "suite")

    assert "test_it.py::test_mine outcome: asserts where it runs\n" in done.stdout, done.stderr
    assert "plain run: exit code 0" in done.stdout
    assert "isolated run: exit code 1" in done.stdout
    assert done.stdout.endswith("0 of 3 differ (2 tests and the run itself)\n")
    assert done.returncode == 0


@NEEDS_NAMESPACES
def test_a_chosen_namespace_and_entries_that_nothing_needs(tmp_path: Path) -> None:
    """Only what that namespace changes differs; needless entries are told, and fail."""
    entries = """
        [[allow]]
        test = "*::test_network"
        fields = ["*"]
        reason = "the network is its own"
        [[allow]]
        test = "*::test_outcome"
        fields = ["outcome"]
        reason = "has been repaired"
        [[allow]]
        test = "*::test_gone"
        fields = ["outcome"]
        reason = "has been removed"
    """
    write_files(suite(tmp_path, planted=PLANTED), {"allow.toml": entries})
    done = run_tool(tmp_path, "--namespaces", "net", "--allow", "allow.toml", "suite")

    assert "  test_planted.py::test_network outcome: the network" in done.stdout, done.stderr
    assert "  *::test_outcome: no longer differs\n" in done.stdout
    assert "  *::test_gone: matches no test of this run\n" in done.stdout
    assert "\n0 of 12 differ" in done.stdout
    assert done.returncode == 1


@NEEDS_NAMESPACES
def test_what_two_plain_runs_do_not_agree_on_is_unstable(tmp_path: Path) -> None:
    """It is listed apart; a difference of isolation beside it still counts."""
    source = """
        import os
        HERE = os.getpid()
        def test_unstable(): print(os.urandom(8).hex())
        def test_isolated(): assert os.getpid() == HERE
    """
    done = run_tool(suite(tmp_path, it=source), "--plain-twice", "suite")

    unstable = done.stdout.partition("agree with each other:\n")[2].partition("\n\n")[0]
    assert unstable == "  test_it.py::test_unstable sections", done.stdout + done.stderr
    assert differing(done.stdout) == {"isolated"}
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: FOLDER"),
        (("nowhere",), "nowhere is no folder"),
        (("--allow", "nowhere.toml", "."), "nowhere.toml: No such file"),
        (("--command", "", "."), "--command"),
        (("--command", "'", "."), "--command: No closing quotation"),
        (("--command", "/nowhere/python", "."), "cannot run /nowhere/python: No such file"),
        (("--command", "true", "."), "the command is not pytest"),
        ((".",), "the plain run broke: exit code 5, no test was collected"),
        (("--timeout", "0.01", "."), "the plain run did not end within 0.01 seconds"),
        ((".", "--", "--unheard-of"), "the plain run broke: exit code 4, pytest was used wrongly"),
    ],
)
def test_what_cannot_be_compared_has_an_exit_code_of_its_own(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    """Bad usage and a run that broke: 2, with a message that names it."""
    if arguments[:2] == ("--command", ""):
        arguments = ("--command", " ", ".")
    done = run_tool(tmp_path, *arguments)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


def test_an_isolated_run_that_breaks_is_no_difference_but_an_error(tmp_path: Path) -> None:
    """The end of its output is shown."""
    source = """
        import sys
        if "--nsisolate=all" in sys.argv: raise RuntimeError("at import")
        def test_it(): pass
    """
    done = run_tool(suite(tmp_path, it=source), "suite")
    assert "parity.py: the isolated run broke: exit code 2, and no test ran" in done.stderr
    assert "RuntimeError: at import" in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("none", "the isolated run broke: it did not isolate"),
        ("all", "the plain run broke: it isolates by itself"),
    ],
)
def test_two_runs_of_one_kind_are_no_comparison(tmp_path: Path, mode: str, message: str) -> None:
    """Who undoes what the tool adds, or adds it to both, gets no "0 differ" for that."""
    conftest = f"def pytest_configure(config): config.option.nsisolate = {mode!r}"
    write_files(suite(tmp_path, it="def test_it(): pass"), {"suite/conftest.py": conftest})
    done = run_tool(tmp_path, "suite", "--", "-p", "nsisolate")
    assert message in done.stderr, done.stdout
    assert done.returncode == 2


# The comparison ----------------------------------------------------------------------------------

REPORT: Final[dict[str, Any]] = {
    "record": "report",
    "type": "TestReport",
    "nodeid": "t.py::test",
    "when": "call",
    "outcome": "passed",
    "wasxfail": None,
    "skip": None,
    "text": "",
    "longrepr": "NoneType",
    "sections": [["Captured stdout call", "out"]],
    "properties": [],
    "location": ["t.py", 1, "test"],
    "keywords": ["test"],
    "context": "None",
    "duration": 0.1,
    "worker": None,
}
WARNING: Final[dict[str, Any]] = {
    "record": "warning",
    "category": "UserWarning",
    "text": "beware",
    "filename": "t.py",
    "lineno": 3,
    "when": "runtest",
    "nodeid": "t.py::test",
    "location": None,
}
OTHER: Final = REPORT | {"nodeid": "t.py::other"}
END: Final[dict[str, Any]] = {"record": "end", "nodeid": "", "counted": [["passed", "t.py::test"]]}
RECORDS: Final = [REPORT, REPORT | {"when": "teardown"}, WARNING, OTHER, END]

CHANGES: Final[dict[str, list[dict[str, Any]]]] = {
    "outcome": [REPORT | {"outcome": "failed"}, *RECORDS[1:]],
    "wasxfail": [REPORT | {"wasxfail": "reason"}, *RECORDS[1:]],
    "text": [REPORT | {"text": "assert 0"}, *RECORDS[1:]],
    "skip": [REPORT | {"skip": "('t.py', 1, 'Skipped: x')"}, *RECORDS[1:]],
    "sections": [REPORT | {"sections": [["Captured stderr call", "out"]]}, *RECORDS[1:]],
    "properties": [REPORT | {"properties": [["'key'", "1"]]}, *RECORDS[1:]],
    "location": [REPORT | {"location": ["t.py", 2, "test"]}, *RECORDS[1:]],
    "keywords": [REPORT | {"keywords": ["test", "slow"]}, *RECORDS[1:]],
    "context": [REPORT | {"context": "SubtestContext(msg='x')"}, *RECORDS[1:]],
    "report": RECORDS[1:],
    "warning": [*RECORDS[:2], WARNING | {"lineno": 4}, *RECORDS[3:]],
    "counted": [*RECORDS[:-1], END | {"counted": []}],
    "order": [OTHER, *RECORDS[:3], END],
    "collect": [{"record": "collect", "nodeid": "u.py", "outcome": "failed"}, *RECORDS],
}


@pytest.mark.parametrize("field", [field for field in FIELDS if field != "exit"])
def test_a_change_of_each_field_is_a_difference(field: str) -> None:
    """One changed record is one difference, with the name of what has changed."""
    changed = CHANGES[field]
    assert {found.field for found in compare(RECORDS, changed)} == {field}
    assert {found.field for found in compare(changed, RECORDS)} == {field}


def test_order_within_a_test_counts_and_that_of_workers_does_not() -> None:
    """What pytest-xdist leaves to chance is not compared."""
    within = [RECORDS[1], RECORDS[0], *RECORDS[2:]]
    assert [found.field for found in compare(RECORDS, within)] == ["order"]
    before, after = copy.deepcopy((RECORDS, CHANGES["order"]))
    for worker, records in {"gw0": before, "gw1": after}.items():
        for record in records:
            record.update({"worker": worker} if record["record"] == "report" else {})
    assert compare(before, after) == []


def test_the_same_again_is_no_difference() -> None:
    """Times differ, and nothing is said."""
    later = copy.deepcopy(RECORDS)
    later[0]["duration"] = 7
    assert compare(RECORDS, later) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<C object at 0x7f3a5c0d1e20>", "<C object at 0x...>"),
        ("0xff", "0xff"),
        ("<Mock id='140543555002512'>, id='7'", "<Mock id='...'>, id='7'"),
        ("scope 7f2798b76de0, 712345678901", "scope 0x..., 712345678901"),
        ("at 2026-01-02 03:04:05,678 it", "at HH:MM:SS it"),
        ("at 1795457266.4551573 it", "at SECONDS it"),
        ("<Thread(T-1, started daemon 140694262916800)>", "<Thread(T-1, started daemon ...)>"),
        ("===== 1 passed in 0.12s =======", "===== 1 passed in #s ====="),
        ("200 GET /x (127.0.0.1) 2.40ms", "200 GET /x (127.0.0.1) #s"),
        ("12 ms, 7us, 3 µs, 1.5 milliseconds, 4.5e-05 sec", "#s, #s, #s, #s, #s"),
        ("took 0:00:00.003512, 1.25 seconds", "took #s, #s"),
        ("/tmp/tmpa1b2c3d4/x", "/tmp/tmp......../x"),
        ("pid 4711, version 1.2.3, 10 items", "pid 4711, version 1.2.3, 10 items"),
        ("within 10 s, 2.40mss, 3 msgs, 1.5 m", "within 10 s, 2.40mss, 3 msgs, 1.5 m"),
    ],
)
def test_only_what_no_two_runs_have_in_common_is_taken_out(text: str, expected: str) -> None:
    """Addresses, times and random names go; numbers, and among them process ids, stay."""
    assert neutral([text]) == [expected]


def test_durations_in_texts_are_no_difference_and_in_names_they_are_names() -> None:
    """A server's log has one in each line; of a parameter it is the value."""
    log = "INFO tornado.access:web.py:2344 200 GET /x (127.0.0.1) {}ms"
    plain, isolated = (
        REPORT | {"text": f"took {took}ms", "sections": [["Captured log call", log.format(took)]]}
        for took in ("2.40", "0.97")
    )
    assert compare([plain], [isolated]) == []

    ids = ["t.py::test[1ms]", "t.py::test[2ms]"]
    one, two = (REPORT | {"nodeid": nodeid} for nodeid in ids)
    assert parity_compare.tests([one, two]) == ids
    (found,) = compare([one, two], [one, two | {"outcome": "failed"}])
    assert (found.nodeid, found.field) == (ids[1], "outcome")


# The allow-list ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[allow]]\ntest = "a"\nfields = ["text"]', "entry 1 has no reason"),
        ('[[allow]]\ntest = "a"\nfields = ["text"]\nreason = " "', "neither is empty"),
        ('[[allow]]\nfields = ["text"]\nreason = "r"', "entry 1 has no test"),
        ('[[allow]]\ntest = "a"\nreason = "r"', "entry 1 has no fields"),
        ('[[allow]]\ntest = "a"\nfields = ["txt"]\nreason = "r"', "'txt', did you mean 'text'?"),
        ('[[allow]]\ntest = "a"\nfields = "text"\nreason = "r"', "fields is a list"),
        ('[[allow]]\ntest = "a"\nfields = ["*"]\nreason = "r"\nwhy = 1', "unknown key 'why'"),
        ("[allow]\n", "two brackets"),
        ("[[allowed]]\n", "unknown key 'allowed'"),
        ("allow =", "Invalid value"),
    ],
)
def test_a_bad_entry_is_named(tmp_path: Path, text: str, message: str) -> None:
    """An entry without a reason is an error, like every other mistake."""
    path = tmp_path / "allow.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(parity_allow.AllowListError, match=re.escape(message)) as raised:
        parity_allow.read(path)
    assert str(raised.value).startswith(str(path))


def test_brackets_of_a_pattern_belong_to_parametrized_names() -> None:
    """Only ``*`` and ``?`` have a meaning of their own."""
    entry = parity_allow.Entry("t.py::test[*]", frozenset({"text"}), "reason")
    assert entry.matches("t.py::test[a/b]")
    assert not entry.matches("t.py::testa")
    assert not entry.matches("t.py::test[a]b")


# The published suites ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("pluggy",), "It needs a connection"), (("plugy",), "plugy is none of pluggy, iniconfig")],
)
def test_published_suites_that_cannot_be_had(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    """Without an index, or by a wrong name: a failure that says so, and nothing half-downloaded."""
    done = run_tool(tmp_path, "--into", "here", *arguments, script="published_suites.py")
    assert message in done.stderr
    assert done.returncode == 2
    assert not [*tmp_path.glob("here/*")]
