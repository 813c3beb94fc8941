# SPDX-License-Identifier: MIT
"""Coverage of what only isolated tests run, as if the runner had run it.

The only package that knows coverage.py. It never imports it: whatever measures has done so. Without
a measurement under way nothing of this is loaded.

========================  ====================================================================
:mod:`.inherited`         the child goes on with the runner's measurement; the usual strategy
:mod:`.fresh`             the child begins one of its own, through public interfaces only
:mod:`.measurement`       what both have in common: when a child hands over
:mod:`.insides`           what the first needs to know of coverage's own
:mod:`.parts`             what crosses
========================  ====================================================================
"""

from __future__ import annotations

import sys
from typing import Any

import pytest

from pytest_nsisolate.integrations.coverage import inherited, insides
from pytest_nsisolate.integrations.coverage.fresh import Fresh
from pytest_nsisolate.integrations.coverage.measurement import Measurement

__all__ = ["Measurement", "current"]


def current(config: pytest.Config, before: Measurement | None) -> Measurement | None:
    """The measurement under way in the runner now, ready for a clone; None if there is none.

    :param before: what this function gave the last time.
    """
    module: Any = sys.modules.get("coverage")
    cov = getattr(module, "Coverage", None) and module.Coverage.current()
    if cov is None:
        return None
    if before is None or not before.fits(cov):
        before = _strategy(config, cov)
    before.prepare()
    return before


def _strategy(config: pytest.Config, cov: Any) -> Measurement:
    if insides.is_known(cov):
        return inherited.Inherited(cov)
    fresh = Fresh(cov)
    fresh.follow(getattr(config.pluginmanager.get_plugin("_cov"), "cov_controller", None))
    return fresh
