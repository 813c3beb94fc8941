# SPDX-License-Identifier: MIT
"""How coverage is built inside, as far as :mod:`.inherited` needs to know it.

Read in the versions 7.10 to 7.17. Nothing here changes anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import FrameType
from typing import Any

#: What the collector of every known version has.
_COLLECTOR = {
    "core",
    "covdata",
    "data",
    "data_lock",
    "file_tracers",
    "flush_data",
    "should_start_context",
    "should_trace_cache",
    "tracers",
    "use_data",
}
_TRACERS = {"CTracer", "PyTracer", "SysMonitor"}


def is_known(cov: Any) -> bool:
    """Whether this version of coverage is built as this module needs it."""
    collector = getattr(cov, "_collector", None)
    core = getattr(collector, "core", None)
    covdata = getattr(cov, "_data", None)
    tracers = getattr(collector, "tracers", None)
    return (
        all(hasattr(collector, name) for name in _COLLECTOR)
        and isinstance(getattr(core, "packed_arcs", None), bool)
        and isinstance(getattr(core, "systrace", None), bool)
        and isinstance(getattr(type(collector), "_collectors", None), list)
        and isinstance(getattr(type(cov), "_instances", None), list)
        and getattr(collector, "covdata", None) is covdata
        and hasattr(covdata, "_current_context")
        and isinstance(getattr(collector, "data", None), dict)
        and isinstance(getattr(getattr(cov, "_inorout", None), "source_pkgs_unmatched", None), list)
        and isinstance(tracers, list)
        and all(type(tracer).__name__ in _TRACERS and hasattr(tracer, "data") for tracer in tracers)
    )


def savers(function: Any) -> Iterator[Any]:
    """The Coverage objects that ``patch = _exit`` would save when this function is called."""
    while function is not None:
        code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None)
        if code is None or not cells:
            return
        values = dict(zip(code.co_freevars, cells, strict=True))
        if "cov" not in values or "old_exit" not in values:
            return
        yield values["cov"].cell_contents
        function = values["old_exit"].cell_contents


def on_stack(decisions: dict[str, Any], frame: FrameType | None) -> set[str]:
    """The measured files of which a function is being executed."""
    names = set()
    while frame is not None:
        decision = decisions.get(frame.f_code.co_filename)
        if decision is not None and decision.trace and decision.source_filename:
            names.add(decision.source_filename)
        frame = frame.f_back
    return names
