# SPDX-License-Identifier: MIT
"""Every system call that only a testbed makes is refused once; ``tests/process`` has the others.

A testbed is built and used, and ``lo`` disturbed, once while ``tests/faults.py`` writes down their
calls, and then once for each kind of them, with that call refused. The tests are one,
``tests/inner/faulty_testbeds.py``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from collections import Counter
from typing import Any, Final

import pytest

from tests import faults
from tests.faults import Case
from tests.inner_runs import SIDES, Side, run_batch, source, suite_folder
from tests.process.test_faults import SUBMITTING
from tests.support import NEEDS_NAMESPACES

pytestmark = [
    NEEDS_NAMESPACES,
    pytest.mark.skipif(not faults.AVAILABLE, reason="the table of calls is of two machines"),
]

WHOLE: Final = os.environ.get("NSISOLATE_WHOLE") == "1"

#: Role, call, a text about it: what only a testbed does. ``runner`` is the test's own process here,
#: ``child`` PID 1 of a host.
OURS: Final = (
    ("runner", "unshare", ""),
    ("runner", "setns", "net:"),
    ("runner", "socket", ""),
    ("runner", "socketpair", ""),
    ("runner", "memfd_create", "nsisolate-program"),
    ("runner", "bind", ""),
    ("runner", "sendto", ""),
    ("runner", "recvfrom", ""),
    ("runner", "setsockopt", ""),
    ("runner", "ioctl", "socket:"),
    ("runner", "openat", "/ns/net"),
    ("runner", "openat", "/etc/hosts"),
    ("runner", "write", "/etc/hosts"),
    ("runner", "openat", "disable_ipv6"),
    ("runner", "write", "disable_ipv6"),
    *(
        ("runner", call, name)
        for call in ("openat", "write")
        for name in ("route_localnet", "accept_local")
    ),
    *(
        ("child", call, name)
        for call in ("openat", "write")
        for name in ("accept_dad", "ip_forward", "all/forwarding", "nsisolate-hosts")
    ),
    ("child", "mount", "/etc/hosts"),
    ("child", "unlink", ""),
    ("child", "socket", ""),
    ("child", "bind", ""),
)

#: What may come of it else, ``""`` for no harm: the way home is tried twice; a word to the relay or
#: to a program goes over a socket too, and a program that does not hear is killed. Whether another
#: test has left something beside ``lo`` is asked, and no answer is no.
OTHERWISE: Final = (
    ("runner", "setns", ""),
    ("runner", "sendto", "", "IsolatedLoss"),
    ("runner", "recvfrom", "", "", "IsolatedLoss"),
)


def run_cases(
    cases: list[Case], side: Side, *, listing: bool = False
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What the supervisor wrote, and what became of each testbed."""
    told = json.dumps([dataclasses.asdict(case) for case in cases])
    with suite_folder({"cases.json": told, "said": ""}, side) as folder:
        folder.chmod(0o777)
        (folder / "said").chmod(0o666)
        supervisor = (sys.executable, faults.__file__, str(folder / "cases.json"))
        before = (*supervisor, str(folder / "log"), "--")
        files = {**source("faulty_testbeds"), "conftest.py": SUBMITTING}
        env = {"SAID": str(folder / "said"), **({faults.LISTING: "1"} if listing else {})}
        result = run_batch(files, side, before=before, env=env, timeout=1000)
        assert result.passed() == {"test_every_fault"}, result.text
        log, said = ((folder / name).read_text("utf-8").splitlines() for name in ("log", "said"))
        return [json.loads(line) for line in log], [json.loads(line) for line in said]


def planned(listed: list[dict[str, Any]]) -> list[Case]:
    """One case for each kind of call, and more of those that are messages to the kernel."""
    cases = []
    calls: Counter[tuple[str, ...]] = Counter()
    seen: Counter[tuple[str, ...]] = Counter()
    last: dict[str, tuple[str, str]] = {}
    for entry in listed:
        role, call, about = entry["role"], entry["call"], entry["about"]
        before, last[role] = last.get(role, ("", "")), (call, about)
        if before == last[role] and "/proc/sys/" in about:
            continue  # made once more by the kernel, which did not get its lock: restart_syscall()
        row = next((r for r in OURS if r[:2] == (role, call) and r[2] in about), None)
        if row is None:
            continue
        calls[row] += 1
        # The kernel is asked with a bound on the time, so a poll comes first; a program is not.
        bounded = "bounded" if before[0] == "poll" else ""
        kind = (role, call, re.sub(r"\d+|/memfd:.*", "", about), bounded)
        seen[kind] += 1
        if WHOLE or seen[kind] == 1 or (call in ("sendto", "ioctl") and seen[kind] % 4 == 0):
            # Processes of one role run side by side: only what is about the same has an order.
            cases.append(Case(role, call, "EIO", nth=calls[row], about=row[2]))
    return cases


@pytest.mark.parametrize("side", SIDES)
def test_every_call(side: Side) -> None:
    """Whichever is refused: an error that names its step, and nothing is left."""
    nothing = [Case("nobody", "none", "EIO")]
    listed, (first, _) = run_cases(nothing, side, listing=True)
    assert (first["type"], first["left"]) == ("", "")
    cases = planned([entry for entry in listed if entry["case"] == 0])
    assert {case.call for case in cases} >= {"unshare", "setns", "sendto", "setsockopt", "mount"}
    if not WHOLE:
        # Each call on one of the sides.
        cases = cases[side == "user" :: 2]
    log, said = run_cases(cases, side)
    fired = {entry["case"]: entry for entry in log}
    # After one that has left something there is no other.
    complaints = [
        f"{case} ({fired.get(number)}): {found}"
        for number, (case, found) in enumerate(zip(cases, said, strict=False))
        if found["left"] or not is_told(case, found)
    ]
    assert not complaints, "\n\n".join(complaints)
    assert len(said) == len(cases) + 1
    assert (said[-1]["type"], said[-1]["left"]) == ("", "")


def is_told(case: Case, found: dict[str, Any]) -> bool:
    """The error names the step, the errno, a cause and a remedy."""
    texts = ("isolation refused: ", f": {case.error}", "cause: ", "remedy: ")
    if found["type"] == "IsolatedRefusal" and all(text in found["text"] for text in texts):
        return True
    return any(row[:2] == (case.role, case.call) and found["type"] in row[2:] for row in OTHERWISE)
