# SPDX-License-Identifier: MIT
"""What a release consists of: the metadata that PyPI shows, and a source that stands alone."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import pytest

import pytest_nsisolate
from tests.support import NEEDS_NAMESPACES, inner_environment

ROOT: Final = Path(__file__).parents[1]
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))

#: In a checkout only: what an editor's hook or a service reads there.
NOT_IN_THE_SOURCE: Final = {".pre-commit-config.yaml", ".readthedocs.yaml"}

#: Some tests of the unpacked source, with and without isolation: its helpers are there.
SAMPLE: Final = ("tests/wire/test_tagged_json.py", "examples/world")

DIST: Final = ("build", "hatchling", "hatch_fancy_pypi_readme", "readme_renderer", "twine")

#: ./check installs it; an environment that has only the group test goes without.
NEEDS_DIST: Final = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in DIST),
    reason="this environment lacks the dependency group dist",
)

IN_A_CHECKOUT: Final = pytest.mark.skipif(
    not (ROOT / ".git").exists(), reason="these files are no git checkout"
)


class Release(NamedTuple):
    """What is uploaded, and both of it unpacked."""

    files: list[Path]
    source: Path
    installed: Path
    metadata: Message


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The source from this folder, and the wheel from that source: as release.yml makes them."""
    folder = tmp_path_factory.mktemp("dist")
    command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (source,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    (folder / "source").mkdir()
    subprocess.run(("tar", "-xzf", source, "-C", folder / "source"), check=True)
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / "installed")
    (unpacked,) = (folder / "source").iterdir()
    (metadata,) = (folder / "installed").glob("*.dist-info/METADATA")
    parsed = Parser().parsestr(metadata.read_text("utf-8"))
    return Release([source, wheel], unpacked, folder / "installed", parsed)


def test_the_version_stands_in_two_places_that_agree() -> None:
    """In the metadata, and where it is read without them."""
    assert PROJECT["project"]["version"] == pytest_nsisolate.__version__
    assert f"## {pytest_nsisolate.__version__} - " in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_pythons_are_those_that_are_tested() -> None:
    """Classifiers, tox, and the oldest of them."""
    classifiers = PROJECT["project"]["classifiers"]
    pythons = re.findall(r"Python :: (3\.\d+)$", "\n".join(classifiers), re.MULTILINE)
    minors = re.search(r"py3\{([\d,]+)\}", (ROOT / "tox.ini").read_text("utf-8"))

    assert pythons == ["3.11", "3.12", "3.13", "3.14", "3.15"]
    assert minors is not None
    assert [f"3.{minor}" for minor in minors[1].split(",")] == pythons
    assert PROJECT["project"]["requires-python"] == f">={pythons[0]}"
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{pythons[0].replace('.', '')}"


def test_no_address_is_invented() -> None:
    """The project has no home yet; CONTRIBUTING names the one place to fill it in."""
    assert "urls" not in PROJECT["project"]
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    assert "[project.urls]" in text.partition("## When the project has an address")[2]
    forges = re.compile(r"https?://[^\s)>\"']*(?:/pytest-nsisolate\b|pytest-nsisolate\.)")
    pages = [*ROOT.glob("*.md"), *ROOT.glob("*.toml"), *(ROOT / "docs").rglob("*.md")]
    assert [page.name for page in pages if forges.search(page.read_text("utf-8"))] == []


def configuration_of_the_pages(
    monkeypatch: pytest.MonkeyPatch, address: str | None
) -> dict[str, Any]:
    """What docs/conf.py says where the pages are published, or anywhere else (None)."""
    if address is None:
        monkeypatch.delenv("READTHEDOCS", raising=False)
    else:
        monkeypatch.setenv("READTHEDOCS", "True")
        monkeypatch.setenv("READTHEDOCS_CANONICAL_URL", address)
    return runpy.run_path(str(ROOT / "docs" / "conf.py"))


@IN_A_CHECKOUT
def test_the_published_pages_have_their_extensions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The group that Read the Docs installs has what docs/conf.py asks for there and only there."""
    address = "https://docs.example/en/latest/"
    here = configuration_of_the_pages(monkeypatch, None)
    there = configuration_of_the_pages(monkeypatch, address)

    assert there["html_baseurl"] == there["ogp_site_url"] == address
    assert "html_baseurl" not in here
    packages = {"sphinxext.opengraph": "sphinxext-opengraph[social_cards]"}
    assert set(there["extensions"]) - set(here["extensions"]) == set(packages)
    groups = PROJECT["dependency-groups"]
    assert {"include-group": "docs"} in groups["site"]
    named = {re.split(r"[<>=]", line)[0] for line in groups["site"] if isinstance(line, str)}
    assert named == set(packages.values())
    assert "--group site" in (ROOT / ".readthedocs.yaml").read_text("utf-8")


def test_the_pages_can_be_built_from_their_group_alone() -> None:
    """The reference imports every module of the package, those of the extras included."""
    extras = PROJECT["project"]["optional-dependencies"]
    assert set(chain(*extras.values())) <= set(PROJECT["dependency-groups"]["docs"])


@pytest.mark.parametrize(
    ("address", "page", "head"),
    [
        ("https://docs.example/en/latest/", "404", '<base href="/en/latest/">'),
        ("https://docs.example/en/latest/", "index", ""),
        (None, "404", ""),
    ],
)
def test_the_page_for_missing_pages_leads_from_any_depth(
    monkeypatch: pytest.MonkeyPatch, address: str | None, page: str, head: str
) -> None:
    """Its links are relative, and it is the answer to addresses of any depth."""
    handlers: dict[str, Any] = {}
    context = {"metatags": "<meta>"}
    configuration_of_the_pages(monkeypatch, address)["setup"](
        SimpleNamespace(connect=handlers.__setitem__)
    )
    handlers["html-page-context"](None, page, "page.html", context, None)

    assert context["metatags"] == f"{head}<meta>"


@NEEDS_DIST
def test_pypi_can_show_it(release: Release) -> None:
    """twine finds no fault, and what it renders is the README: its headings and its table."""
    check = [sys.executable, "-m", "twine", "check", "--strict", *map(str, release.files)]
    done = subprocess.run(check, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert release.metadata["Description-Content-Type"] == "text/markdown"

    from readme_renderer.markdown import render

    shown = render(str(release.metadata.get_payload()))
    assert shown is not None
    headings = re.findall(r"^## (.+)$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    shown_headings = re.findall(r"<h2[^>]*>(.*?)</h2>", shown)
    assert [re.sub("<.*?>", "", heading) for heading in shown_headings] == headings
    assert "<table>" in shown
    assert re.findall(r'href="(?!https:|#)[^"]*"', shown) == []


@NEEDS_DIST
def test_the_metadata_name_everything(release: Release) -> None:
    """Entry points, the licence, and no address."""
    (entries,) = release.installed.glob("*.dist-info/entry_points.txt")
    assert entries.read_text("utf-8").split() == [
        *("[console_scripts]", "nsisolate", "=", "pytest_nsisolate.__main__:main"),
        *("[pytest11]", "nsisolate", "=", "pytest_nsisolate.plugin"),
    ]
    assert release.metadata["License-Expression"] == "MIT"
    assert release.metadata["License-File"] == "LICENSE"
    assert release.metadata.get_all("Project-URL") is None
    assert release.metadata["Home-page"] is None


@NEEDS_DIST
@IN_A_CHECKOUT
def test_the_source_has_every_file(release: Release) -> None:
    """That git has, but for those of a checkout; and no other but the metadata."""
    listed = subprocess.run(("git", "ls-files"), cwd=ROOT, capture_output=True, text=True)
    tracked = set(listed.stdout.splitlines()) - NOT_IN_THE_SOURCE
    found = {str(p.relative_to(release.source)) for p in release.source.rglob("*") if p.is_file()}

    assert len(tracked) > 300
    assert tracked - found == set()
    assert "PKG-INFO" in found
    assert {name for name in found - tracked if name.startswith((".venv", "dist/"))} == set()


@NEEDS_DIST
def test_the_wheel_has_the_package_and_nothing_else(release: Release) -> None:
    """Its types and its schema included."""
    names = {path.name for path in release.installed.iterdir()}
    package = release.installed / "pytest_nsisolate"

    assert names == {
        "pytest_nsisolate",
        f"pytest_nsisolate-{pytest_nsisolate.__version__}.dist-info",
    }
    assert (package / "py.typed").is_file()
    assert (package / "cli" / "doctor.schema.json").is_file()
    # In the wheel itself: what runs from there writes some.
    with zipfile.ZipFile(release.files[1]) as packed:
        assert [name for name in packed.namelist() if name.endswith(".pyc")] == []


@NEEDS_DIST
@NEEDS_NAMESPACES
def test_the_source_tests_what_was_built_from_it(release: Release) -> None:
    """Without the checkout: its own tests run there, against the wheel."""
    probe = release.source / "tests" / "test_which.py"
    probe.write_text(
        "import pytest_nsisolate\n"
        f"def test_it(): assert pytest_nsisolate.__file__.startswith({str(release.installed)!r})\n"
    )
    environment = inner_environment(release.source)
    path = os.pathsep.join([str(release.installed), environment["PYTHONPATH"]])
    options = ("-p", "nsisolate", "-p", "no:cacheprovider", "-q")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", *options, *SAMPLE, str(probe)],
        cwd=release.source,
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d{2,} passed", done.stdout, re.MULTILINE), done.stdout
