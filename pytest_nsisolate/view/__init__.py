# SPDX-License-Identifier: MIT
"""What PID 1 sees: plain data, read when asked, and assertions on it.

The ``pid1`` fixture gives an isolated test a :class:`Pid1View` of its world. Only a test that asks
for it pays for it: the readings are imported in the runner, once, if an isolated test uses the
fixture, and with them psutil and pyroute2 (:func:`pytest_nsisolate.view.pid1.preload`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pytest_nsisolate.request.model import TimeOffsets
    from pytest_nsisolate.view.faults import Fault, FaultyCall
    from pytest_nsisolate.view.files import FileEntry, Files
    from pytest_nsisolate.view.identity import Capabilities, IdExtent, Limit
    from pytest_nsisolate.view.ipc import IpcObject
    from pytest_nsisolate.view.mapping import ReadOnlyMapping
    from pytest_nsisolate.view.mounts import Mount
    from pytest_nsisolate.view.network import Address, Interface, Route
    from pytest_nsisolate.view.pid1 import Pid1View
    from pytest_nsisolate.view.processes import Process, ProcessTree
    from pytest_nsisolate.view.readings import Origin
    from pytest_nsisolate.view.snapshot import Change, Difference, Snapshot
    from pytest_nsisolate.view.sockets import Socket

__all__ = [
    "Address",
    "Capabilities",
    "Change",
    "Difference",
    "Fault",
    "FaultyCall",
    "FileEntry",
    "Files",
    "IdExtent",
    "Interface",
    "IpcObject",
    "Limit",
    "Mount",
    "Origin",
    "Pid1View",
    "Process",
    "ProcessTree",
    "ReadOnlyMapping",
    "Route",
    "Snapshot",
    "Socket",
    "TimeOffsets",
]

_MODULES: Final = {
    "faults": ("Fault", "FaultyCall"),
    "files": ("FileEntry", "Files"),
    "identity": ("Capabilities", "IdExtent", "Limit"),
    "ipc": ("IpcObject",),
    "mapping": ("ReadOnlyMapping",),
    "mounts": ("Mount",),
    "network": ("Address", "Interface", "Route"),
    "pid1": ("Pid1View",),
    "processes": ("Process", "ProcessTree"),
    "readings": ("Origin",),
    "snapshot": ("Change", "Difference", "Snapshot"),
    "sockets": ("Socket",),
}
_HOMES: Final = {
    "TimeOffsets": "pytest_nsisolate.request.model",
    **{name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names},
}


def __getattr__(name: str) -> object:
    # The post-mortem lives below this package, and imports none of it before a test has failed.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
