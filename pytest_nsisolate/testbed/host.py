# SPDX-License-Identifier: MIT
"""A host: a box with a network of its own, a name, and wires; a router is one that forwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from shlex import split
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeAlias, TypeVar, cast

from pytest_nsisolate.errors import StepError, TestbedError, failing
from pytest_nsisolate.isolate.box import in_one_line, listed
from pytest_nsisolate.isolate.faulty import Faulty
from pytest_nsisolate.kernel import links, syscalls
from pytest_nsisolate.kernel.libc import step_error
from pytest_nsisolate.kernel.nftables import masquerade
from pytest_nsisolate.kernel.originals import open, os, subprocess
from pytest_nsisolate.testbed.fabric import write_sysctl
from pytest_nsisolate.testbed.host_view import HostView
from pytest_nsisolate.testbed.program import Program, Ready
from pytest_nsisolate.testbed.routing import Node, Routes

if TYPE_CHECKING:
    from pytest_nsisolate.isolate.box import Box
    from pytest_nsisolate.testbed.bed import Testbed
    from pytest_nsisolate.testbed.network import Network
    from pytest_nsisolate.testbed.wire import Wire
    from pytest_nsisolate.view import Pid1View
    from pytest_nsisolate.view.faults import Injector

P = ParamSpec("P")
T = TypeVar("T")

#: A command: a line of words, as a shell splits it but without a shell, or a list of them.
Words: TypeAlias = "str | Sequence[str | os.PathLike[str]]"

#: Seconds in which a program has to be ready.
WITHIN: Final = 10.0

_HOSTS: Final = "/etc/hosts"

#: The namespaces of every host.
_OWN: Final = ("pid", "mount", "net", "uts", "ipc")


class Host(Faulty):
    """One host of a testbed. Made by ``testbed.host(...)`` and ``testbed.router(...)``.

    :ivar name: its host name, by which the others know it.
    :ivar testbed: whose it is.
    :ivar wires: by network.
    :ivar programs: what :meth:`start` has started, since it was booted.
    """

    def __init__(
        self,
        testbed: Testbed,
        name: str,
        wires: Mapping[Network, Wire],
        keywords: Mapping[str, Any],
        *,
        routes: bool,
    ) -> None:
        self.name = name
        self.testbed = testbed
        self.wires = wires
        self.programs: list[Program] = []
        #: What ``testbed.host(...)`` was given for its box.
        self.keywords = keywords
        self._wants_routes = routes
        self._box: Box | None = None
        self._links: links.Links | None = None
        self._routes: Routes = {}

    # Who it is -----------------------------------------------------------------------------------

    @property
    def wire(self) -> Wire:
        """Its only wire.

        :raises TestbedError: if it has several.
        """
        if len(self.wires) != 1:
            there = ", ".join(str(network) for network in self.wires)
            text = f"{self.name} has {len(self.wires)} wires ({there}): say {self.name}.wires[...]"
            raise TestbedError(text)
        (wire,) = self.wires.values()
        return wire

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its addresses on all networks, IPv4 first."""
        every = [address for wire in self.wires.values() for address in wire.addresses]
        return tuple(str(address) for address in sorted(every, key=lambda a: a.version))

    @property
    def address(self) -> str:
        """The first of its addresses."""
        return self.addresses[0]

    @property
    def crashed(self) -> bool:
        """By :meth:`crash`, and not booted since."""
        return self._box is None

    @property
    def box(self) -> Box:
        """The namespaces that it consists of.

        :raises TestbedError: if it has crashed.
        """
        __tracebackhide__ = True
        box = self.up()
        self.testbed.connect()
        return box

    def up(self) -> Box:
        """:attr:`box`, whether its wires are connected yet or not."""
        __tracebackhide__ = True
        if self._box is None:
            raise TestbedError(f"host {self.name} has crashed: {self.name}.boot() starts it again")
        return self._box

    def _injector(self) -> Injector:
        return self.box._injector()

    @property
    def pid(self) -> int:
        """The number of its PID 1, as the test sees it."""
        return self.box.pid

    @property
    def processes(self) -> frozenset[int]:
        """The numbers, as the test sees them, of what holds it open, and of what is on it."""
        return frozenset() if self._box is None else self._box.processes

    @property
    def view(self) -> Pid1View:
        """What ``pid1`` has, data and assertions, seen from this host."""
        return cast("Pid1View", HostView(self))

    # What runs on it -----------------------------------------------------------------------------

    def run(
        self,
        command: Words,
        *,
        check: bool = True,
        timeout: float | None = None,
        input: str | bytes | None = None,  # noqa: A002 (the name that subprocess has)
        text: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> subprocess.CompletedProcess[Any]:
        """A program to its end, as :func:`subprocess.run` with both outputs captured.

        :param command: a line, split into words as a shell does but run without one, or a list.
        :param check: a status other than 0 is a :class:`subprocess.CalledProcessError`.
        :param timeout: seconds; then it is killed, and :class:`subprocess.TimeoutExpired`.
        :param env: its whole environment; without, the test's.
        :raises OSError: when it cannot be started.
        """
        __tracebackhide__ = True
        words = _words(command)
        options: dict[str, Any] = {"input": input, "text": text, "env": env, "cwd": cwd}
        box = self.box
        try:
            return box.command(words, check=check, timeout=timeout, **options)
        except Exception as error:
            error.add_note(f"on host {self.name}")
            raise
        finally:
            self.testbed.take_packets()

    def shell(self, script: str, **options: Any) -> subprocess.CompletedProcess[Any]:
        """:meth:`run` of a line of ``sh``, with pipes and variables."""
        __tracebackhide__ = True
        return self.run(["sh", "-c", script], **options)

    def start(
        self,
        command: Words,
        *,
        ready: Ready | None = None,
        within: float = WITHIN,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> Program:
        """A program in the background, until its ``with`` block, its host or the test ends.

        :param command: as of :meth:`run`.
        :param ready: wait until this holds: a number is a TCP port that a process of the host
            listens to, or a UDP port in use; a text or path that begins with ``/`` is a file of the
            host; another text, or a compiled pattern, is found in what the program has written; a
            function is true, called in the test.
        :param within: seconds to wait for that.
        :raises OSError: when it cannot be started.
        :raises NotReadyError: when it ends before it is ready, or is not ready in time.
        """
        __tracebackhide__ = True
        words = [os.fspath(word) for word in _words(command)]
        name = in_one_line([*words])
        where = None if cwd is None else os.fspath(cwd)
        program = Program(self, words, name, env=env, cwd=where)
        self.programs.append(program)
        if ready is not None:
            program.await_ready(ready, within)
        return program

    def call(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """A Python function on this host; its value and exceptions come back as of ``isolate``."""
        __tracebackhide__ = True
        try:
            return self.box.run(func, *args, **kwargs)
        finally:
            self.testbed.take_packets()

    # Power ---------------------------------------------------------------------------------------

    def crash(self) -> None:
        """As if the power failed: its wires are dead, then all on it. No connection is closed."""
        __tracebackhide__ = True
        box = self.box
        self.testbed.tenure.check_building("the power of a host")
        self.testbed.take_packets()
        with self.testbed.refusing(f"host {self.name}"):
            for wire in self.wires.values():
                wire.pull_out()
        self._let_go()
        self._box = None
        box.close()

    def boot(self) -> None:
        """Switch it on: at first, and after :meth:`crash`, with the same name and addresses.

        :raises IsolatedRefusal: when this host refuses something.
        :raises TestbedError: if it is up.
        """
        __tracebackhide__ = True
        if self._box is not None:
            raise TestbedError(f"host {self.name} is up")
        with self.testbed.refusing(f"host {self.name}"):
            self._box = self.testbed.open_box(self)
            try:
                self._plug_in()
            except BaseException:
                self.close()
                raise

    def await_carrier(self, index: int) -> None:
        """Wait until an interface of it has its carrier."""
        assert self._links is not None, f"host {self.name} has crashed"
        self._links.await_carrier(index)

    def _plug_in(self) -> None:
        with self.netns() as netns:
            with failing("open a netlink socket", "net"):
                self._links = links.Links(netns)
            for wire in self.wires.values():
                wire.plug_in(netns, self._links)
        self._routes = {}

    @contextmanager
    def netns(self) -> Iterator[int]:
        """A descriptor of its network namespace."""
        path = f"/proc/{self.up().pid}/ns/net"
        with failing(f"open {path}", "net"):
            netns = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield netns
        finally:
            os.close(netns)

    def furnish(self) -> None:
        """In its PID 1, before anything else is there."""
        write_sysctl("net/ipv6/conf/all/accept_dad", "0", absent=True)
        write_sysctl("net/ipv6/conf/default/accept_dad", "0", absent=True)
        _make_hosts_file(self.testbed.hosts_file(self))

    # Routes and names ----------------------------------------------------------------------------

    @property
    def node(self) -> Node:
        """Where it stands, for :mod:`.routing`."""
        return Node({network: wire.addresses for network, wire in self.wires.items()})

    def set_routes(self, wanted: Routes) -> None:
        """Change the static routes to these; routes that the test has made stay."""
        if self._links is None or not self._wants_routes:
            return
        self._links.change_routes(self._routes, wanted)
        self._routes = dict(wanted)

    def write_hosts(self, text: str) -> None:
        """New names for everybody on it."""
        if self._box is not None:
            with (
                failing(f"write {_HOSTS} of {self.name}", "mount"),
                open(f"/proc/{self._box.pid}/root{_HOSTS}", "w", encoding="utf-8") as file,
            ):
                file.write(text)

    # The end -------------------------------------------------------------------------------------

    def _let_go(self) -> None:
        for program in self.programs:
            program.forget()
        self.programs = []
        if self._links is not None:
            self._links.close()
            self._links = None

    def begin_to_close(self) -> None:
        """Kill everything on it without waiting for that, which :meth:`close` does."""
        if self._box is not None:
            self._box.begin_to_close()

    def close(self) -> None:
        """At the end: everything on it is gone."""
        self._let_go()
        if self._box is not None:
            box, self._box = self._box, None
            box.close()

    def __repr__(self) -> str:
        state = " crashed" if self.crashed else ""
        return f"<host {self.name} {' '.join(self.addresses)}{state}>"

    def __str__(self) -> str:
        return self.name


def box_keywords(host: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a host's box: what every host has, and what ``testbed.host(...)`` was given.

    :raises TestbedError: for one that takes away what every host has.
    """
    __tracebackhide__ = True
    own = (*_OWN, "hostname")
    wrong = [f"{key}={given[key]!r}" for key in own if given.get(key, True) is not True]
    if _HOSTS in (given.get("files") or ()) or _HOSTS in (given.get("hide") or ()):
        wrong.append(f"{_HOSTS!r}")
    if wrong:
        text = "a host has processes, mounts, a network, a name and a /etc/hosts of its own"
        raise TestbedError(f"testbed.host({host!r}, {', '.join(wrong)}): {text}")
    return {**dict.fromkeys(_OWN, True), "user": False, "hostname": host, **given}


class Router(Host):
    """A host that forwards between its networks. Made by ``testbed.router(...)``.

    :ivar outside: where it hides the addresses of its other networks; None for nowhere.
    """

    def __init__(self, *arguments: Any, outside: Network | None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.outside = outside

    def furnish(self) -> None:
        """It forwards from the start."""
        super().furnish()
        write_sysctl("net/ipv4/ip_forward", "1")
        write_sysctl("net/ipv6/conf/all/forwarding", "1", absent=True)
        if self.outside is not None:
            for version in {subnet.version for subnet in self.outside.subnets}:
                try:
                    masquerade(self.wires[self.outside].interface, version=version)
                except OSError as error:
                    raise step_error("add a rule of NAT", "net", error) from error

    @property
    def node(self) -> Node:
        """Others may send through it."""
        addresses = {network: wire.addresses for network, wire in self.wires.items()}
        return Node(addresses, forwards=True, outside=self.outside)


def _words(command: Words) -> list[Any]:
    __tracebackhide__ = True
    words = listed(split(command) if isinstance(command, str) else command)
    return [*words]


def _make_hosts_file(text: str) -> None:
    """A file of its own over ``/etc/hosts``, of which only the mount is left.

    It can be written to at any time, through ``/proc/PID/root``.
    """
    place = "/dev/shm/nsisolate-hosts"  # noqa: S108 (on a file system of this host's own)
    try:
        with open(place, "w", encoding="utf-8") as file:
            file.write(text)
        syscalls.prepare_mount(place, _HOSTS, None, syscalls.MS_BIND)()
        os.unlink(place)
    except OSError as error:
        raise step_error(f"bind {_HOSTS}", "mount", error) from error


__all__ = ["Host", "Router", "StepError"]
