# SPDX-License-Identifier: MIT
"""``caps=``, ``no_new_privs=`` and ``devices=``: checked at collection, done in the child."""

from __future__ import annotations

import os
from typing import Any, Final

import pytest

from pytest_nsisolate.host import Host
from pytest_nsisolate.kernel import devices, originals
from pytest_nsisolate.kernel.process import CAPABILITY_NAMES
from pytest_nsisolate.process.plan import kept_capabilities
from pytest_nsisolate.request import grants
from pytest_nsisolate.request.marker import check_keywords
from pytest_nsisolate.request.model import IsolationRequest
from pytest_nsisolate.request.options import Settings
from pytest_nsisolate.request.resolve import from_keywords
from pytest_nsisolate.request.wording import MarkerProblem
from tests.inner_runs import Side, assert_expected, cases, shared_batch, verdict
from tests.support import NEEDS_NAMESPACES

EVERYTHING: Final = frozenset({"user", "pid", "mount", "net", "uts", "ipc", "cgroup"})


@NEEDS_NAMESPACES
@cases("powers")
def test_powers(
    tmp_path_factory: pytest.TempPathFactory, side: Side, name: str, expected: tuple[str, ...]
) -> None:
    """A test of the suite is reported as its ``expect`` mark says."""
    result = shared_batch(tmp_path_factory, "powers", side)
    if side == "user" and verdict(result, name) == "setup skipped" != expected[0]:
        return  # about the host's root
    assert_expected(result, name, expected)


@NEEDS_NAMESPACES
def test_the_closest_marker_wins(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A method's ``caps`` take the place of its class's."""
    side: Side = "root" if os.geteuid() == 0 else "user"
    result = shared_batch(tmp_path_factory, "powers", side)
    assert {"TestMerged::test_closest_wins", "TestMerged::test_class"} <= result.passed()


# At collection -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "problem"),
    [
        ({"caps": ["net_admn"]}, "knows no capability 'net_admn', did you mean 'net_admin'?"),
        ({"caps": ["cap_zzz"]}, "knows no capability 'cap_zzz', allowed: audit_control, "),
        ({"caps": [12]}, "takes names of capabilities, () for none of them"),
        ({"caps": True}, "takes names of capabilities, () for none of them"),
        ({"caps": None}, "takes names of capabilities"),
        ({"caps": [""]}, "takes names of capabilities"),
        ({"caps": ["-"]}, "knows no capability ''"),
        ({"caps": ["-net_admn"]}, "knows no capability 'net_admn', did you mean 'net_admin'?"),
        ({"caps": ["chown", "-kill"]}, "names with a '-' to take from all, not both"),
        ({"no_new_privs": 1}, "takes True or False"),
        ({"devices": True}, 'takes names below /dev, as "fuse" or "net/tun"'),
        ({"devices": [1]}, "takes names below /dev"),
        ({"devices": ["/etc/passwd"]}, "takes names below /dev"),
        ({"devices": ["../etc"]}, "takes names below /dev"),
        ({"devices": ["net//tun"]}, "takes names below /dev"),
        ({"devices": ["/dev/"]}, "takes names below /dev"),
        ({"devices": ["pts/0"]}, "every test has a pts of its own"),
        ({"devices": ["ptmx"]}, "every test has a ptmx of its own"),
    ],
    ids=str,
)
def test_bad_values_are_usage_errors(keywords: dict[str, Any], problem: str) -> None:
    """Unknown names with a guess, wrong types, places that are not below ``/dev``."""
    with pytest.raises(MarkerProblem) as found:
        check_keywords(keywords)
    assert problem in str(found.value)
    assert str(found.value).startswith("isolated(")


def test_a_directory_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this host has under such a name and is no node: said at collection."""
    monkeypatch.setattr(devices, "is_device", lambda path: False)
    monkeypatch.setattr(originals.os.path, "exists", lambda path: path == "/dev/snd")
    with pytest.raises(MarkerProblem, match="names devices, and /dev/snd is none"):
        check_keywords({"devices": ["snd"]})


@pytest.mark.parametrize(
    ("keywords", "problem"),
    [
        ({"devices": ["nsisolate-x"], "user": False}, "without a user namespace a test has"),
        ({"devices": ["nsisolate-x"], "mount": False, "uts": True}, "devices need a private /dev"),
    ],
    ids=str,
)
def test_contradictions(keywords: dict[str, Any], problem: str) -> None:
    """Devices by name where there is no private ``/dev``."""
    with pytest.raises(MarkerProblem, match=problem):
        from_keywords(keywords, Settings())


def test_devices_bring_a_mount_namespace() -> None:
    """They, and not their order or their spelling, are what counts."""
    request = from_keywords({"uts": True, "devices": ["/dev/net/nsi", "fnsi", "null"]}, Settings())
    assert request.namespaces == {"user", "uts", "mount"}
    assert request.devices == ("fnsi", "net/nsi")


@pytest.mark.parametrize("caps", [{"net_admin"}, ("NET_ADMIN",), ["CAP_NET_ADMIN"], "net_admin"])
def test_spellings(caps: object) -> None:
    """Names in either case, with or without prefix, in any collection, or a single one."""
    assert grants.check_caps(caps) == {"CAP_NET_ADMIN"}


@pytest.mark.parametrize("caps", ["-sys_admin", ["-CAP_SYS_ADMIN"], ("-SYS_ADMIN",)])
def test_all_but(caps: object) -> None:
    """With a minus, as in ``--cap-drop``, all others are kept."""
    assert grants.check_caps(caps) == set(CAPABILITY_NAMES) - {"CAP_SYS_ADMIN"}


def test_a_hooks_request_is_checked_too() -> None:
    """``request.replace`` takes the same spellings and refuses the same."""
    request = IsolationRequest(EVERYTHING)
    assert request.replace(caps=["net_raw"]).caps == frozenset({"CAP_NET_RAW"})
    assert request.replace(devices=["/dev/nsi"]).devices == ("nsi",)
    with pytest.raises(ValueError, match="did you mean 'net_raw'"):
        request.replace(caps=["net_rw"])


# Which ones stay ---------------------------------------------------------------------------------


ALL: Final = (1 << len(CAPABILITY_NAMES)) - 1


def kept(request: IsolationRequest, held: int = ALL) -> Any:
    host = Host(True, True, 0, 0, held, (6, 18))
    return kept_capabilities(request, host, (held, held))


def test_without_a_user_namespace_that_nobody_gave_up() -> None:
    """What reaches beyond the test is dropped, where ``user=False`` keeps everything."""
    guarded = IsolationRequest(EVERYTHING).without_user_namespace()
    assert guarded.user == "none"
    assert not guarded.has_host_powers
    assert IsolationRequest(EVERYTHING).replace(user="none").has_host_powers
    permitted, bounding = kept(guarded)
    assert permitted == bounding
    gone = {name for bit, name in enumerate(CAPABILITY_NAMES) if not permitted >> bit & 1}
    assert gone == grants.HOST_WIDE
    assert kept(IsolationRequest(EVERYTHING).replace(user="none")) is None


def test_without_the_right_to_limit_the_bounding_set() -> None:
    """There the bounding set is left alone, unless a marker names what is kept."""
    held = ALL & ~grants.mask(frozenset({"CAP_SETPCAP"}))
    guarded = IsolationRequest(EVERYTHING).without_user_namespace()
    assert kept(guarded, held)[1] is None
    named = guarded.replace(caps=["net_raw"])
    assert kept(named, held) == (1 << 13, 1 << 13)


def test_same_and_caps_together() -> None:
    """No more than the runner holds."""
    same = IsolationRequest(EVERYTHING, "same")
    assert kept(same, 5) == (5, 5)
    assert kept(same.replace(caps=["chown", "net_raw"]), 5) == (1, 1 | 1 << 13)
