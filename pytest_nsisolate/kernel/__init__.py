# SPDX-License-Identifier: MIT
"""What Linux offers, one mechanism for each module; nothing here knows pytest.

``originals`` and ``syscalls`` are at the bottom; ``namespaces``, ``idmap``, ``mounts``,
``network``, ``keyring`` and ``process`` stand on them and not on each other. What fails is a
:class:`~pytest_nsisolate.errors.StepError`. Importing works on every platform; calling does so on
Linux.
"""

from __future__ import annotations


def preload() -> None:
    """Import and look up in the runner what its children will call; they import nothing.

    :raises OSError: from the C library, if there is none as on Linux.
    """
    # Not above: errors and settings stand on originals, and these stand on errors.
    from pytest_nsisolate.kernel import keyring, process, syscalls

    syscalls.preload()
    keyring.preload()
    process.preload()
