# SPDX-License-Identifier: MIT
"""The pages as a forge and PyPI show them: every link leads somewhere and has a text.

Sphinx checks the links of ``docs/`` by its own rules (an empty text is filled in, ``(name)=`` is a
target). A forge shows the files as they are, and knows files and headings only.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple
from xml.etree import ElementTree

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
DOCS: Final = ROOT / "docs"

#: A fenced block: what follows the fence, and the text.
FENCED: Final = re.compile(r"^(`{3,}|~{3,}|:{3,})(.*)\n((?:.*\n)*?)\1$", re.MULTILINE)
CODE: Final = re.compile(r"(`+)(.+?)\1", re.DOTALL)
LINK: Final = re.compile(r"\[([^][]*)\]\(([^()\s]*)\)")
HEADING: Final = re.compile(r"^#+ (.+)$", re.MULTILINE)
ROLE: Final = re.compile(r"\{[\w:-]+\}`code`")

#: The directives that have no plain Markdown to stand in for them.
DIRECTIVES: Final = {"toctree", "literalinclude", "include", "eval-rst"}


def pages() -> list[Path]:
    """Every page that a forge shows."""
    folders = (ROOT / name for name in ("benchmarks", "docs", "examples", "tests", "tools"))
    return sorted([*ROOT.glob("*.md"), *(page for top in folders for page in top.rglob("*.md"))])


@cache
def text_of(page: Path) -> str:
    """The page without what is quoted in it: blocks, and code between backticks."""
    return CODE.sub("`code`", FENCED.sub("", page.read_text("utf-8")))


def directives(page: Path) -> list[str]:
    """Names of the directives of MyST that the page has."""
    openings = (match[2] for match in FENCED.finditer(page.read_text("utf-8")))
    return [name[1] for opening in openings if (name := re.match(r"\{([\w-]+)\}", opening))]


@cache
def anchors(page: Path) -> set[str]:
    """What a ``#fragment`` may name on that page: the headings, as GitHub and MyST spell them."""
    prose = FENCED.sub("", page.read_text("utf-8"))
    titles = (LINK.sub(r"\1", title).replace("`", "") for title in HEADING.findall(prose))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


class Link(NamedTuple):
    """A link of a page to somewhere in this repository."""

    text: str
    path: Path
    fragment: str


def links(page: Path) -> list[Link]:
    """The relative links of the page."""
    found = []
    for text, target in LINK.findall(text_of(page)):
        if not re.match(r"[a-z]+:", target):
            path, _, fragment = target.partition("#")
            found.append(Link(text, (page.parent / path).resolve() if path else page, fragment))
    return found


def pages_with(*names: str) -> list[Path]:
    """The pages that have one of these directives."""
    return [page for page in pages() if set(names) & set(directives(page))]


def named(page: Path) -> str:
    """The page in a test's name."""
    return str(page.relative_to(ROOT))


each_page = pytest.mark.parametrize("page", pages(), ids=named)


@each_page
def test_every_link_has_a_text(page: Path) -> None:
    """A forge shows ``[](page.md)`` as nothing at all."""
    assert [link.path.name for link in links(page) if not link.text.strip()] == []


@each_page
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    """Of this repository; targets like ``(name)=`` are known to Sphinx only."""
    for link in links(page):
        assert link.path.is_relative_to(ROOT), link
        assert link.path.exists(), link
        assert not link.fragment or link.fragment in anchors(link.path), link


@each_page
def test_directives_are_those_without_a_plain_form(page: Path) -> None:
    """Tabs, tables and roles of MyST are source text to a forge; pages outside docs/ have none."""
    allowed = DIRECTIVES if page.is_relative_to(DOCS) else set()
    assert set(directives(page)) <= allowed
    assert not ROLE.search(text_of(page))


@pytest.mark.parametrize("page", pages_with("toctree"), ids=named)
def test_an_index_links_to_all_of_its_pages(page: Path) -> None:
    """A forge has no table of contents: the text of the index names every page of it."""
    (tree,) = (
        text
        for _, opening, text in FENCED.findall(page.read_text("utf-8"))
        if opening == "{toctree}"
    )
    names = [line for line in tree.splitlines() if line and not line.startswith(":")]
    listed = {(page.parent / f"{name}.md").resolve() for name in names}
    assert names
    assert listed - {link.path for link in links(page)} == set()


@pytest.mark.parametrize("page", pages_with("literalinclude", "include"), ids=named)
def test_an_included_file_is_linked_too(page: Path) -> None:
    """A forge does not include it."""
    openings = (opening for _, opening, _ in FENCED.findall(page.read_text("utf-8")))
    names = [name for text in openings for name in re.findall(r"^\{\w*include\} (\S+)$", text)]
    included = {(page.parent / name).resolve() for name in names}
    assert included
    assert included - {link.path for link in links(page)} == set()


def test_the_readme_on_pypi_has_no_dead_link() -> None:
    """PyPI has no files to link to: the build rewrites relative links, by pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    hook = project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    assert [fragment["path"] for fragment in hook["fragments"]] == ["README.md"]
    text = readme = (ROOT / "README.md").read_text("utf-8")
    for substitution in hook["substitutions"]:
        text = re.sub(substitution["pattern"], substitution["replacement"], text)

    assert links(ROOT / "README.md")
    assert FENCED.findall(text) == FENCED.findall(readme)
    assert [url for _, url in LINK.findall(text) if not url.startswith(("https://", "#"))] == []
    without_targets = re.compile(r"\[(.*?)\]\(.*?\)")
    assert without_targets.sub(r"\1", text) == without_targets.sub(r"\1", readme)


#: A picture: what is said to those who do not see it, and the file.
PICTURE: Final = re.compile(r"!\[([^][]*)\]\(([^()\s]*)\)")


@pytest.mark.parametrize(
    "page", [page for page in pages() if PICTURE.search(text_of(page))], ids=named
)
def test_a_picture_is_readable_text(page: Path) -> None:
    """SVG with a title, for light and dark pages, with letters to read on a phone; and in words."""
    for words, name in PICTURE.findall(text_of(page)):
        assert len(words) > 40
        picture = ElementTree.parse(page.parent / name).getroot()
        width = float(picture.attrib["viewBox"].split()[2])
        style = picture.findtext("{http://www.w3.org/2000/svg}style") or ""
        smallest = min(float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", style))
        # A page of 400 px leaves 368 to its text.
        assert smallest * 368 / width >= 10
        assert picture.find("{http://www.w3.org/2000/svg}title") is not None
        texts = picture.iter("{http://www.w3.org/2000/svg}text")
        assert all(float(text.attrib["x"]) < width for text in texts)
        assert "prefers-color-scheme: dark" in (page.parent / name).read_text("utf-8")
