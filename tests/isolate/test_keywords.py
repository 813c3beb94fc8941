# SPDX-License-Identifier: MIT
"""What ``isolate.using(...)`` takes, for a type checker and for a run.

This file is checked by ``mypy --strict``, which reports an ignored error that is none: each
``type: ignore`` here says that a type checker refuses the line, and that with this error.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_nsisolate import Isolate, IsolateKeywords


def test_an_unknown_keyword_is_a_type_error(isolate: Isolate) -> None:
    """In both senses, with a guess."""
    with pytest.raises(TypeError, match=r"isolate.using\(nett=True\): .* did you mean 'net'\?"):
        isolate.using(nett=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="did you mean 'trusted'"):
        isolate.using(net=True, trust=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="inside is for the marker of a test, not for a call"):
        isolate.using(inside=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="leftovers is for the marker of a test"):
        isolate.using(leftovers="fail")  # type: ignore[call-arg]


def test_the_words_of_a_command_are_no_function(isolate: Isolate) -> None:
    """Refused before anything is started, with what takes them."""
    with isolate.using(net=True).open() as box:
        calls: list[Callable[[Any], object]] = [isolate, isolate.start, box.run, box.start]
        for call in calls:
            with pytest.raises(
                TypeError, match=r"not a function: \['ls'\].* box\.command\("
            ) as caught:
                call(["ls"])
            assert "isolated child" not in str(caught.value)


def test_a_wrong_value_is_a_usage_error(isolate: Isolate) -> None:
    """As that of the marker is; a type checker sees it first."""
    with pytest.raises(pytest.UsageError, match="pid takes True or False"):
        isolate.using(pid=1)  # type: ignore[arg-type]
    with pytest.raises(pytest.UsageError, match='takes True, "range", "same" or False'):
        isolate.using(user="root")  # type: ignore[arg-type]
    with pytest.raises(pytest.UsageError, match="knows the clocks monotonic and boottime"):
        isolate.using(time={"monotnic": 1})  # type: ignore[arg-type]
    with pytest.raises(pytest.UsageError, match="seconds above 0"):
        isolate.using(timeout=0)


def test_every_keyword_of_the_marker_is_there(isolate: Isolate) -> None:
    """With all kinds of values that it takes; the sum of them is what it says of itself."""
    everything: IsolateKeywords = {
        **dict.fromkeys(("pid", "mount", "net", "uts", "ipc", "cgroup"), True),  # type: ignore[typeddict-item]
        "user": "same",
        "time": {"monotonic": 60},
        "hostname": "db1",
        "addresses": ["10.53.0.1/32"],
        "timeout": None,
        "init": True,
        "missing": "skip",
        "limits": {"memory": "256M", "processes": 64, "cpu": None},
        "devices": ["fuse"],
        "caps": "net_admin",
        "no_new_privs": True,
        "root": "overlay",
        "writable": "/var/tmp",
        "files": {"/etc/hosts": "127.0.0.1 db"},
        "hide": [Path("/srv")],
        "root_size": "64M",
    }
    assert everything.keys() == IsolateKeywords.__annotations__.keys()
    assert repr(isolate.using(**everything).using(time=3, limits=None)).count("=") == 22
    with pytest.raises(TypeError) as caught:
        isolate.using(zzz=1)  # type: ignore[call-arg]
    allowed = str(caught.value).partition("allowed: ")[2].split(", ")
    assert allowed == sorted({*everything, "trusted"})
