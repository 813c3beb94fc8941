# SPDX-License-Identifier: MIT
"""The example of the README: what a process sees that is PID 1 of a world of its own."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest


def show(command: str) -> None:
    print("\n$", command)
    print(subprocess.check_output(command.split(), text=True), end="")


@pytest.mark.isolated
def test_a_world_of_its_own() -> None:
    """It is alone, port 80 is free, and there is no way out."""
    assert os.getpid() == 1
    with socket.create_server(("0.0.0.0", 80)):
        show("ps -e -o pid,ppid,user,comm")
        show("ip -brief address")
        show("ip route")
