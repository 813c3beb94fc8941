# SPDX-License-Identifier: MIT
"""The gallery of assertions in the docs: each example fails, and says exactly what stands there.

These are the tests of the failing messages: every assertion has to be in the gallery.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Final

import pytest

from pytest_nsisolate import Pid1View
from tests.support import NEEDS_NAMESPACES, Result, run_suite, write_files
from tests.view.tools import PATH, needs

PAGE: Final = Path(__file__).parents[2] / "docs" / "howto" / "assertions.md"

BLOCK: Final = re.compile(
    r"^```py\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL
)
NAME: Final = re.compile(r"^def test_(\w+)\(", re.MULTILINE)

pytestmark = [
    NEEDS_NAMESPACES,
    needs("ip", "mount"),
    pytest.mark.skipif(not PAGE.exists(), reason="the docs are in the checkout, not the wheel"),
]


def read_gallery() -> tuple[str, dict[str, tuple[str, str]]]:
    """What all examples share, and name to (source, message)."""
    (head, _), *examples = BLOCK.findall(PAGE.read_text("utf-8")) if PAGE.exists() else [("", "")]
    found = {}
    for source, message in examples:
        name = NAME.search(source)
        assert name is not None, source
        found[name[1]] = (source, message)
    return head, found


HEAD, EXAMPLES = read_gallery()


def neutral(message: str) -> str:
    """Without what differs between machines, kernels and moments."""
    message = re.sub(r"\b40265\d{5}\b", "40265#####", message)  # inode of a namespace
    message = re.sub(r"\(py(thon|test)[\w.]*\)", "(python)", message)
    message = re.sub(r"and \d+ more", "and # more", message)
    message = re.sub(r",(inode64|(size|mode|uid|gid)=\w+)", "", message)
    message = re.sub(r"\b(running|sleeping|disk-sleep)\b", "(alive)", message)
    # The width of a column is that of its longest cell; tables have a test of their own.
    message = re.sub(r"(?<=\S)  +", " ", message)
    # The map of an ordinary user has one row, of an id that nobody knows.
    message = re.sub(r"^  \d+ \d+ \d+$", "  # # #", message, flags=re.MULTILINE)
    return re.sub(r" \d s ", " # s ", message)


def message_of(result: Result, name: str) -> str:
    """What pytest prints behind its ``E``."""
    lines = result.failure(f"test_{name}").splitlines()
    text = "\n".join(line[1:] for line in lines if re.match(r"E( |$)", line))
    return textwrap.dedent(text).strip() + "\n"


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """All examples in one run."""
    source = "\n\n".join([HEAD, *(source for source, _ in EXAMPLES.values())])
    folder = write_files(tmp_path_factory.mktemp("gallery"), {"test_gallery.py": source})
    # The examples leave their processes behind, which Popen's finalizer would complain about.
    warnings = ("-W", "error", "-W", "ignore::ResourceWarning")
    return run_suite(folder, *warnings, env={"PATH": PATH})


def test_every_assertion_is_shown() -> None:
    """The gallery is complete."""
    text = "".join(source for source, _ in EXAMPLES.values())
    assertions = {name for name in dir(Pid1View) if name.startswith("assert_")}
    assert len(assertions) > 20
    assert {name for name in assertions if f"pid1.{name}(" not in text} == set()


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_fails_as_shown(gallery: Result, name: str) -> None:
    """The message, word by word; the test's own line, and no frame of ours."""
    assert gallery.phases(f"test_{name}") == ["setup passed", "call failed", "teardown passed"]
    assert neutral(message_of(gallery, name)) == neutral(EXAMPLES[name][1])
    text = gallery.failure(f"test_{name}")
    assert "pytest_nsisolate" not in text
    places = re.findall(r"^(\S+\.py):\d+: ", text, re.MULTILINE)
    assert places == ["test_gallery.py"], text
