# SPDX-License-Identifier: MIT
"""An account with ranges of ids, made around one command; the machine's files stay as they are."""

from __future__ import annotations

from typing import Final

from tests.inner_runs import NOBODY

#: The ordinary user of inner runs gets a name and its ranges, in a copy of /etc.
_ACCOUNT: Final = f"""
mount -t tmpfs none /mnt
cp -a /etc /mnt
mount --bind /mnt/etc /etc
echo 'ranger:x:{NOBODY}:{NOBODY}::/:/bin/sh' >> /etc/passwd
echo 'other:100000:65536' > /etc/subuid
[ -z "$RANGES" ] || echo "$RANGES" >> /etc/subuid
cp /etc/subuid /etc/subgid
"""


def with_ranges(ranges: str, *before: str) -> tuple[str, ...]:
    """Before a command of root's: makes the account, and runs the command as that user."""
    switch = f"exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups "
    script = f"RANGES='{ranges}'\n{_ACCOUNT}{switch}{' '.join(before)} \"$@\""
    return ("unshare", "--mount", "sh", "-ec", script, "sh", "env")
