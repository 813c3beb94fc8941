# SPDX-License-Identifier: MIT
"""Fixtures of every shape, doctests, a conftest's own items: the same isolated as plain."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from parity_compare import neutral
from tests.support import (
    NEEDS_NAMESPACES,
    Result,
    differences,
    run_source,
    run_suite,
    terminal,
    write_files,
)

pytestmark = NEEDS_NAMESPACES

CONFTEST: Final = r"""
import pytest

pytest_plugins = "pytester"

class YamlException(Exception):
    pass

class Shown:
    def __init__(self, text): self.text = text
    def __str__(self): return self.text
    def toterminal(self, tw):
        tw.sep("-", "shown", blue=True)
        tw.line(self.text, red=True, bold=True)
        tw.write("no newline at the end")

class Plain:
    def __str__(self): return "an object without toterminal"

class YamlItem(pytest.Item):
    def __init__(self, *, text, **kwargs):
        super().__init__(**kwargs)
        self.text = text
        self.add_marker("yaml")
    def setup(self):
        print("yaml set-up")
        self.addfinalizer(lambda: print("yaml finalizer"))
    def runtest(self):
        self.add_report_section("call", "yaml", "a section of its own")
        self.user_properties.append(("text", self.text))
        if self.text == "skip": pytest.skip("a yaml skip")
        if self.text != "good": raise YamlException(self.text)
    def teardown(self): print("yaml tear-down")
    def repr_failure(self, excinfo):
        if isinstance(excinfo.value, YamlException):
            told = excinfo.value.args[0]
            return {"string": "usecase failed", "lines": "one\ntwo\n", "shown": Shown("shown"),
                    "object": Plain(), "empty": "", "number": 3}.get(told, f"odd: {told}")
        return super().repr_failure(excinfo)
    def reportinfo(self): return self.path, 3, f"usecase: {self.name}"

class YamlFile(pytest.File):
    def collect(self):
        for text in self.path.read_text().split():
            yield YamlItem.from_parent(self, name=text, text=text)

def pytest_collect_file(parent, file_path):
    if file_path.suffix == ".yaml":
        return YamlFile.from_parent(parent, path=file_path)

def pytest_configure(config):
    config.addinivalue_line("markers", "yaml: of a yaml file")

@pytest.fixture(autouse=True)
def add_names(doctest_namespace):
    doctest_namespace["seven"] = 7

@pytest.fixture
def layered(): return ["conftest"]

@pytest.fixture(scope="package")
def package(request):
    print("package up", request.node.name)
    yield request.node.name
    print("package down")
"""

FIXTURES: Final = r"""
import logging, os, sys, warnings
import pytest

log = logging.getLogger("items")

@pytest.fixture
def layered(layered): return [*layered, "module"]

@pytest.fixture(scope="module")
def module(): print("module up"); yield "m"; print("module down")
@pytest.fixture(scope="session")
def session(): print("session up"); yield "s"
@pytest.fixture(scope="class", autouse=True)
def around_class(): print("class up"); yield; print("class down")
@pytest.fixture
def function(): print("function up"); yield "f"; print("function down")
@pytest.fixture
def breaking(): yield; raise ValueError("first")
@pytest.fixture
def breaking_too(breaking): yield; raise KeyError("second")
@pytest.fixture(params=[1, pytest.param(2, marks=pytest.mark.xfail), pytest.param(3, id="three")])
def numbered(request): return request.param
@pytest.fixture
def indirect(request): return request.param * 2
@pytest.fixture
def noting(request):
    request.node.noted = ["set-up"]
    request.addfinalizer(lambda: print("noted", request.node.noted))
    return request.node

def pytest_generate_tests(metafunc):
    if "generated" in metafunc.fixturenames:
        metafunc.parametrize("generated", ["a", "b"], scope="module")

def setup_module(module): print("setup_module", module.__name__)
def teardown_module(module): print("teardown_module")
def setup_function(function): print("setup_function", function.__name__)
def teardown_function(function): print("teardown_function")

class TestLayers:
    @pytest.fixture
    def layered(self, layered): return [*layered, "class"]
    def test_class(self, layered): assert layered == ["conftest", "module", "class"]
    def test_fails(self, layered): assert layered == ["conftest"]
    class TestNested:
        def test_nested(self, layered, package): assert package and layered[-1] == "class"
        @classmethod
        def setup_class(cls): print("setup_class"); cls.value = 3
        @classmethod
        def teardown_class(cls): print("teardown_class"); raise OSError("teardown_class")
        def setup_method(self): print("setup_method"); self.other = 4
        def teardown_method(self, method): print("teardown_method", method.__name__)
        def test_xunit(self): assert (self.value, self.other) == (3, 5)

def test_module(layered): assert layered == ["conftest", "module"]
def test_dynamic_function(request): assert request.getfixturevalue("function") == "g"
def test_dynamic_session(request): assert request.getfixturevalue("session") == "t"
def test_dynamic_indirect(request): assert request.getfixturevalue("layered") == []
@pytest.fixture
def asks(request): return request.getfixturevalue("function")
def test_dynamic_in_setup(asks): assert asks == "g"
def test_dynamic_missing(request): request.getfixturevalue("no_such_thing")
def test_breaking(breaking_too): pass
def test_breaking_and_failing(breaking_too): assert 0
def test_numbered(numbered): assert numbered != 2
@pytest.mark.parametrize("indirect", [1, 2], indirect=True)
@pytest.mark.parametrize("direct", ["x", "y"])
def test_indirect(indirect, direct): assert indirect == 2 or direct == "x"
def test_generated(generated, module): assert generated == "a"
def test_generated_again(generated): assert generated == "b"
def test_noting(noting): noting.noted.append("call"); assert noting.noted == []
@pytest.mark.parametrize("k", [1, 2])
class TestParametrized:
    def test_one(self, k): assert k == 1
    @pytest.mark.parametrize("j", [3])
    def test_two(self, k, j): assert k + j == 4
@pytest.mark.usefixtures("function", "module")
class TestUsing:
    def test_one(self): assert 0
def test_finalizers(request):
    for n in range(3): request.addfinalizer(lambda n=n: print("finalizer", n))
    def fails(): raise ValueError("finalizer fails")
    request.addfinalizer(fails)

def test_monkeypatch(monkeypatch):
    monkeypatch.setenv("ITEMS", "1"); monkeypatch.setattr(os, "getcwd", lambda: "/nowhere")
    assert os.getcwd() == os.environ["ITEMS"]
def test_monkeypatch_is_over(): assert "ITEMS" not in os.environ
def test_capsys(capsys):
    print("swallowed"); print("err", file=sys.stderr)
    assert capsys.readouterr() == ("swallowed\n", "err\n")
    print("left over")
    with capsys.disabled(): pass
    assert 0
def test_capfd(capfd):
    os.system("echo raw")
    assert capfd.readouterr().out == "raw\n"
    os.write(2, b"left over\n")
    assert 0
def test_capsysbinary(capsysbinary):
    sys.stdout.buffer.write(b"\xff\0")
    assert capsysbinary.readouterr().out == b"\xff"
def test_caplog(caplog):
    caplog.set_level(logging.DEBUG)
    log.debug("deep %s", 1)
    assert caplog.record_tuples == [("items", logging.DEBUG, "deep 1")]
    with caplog.at_level("ERROR"): log.warning("not seen")
    caplog.clear()
    log.info("kept")
    assert caplog.messages == []
def test_recwarn(recwarn):
    warnings.warn("caught")
    assert len(recwarn) == 0
def test_deprecated():
    with pytest.deprecated_call(): pass
def test_temporary(tmp_path, tmpdir, tmp_path_factory):
    (tmp_path / "file").write_text("x")
    assert tmp_path_factory.mktemp("more").is_dir()
    assert tmp_path.name == "other"
def test_pytester(pytester):
    pytester.makepyfile("def test_one(): pass\ndef test_two(): assert 0")
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=1, failed=1)
def test_pytester_fails(pytester):
    pytester.makepyfile("def test_one(): pass")
    done = pytester.inline_run("-p", "no:cacheprovider")
    done.assertoutcome(passed=2)
"""

RECORDS: Final = """
import pytest

def test_attribute(record_xml_attribute):
    record_xml_attribute("assertions", 3)
    record_xml_attribute("odd", "\\x1b<&>")
def test_attribute_fails(record_xml_attribute):
    record_xml_attribute("status", "bad")
    assert 0
@pytest.fixture
def attribute(record_xml_attribute):
    record_xml_attribute("setup", 1)
    yield
    record_xml_attribute("teardown", 2)
def test_attribute_of_fixture(attribute): pass
def test_property(record_property):
    record_property("number", 3)
    record_property("text", "\\x00 <b> \\udcff")
def test_suite(record_testsuite_property): record_testsuite_property("where", "here")
def test_output(): print("out"); assert 0
def test_skip(): pytest.skip("a <reason>")
@pytest.mark.xfail(reason="known")
def test_xfail(): assert 0
@pytest.fixture
def broken(): raise OSError("set-up")
def test_broken(broken): pass
@pytest.fixture
def breaking(): yield; raise OSError("tear-down")
def test_breaking(breaking): assert 0
def test_breaking_only(breaking): pass
"""

DOCTESTS: Final = '''
"""
>>> seven
7
>>> getfixture("tmp_path").is_dir()
True
"""

def one():
    """
    >>> one()
    2
    >>> one()
    3
    """
    return 1

def raising():
    """
    >>> raising()
    1
    """
    raise KeyError("k")

def skipped():
    """
    >>> skipped()  # doctest: +SKIP
    1
    """

def printing():
    """
    >>> printing()
    said
    >>> 1 / 0
    Traceback (most recent call last):
    ZeroDivisionError: division by zero
    >>> print("a  b")  # doctest: +NORMALIZE_WHITESPACE
    a b
    >>> 3.14159  # doctest: +ELLIPSIS
    3.14...
    """
    print("said")

class Class:
    """
    >>> import pytest; pytest.skip("from a doctest")
    """
    def method(self):
        """
        >>> Class().method()
        1
        >>> x = [1,
        ...   2]
        >>> x
        [1, 3]
        """
        return 1
'''

SUITE: Final = {
    "conftest.py": CONFTEST,
    "cases.yaml": "good skip string lines shown object number empty other",
    "test_fixtures.py": FIXTURES,
    "test_records.py": RECORDS,
    "module_docs.py": DOCTESTS,
    "text.txt": "Text\n\n>>> seven\n8\n>>> 1\n2\n",
    "packed/__init__.py": "",
    "packed/test_packed.py": """
        def test_one(package): assert package == "x"
        def test_two(package): pass
    """,
    "packed/conftest.py": """
        import pytest
        @pytest.fixture
        def layered(layered): return [*layered, "package"]
        @pytest.fixture(autouse=True)
        def around(layered): print(layered); yield; print("around, down")
    """,
}

ARGUMENTS: Final = ("--doctest-modules", "--doctest-glob=*.txt", "-rA", "--junitxml=.junit.xml")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--color=yes", "--doctest-continue-on-failure"), id="colours"),
        pytest.param(
            ("--doctest-report=ndiff", "-o", "junit_family=xunit1", "-o", "junit_logging=all"),
            id="xunit1",
        ),
    ],
)
def test_items_of_every_kind_are_the_same(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Reports, warnings, the terminal to the last colour and the whole of the JUnit file."""
    write_files(tmp_path, SUITE)
    (plain, before), (isolated, after) = (
        _run_with_document(tmp_path, *options, *isolation)
        for isolation in ((), ("--nsisolate=all",))
    )
    assert len(plain.reports) > 200, plain.text
    assert differences(plain, isolated) == []
    assert terminal(isolated) == terminal(plain)
    assert after == before


def _run_with_document(folder: Path, *options: str) -> tuple[Result, list[str]]:
    # A set of colours is written in the order of its hashes.
    result = run_suite(folder, *ARGUMENTS, *options, env={"PYTHONHASHSEED": "0"})
    text = neutral((folder / ".junit.xml").read_text(encoding="utf-8"))
    return result, re.sub(r'(time|timestamp)="[^"]*"', "", text).replace("><", ">\n<").split("\n")


@pytest.mark.parametrize("policy", ["all", "failed", "none"])
def test_temporary_directories_are_kept_by_the_same_policy(tmp_path: Path, policy: str) -> None:
    """What is left of tmp_path after the run depends on the option and the outcome alone."""
    source = """
        import pytest
        def test_pass(tmp_path): (tmp_path / "file").touch()
        def test_fail(tmp_path): (tmp_path / "file").touch(); assert 0
        @pytest.fixture
        def breaking(tmp_path): yield; assert 0
        def test_breaking(breaking, tmp_path): (tmp_path / "file").touch()
        def test_factory(tmp_path_factory): tmp_path_factory.mktemp("made")
    """
    kept = []
    for isolation in ((), ("--nsisolate=all",)):
        run_source(tmp_path, source, "-o", f"tmp_path_retention_policy={policy}", *isolation)
        base = tmp_path / ".temp"
        kept.append(sorted(str(found.relative_to(base)) for found in base.glob("**/*")))
    assert kept[0] == kept[1]
    assert ("test_pass0" in kept[0]) == (policy != "failed")
