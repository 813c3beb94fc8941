# SPDX-License-Identifier: MIT
"""The switches and cables of a testbed, in a network namespace without a process.

Fact: what stands in the test's own network is seen, changed and flushed by the test.
What we do: switches and the hosts' cables end in a namespace that is held by a descriptor alone. It
needs no process, no other interface has these names, and the kernel takes all of it away with the
test.
"""

from __future__ import annotations

import errno
from typing import Final

from pytest_nsisolate.errors import failing
from pytest_nsisolate.kernel import links
from pytest_nsisolate.kernel.libc import step_error
from pytest_nsisolate.kernel.originals import open, os, socket
from pytest_nsisolate.kernel.packet_sockets import PacketRing
from pytest_nsisolate.process.aside import Aside

#: In the numbers of the ports of the hosts' cables, and in no other link's.
PORT: Final = 1 << 16

#: Packets of all ports that are kept until the test's process has time to look: 4 MB.
SLOTS: Final = 2048


class Fabric:
    """The namespace of the switches, and what is plugged in there.

    :param shared: forks of this process use it, one after the other.
    :raises StepError: where this process may not make network namespaces.
    """

    def __init__(self, *, shared: bool = False) -> None:
        with failing("unshare(CLONE_NEWNET)", "net"):
            self.netns = links.new_network()
        self._numbers = 1
        self._links: links.Links | None = None
        self.tap: PacketRing | None = None
        #: The ring of the tap, which the kernel takes its time to make.
        self._ring: Aside | None = None
        #: Packets are kept.
        self.listens = False
        try:
            with failing("open a packet socket", "net"):
                self.tap = PacketRing(
                    self.netns, None, slots=SLOTS, outgoing=True, only=PORT, ready=False
                )
                self._ring = Aside(self.tap.make)
                self._ring.begin()
            with failing("open a netlink socket", "net"):
                self._links = links.Links(self.netns)
                self._silence()
            if shared:
                self.tap.share_position()
                self.listen()  # forks cannot wait for the copy
        except BaseException:
            self.close()
            raise

    def _silence(self) -> None:
        """The switches have no addresses, and say nothing of their own."""
        with links.inside(self.netns):
            write_sysctl("net/ipv6/conf/default/disable_ipv6", "1", absent=True)

    @property
    def links(self) -> links.Links:
        """The conversation with the kernel about this namespace."""
        assert self._links is not None
        return self._links

    def listen(self) -> None:
        """Wait until what passes is kept. May be called again.

        :raises StepError: ``open a packet socket``.
        """
        assert self._ring is not None
        with failing("open a packet socket", "net"):
            self._ring.finish()
        self.listens = True

    def helpers(self) -> dict[int, str]:
        """The process that makes the ring, and what to call it."""
        pid = None if self._ring is None else self._ring.pid
        return {} if pid is None else {pid: "(makes a ring for packets)"}

    def number(self) -> int:
        """Another link's number."""
        self._numbers += 1
        return self._numbers

    def add_switch(self) -> int:
        """A bridge.

        :raises StepError: ``add a bridge``; EOPNOTSUPP in a kernel without bridges.
        """
        index = self.number()
        with failing("add a bridge", "net"):
            self.links.add_bridge(index, f"switch{index}")
        return index

    def forget_newer(self) -> None:
        """Delete the links that a fork of this process has added to those that are known here."""
        with links.inside(self.netns):
            found = socket.if_nameindex()
        for index, _ in found:
            if index & (PORT - 1) > self._numbers:
                try:
                    self.links.delete(index)
                except OSError as error:
                    if error.errno != errno.ENODEV:  # gone with its other end
                        raise

    def add_cable(
        self, name: str, index: int, peer: bytes, bridge: int | None, *, up: bool = True
    ) -> None:
        """A cable whose one end is here.

        :param peer: by :func:`~pytest_nsisolate.kernel.links.cable_end`.
        :param up: the end that is here.
        :raises StepError: ``add a veth pair``; EOPNOTSUPP in a kernel without.
        """
        with failing("add a veth pair", "net"):
            self.links.add_cable(index, name, bridge=bridge, peer=peer, up=up)

    def close(self) -> None:
        """Let go of everything; the kernel removes what no other process holds."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        if self.tap is not None:
            self.tap.close()
            self.tap = None
        if self._links is not None:
            self._links.close()
            self._links = None
        if self.netns >= 0:
            os.close(self.netns)
            self.netns = -1


def write_sysctl(name: str, value: str, *, absent: bool = False) -> None:
    """A kernel parameter of this process's network namespace.

    :param absent: it may be that this kernel has none of that name.
    :raises StepError: ``write /proc/sys/…``.
    """
    path = f"/proc/sys/{name}"
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(value)
    except OSError as error:
        if not (absent and error.errno == errno.ENOENT):
            raise step_error(f"write {path}", "net", error) from error
