# SPDX-License-Identifier: MIT
"""What the doctor has found, as text for people and as JSON for machines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pytest_nsisolate.host import SECCOMP_FILTER, Host, facts
from pytest_nsisolate.host.refusal import Refusal
from pytest_nsisolate.kernel.originals import json, platform

WORKS: Final = "ok"
WITHOUT_USER: Final = "only without user"
NOT_TRIED: Final = "not tried"

#: The version of the JSON: higher when a member goes or changes its meaning, not for a new one.
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table; the refusal is set where the step failed.

    :param optional: no isolated test needs it unless it says so.
    """

    namespace: str
    call: str
    result: str
    refusal: Refusal | None = None
    optional: bool = False

    @property
    def works(self) -> bool:
        """The step was tried, and granted."""
        return self.result.startswith(WORKS)

    @property
    def kind(self) -> str:
        """What became of it, as one of four words for machines."""
        if self.works:
            return "works"
        if self.result == WITHOUT_USER:
            return "without user"
        return "not tried" if self.refusal is None else "refused"


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was tried, in the order of the machinery.

    :param host: the runner's standing.
    """

    host: Host
    lines: tuple[Line, ...]

    @property
    def works(self) -> bool:
        """Every step but the optional ones."""
        return all(line.works for line in self.lines if not line.optional)

    @property
    def status(self) -> int:
        """The exit status of the command."""
        return 0 if self.works else 1

    def __str__(self) -> str:
        parts = (*_describe(self.host), "", *_table(self.lines), "", *_explain(self.lines))
        return "\n".join((*parts, self._ending()))

    def _ending(self) -> str:
        if not self.works:
            return "Not everything works here."
        missing = dict.fromkeys(line.namespace for line in self.lines if not line.works)
        but = " and ".join(", ".join(_OPTIONAL[name] for name in missing).rsplit(", ", 1))
        return f"Everything works, but for {but}." if but else "Everything works."

    def as_json(self) -> str:
        """The same for machines; the shape is in the reference."""
        host = self.host
        content = {
            "version": VERSION,
            "works": self.works,
            "host": {
                "system": _system(host),
                "linux": host.linux,
                "kernel": list(host.kernel),
                "python": platform.python_version(),
                "uid": host.euid,
                "gid": host.egid,
                "mode": host.mode,
                "capabilities": f"{host.capabilities:x}",
                "seccomp": host.seccomp == SECCOMP_FILTER,
                "security_label": facts.security_label(),
                "place": facts.place(),
            },
            "steps": [_as_data(line) for line in self.lines],
        }
        return json.dumps(content, indent=2)


#: What the optional rows are about.
_OPTIONAL: Final = {
    "faults": "faults on demand",
    "tty": "terminals of a test's own",
    "reach": "servers outside",
    "range": "a range of ids",
    "limits": "some limits",
}


def _as_data(line: Line) -> dict[str, Any]:
    refusal = line.refusal
    return {
        "namespace": line.namespace or None,
        "call": line.call,
        "result": line.kind,
        "text": line.result,
        "optional": line.optional,
        "errno": refusal.errno_name if refusal else None,
        "detail": refusal.detail if refusal else "",
        "cause": refusal.cause if refusal else None,
        "remedies": refusal.remedy.split("; ") if refusal else [],
    }


def _system(host: Host) -> str:
    return "Linux {}.{}".format(*host.kernel) if host.linux else platform.system()


def _describe(host: Host) -> Iterator[str]:
    yield "pytest-nsisolate doctor"
    python = platform.python_version()
    yield f"{_system(host)}, Python {python}, uid {host.euid}, mode {host.mode}"
    if host.seccomp == SECCOMP_FILTER:
        yield "a seccomp filter is on"
    label = facts.security_label()
    if label:
        yield f"security label: {label}"


def _table(lines: tuple[Line, ...]) -> Iterator[str]:
    head = Line("namespace", "call", "result")
    width = max(len(line.call) for line in (head, *lines))
    for line in (head, *lines):
        yield f"  {line.namespace:<9}  {line.call:<{width}}  {line.result}"


def _explain(lines: tuple[Line, ...]) -> Iterator[str]:
    """Each cause once, below every refusal that it explains."""
    refusals = dict.fromkeys(line.refusal for line in lines if line.refusal is not None)
    causes = dict.fromkeys((refusal.cause, refusal.remedy) for refusal in refusals)
    for cause, remedy in causes:
        same = [
            refusal for refusal in refusals if (refusal.cause, refusal.remedy) == (cause, remedy)
        ]
        yield from (refusal.headline() for refusal in same)
        yield f"  cause:  {cause}"
        first, *others = remedy.split("; ")
        yield f"  remedy: {first}"
        yield from (f"          {other}" for other in others)
        yield ""
