# SPDX-License-Identifier: MIT
"""What users configure in coverage and pytest-cov is the same for isolated tests."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Final

import pytest

from tests.coverage_helpers import PLAIN, PYTEST_COV, Measured, differences, run_measured
from tests.support import NEEDS_NAMESPACES, run_suite, write_files

pytestmark = NEEDS_NAMESPACES

STRICT: Final = ("-W", "error")


def both_ways(
    folder: Path, *arguments: str, run: tuple[str, ...] = (), combine: bool = False
) -> tuple[Measured, Measured]:
    """The same run un-isolated and isolated; both pass, and both say nothing on standard error."""
    plain = run_measured(folder, *arguments, *STRICT, *PLAIN, run=run, combine=combine)
    isolated = run_measured(folder, *arguments, *STRICT, run=run, combine=combine)
    for measured in (plain, isolated):
        assert measured.result.returncode == 0, measured.result.text
        assert measured.result.stderr == "", measured.result.text
    assert isolated.files == plain.files
    return plain, isolated


def test_contexts_and_paths(tmp_path: Path) -> None:
    """``dynamic_context``, a static context, relative and omitted files."""
    folder = write_files(
        tmp_path,
        {
            ".coveragerc": """
                [run]
                branch = true
                context = stage
                dynamic_context = test_function
                relative_files = true
                omit = omitted.py
                source = .
                """,
            "acts.py": """
                import omitted

                def one(n):
                    return 1 if n else 2

                def two(n):
                    if n:
                        n += one(n)
                    return n
                """,
            "omitted.py": "x = 1",
            "test_acts.py": """
                import pytest, acts

                pytestmark = pytest.mark.isolated

                @pytest.fixture
                def made():
                    acts.one(1)
                    yield
                    acts.one(0)

                @pytest.fixture(scope="module")
                def shared():
                    acts.two(1)
                    yield
                    acts.two(0)

                def test_one(made, shared):
                    acts.two(3)

                class TestTwo:
                    def test_two(self):
                        acts.two(0)

                @pytest.mark.isolated(False)
                def test_three():
                    acts.two(5)

                def test_four():
                    acts.one(5)
                """,
        },
    )
    plain, isolated = both_ways(folder, run=("--rcfile=.coveragerc",))
    assert differences(plain.data, isolated.data) == []
    assert ("acts.py", "stage|test_acts.TestTwo.test_two") in isolated.data
    assert sorted(isolated.files) == ["acts.py", "test_acts.py"]


def test_patches(tmp_path: Path) -> None:
    """Processes that tests start are measured as un-isolated, though all have the same number."""
    folder = write_files(
        tmp_path,
        {
            ".coveragerc": """
                [run]
                branch = true
                parallel = true
                patch = _exit, subprocess, fork
                concurrency = thread, multiprocessing
                include = */acts.py
                """,
            "acts.py": """
                import sys

                def in_subprocess(n):
                    return 1 if n == 1 else 2 if n == 2 else 3

                def in_fork(n):
                    return [n for n in range(n)]

                def in_process(n):
                    if n:
                        n += 1
                    return n

                def in_test(n):
                    if n:
                        n += 1
                    return n

                if __name__ == "__main__":
                    in_subprocess(int(sys.argv[1]))
                """,
            "test_acts.py": """
                import multiprocessing, os, subprocess, sys
                import pytest, acts

                pytestmark = pytest.mark.isolated

                @pytest.mark.parametrize("n", [1, 2, 3])
                def test_subprocess(n):
                    subprocess.run([sys.executable, "acts.py", str(n)], check=True)

                def test_fork():
                    acts.in_test(0)
                    pid = os.fork()
                    if pid == 0:
                        acts.in_fork(2)
                        os._exit(0)
                    assert os.waitpid(pid, 0)[1] == 0
                    acts.in_test(1)

                def test_process():
                    context = multiprocessing.get_context("fork")
                    process = context.Process(target=acts.in_process, args=[1])
                    process.start()
                    process.join()
                    assert process.exitcode == 0
                """,
        },
    )
    plain, isolated = both_ways(
        folder, "-W", "default::DeprecationWarning", run=("--rcfile=.coveragerc",), combine=True
    )
    assert differences(plain.data, isolated.data) == []
    assert len(isolated.left) == len(plain.left)
    assert len(isolated.lines("acts.py")) > 10


def test_packages_that_only_a_test_imports(tmp_path: Path) -> None:
    """A package in ``--cov`` that no runner imports: no warning, and each of its files counts."""
    folder = write_files(
        tmp_path,
        {
            "src/latecomer/__init__.py": "x = 1",
            "src/latecomer/used.py": "def f():\n    return 1\n",
            "src/latecomer/unused.py": "def f():\n    return 1\n",
            "test_late.py": """
                import pytest

                @pytest.mark.isolated
                def test_late():
                    from latecomer import used
                    used.f()

                @pytest.mark.isolated
                @pytest.mark.no_cover
                def test_marked():
                    from latecomer import unused
                    unused.f()

                @pytest.mark.isolated
                def test_asking(no_cover):
                    from latecomer import unused
                    unused.f()
                """,
        },
    )
    options = (*PYTEST_COV, "--cov=latecomer", "-o", "pythonpath=src")
    plain, isolated = both_ways(folder, *options)
    assert differences(plain.data, isolated.data) == []
    assert sorted(isolated.files) == ["__init__.py", "unused.py", "used.py"]
    assert isolated.lines("used.py") == {1, 2}
    assert isolated.lines("unused.py") == set()


_ELSEWHERE: Final = {
    # As setuptools installs an editable project whose ``package-dir`` has another name.
    "conftest.py": """
        import importlib.util, pathlib, sys

        class Finder:
            @staticmethod
            def find_spec(name, path=None, target=None):
                folder = pathlib.Path(__file__).parent / "python"
                if name == "mapped":
                    return importlib.util.spec_from_file_location(
                        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
                    )

        sys.meta_path.append(Finder)
        """,
    "python/__init__.py": "x = 1",
    "python/mapped_used.py": "def f():\n    return 1\n",
    "python/mapped_unused.py": "def f():\n    return 1\n",
    "real_v2/__init__.py": "x = 1",
    "real_v2/linked_used.py": "def f():\n    return 1\n",
    "real_v2/linked_unused.py": "def f():\n    return 1\n",
    "real_module.py": "def f():\n    return 1\n",
    "src/spread/part/__init__.py": "def f():\n    return 1\n",
    "test_late.py": """
        import importlib
        import pytest

        @pytest.mark.isolated
        @pytest.mark.parametrize(
            "name", ["mapped.mapped_used", "linked.linked_used", "module", "spread.part", "zipped"]
        )
        def test_late(name):
            importlib.import_module(name).f()
        """,
}


def test_packages_in_folders_of_another_name(tmp_path: Path) -> None:
    """Mapped by a finder, behind a link, without ``__init__.py``, in a ZIP: as if un-isolated."""
    folder = write_files(tmp_path, _ELSEWHERE)
    (folder / "src" / "linked").symlink_to(folder / "real_v2")
    (folder / "src" / "module.py").symlink_to(folder / "real_module.py")
    with zipfile.ZipFile(folder / "src.zip", "w") as archive:
        archive.writestr("zipped/__init__.py", "def f():\n    return 1\n")
    names = ("mapped", "linked", "module", "spread", "zipped")
    sources = [f"--cov={name}" for name in names]
    plain, isolated = both_ways(folder, *PYTEST_COV, *sources, "-o", "pythonpath=src src.zip")
    assert differences(plain.data, isolated.data) == []
    assert {"mapped_unused.py", "linked_unused.py"} <= isolated.files.keys()


def test_append(tmp_path: Path) -> None:
    """``--cov-append`` adds to what an earlier run has measured."""
    folder = write_files(
        tmp_path,
        {
            "acts.py": "def one():\n    return 1\n\n\ndef two():\n    return 2\n",
            "test_acts.py": """
                import pytest, acts

                pytestmark = pytest.mark.isolated

                def test_one():
                    acts.one()

                def test_two():
                    acts.two()
                """,
        },
    )
    options = (*PYTEST_COV, "--cov=acts", "--cov-append")
    first = run_measured(folder, *options, "-k", "one", keep=True)
    assert first.lines("acts.py") == {1, 2, 5}
    second = run_measured(folder, *options, "-k", "two")
    assert second.lines("acts.py") == {1, 2, 5, 6}


REPORTED: Final = {
    ".coveragerc": """
        [run]
        branch = true
        source = .
        relative_files = true
        omit = conftest.py

        [paths]
        here =
            .
            */somewhere/else
        """,
    "acts.py": """
        def act(n):
            if n > 1:
                return 1
            return 0


        def quiet():
            return 3


        def never():
            return 4
        """,
    "test_acts.py": """
        import pytest, acts

        pytestmark = pytest.mark.isolated

        @pytest.mark.parametrize("n", [0, 1, 2])
        def test_act(n):
            acts.act(n)

        @pytest.mark.no_cover
        def test_marked():
            acts.quiet()

        def test_asked(no_cover):
            acts.quiet()
        """,
}
_REPORTS: Final = ("xml:cov.xml", "json:cov.json", "lcov:cov.lcov", "annotate:annotated")
_TIMES: Final = re.compile(r'timestamp"?[=:] ?"[^"]*"')


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")], ids=["alone", "workers"])
def test_reports_say_the_same(tmp_path: Path, workers: tuple[str, ...]) -> None:
    """Every report, ``--cov-fail-under``, ``no_cover`` as mark and as fixture, ``[paths]``."""
    reports = [f"--cov-report={report}" for report in ("term-missing", *_REPORTS)]
    options = ("-p", "pytest_cov", "--cov", *reports, "--cov-fail-under=95", *workers)
    said = []
    for name, mode in (("plain", PLAIN), ("isolated", ())):
        folder = write_files(tmp_path / name, REPORTED)
        result = run_suite(folder, *options, *mode, plugins=("-p", "nsisolate"))
        table = result.stdout[result.stdout.index("coverage: platform") :].partition("\n=")[0]
        written = [folder / report.partition(":")[2] for report in _REPORTS[:3]]
        written += sorted((folder / "annotated").iterdir())
        texts = [_TIMES.sub("", path.read_text(encoding="utf-8")) for path in written]
        texts = [text.replace(str(folder), "FOLDER") for text in (table, *texts)]
        said.append((result.returncode, [path.name for path in written], texts))
    assert said[0] == said[1]
    code, _, (table, *_) = said[1]
    assert code == 1
    assert re.search(r"acts\.py +8 +2 +2 +0 +80% +9, 13", table), table
    assert "Required test coverage of 95" in table


def test_file_tracers(tmp_path: Path) -> None:
    """Templates that only isolated tests render, measured by django_coverage_plugin."""
    pytest.importorskip("django_coverage_plugin")
    folder = write_files(
        tmp_path,
        {
            ".coveragerc": "[run]\nplugins = django_coverage_plugin\nsource = .\n",
            "conftest.py": """
                import django
                from django.conf import settings

                settings.configure(TEMPLATES=[{
                    "BACKEND": "django.template.backends.django.DjangoTemplates",
                    "DIRS": ["templates"],
                    "OPTIONS": {"debug": True},
                }])
                django.setup()
                """,
            "templates/page.html": """\
                {% if name %}
                  Hello {{ name }}
                {% else %}
                  Nobody
                {% endif %}
                """,
            "templates/never.html": "{{ never }}\n",
            "test_pages.py": """
                import pytest
                from django.template.loader import render_to_string

                pytestmark = pytest.mark.isolated

                def test_somebody():
                    assert "Hello you" in render_to_string("page.html", {"name": "you"})

                def test_nobody():
                    assert "Nobody" in render_to_string("page.html")
                """,
        },
    )
    plain, isolated = both_ways(folder, run=("--rcfile=.coveragerc",))
    assert differences(plain.data, isolated.data) == []
    assert isolated.files["page.html"] == "django_coverage_plugin.DjangoTemplatePlugin"
    assert {1, 2, 4} <= isolated.lines("page.html")


def test_other_tracers(tmp_path: Path) -> None:
    """A debugger's trace function, or its tool of ``sys.monitoring``, works beside coverage."""
    folder = write_files(
        tmp_path,
        {
            "acts.py": """
                def seen(n):
                    n += 1
                    return n

                def before():
                    return 1

                def after():
                    return 2
                """,
            "conftest.py": """
                import sys

                STARTED = []

                def pytest_configure():
                    if sys.version_info >= (3, 12):
                        tool, events = sys.monitoring.DEBUGGER_ID, sys.monitoring.events
                        sys.monitoring.use_tool_id(tool, "debugger")
                        # A module's names are gone when the interpreter's own end is traced.
                        note = lambda code, _, seen=STARTED: seen.append(code.co_name)
                        sys.monitoring.register_callback(tool, events.PY_START, note)
                        sys.monitoring.set_events(tool, events.PY_START)
                """,
            "test_acts.py": """
                import sys
                import pytest, acts

                pytestmark = pytest.mark.isolated

                def test_trace_function():
                    lines = []

                    def trace(frame, event, argument):
                        if frame.f_code is acts.seen.__code__:
                            lines.append((event, frame.f_lineno))
                        return trace

                    acts.before()
                    before = sys.gettrace()
                    sys.settrace(trace)
                    acts.seen(1)
                    sys.settrace(before)
                    acts.after()
                    assert lines == [("call", 2), ("line", 3), ("line", 4), ("return", 4)]

                @pytest.mark.skipif(sys.version_info < (3, 12), reason="no sys.monitoring")
                def test_monitoring():
                    from conftest import STARTED
                    STARTED.clear()
                    acts.before()
                    assert "before" in STARTED
                """,
        },
    )
    plain, isolated = both_ways(folder, run=("--include=*/acts.py",))
    assert differences(plain.data, isolated.data) == []
    assert {7, 10} <= isolated.lines("acts.py")
