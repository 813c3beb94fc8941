# SPDX-License-Identifier: MIT
"""allure-pytest: its folder after an isolated run is that after a plain one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest

from tests.integrations.plugins.installed import needs
from tests.support import (
    NEEDS_NAMESPACES,
    Result,
    differences,
    run_suite,
    terminal,
    write_files,
)

pytestmark = [NEEDS_NAMESPACES, needs("allure-pytest")]

SUITE: Final = {
    "test_it.py": """
        import allure
        import pytest

        KIND = allure.attachment_type

        @pytest.fixture(scope="module")
        def wide():
            with allure.step("wide step"):
                allure.attach("of the module", "wide", KIND.TEXT)
            yield

        @pytest.fixture
        def narrow():
            with allure.step("narrow step"):
                allure.attach("before", "early", KIND.TEXT)
            yield
            allure.attach("after", "late", KIND.TEXT)

        @allure.step("decorated with {a}")
        def decorated(a, b=3): pass

        @allure.title("A title")
        @allure.feature("a feature")
        @allure.link("http://example.org/1", name="one")
        def test_everything(wide, narrow, tmp_path):
            "The docstring."
            with allure.step("outer"):
                with allure.step("inner"):
                    allure.attach(b"\\x00\\xff", name="bytes", attachment_type=KIND.PNG)
                decorated(1)
            (tmp_path / "file").write_text("a file")
            allure.attach.file(tmp_path / "file", name="file", extension="txt")
            allure.dynamic.title("Another title")
            allure.dynamic.description("a description")
            allure.dynamic.link("http://example.org/2", name="two")
            allure.dynamic.label("own", "label")
            allure.dynamic.tag("late")
            allure.dynamic.parameter("number", 5)
            print("printed")

        @allure.severity("critical")
        @pytest.mark.parametrize("n", [1, 2])
        def test_fails(narrow, n):
            with allure.step("fails"):
                assert n == 3

        class OwnError(Exception):
            pass

        def test_breaks(wide):
            with allure.step("breaks"):
                raise OwnError("own")

        def test_skips(): pytest.skip("inside")
        @pytest.mark.skip(reason="before")
        def test_skip(): pass
        @pytest.mark.xfail(reason="known")
        def test_xfail(): assert 0
        @pytest.mark.xfail
        def test_xpass(): pass
        @pytest.fixture
        def broken():
            yield
            raise ValueError("in tear-down")
        def test_teardown(broken): pass
        @pytest.fixture
        def unready(): raise ValueError("in set-up")
        def test_setup(unready): pass
    """,
}

_LATER: Final = re.compile(r"0x[0-9a-f]+|pytest-\d+|\b\d+-MainThread")
_VARYING: Final = ("start", "stop", "uuid")


def read(folder: Path) -> tuple[dict[str, Any], list[str], int]:
    """Results by test, the containers of fixtures, and how many files there are besides."""
    paths = sorted(folder.iterdir())
    loaded = {path: json.loads(path.read_text()) for path in paths if path.suffix == ".json"}
    results = {p: data for p, data in loaded.items() if p.name.endswith("-result.json")}
    names = {data["uuid"]: data["fullName"] + data["name"] for data in results.values()}

    def neutral(value: Any) -> Any:
        match value:
            case {"source": str(name)}:
                return {**value, "source": (folder / name).read_bytes().decode("latin1")}
            case dict():
                return {k: neutral(v) for k, v in value.items() if k not in _VARYING}
            case list():
                return [neutral(one) for one in value]
            case str():
                return _LATER.sub("#", value)
        return value

    containers = [
        json.dumps(
            [sorted(names[child] for child in data["children"]), neutral({**data, "children": 0})]
        )
        for path, data in loaded.items()
        if path not in results and "children" in data
    ]
    told = {names[data["uuid"]]: neutral(data) for data in results.values()}
    for data in told.values():
        data["labels"].sort(key=json.dumps)  # those of marks come from a set
    return told, sorted(containers), len(paths) - len(loaded)


def run(
    folder: Path, *arguments: str, suite: dict[str, str] = SUITE, out: str = "allure"
) -> Result:
    write_files(folder, suite)
    options = ("-p", "allure_pytest.plugin", "--alluredir", str(folder / out))
    return run_suite(folder, *options, *arguments)


@pytest.mark.parametrize(
    "more", [(), ("-p", "xdist", "-n", "2"), ("--nsisolate-init",)], ids=["alone", "xdist", "init"]
)
def test_the_folder_is_the_same(tmp_path: Path, more: tuple[str, ...]) -> None:
    """Steps, attachments, titles, labels, links, parameters, fixtures, how each test ended."""
    init = [word for word in more if not word.startswith("--nsisolate")]
    plain = run(tmp_path, *init, out="plain")
    isolated = run(tmp_path, "--nsisolate=all", *more, out="isolated")
    if not more:
        assert differences(plain, isolated) == []
        assert terminal(isolated) == terminal(plain)
    (results, *rest), (expected, *others) = read(tmp_path / "isolated"), read(tmp_path / "plain")
    assert results.keys() == expected.keys()
    for name in expected:
        assert results[name] == expected[name]
    assert rest == others


def test_a_test_that_dies_has_what_does_not_depend_on_it(tmp_path: Path) -> None:
    """Its labels and how it ended; the next test's fixtures are its own."""
    suite = {
        "test_it.py": """
            import allure, os, pytest

            @pytest.fixture
            def narrow():
                with allure.step("a step"): pass

            pytestmark = pytest.mark.isolated

            @allure.feature("a feature")
            def test_dies(narrow):
                with allure.step("lost"): os._exit(3)

            def test_lives(narrow): pass
        """
    }
    run(tmp_path, "-p", "no:randomly", suite=suite)
    results, containers, _ = read(tmp_path / "allure")
    dead, alive = results["test_it#test_diestest_dies"], results["test_it#test_livestest_lives"]
    assert (dead["status"], alive["status"]) == ("broken", "passed")
    assert "exit status 3" in dead["statusDetails"]["message"]
    assert {"name": "feature", "value": "a feature"} in dead["labels"]
    assert [json.loads(one)[0] for one in containers] == [["test_it#test_livestest_lives"]]


def test_without_its_option_it_does_nothing(tmp_path: Path) -> None:
    """Neither does what stands beside it."""
    write_files(tmp_path, SUITE)
    options = ("-p", "allure_pytest.plugin", "-k", "everything", "--nsisolate=all")
    assert run_suite(tmp_path, *options).returncode == 0
    assert not (tmp_path / "allure").exists()


def test_a_result_of_another_shape_fails_its_test(tmp_path: Path) -> None:
    """Whoever has taken over the child says nothing else than an allure result."""
    suite = {
        "conftest.py": """
            def pytest_nsisolate_carry(item):
                return {"allure": {"steps": [{"name": "a step", "__class__": "other"}]}}
        """,
        "test_it.py": "def test_it(): pass",
    }
    result = run(tmp_path, "--nsisolate=all", suite=suite)
    assert result.returncode == 1, result.text
    assert "a TestStepResult of allure has the wrong shape" in result.stdout
