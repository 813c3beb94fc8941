# SPDX-License-Identifier: MIT
"""The files of ``docs/ci/``: they can be read, and say what the doctor says."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from pytest_nsisolate.host import Host, facts
from pytest_nsisolate.host.refusal import Refusal
from pytest_nsisolate.host.remedies import explained, table
from pytest_nsisolate.request.model import MUST_WORK
from pytest_nsisolate.request.options import add_options

ROOT: Final = Path(__file__).parents[2]
RECIPES: Final = ROOT / "docs" / "ci"

#: By the name of the file, what of ours must be in it.
SWITCHES: Final[dict[str, tuple[str, ...]]] = {
    "docker.sh": tuple(f"--security-opt {option}" for option in table.DOCKER),
    "podman.sh": tuple(f"--security-opt {option}" for option in table.PODMAN),
    "Jenkinsfile": tuple(f"--security-opt {option}" for option in table.DOCKER),
    "github-actions.yml": (table.APPARMOR_SYSCTL, f"options: {table.GITHUB}\n"),
    "circleci.yml": (table.APPARMOR_SYSCTL,),
}

CONTAINER: Final = Host(True, False, 0, 0, 0xA80425FB, (6, 1), seccomp=2)


def text_of(name: str) -> str:
    """The recipe's text."""
    return (RECIPES / name).read_text("utf-8")


def content_of(name: str) -> Any:
    """The recipe, read as what it is."""
    if name.endswith(".toml"):
        return tomllib.loads(text_of(name))
    return yaml.safe_load(text_of(name))


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch) -> str:
    """What is printed for a container with a filter, where nothing tells its engine."""
    monkeypatch.setattr(facts, "place", lambda: None)
    refused = Refusal("unshare(CLONE_NEWUSER)", "user", errno.EPERM, filtered=True)
    return explained(refused, CONTAINER).remedy


def test_every_file_is_on_the_page() -> None:
    """None is forgotten, and none is named that does not exist."""
    shown = set(re.findall(r"\{literalinclude\} (\S+)", text_of("index.md")))

    assert shown == {path.name for path in RECIPES.iterdir()} - {"index.md"}


@pytest.mark.parametrize("name", SWITCHES)
def test_the_switches_are_those_of_the_remedies(name: str) -> None:
    """All of them and, of these security options, no others."""
    text = text_of(name)

    assert [switch for switch in SWITCHES[name] if switch not in text] == []
    options = {switch for switch in SWITCHES[name] if switch.startswith("--security-opt")}
    assert set(re.findall(r"--security-opt \S+?(?=['\s])", text)) == options


def test_the_pod_is_that_of_the_remedy(refusal: str) -> None:
    """Its fields, and what the pod needs for them."""
    pod = content_of("kubernetes.yaml")["spec"]["template"]["spec"]
    (container,) = pod["containers"]

    assert container["securityContext"] == table.KUBERNETES
    assert table.KUBERNETES_POD.items() <= pod.items()
    printed = re.search(r"Kubernetes: securityContext: (\{.*?\}) with hostUsers: false", refusal)
    assert printed is not None
    assert yaml.safe_load(printed[1]) == container["securityContext"]


def test_compose_and_gitlab_are_those_of_the_remedies(refusal: str) -> None:
    """Lists and tables instead of a command line."""
    (service,) = content_of("compose.yaml")["services"].values()
    assert tuple(service["security_opt"]) == table.DOCKER
    (runner,) = content_of("gitlab-config.toml")["runners"]
    assert table.GITLAB.items() <= runner["docker"].items()
    assert "GitLab runner: privileged = true" in refusal


def test_every_switch_is_printed(refusal: str) -> None:
    """What the recipes have, somebody without them is told by a refusal."""
    for options in (table.DOCKER, table.PODMAN):
        assert " ".join(f"--security-opt {option}" for option in options) in refusal
    assert f"options: {table.GITHUB}" in refusal


def commands() -> list[str]:
    """Every line of the recipes that a shell is to execute."""
    found: list[str] = []
    for job in content_of("github-actions.yml")["jobs"].values():
        found += [step["run"] for step in job["steps"] if "run" in step]
    found += content_of("gitlab-ci.yml")["tests"]["script"]
    steps = content_of("circleci.yml")["jobs"]["tests"]["steps"]
    found += [step["run"] for step in steps if "run" in step]
    found += re.findall(r"sh '(.*)'", text_of("Jenkinsfile"))
    found += re.findall(r'CMD \["sh", "-ec", "(.*)"\]', text_of("Dockerfile"))
    for name in ("docker.sh", "podman.sh"):
        found.append(text_of(name))
    return found


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.split("\n")[0][:40])
def test_a_command_is_one_that_a_shell_understands(command: str) -> None:
    """``sh -n`` reads it; what of it is this package exists."""
    subprocess.run(["sh", "-n", "-c", command], check=True)
    for module, name in re.findall(r"python3? -m (pytest_nsisolate) (\w+)", command):
        subprocess.run([sys.executable, "-m", module, name, "--help"], check=True, stdout=-3)


def test_each_recipe_forbids_skips_and_asks_the_doctor_first() -> None:
    """The variable is the one that the plugin reads; the options are its own."""
    for name in ("github-actions.yml", "gitlab-ci.yml", "circleci.yml", "Jenkinsfile"):
        assert re.search(rf"{MUST_WORK}\b\W+1", text_of(name)), name
        assert -1 < text_of(name).find("pytest_nsisolate doctor") < text_of(name).rfind("pytest")
    assert f"ENV {MUST_WORK}=1" in text_of("Dockerfile")
    known = set(
        re.findall(r"--nsisolate[\w-]*", Path(add_options.__code__.co_filename).read_text())
    )
    assert set(re.findall(r"--nsisolate[\w-]*", text_of("index.md"))) <= known
