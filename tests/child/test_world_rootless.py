# SPDX-License-Identifier: MIT
"""The world of an isolated test again, for a runner without privileges.

Two of those: the account ``nobody``, where it can reach this Python and this checkout, and an
ordinary user in a user namespace of its own, who owns what root owns and may do nothing with it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from pytest_nsisolate.host import facts
from tests.child.test_world_runs import IN_USE, all_passed
from tests.hosts import HOSTS, NEEDS_HOSTS, NEEDS_ROOT
from tests.support import (
    NEEDS_NAMESPACES,
    TOOLS,
    inner_environment,
    run_source,
    run_suite,
    write_files,
)

HERE: Final = Path(__file__).parent
WORLD: Final = (HERE / "test_world.py", HERE / "test_world_inherited.py")

#: What may be otherwise for somebody who owns what root owns.
OWNERS_TESTS: Final = ("-k", "TestUser or TestProtection or TestCgroup")

NOBODY: Final = 65534

pytestmark = [NEEDS_NAMESPACES, NEEDS_HOSTS, NEEDS_ROOT]


@dataclass(frozen=True)
class Account:
    """Somebody to run pytest as.

    :param prefix: what to put before a command.
    :param uid: who owns its files, as root sees it.
    :param folder: a directory of its own.
    :param selection: of the world's tests; the second account repeats those that may differ.
    """

    prefix: tuple[str, ...]
    uid: int
    folder: Path
    selection: tuple[str, ...] = ()


def _as_nobody() -> tuple[str, ...]:
    identity = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    return ("setpriv", *identity, "--inh-caps=-all", "--ambient-caps=-all")


def _reaches(prefix: tuple[str, ...]) -> bool:
    """Can it import everything, and read the tests?"""
    script = "import pytest_nsisolate.plugin, prctl, sys; open(sys.argv[1]).close()"
    done = subprocess.run(
        # Through env: setpriv itself still has root's rights when it looks for the program.
        [*prefix, "env", sys.executable, "-c", script, TOOLS / "parity_recording.py"],
        cwd=HERE.parents[1],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


@pytest.fixture(params=["nobody", "ordinary-user"])
def account(request: pytest.FixtureRequest) -> Iterator[Account]:
    """Each of the two, with a directory that it can write to."""
    reached = _reaches(_as_nobody())
    selection: tuple[str, ...] = ()
    if request.param == "nobody":
        prefix, uid = _as_nobody(), NOBODY
        if not reached:
            pytest.skip("this Python, or this checkout, is out of the reach of other users")
    else:
        prefix, uid = HOSTS["ordinary-user"], 0
        selection = OWNERS_TESTS if reached else ()
    # Not tmp_path: its parents are for root alone.
    folder = Path(tempfile.mkdtemp(prefix="nsi-"))
    os.chown(folder, uid, uid)
    yield Account(prefix, uid, folder, selection)
    shutil.rmtree(folder)


def test_what_a_test_sees(account: Account) -> None:
    """Every claim of test_world.py and test_world_inherited.py holds without privileges."""
    environment = inner_environment(account.folder, {"HOME": str(account.folder)})
    options = ("-q", "-W", "error", "-p", "nsisolate", "-p", "no:cacheprovider")
    done = subprocess.run(
        [
            *(*account.prefix, sys.executable, "-m", "pytest", *options),
            *(*account.selection, "--basetemp", str(account.folder / "temp"), *map(str, WORLD)),
        ],
        cwd=HERE.parents[1],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    counted = re.search(r"(\d+) passed", done.stdout)
    assert counted is not None
    assert int(counted[1]) > (20 if account.selection else 100), done.stdout
    reasons = {
        line.partition(": ")[2] for line in done.stdout.splitlines() if line.startswith("SKIPPED")
    }
    allowed = {"only root can make this host", "this kernel has no IPv6", "needs ps"}
    allowed |= {"this machine has no /dev/mqueue"}
    if facts.is_read_only("/proc/sys"):
        allowed |= {"/proc/sys is read-only on this host"}
    assert reasons <= allowed


def test_user_false_is_refused_with_the_reason(account: Account) -> None:
    """Without a user namespace an ordinary user gets no other: the body does not start."""
    source = """
        import journal
        import pytest

        @pytest.mark.isolated(user=False)
        def test_refused():
            journal.note("started")

        @pytest.mark.isolated(user=False, net=True)
        @pytest.mark.xfail
        def test_xfail_does_not_excuse_it():
            journal.note("started")

        @pytest.mark.isolated
        def test_let_in():
            journal.note("let in")
    """
    for policy, outcome in (("fail", "failed"), ("skip", "skipped")):
        result = run_source(
            account.folder, source, "--nsisolate-missing", policy, prefix=account.prefix
        )
        assert result.passed() == {"test_let_in"}, result.text
        assert result.journal == ["child let in"]
        for name in ("test_refused", "test_xfail_does_not_excuse_it"):
            assert result.phases(name)[0] == f"setup {outcome}", result.text
            assert "call" not in " ".join(result.phases(name))
        report = result.of("test_refused")[0]
        assert report["wasxfail"] is None
        text = report["text"] + (report["skip"] or "")
        assert "isolation refused: " in text
        assert "EPERM" in text
        assert "without a user namespace this needs CAP_SYS_ADMIN" in text
        assert ("remedy: " in text) == (policy == "fail")


def test_files_made_inside_belong_to_the_account(account: Account) -> None:
    """Root inside writes files that root outside sees as the account's."""
    source = """
        import os
        import pytest

        @pytest.mark.isolated
        def test_it(tmp_path):
            assert os.geteuid() == 0
            (tmp_path / "made").write_text("x")
            with pytest.raises(OSError):
                os.chown(tmp_path / "made", 7, 7)  # nobody else is mapped
    """
    all_passed(run_source(account.folder, source, prefix=account.prefix), 1)
    (made,) = {path.resolve() for path in account.folder.glob(".temp/*/made")}
    assert made.stat().st_uid == account.uid


def test_what_is_in_use_below_dev_shm_stays_usable(account: Account) -> None:
    """An ordinary user's base temp and root directory in /dev/shm are kept too."""
    folder = Path(tempfile.mkdtemp(prefix="nsi-", dir="/dev/shm"))
    neighbours = [folder.with_name(f"{folder.name}-{name}") for name in ("library", "other")]
    try:
        for neighbour in neighbours:
            neighbour.mkdir()
        write_files(neighbours[0], {"late.py": "VALUE = 7\n"})
        write_files(folder, {"test_it.py": IN_USE, "data": "relative"})
        os.chown(folder, account.uid, account.uid)
        all_passed(run_suite(folder, prefix=account.prefix), 5)
    finally:
        for path in (folder, *neighbours):
            shutil.rmtree(path, ignore_errors=True)
