# SPDX-License-Identifier: MIT
"""Why the host refused a step, and what to do about it.

Fact: the kernel says no with one of ten numbers, and each of them has many causes: EPERM from
``unshare`` is a container's seccomp filter, a sysctl, a chroot, an unmapped id or AppArmor, and
each has another remedy. The number alone would send you the wrong way.

Consequence: one table, in the files of this package. A row is a step, its error numbers and a
question to the host that tells this cause from its neighbours; the first row that fits wins. The
questions are asked only after a refusal and only read files: nothing here tries the refused call
again in the runner, where a filter that kills would take the runner with it.

What still fails: two causes at once (Docker's filter and, behind it, its masked ``/proc``) show
themselves one after the other, which is why the container remedy names all three switches at once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pytest_nsisolate.host import Host
from pytest_nsisolate.host.refusal import Refusal
from pytest_nsisolate.host.remedies import (
    entering,
    faulting,
    furnishing,
    limiting,
    ranging,
    rooting,
)
from pytest_nsisolate.host.remedies.table import Case, Row

if TYPE_CHECKING:
    from pytest_nsisolate.request.model import UserMode

TABLE: Final[tuple[Row, ...]] = (
    *entering.ANYWHERE,
    *entering.NEW_USER,
    *entering.UNSHARE,
    *ranging.RANGES,
    *furnishing.ID_MAP,
    *rooting.ROOTS,
    *furnishing.MOUNTS,
    *furnishing.NETWORK_AND_CLOCKS,
    *limiting.LIMITS,
    *furnishing.GRANTS,
    *faulting.FAULTS,
    *entering.PROCESSES,
    *entering.ANYTHING_ELSE,
)


def explained(refusal: Refusal, host: Host, *, user: UserMode = "map") -> Refusal:
    """The same refusal with its cause and its remedy.

    :param host: from :func:`pytest_nsisolate.host.examine`.
    :param user: how the request wanted its user namespace.
    """
    case = Case(
        refusal.step, refusal.namespace, refusal.errno, host, user, filtered=refusal.filtered
    )
    row = next(row for row in TABLE if row.fits(case))
    words = case.words()
    return replace(refusal, cause=row.cause.format_map(words), remedy=row.remedy.format_map(words))
