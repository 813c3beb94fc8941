# SPDX-License-Identifier: MIT
"""``--nsisolate-pcap``: of which tests there is a file of packets, and what is in it."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections import Counter
from pathlib import Path
from typing import Final

from tests.support import NEEDS_NAMESPACES, Result, run_suite, write_files

pytestmark = NEEDS_NAMESPACES

SUITE: Final = """
import socket
import pytest

@pytest.mark.isolated
@pytest.mark.parametrize("outcome", ["passes", "fails"])
def test_it(testbed, outcome):
    lan = testbed.network("10.0.0.0/24", "fd00::/64")
    a, b = testbed.host("a", lan), testbed.host("b", lan)

    def send():
        with socket.socket(type=socket.SOCK_DGRAM) as out:
            out.sendto(b"hello", ("b", 9))

    a.call(send)
    assert testbed.capture(b).count(udp_port=9, sent=False) == 1
    assert outcome == "passes"
"""


def run(folder: Path, *options: str) -> tuple[Result, dict[str, Path]]:
    """The report, and the files by the outcome of their tests."""
    base = folder / "base"
    files = write_files(folder, {"test_kept.py": SUITE})
    result = run_suite(files, f"--basetemp={base}", *options)
    assert (len(result.passed()), result.returncode) == (1, 1), result.text
    found = {p.stem.rpartition("-")[2]: p for p in base.rglob("*.pcapng")}
    return result, found


def test_by_default_of_failed_tests(tmp_path: Path) -> None:
    """The report names it."""
    result, found = run(tmp_path)
    assert found.keys() == {"fails"}
    assert str(found["fails"]) in result.text


def test_of_all_tests(tmp_path: Path) -> None:
    """Each has an interface for each wire, and tcpdump reads it where it is installed."""
    _, found = run(tmp_path, "--nsisolate-pcap=all")
    assert found.keys() == {"passes", "fails"}
    for path in found.values():
        blocks, data = Counter[int](), path.read_bytes()
        at = 0
        while at < len(data):
            kind, size = struct.unpack_from("=II", data, at)
            assert struct.unpack_from("=I", data, at + size - 4) == (size,)
            blocks[kind] += 1
            at += size
        # Section header, interfaces, names, packets (draft-ietf-opsawg-pcapng).
        assert (blocks[0x0A0D0D0A], blocks[1], blocks[4]) == (1, 2, 1)
        assert blocks[6] >= 2
        assert b"a.eth0" in data
        if shutil.which("tcpdump"):
            read = ["tcpdump", "-n", "-r", str(path), "udp port 9"]
            told = subprocess.run(read, capture_output=True, text=True, timeout=60)
            assert "10.0.0.1." in told.stdout, told.stderr


def test_of_no_test(tmp_path: Path) -> None:
    result, found = run(tmp_path, "--nsisolate-pcap=none")
    assert found == {}
    assert ".pcapng" not in result.text


def test_another_word_is_an_error(tmp_path: Path) -> None:
    result = run_suite(write_files(tmp_path, {"test_kept.py": SUITE}), "--nsisolate-pcap=some")
    assert result.returncode == 4
    assert "--nsisolate-pcap" in result.text
