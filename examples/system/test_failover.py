# SPDX-License-Identifier: MIT
"""A web server loses its power, and a standby takes over its address, as VRRP has it."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import pytest_nsisolate as nsi

ADDRESS = "10.0.0.100"

#: Both addresses, so that no neighbour has to learn a new one (RFC 9568).
TAKE_OVER = f"ip link set eth0 address 02:00:5e:00:01:01 && ip address add {ADDRESS}/24 dev eth0"


def get(seconds: float) -> str:
    """What is served there; "nothing" if no answer comes in that time."""
    try:
        with urllib.request.urlopen(f"http://{ADDRESS}/", timeout=seconds) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, TimeoutError):
        return "nothing"


def serve(host: nsi.Host, folder: Path) -> nsi.Program:
    """The host's name as a web page."""
    folder.mkdir()
    (folder / "index.html").write_text(host.name)
    web = [sys.executable, "-m", "http.server", "80"]
    return host.start(web, ready=80, within=60, cwd=folder)


@pytest.mark.isolated
def test_a_standby_takes_over(testbed: nsi.Testbed, tmp_path: Path) -> None:
    """Three hosts on one cable each; ``ip`` and ``http.server`` as they are."""
    lan = testbed.network("10.0.0.0/24")
    client, first, second = (testbed.host(name, lan) for name in ("client", "first", "second"))
    for server in (first, second):
        serve(server, tmp_path / server.name)

    first.shell(TAKE_OVER)
    assert client.call(get, 30) == "first"

    first.crash()
    assert client.call(get, 0.5) == "nothing"

    second.shell(TAKE_OVER)
    assert client.call(get, 30) == "second"
