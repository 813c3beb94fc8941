# SPDX-License-Identifier: MIT
"""The cause and the remedy of many refusals are read once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import pytest

from tests.support import NEEDS_NAMESPACES, run_source

pytestmark = NEEDS_NAMESPACES

#: Two refusals of every host: a device that is not there, and fewer processes than one needs.
REFUSED: Final = """
    import pytest

    refused = pytest.mark.isolated(devices="none-such")

    @refused
    @pytest.mark.parametrize("n", range(3))
    def test_error(n): pass

    @pytest.mark.isolated(devices="another")
    def test_other_device(): pass

    @pytest.mark.isolated(limits={"processes": 1}, init=True)
    def test_other_cause(): pass

    def test_call(isolate):
        isolate.using(devices="none-such")(print)

    @pytest.mark.isolated
    def test_call_inside(isolate):
        isolate.using(devices="none-such")(print)

    class TestSkipped:
        pytestmark = pytest.mark.isolated(missing="skip")
        @refused
        def test_one(self): pass
        @refused
        def test_two(self): pass
        def test_call(self, isolate):
            isolate.using(devices="none-such", missing="skip")(print)
"""

HEAD: Final = r"isolation refused: find /dev/none-such for the mount namespace: ENOENT, .*"

#: Alone, with workers, and as other ways to show a failure have it.
WAYS = pytest.mark.parametrize(
    "options",
    [(), ("-p", "xdist", "-n", "2"), ("--tb=short", "--color=yes")],
    ids=lambda options: " ".join(options) or "alone",
)


@WAYS
def test_once_in_full_and_then_as_above(tmp_path: Path, options: tuple[str, ...]) -> None:
    """In the order in which it is read, by whichever worker; each cause by itself."""
    result = run_source(tmp_path, REFUSED, "--junitxml=junit.xml", *options)
    text = re.sub(r"\x1b\[[\d;]*m", "", result.stdout)
    assert "2 failed, 3 skipped, 5 errors" in text
    shown = re.findall(rf"{HEAD}\n(E? *)(cause: .*\n\1remedy: .*|cause and remedy: .*)\n", text)
    whole, *others = [what for _, what in shown]
    assert whole.startswith("cause: this host has no such device")
    first = re.search(
        r"ERROR at setup of (test_error\[\d\]) .*\n(\[gw\d\].*\n)?isolation refused: find", text
    )
    assert first is not None
    assert others == [f"cause and remedy: as above (first at test_it.py::{first[1]})"] * 4
    assert text.count("remedy: ask for more") == 1
    assert re.search(r"find /dev/another for .*\n *cause and remedy: as above", text)


def test_what_others_read_is_whole(tmp_path: Path) -> None:
    """The reports themselves, and the file for a CI system."""
    result = run_source(tmp_path, REFUSED, "--junitxml=junit.xml")
    for name in ("test_error[0]", "test_error[2]", "test_other_device", "test_call_inside"):
        assert re.search(
            r"cause: this host has no such device(.*\n)*.*remedy: load its driver",
            result.failure(name),
        )
    written = [e.text or "" for e in ElementTree.parse(tmp_path / "junit.xml").iter("error")]
    assert sum("remedy: load its driver" in text for text in written) == 4
    assert not [text for text in written if "as above" in text]


@WAYS
def test_the_reasons_of_skips(tmp_path: Path, options: tuple[str, ...]) -> None:
    """They are long lines, each with its place; the summary counts all that were refused."""
    result = run_source(tmp_path, REFUSED, "-rs", *options)
    text = re.sub(r"\x1b\[[\d;]*m", "", result.stdout)
    skips = re.findall(r"^SKIPPED \[1\] test_it\.py:\d+: (.*)$", text, re.MULTILINE)
    assert len(skips) == 3, text
    whole = [skip for skip in skips if "this host has no such device" in skip]
    assert len(whole) == 1
    assert skips[0] == whole[0]
    for skip in skips[1:]:
        assert re.fullmatch(
            r"(print\(\): )?isolation refused: find /dev/none-such for the mount namespace, "
            r"as above \(first at test_it\.py::TestSkipped::test_\w+\)",
            skip,
        )
    assert re.search(
        r"^nsisolate: 8 tests refused: find /dev/none-such .* \(this host has", text, re.MULTILINE
    )


def test_a_run_with_one_refusal_says_all_of_it(tmp_path: Path) -> None:
    """Negative control; and what a test says about refusals of its own is left alone."""
    source = """
        import pytest
        @pytest.mark.isolated(devices="none-such")
        def test_one(): pass
        @pytest.mark.parametrize("n", [1, 2])
        def test_two(n): pytest.fail("cause: mine\\nremedy: mine", pytrace=False)
        @pytest.mark.parametrize("n", [1, 2])
        def test_three(n): pytest.skip("isolation refused: of my own")
        """
    result = run_source(tmp_path, source, "-rs")
    assert "as above" not in result.stdout, result.text
