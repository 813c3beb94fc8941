# SPDX-License-Identifier: MIT
"""A program that relays between its terminal and a new one, in which it starts a Python script.

``python relaying.py SCRIPT [SECONDS] [--broken]``; at the end it says why the relay was over, and
whether its terminal is as it was. With ``--broken`` a signal makes the relay itself fail.
"""

from __future__ import annotations

import os
import pty
import sys
import termios

from pytest_nsisolate.cli.relay import relay


def main(script: str, seconds: float | None, *, broken: bool) -> None:
    """Relay until the script has ended."""
    before = termios.tcgetattr(0)
    pid, master = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", script])
    ended = os.pidfd_open(pid)

    def fail(number: int) -> bool:
        raise ValueError(number)

    try:
        how = relay(master, ended, seconds=seconds, deliver=fail if broken else None).name
    except ValueError as error:
        how = f"BROKEN {error}"
    os.close(master)
    mode = "as before" if termios.tcgetattr(0) == before else "changed"
    sys.stdout.write(f"\r\nover: {how}, mode {mode}\n")


if __name__ == "__main__":
    numbers = [float(word) for word in sys.argv[2:] if word != "--broken"]
    main(sys.argv[1], numbers[0] if numbers else None, broken="--broken" in sys.argv)
