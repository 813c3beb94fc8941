# SPDX-License-Identifier: MIT
"""The files of the CI services: they fit the project, and what needs no service is executed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.hosts import NEEDS_HOSTS, run_on
from tests.support import ON_THE_HOST

ROOT: Final = Path(__file__).parents[1]
GITHUB: Final = ROOT / ".github"
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))

#: A step that publishes has no hash that we have seen; release.yml says so.
BY_BRANCH: Final = {"pypa/gh-action-pypi-publish@release/v1"}


def content_of(name: str) -> Any:
    """A file of YAML. Its key ``on`` is the boolean True: YAML 1.1, as GitHub's reader is not."""
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


WORKFLOWS: Final[dict[str, Any]] = {
    path.stem: content_of(f".github/workflows/{path.name}")
    for path in sorted((GITHUB / "workflows").iterdir())
}
GITLAB: Final[dict[str, Any]] = content_of(".gitlab-ci.yml")


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and content of every job of GitHub's."""
    for workflow, content in WORKFLOWS.items():
        for name, job in content["jobs"].items():
            yield f"{workflow}/{name}", job


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    """The name of its job, and every step."""
    for name, job in jobs():
        yield from ((name, step) for step in job["steps"])


def commands() -> dict[str, str]:
    """Every script of a service, by its job."""
    found = {f"{name}: {step['run'][:40]}": step["run"] for name, step in steps() if "run" in step}
    for name, job in GITLAB.items():
        if isinstance(job, dict):
            lines = [*job.get("before_script", ()), *job.get("script", ())]
            found |= {f"gitlab/{name}: {line[:40]}": line for line in lines}
    return found


def pythons() -> list[str]:
    """Those of the classifiers."""
    text = "\n".join(PROJECT["project"]["classifiers"])
    return re.findall(r"Python :: (3\.\d+)$", text, re.MULTILINE)


def pytests() -> list[str]:
    """The requirements of tox's factors, as what follows the name."""
    text = (ROOT / "tox.ini").read_text("utf-8")
    return re.findall(r"^    pytest\d+: pytest(.*)$", text, re.MULTILINE)


@pytest.mark.parametrize("command", commands().values(), ids=commands())
def test_a_step_is_one_that_bash_understands(command: str) -> None:
    """And what it starts of ours is there, and can be started."""
    subprocess.run(["bash", "-n", "-c", command], check=True)
    assert "${{" not in command, "an expression in a script is code from outside: use env"
    for name in re.findall(r"\.ci/[\w-]+", command):
        assert (ROOT / name).stat().st_mode & 0o111
        subprocess.run(["bash", "-n", ROOT / name], check=True)


def test_the_table_is_that_of_the_classifiers_and_of_tox() -> None:
    """Each Python with each pytest, at GitHub and at GitLab; pytest's main once."""
    strategy = WORKFLOWS["ci"]["jobs"]["tests"]["strategy"]
    matrix = strategy["matrix"]
    (main,) = matrix["include"]
    (gitlab,) = GITLAB["tests"]["parallel"]["matrix"]

    assert len(pythons()) == 5
    assert len(pytests()) == 2
    assert (matrix["python"], matrix["pytest"]) == (pythons(), pytests())
    assert (gitlab["PYTHON"], gitlab["PYTEST"]) == (pythons(), pytests())
    assert main["python"] in pythons()
    assert main["pytest"].endswith("pytest@main")
    assert (main["tolerated"], strategy["fail-fast"]) == (True, False)


def test_every_python_that_a_step_names_is_supported() -> None:
    """Also those outside the table, and of the images."""
    named = [str(s["with"]["python-version"]) for _, s in steps() if "python" in s.get("uses", "")]
    images = re.findall(r"\bpython:(3\.\d+)", "\n".join(p.read_text() for p in files()))

    assert named
    assert images
    assert {version for version in named if "matrix" not in version} <= set(pythons())
    assert set(images) <= set(pythons())


def files() -> list[Path]:
    return [*sorted((GITHUB / "workflows").iterdir()), ROOT / ".gitlab-ci.yml"]


def test_actions_are_pinned_by_hash() -> None:
    """With the release beside it, alike everywhere; but for the one that says why it is not."""
    used = {
        match[1]: match[2]
        for path in files()[:-1]
        for match in re.finditer(r"uses: (\S+)(?: # (\S+))?$", path.read_text(), re.MULTILINE)
    }
    by_hash = {name for name in used if re.search(r"@[0-9a-f]{40}$", name)}

    assert set(used) - by_hash == BY_BRANCH
    assert all(re.fullmatch(r"v\d+\.\d+\.\d+", used[name] or "") for name in by_hash)
    assert len({name.partition("@")[0] for name in used}) == len(used)


def test_no_job_has_rights_that_it_does_not_need() -> None:
    """Nothing by default; only the upload has an identity, and no secret is stored."""
    for workflow in WORKFLOWS.values():
        assert workflow["permissions"] == {}
    for name, job in jobs():
        allowed = {"id-token": "write"} if name == "release/publish" else {"contents": "read"}
        assert job["permissions"] in ({}, allowed), name
        assert job["timeout-minutes"] > 0, name
    for name, step in steps():
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False, name
    assert "secrets" not in "\n".join(path.read_text() for path in files())


def test_a_release_is_built_once_and_what_is_tested_is_uploaded() -> None:
    """Build, test, publish: each needs the one before, and they hand on the same files."""
    release = WORKFLOWS["release"]["jobs"]
    builds = [name for name, step in steps() if " build " in step.get("run", "")]

    assert [job.get("needs") for job in release.values()] == [None, "build", "test"]
    assert builds == ["release/build"]
    downloads = [
        (name, step["with"])
        for name, step in steps()
        if step.get("uses", "").startswith("actions/download-artifact@")
    ]
    assert downloads == [
        (f"release/{name}", {"name": "dist", "path": "dist"}) for name in ("test", "publish")
    ]
    *_, publish = release["publish"]["steps"]
    assert publish["uses"].startswith("pypa/gh-action-pypi-publish@")
    assert publish["with"] == {"attestations": True}
    assert release["publish"]["environment"] == "pypi"


def test_dependabot_follows_the_actions() -> None:
    """It is what moves the hashes."""
    (update,) = content_of(".github/dependabot.yml")["updates"]

    assert (update["package-ecosystem"], update["directory"]) == ("github-actions", "/")


# What needs no service ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ended", "selected", "expected"), [(0, 0, 0), (5, 1, 0), (5, 0, 1), (1, 1, 1), (2, 0, 1)]
)
def test_check_may_select_tests_that_one_of_its_runs_has_not(
    tmp_path: Path, ended: int, selected: int, expected: int
) -> None:
    """The run with the older pytest leaves out what is about the kernel; all of it is an error."""
    text = (ROOT / "check").read_text("utf-8")
    function = re.search(r"^run_tests\(\) \{.*?^\}$", text, re.DOTALL | re.MULTILINE)
    assert function is not None
    pytest_program = tmp_path / "bin" / "pytest"
    pytest_program.parent.mkdir()
    pytest_program.write_text(f"#!/bin/sh\nexit {ended}\n")
    pytest_program.chmod(0o755)
    script = f"set -euo pipefail\npytest_cache=x selected={selected}\n{function[0]}\nrun_tests $0"

    assert subprocess.run(["bash", "-c", script, tmp_path]).returncode == expected


def release_version(folder: Path, tag: str, heading: str) -> subprocess.CompletedProcess[str]:
    """The script of release.yml, for a project with this heading in its changelog."""
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "release-version", folder / ".ci")
    (folder / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (folder / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n")
    command = [str(folder / ".ci" / "release-version"), tag]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_tag_of_the_version_is_released(tmp_path: Path) -> None:
    """When the changelog has its date."""
    done = release_version(tmp_path, "v1.2.3", "## 1.2.3 - 2026-12-01")

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("tag", "heading", "said"),
    [
        (
            "v1.2.4",
            "## 1.2.3 - 2026-12-01",
            "the tag is v1.2.4, the version in",
        ),
        ("v1.2.3", "## 1.2.3 - unreleased", "CHANGELOG.md has no date for 1.2.3"),
        ("v1.2.3", "## 1x2.3 - 2026-12-01", "CHANGELOG.md has no date for 1.2.3"),
    ],
)
def test_another_tag_is_not(tmp_path: Path, tag: str, heading: str, said: str) -> None:
    """Neither is one without a date."""
    done = release_version(tmp_path, tag, heading)

    assert done.returncode == 1
    assert said in done.stderr


@pytest.fixture
def refused(tmp_path: Path) -> tuple[str, ...]:
    """``.ci/refused`` with this environment's pytest and nsisolate on PATH."""
    for name, module in (("nsisolate", "pytest_nsisolate"), ("pytest", "pytest")):
        (tmp_path / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        (tmp_path / name).chmod(0o755)
    script = f'PATH="{tmp_path}:$PATH" exec "$@"'
    return ("sh", "-c", script, "sh", str(ROOT / ".ci" / "refused"))


def expected_remedies() -> dict[str, str]:
    """What each service's job wants to be told, by job."""
    return {
        name.partition(":")[0]: match[1]
        for name, command in commands().items()
        if (match := re.search(r"\.ci/refused '(.*)'", command))
    }


@NEEDS_HOSTS
@ON_THE_HOST
@pytest.mark.parametrize(
    ("job", "host", "place"),
    [
        ("ci/apparmor-refuses", "apparmor", ""),
        ("ci/docker-refuses", "filtered-root", "GITHUB_ACTIONS=true"),
        ("gitlab/refused", "filtered-root", "GITLAB_CI=true"),
    ],
)
def test_a_host_that_refuses_is_told_apart(
    job: str, host: str, place: str, refused: tuple[str, ...]
) -> None:
    """As that service's machines are emulated here: the step passes."""
    # The emulated AppArmor imports the plugin before pytest does.
    early = "PYTEST_ADDOPTS=-Wignore::pytest.PytestAssertRewriteWarning"
    command = ("env", early, *place.split(), *refused, expected_remedies()[job])
    # The doctor and two runs of pytest: more than what others run there.
    done = run_on(host, *command, timeout=300)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "As it should be" in done.stdout


@NEEDS_HOSTS
@ON_THE_HOST
def test_a_host_that_refuses_nothing_fails_that_step(refused: tuple[str, ...]) -> None:
    """So does another remedy."""
    nothing = run_on("root", *refused, "sysctl", timeout=300)
    other = run_on("no-net", *refused, "no such remedy", timeout=300)

    assert (nothing.returncode, other.returncode) == (1, 1)
    assert "this host refuses nothing" in nothing.stderr
    assert "the doctor does not say: no such remedy" in other.stderr
