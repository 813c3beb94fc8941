# SPDX-License-Identifier: MIT
"""Id maps: their text, who may write them, and what is refused."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nsisolate.errors import StepError
from pytest_nsisolate.kernel import idmap, namespaces
from pytest_nsisolate.kernel.libc import function
from tests.support import NEEDS_ROOT

if TYPE_CHECKING:
    from tests.kernel.conftest import InChild, World

PR_SET_DUMPABLE = 4
#: What an id that is not mapped looks like (user_namespaces(7), overflowuid).
OVERFLOW_ID = 65534


def own_map(inside: int = 0) -> idmap.IdMaps:
    return idmap.single_maps(
        inside_uid=inside, inside_gid=inside, outside_uid=os.geteuid(), outside_gid=os.getegid()
    )


def test_single_maps() -> None:
    maps = idmap.single_maps(inside_uid=0, inside_gid=7, outside_uid=1000, outside_gid=1001)

    assert maps == idmap.IdMaps(b"0 1000 1\n", b"7 1001 1\n", deny_setgroups=True)


@pytest.mark.parametrize(
    ("own", "identity"),
    [
        (b"         0          0 4294967295\n", b"0 0 4294967295\n"),
        (b"         0     100000      65536\n", b"0 0 65536\n"),
        # A rootless container's: the kernel refuses one extent over both.
        (b"0 1000 1\n1 100000 65535\n70000 3 2\n", b"0 0 1\n1 1 65535\n70000 70000 2\n"),
        (b"5 1000 1\n", b"5 5 1\n"),
        (b"", b""),
    ],
)
def test_identity_maps_cover_exactly_the_ids_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bytes, identity: bytes
) -> None:
    """As in a container: the file's second column means the outer namespace, and is left out."""
    file = tmp_path / "map"
    file.write_bytes(own)
    real = open
    monkeypatch.setattr(idmap, "open", lambda path, mode: real(file, mode))

    maps = idmap.identity_maps()
    monkeypatch.undo()

    assert maps == idmap.IdMaps(identity, identity, deny_setgroups=False)


def test_many_extents_still_fit_into_one_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "map"
    file.write_text("".join(f"{100000 + i} {5 + 2 * i} 1\n" for i in range(340)))
    real = open
    monkeypatch.setattr(idmap, "open", lambda path, mode: real(file, mode))

    maps = idmap.identity_maps()
    monkeypatch.undo()

    lines = maps.uid_map.splitlines()
    assert lines[:2] == [b"100000 100000 1", b"100001 100001 1"]
    assert len(lines) == 4095 // 16


def test_maps_without_proc_name_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(path: str, mode: str) -> Any:
        raise FileNotFoundError(errno.ENOENT, "", path)

    monkeypatch.setattr(idmap, "open", gone)
    with pytest.raises(StepError) as refusal:
        idmap.identity_maps()
    monkeypatch.undo()

    assert refusal.value.step == "read uid_map"


def test_ids_inside(user_world: World) -> None:
    def body() -> Any:
        return os.getresuid(), os.getresgid(), Path("/proc/self/setgroups").read_text().strip()

    expected = "deny" if user_world.kind == "rootless" else "allow"
    assert user_world.run(body) == ((0, 0, 0), (0, 0, 0), expected)


@pytest.mark.parametrize("user_world", [pytest.param("root", marks=NEEDS_ROOT)], indirect=True)
def test_every_id_of_the_runner_is_there(user_world: World) -> None:
    """An unprivileged runner has one id to give."""

    def body() -> Any:
        os.setgroups([4, 65_000])
        os.setresgid(1234, 1234, 1234)
        os.setresuid(4321, 4321, 4321)
        return os.getuid(), os.getgid(), os.getgroups()

    assert user_world.run(body) == (4321, 1234, [4, 65_000])


def test_the_runners_own_ids_can_be_kept(
    in_child: InChild, become_stranger: Callable[[], None]
) -> None:
    def body() -> Any:
        become_stranger()
        before = os.getresuid(), os.getresgid()
        maps = own_map(os.geteuid())
        namespaces.enter("user")
        idmap.write_maps(maps, None)
        return before == (os.getresuid(), os.getresgid())

    # The group is the stranger's own too, or the map would name one that it does not have.
    assert in_child(body) is (os.geteuid() == 0 or os.geteuid() == os.getegid())


def refusal_in(in_child: InChild, body: Callable[[], None]) -> tuple[str, str | None, int]:
    with pytest.raises(StepError) as refusal:
        in_child(body)
    return refusal.value.step, refusal.value.namespace, refusal.value.errno


def test_another_ones_id_is_refused(in_child: InChild, become_stranger: Callable[[], None]) -> None:
    def body() -> None:
        become_stranger()
        gid = os.getegid()
        namespaces.enter("user")
        maps = idmap.single_maps(inside_uid=0, inside_gid=0, outside_uid=1, outside_gid=gid)
        idmap.write_maps(maps, None)

    assert refusal_in(in_child, body) == ("write uid_map", "user", errno.EPERM)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == OVERFLOW_ID,
    reason="this account has the very number that stands for an id without a name",
)
def test_ids_read_too_late_are_refused(
    in_child: InChild, become_stranger: Callable[[], None]
) -> None:
    def body() -> None:
        become_stranger()
        namespaces.enter("user")
        idmap.write_maps(own_map(), None)

    assert refusal_in(in_child, body) == ("write uid_map", "user", errno.EPERM)


def test_a_group_is_refused_while_setgroups_is_allowed(
    in_child: InChild, become_stranger: Callable[[], None]
) -> None:
    def body() -> None:
        become_stranger()
        maps = own_map()
        namespaces.enter("user")
        idmap.write_maps(idmap.IdMaps(maps.uid_map, maps.gid_map, deny_setgroups=False), None)

    assert refusal_in(in_child, body) == ("write gid_map", "user", errno.EPERM)


def test_a_second_map_is_refused(in_child: InChild, become_stranger: Callable[[], None]) -> None:
    def body() -> None:
        become_stranger()
        maps = own_map()
        namespaces.enter("user")
        for _ in range(2):
            idmap.write_maps(maps, None)

    step, namespace, number = refusal_in(in_child, body)

    # setgroups can be denied only before gid_map is written, so it is the first to complain.
    assert (step, namespace, number) == ("write setgroups", "user", errno.EPERM)


def test_a_process_that_is_not_dumpable_is_refused(
    in_child: InChild, become_stranger: Callable[[], None]
) -> None:
    def body() -> None:
        become_stranger()
        maps = own_map()
        namespaces.enter("user")
        function("prctl")(PR_SET_DUMPABLE, 0, 0, 0, 0)
        idmap.write_maps(maps, None)

    assert refusal_in(in_child, body) == ("write setgroups", "user", errno.EACCES)


def test_the_map_of_a_process_that_is_gone_names_the_file(in_child: InChild) -> None:
    def body() -> None:
        idmap.write_maps(idmap.identity_maps(), 2**22 + 1)

    with pytest.raises(StepError) as refusal:
        in_child(body)

    seen = (refusal.value.step, refusal.value.errno, refusal.value.detail)
    assert seen == ("write uid_map", errno.ENOENT, "/proc/4194305/uid_map")
