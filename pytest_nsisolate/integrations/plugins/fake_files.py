# SPDX-License-Identifier: MIT
"""pyfakefs: the files of this plugin are real.

Fact: its fixtures give every loaded module a false ``os``, and those that are loaded meanwhile.

Consequence: everything of this package is loaded first, and put on pyfakefs's own list of modules
that it leaves alone.
"""

from __future__ import annotations

import importlib
from pkgutil import walk_packages

from pyfakefs.fake_filesystem_unittest import Patcher

import pytest_nsisolate


class Adapter:
    """Has no hooks: what it does holds from the start of the run."""

    def __init__(self) -> None:
        prefix = f"{pytest_nsisolate.__name__}."
        for module in walk_packages(pytest_nsisolate.__path__, prefix):
            if not module.name.startswith((f"{prefix}integrations.plugins", f"{prefix}__main__")):
                Patcher.SKIPMODULES.add(importlib.import_module(module.name))
