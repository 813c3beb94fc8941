# SPDX-License-Identifier: MIT
"""The options and ini keys, through real configurations of pytest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest

from pytest_nsisolate.kernel.process import CAPABILITY_NAMES
from pytest_nsisolate.request import options
from pytest_nsisolate.request.limits import Limits
from pytest_nsisolate.request.options import DEFAULT_NAMESPACES, Settings, read_settings

NATIVE_TOML = pytest.mark.skipif(
    pytest.version_tuple < (9, 0), reason="native TOML configuration came with pytest 9.0"
)

Parse: TypeAlias = Callable[..., pytest.Config]
Read: TypeAlias = Callable[..., Settings]


class Options:
    """A plugin with nothing but the options."""

    pytest_addoption = staticmethod(options.add_options)


@pytest.fixture
def parse(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Parse:
    """The configuration of a run with these arguments, in the temporary directory."""

    def parse(*args: str) -> pytest.Config:
        # No other plugin: not even ours, which the suite itself may have loaded.
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        pytester.plugins = [Options()]
        return pytester.parseconfig(*args)

    return parse


@pytest.fixture
def read(parse: Parse) -> Read:
    """Settings of a run with these arguments, in the temporary directory."""

    def read(*args: str) -> Settings:
        return read_settings(parse(*args))

    return read


def test_without_options_marked_tests_get_everything_but_time(read: Read) -> None:
    expected = {"user", "pid", "mount", "net", "uts", "ipc", "cgroup"}
    assert expected == DEFAULT_NAMESPACES
    assert Settings() == read()


def test_every_option_is_read(read: Read) -> None:
    found = read(
        "--nsisolate=none",
        "--nsisolate-unsafe",
        "--nsisolate-namespaces=pid, net,time",
        "--nsisolate-missing=skip",
        "--nsisolate-timeout=2.5",
        "--nsisolate-init",
        "--nsisolate-leftovers=fail",
    )

    assert found == Settings(
        mode="none",
        unsafe=True,
        namespaces=frozenset({"pid", "net", "time"}),
        missing="skip",
        timeout=2.5,
        init=True,
        leftovers="fail",
    )


FROM_FILE = Settings(
    mode="all",
    namespaces=frozenset({"pid", "net"}),
    missing="skip",
    timeout=2.5,
    init=True,
    leftovers="ignore",
    caps=frozenset(CAPABILITY_NAMES) - {"CAP_SYS_ADMIN"},
)
INI = """
nsisolate = all
nsisolate_namespaces = pid, net
nsisolate_missing = skip
nsisolate_timeout = 2.5
nsisolate_init = true
nsisolate_leftovers = ignore
nsisolate_caps = -sys_admin
"""
TOML = """
nsisolate = "all"
nsisolate_namespaces = ["pid", "net"]
nsisolate_missing = "skip"
nsisolate_timeout = 2.5
nsisolate_init = true
nsisolate_leftovers = "ignore"
nsisolate_caps = ["-sys_admin"]
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pytest.ini", f"[pytest]{INI}"),
        ("tox.ini", f"[pytest]{INI}"),
        ("pyproject.toml", f"[tool.pytest.ini_options]{TOML}"),
        pytest.param("pyproject.toml", f"[tool.pytest]{TOML}", marks=NATIVE_TOML),
        pytest.param("pytest.toml", f"[pytest]{TOML}", marks=NATIVE_TOML),
    ],
)
def test_every_key_is_read_from_every_style_of_file(
    pytester: pytest.Pytester, read: Read, name: str, text: str
) -> None:
    (pytester.path / name).write_text(text)

    assert read() == FROM_FILE


@NATIVE_TOML
@pytest.mark.parametrize(
    ("name", "table"), [("pyproject.toml", "tool.pytest"), ("pytest.toml", "pytest")]
)
def test_native_toml_takes_the_comma_list_of_the_option_too(
    pytester: pytest.Pytester, read: Read, name: str, table: str
) -> None:
    (pytester.path / name).write_text(
        f'[{table}]\nnsisolate_namespaces = "pid,net"\nnsisolate_caps = "chown,kill"\n'
    )

    assert read().namespaces == {"pid", "net"}
    assert read().caps == frozenset({"CAP_CHOWN", "CAP_KILL"})


@NATIVE_TOML
@pytest.mark.parametrize(
    "value",
    [
        '{memory = "1G", processes = 64}',
        '"memory=1G,processes=64"',
        '["memory=1G", "processes=64"]',
    ],
)
@pytest.mark.parametrize(
    ("name", "table"), [("pyproject.toml", "tool.pytest"), ("pytest.toml", "pytest")]
)
def test_native_toml_takes_limits_as_table_text_and_list(
    pytester: pytest.Pytester, read: Read, name: str, table: str, value: str
) -> None:
    (pytester.path / name).write_text(f"[{table}]\nnsisolate_limits = {value}\n")

    assert read().limits == Limits(memory=1 << 30, processes=64)


def test_an_option_wins_over_its_key(pytester: pytest.Pytester, read: Read) -> None:
    pytester.makeini(f"[pytest]{INI}")

    found = read(
        "--nsisolate=marked",
        "--nsisolate-namespaces=uts",
        "--nsisolate-missing=fail",
        "--nsisolate-timeout=9",
        "--nsisolate-leftovers=warn",
        "--nsisolate-caps=none",
    )

    named = frozenset({"uts"})
    assert found == Settings(
        namespaces=named, timeout=9.0, init=True, leftovers="warn", caps=frozenset()
    )


def test_the_timeout_of_a_key_can_be_lifted(pytester: pytest.Pytester, read: Read) -> None:
    pytester.makeini("[pytest]\nnsisolate_timeout = 3\n")

    assert (read().timeout, read("--nsisolate-timeout=none").timeout) == (3.0, None)


def test_the_capabilities_of_a_key_can_be_given_back(pytester: pytest.Pytester, read: Read) -> None:
    pytester.makeini("[pytest]\nnsisolate_caps = net_admin chown\n")

    assert read().caps == frozenset({"CAP_NET_ADMIN", "CAP_CHOWN"})
    assert read("--nsisolate-caps=all").caps is None


def test_an_override_wins_over_the_file(pytester: pytest.Pytester, read: Read) -> None:
    pytester.makeini("[pytest]\nnsisolate_namespaces = net\n")

    assert read("-o", "nsisolate_namespaces=pid,ipc").namespaces == {"pid", "ipc"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--nsisolate-namespaces=pid,nett"], "unknown namespace 'nett', did you mean 'net'?"),
        (["--nsisolate-namespaces=zzz"], "unknown namespace 'zzz', allowed: cgroup, ipc, "),
        (["--nsisolate-namespaces=,"], "names no namespace"),
        (["--nsisolate-timeout=0"], "'0' is not a finite number of seconds above 0"),
        (["--nsisolate-timeout=-1"], "'-1' is not"),
        (["--nsisolate-timeout=nan"], "'nan' is not"),
        (["--nsisolate-timeout=inf"], "'inf' is not"),
        (["--nsisolate-timeout=soon"], "'soon' is not"),
        (["--nsisolate=al"], "invalid choice: 'al'"),
        (["--nsisolate-missing=xfail"], "invalid choice: 'xfail'"),
        (["--nsisolate-caps=-sys_admn"], "knows no capability 'sys_admn', did you mean"),
        (["--nsisolate-caps=chown,-kill"], "names with a '-' to take from all, not both"),
        (["--nsisolate-caps="], "names no capability"),
        (["--nsisolate-unsafe"], "has a meaning beside --nsisolate=none only"),
    ],
)
def test_a_bad_option_is_a_usage_error_that_names_it(
    read: Read, args: list[str], message: str
) -> None:
    with pytest.raises(pytest.UsageError) as caught:
        read(*args)

    text = str(caught.value)
    assert args[0].partition("=")[0] in text
    assert message in text


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("nsisolate", "al", "'al' is not one of marked, all, none"),
        ("nsisolate_missing", "xfail", "'xfail' is not one of fail, skip"),
        ("nsisolate_namespaces", "pid nett", "unknown namespace 'nett', did you mean 'net'?"),
        ("nsisolate_namespaces", "", "names no namespace"),
        ("nsisolate_timeout", "soon", "soon"),
        ("nsisolate_timeout", "nan", "nan is not a finite number"),
        ("nsisolate_timeout", "-1", "-1.0 is not a finite number"),
        ("nsisolate_init", "maybe", "maybe"),
        ("nsisolate_leftovers", "kill", "'kill' is not one of ignore, warn, fail"),
    ],
)
def test_a_bad_key_is_a_usage_error_that_names_it(
    pytester: pytest.Pytester, read: Read, key: str, value: str, message: str
) -> None:
    pytester.makeini(f"[pytest]\n{key} = {value}\n")

    with pytest.raises(pytest.UsageError) as caught:
        read()

    text = str(caught.value)
    assert text.startswith(f"ini key {key}: ")
    assert message in text


@NATIVE_TOML
@pytest.mark.parametrize(
    "line",
    [
        "nsisolate = true",
        "nsisolate_namespaces = 3",
        "nsisolate_namespaces = [1]",
        'nsisolate_namespaces = "pid,nett"',
        'nsisolate_timeout = "2.5"',
        "nsisolate_timeout = true",
        'nsisolate_init = "yes"',
        "nsisolate_missing = 1",
        "nsisolate_caps = 3",
        'nsisolate_caps = "chwn"',
        "nsisolate_limits = 3",
        "nsisolate_limits = {memory = 1}",
        "nsisolate_limits = {memroy = 5}",
    ],
)
def test_native_toml_keeps_its_types(pytester: pytest.Pytester, read: Read, line: str) -> None:
    (pytester.path / "pyproject.toml").write_text(f"[tool.pytest]\n{line}\n")

    with pytest.raises(pytest.UsageError, match=f"^ini key {line.partition(' ')[0]}: "):
        read()


def test_the_doctor_is_an_option_of_its_own(parse: Parse) -> None:
    assert parse("--nsisolate-doctor").getoption("--nsisolate-doctor") is True
    assert parse().getoption("--nsisolate-doctor") is False
