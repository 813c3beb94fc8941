# SPDX-License-Identifier: MIT
"""Markers to requests: merging, implications, contradictions and how they are reported."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TypeAlias, cast

import pytest

from pytest_nsisolate.request.marker import near_misses
from pytest_nsisolate.request.model import IsolationRequest, TimeOffsets
from pytest_nsisolate.request.options import DEFAULT_NAMESPACES, Settings
from pytest_nsisolate.request.resolve import resolve, resolve_all
from pytest_nsisolate.request.wording import MarkerProblem

DEFAULT = DEFAULT_NAMESPACES
MARKED = Settings()
ALL = Settings(mode="all")
SIX_OFF = "pid=False, mount=False, net=False, uts=False, ipc=False, cgroup=False"

Collect: TypeAlias = Callable[[str], list[pytest.Item]]


class Marker:
    """A plugin with nothing but the marker."""

    @staticmethod
    def pytest_configure(config: pytest.Config) -> None:
        config.addinivalue_line("markers", "isolated: see pytest_nsisolate")


@pytest.fixture
def collect(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Collect:
    """The items of one module with this source."""

    def collect(source: str) -> list[pytest.Item]:
        # No other plugin: not even ours, which the suite itself may have loaded.
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        pytester.plugins = [Marker()]
        module = pytester.getmodulecol(
            f"import pytest\nisolated = pytest.mark.isolated\n{source}",
            configargs=["--strict-markers"],
        )
        return pytester.genitems([module])

    return collect


class OneMarker:
    """An item with one marker, for the long tables: a real one costs a session of its own."""

    def __init__(self, marker: str) -> None:
        self.mark = eval(marker, {"isolated": lambda *args, **kwargs: (args, kwargs)})

    def iter_markers_with_node(self, name: str) -> Iterator[tuple[object, object]]:
        args, kwargs = self.mark
        yield self, SimpleNamespace(name=name, args=args, kwargs=kwargs)


def marked(marker: str, settings: Settings = MARKED) -> IsolationRequest:
    """The request of a test with this marker, ``isolated(...)``."""
    request = resolve(cast("pytest.Item", OneMarker(marker)), settings)
    assert request is not None
    return request


def problems_of(item: pytest.Item, settings: Settings = MARKED) -> tuple[str, ...]:
    with pytest.raises(MarkerProblem) as caught:
        resolve(item, settings)
    return caught.value.problems


class TestOneMarker:
    @pytest.mark.parametrize(
        ("marker", "namespaces"),
        [
            ("isolated()", DEFAULT),
            ("isolated(timeout=5)", DEFAULT),
            ("isolated(hostname='x')", DEFAULT),
            ("isolated(user='same')", DEFAULT),
            ("isolated(time=5)", DEFAULT | {"time"}),
            ("isolated(net=False)", DEFAULT - {"net"}),
            ("isolated(user=False)", DEFAULT - {"user"}),
            ("isolated(pid=True)", {"pid", "mount", "user"}),
            ("isolated(net=True)", {"net", "mount", "user"}),
            ("isolated(ipc=True)", {"ipc", "mount", "user"}),
            ("isolated(uts=True)", {"uts", "user"}),
            ("isolated(cgroup=True)", {"cgroup", "user"}),
            ("isolated(mount=True)", {"mount", "user"}),
            ("isolated(mount=True, user=False)", {"mount"}),
            ("isolated(uts=True, hostname='db1', timeout=5)", {"uts", "user"}),
            ("isolated(pid=True, hostname='db1')", {"pid", "mount", "uts", "user"}),
            ("isolated(uts=True, addresses='10.0.0.1')", {"uts", "net", "mount", "user"}),
            ("isolated(cgroup=True, time=1)", {"cgroup", "time", "user"}),
            ("isolated(net=True, uts=False)", {"net", "mount", "user"}),
            (f"isolated({SIX_OFF}, time=1)", {"time", "user"}),
            (f"isolated({SIX_OFF}, user=True)", {"user"}),
        ],
    )
    def test_names_its_namespaces_and_what_they_imply(
        self, marker: str, namespaces: set[str]
    ) -> None:
        assert marked(marker).namespaces == namespaces

    @pytest.mark.parametrize(
        ("marker", "named"),
        [
            ("isolated()", set()),
            ("isolated(net=False)", set()),
            ("isolated(pid=True)", {"pid"}),
            ("isolated(pid=True, mount=True)", {"pid", "mount"}),
            ("isolated(user=True)", {"user"}),
            ("isolated(user='same')", {"user"}),
            ("isolated(user=False)", set()),
            ("isolated(time=1)", {"time"}),
            ("isolated(hostname='x')", set()),
        ],
    )
    def test_tells_the_named_from_the_implied(self, marker: str, named: set[str]) -> None:
        assert marked(marker).named == named

    def test_carries_every_other_keyword(self) -> None:
        found = marked(
            "isolated(uts=True, user='same', time={'boottime': 7}, hostname='db1', timeout=5,"
            " inside=['server'], leftovers='fail', init=True,"
            " missing='skip')"
        )

        assert found == IsolationRequest(
            namespaces=frozenset({"uts", "user", "time"}),
            user="same",
            named=frozenset({"uts", "user", "time"}),
            time=TimeOffsets(boottime=7.0),
            hostname="db1",
            timeout=5.0,
            inside=frozenset({"server"}),
            leftovers="fail",
            init=True,
            missing="skip",
        )

    @pytest.mark.parametrize(
        ("value", "offsets"),
        [
            ("5", TimeOffsets(5.0, 5.0)),
            ("-0.5", TimeOffsets(-0.5, -0.5)),
            ("{'monotonic': 3}", TimeOffsets(monotonic=3.0)),
            ("{'monotonic': 1, 'boottime': 2}", TimeOffsets(1.0, 2.0)),
        ],
    )
    def test_moves_both_clocks_or_the_named_ones(self, value: str, offsets: TimeOffsets) -> None:
        assert marked(f"isolated(time={value})").time == offsets

    @pytest.mark.parametrize(
        ("value", "inside"),
        [
            ("True", True),
            ("'server'", {"server"}),
            ("('a', 'b')", {"a", "b"}),
            ("[]", frozenset()),
        ],
    )
    def test_names_fixtures_of_the_inside(self, value: str, inside: object) -> None:
        assert marked(f"isolated(inside={value})").inside == inside

    def test_may_be_bare(self, collect: Collect) -> None:
        (item,) = collect("@isolated\ndef test_it(): pass")

        assert resolve(item, MARKED) == marked("isolated()")

    @pytest.mark.parametrize("settings", [MARKED, ALL])
    def test_that_says_false_leaves_the_test_in_the_runner(
        self, collect: Collect, settings: Settings
    ) -> None:
        (item,) = collect("@isolated(False)\ndef test_it(): pass")

        assert resolve(item, settings) is None


class TestSettings:
    @pytest.mark.parametrize(
        ("marker", "namespaces", "time"),
        [
            ("isolated()", {"pid", "mount", "user", "time"}, TimeOffsets()),
            ("isolated(uts=True)", {"uts", "user"}, None),
        ],
    )
    def test_give_the_default_set(
        self, marker: str, namespaces: set[str], time: TimeOffsets | None
    ) -> None:
        found = marked(marker, Settings(namespaces=frozenset({"pid", "time"})))

        assert found.namespaces == namespaces
        assert found.time == time

    def test_may_make_user_alone_the_default_set(self) -> None:
        assert marked("isolated()", Settings(namespaces=frozenset({"user"}))).namespaces == {"user"}

    @pytest.mark.parametrize(
        ("marker", "timeout"),
        [("isolated()", 9.0), ("isolated(timeout=1)", 1.0), ("isolated(timeout=None)", None)],
    )
    def test_give_the_default_budget(self, marker: str, timeout: float | None) -> None:
        assert marked(marker, Settings(timeout=9.0)).timeout == timeout

    def test_say_what_becomes_of_a_refusal(self) -> None:
        settings = Settings(missing="skip")
        assert marked("isolated()", settings).missing == "skip"
        assert marked("isolated(missing='fail')", settings).missing == "fail"
        assert marked("isolated(missing='skip')").missing == "skip"

    @pytest.mark.parametrize(
        ("marker", "init"), [("isolated()", True), ("isolated(init=False)", False)]
    )
    def test_give_the_default_init(self, marker: str, init: bool) -> None:
        assert marked(marker, Settings(init=True)).init is init

    def test_leave_an_unmarked_test_alone(self, collect: Collect) -> None:
        (item,) = collect("def test_it(): pass")

        assert resolve(item, MARKED) is None
        assert resolve(item, Settings(mode="none")) is None

    def test_in_mode_all_move_an_unmarked_test_without_changing_its_view(
        self, collect: Collect
    ) -> None:
        (item,) = collect("def test_it(): pass")

        found = resolve(item, Settings(mode="all", timeout=3.0, namespaces=frozenset({"net"})))

        assert found == IsolationRequest(
            namespaces=frozenset({"net", "mount", "user"}), user="same", timeout=3.0, init=True
        )

    @pytest.mark.parametrize("mode", ["all", "none"])
    def test_never_change_what_a_marker_says(self, mode: str) -> None:
        settings = Settings(mode=mode)  # type: ignore[arg-type]
        assert marked("isolated(pid=True)", settings) == marked("isolated(pid=True)")


MODULE = """
pytestmark = isolated({module})

@isolated({cls})
class TestIt:
    @isolated({function})
    def test_it(self): pass
"""


class TestMerging:
    @pytest.mark.parametrize(
        ("module", "cls", "function", "namespaces"),
        [
            ("", "", "net=True", DEFAULT),
            ("", "", "net=False", DEFAULT - {"net"}),
            ("", "net=False", "", DEFAULT),
            ("pid=True", "pid=True", "uts=True", {"pid", "mount", "uts", "user"}),
            ("pid=True, net=True", "uts=True", "uts=True, net=False",
             {"pid", "mount", "uts", "user"}),
            ("pid=True", "", "uts=True", DEFAULT),
            ("user=False", "uts=True", "uts=True", {"uts"}),
            ("pid=True", "net=False", "timeout=5", {"pid", "mount", "user"}),
            ("net=False", "timeout=5", "init=True", DEFAULT - {"net"}),
            ("timeout=5", "", "net=False", DEFAULT - {"net"}),
            ("user=False", "user=True", "", DEFAULT),
            ("False", "uts=True", "uts=True", {"uts", "user"}),
            ("pid=True", "False", "uts=True", {"uts", "user"}),
        ],
    )  # fmt: skip
    def test_goes_key_by_key_and_the_closest_wins(
        self,
        collect: Collect,
        module: str,
        cls: str,
        function: str,
        namespaces: set[str],
    ) -> None:
        (item,) = collect(MODULE.format(module=module, cls=cls, function=function))

        found = resolve(item, MARKED)

        assert found is not None
        assert found.namespaces == namespaces

    def test_covers_every_other_keyword(self, collect: Collect) -> None:
        (item,) = collect(
            MODULE.format(
                module="uts=True, hostname='far', timeout=9, init=True, inside=['a']",
                cls="uts=True, hostname='near', inside=['b']",
                function="uts=True, timeout=None",
            )
        )

        found = resolve(item, MARKED)

        assert found is not None
        assert (found.hostname, found.timeout, found.init) == ("near", None, True)
        assert found.inside == frozenset({"b"})

    def test_forgets_that_a_namespace_was_named_when_it_is_taken_away(
        self, collect: Collect
    ) -> None:
        (item,) = collect(MODULE.format(module="pid=True, net=True", cls="", function="net=False"))

        found = resolve(item, MARKED)

        assert found is not None
        assert found.named == {"pid"}

    def test_lets_false_win_from_the_closest(self, collect: Collect) -> None:
        (item,) = collect(MODULE.format(module="pid=True", cls="uts=True", function="False"))

        assert resolve(item, ALL) is None

    def test_takes_a_parameter_set_for_closer_than_its_function(self, collect: Collect) -> None:
        items = collect(
            "@isolated(uts=True, timeout=1)\n"
            "@pytest.mark.parametrize('x', [0, pytest.param(1, marks=isolated(False)),\n"
            "    pytest.param(2, marks=isolated(uts=True, timeout=2))])\n"
            "def test_it(x): pass\n"
        )

        found = [resolve(item, MARKED) for item in items]
        assert [request and request.timeout for request in found] == [1.0, None, 2.0]
        assert found[1] is None

    def test_takes_a_class_for_closer_than_its_bases(self, collect: Collect) -> None:
        (item,) = collect(
            "@isolated(timeout=1, hostname='base')\nclass Base:\n    def test_it(self): pass\n"
            "@isolated(timeout=2)\nclass TestIt(Base): pass\n"
        )

        found = resolve(item, MARKED)

        assert found is not None
        assert (found.timeout, found.hostname) == (2.0, "base")

    def test_takes_the_lower_of_stacked_decorators_for_the_closer(self, collect: Collect) -> None:
        (item,) = collect("@isolated(timeout=1)\n@isolated(timeout=2)\ndef test_it(): pass")

        found = resolve(item, MARKED)

        assert found is not None
        assert found.timeout == 2.0

    def test_reaches_methods_of_unittest(self, collect: Collect) -> None:
        (item,) = collect(
            "import unittest\n@isolated(uts=True)\nclass TestIt(unittest.TestCase):\n"
            "    @isolated(uts=True, init=True)\n    def test_it(self): pass\n"
        )

        found = resolve(item, MARKED)

        assert found is not None
        assert found.namespaces == {"uts", "user"}
        assert found.init


class TestProblems:
    @pytest.mark.parametrize(
        ("marker", "sentence"),
        [
            ("(nett=True)", "isolated(nett=True): unknown keyword 'nett', did you mean 'net'?"),
            ("(zzzz=1)", "unknown keyword 'zzzz', allowed: addresses, caps, cgroup, devices,"),
            ("(pid=1)", "isolated(pid=1): pid takes True or False"),
            ("(pid=None)", "isolated(pid=None): pid takes True or False"),
            ("(init='yes')", "isolated(init='yes'): init takes True or False"),
            ("(user=1)", "isolated(user=1): user takes True, \"range\", \"same\" or False"),
            ("(user='root')", "isolated(user='root'): user takes"),
            ("(timeout=True)", "isolated(timeout=True): timeout takes a number of seconds"),
            ("(timeout='5')", "isolated(timeout='5'): timeout takes a number"),
            ("(timeout=0)", "isolated(timeout=0): timeout takes seconds above 0"),
            ("(timeout=float('nan'))", "isolated(timeout=nan): timeout takes a finite number"),
            ("(timeout=float('inf'))", "isolated(timeout=inf): timeout takes a finite number"),
            ("(timeout=10**400)", "timeout takes a finite number"),
            ("(time=False)", "isolated(time=False): time takes a number of seconds, or {"),
            ("(time=None)", "isolated(time=None): time takes a number of seconds, or {"),
            ("(time={'realtime': 1})", "time knows the clocks monotonic and boottime, not 'real"),
            ("(time={'boottime': True})", "time takes a number of seconds"),
            ("(time={'boottime': float('nan')})", "time takes a finite number of seconds"),
            ("(time=1e10)", "time takes at most 4611686018 seconds either way"),
            ("(addresses=7)", 'addresses takes addresses like "10.53.0.1/32"'),
            ("(addresses='x')", "takes addresses like \"10.53.0.1/32\", not 'x'"),
            ("(addresses=['10.0.0.1', '10.0.0.1/8'])", "addresses has 10.0.0.1 twice"),
            ("(hostname='')", "isolated(hostname=''): hostname takes a string that is not empty"),
            ("(hostname=b'x')", "hostname takes a string"),
            ("(hostname=None)", "hostname takes a string"),
            ("(hostname='x' * 65)", "hostname takes at most 64 bytes, this is 65"),
            ("(hostname='\\xe4' * 33)", "hostname takes at most 64 bytes, this is 66"),
            ("(hostname='a\\0b')", "hostname takes a string without NUL"),
            ("(hostname='\\ud800')", "hostname takes a string that has a UTF-8 form"),
            ("(inside=False)", "isolated(inside=False): inside takes names of fixtures, or True"),
            ("(inside=[1])", "isolated(inside=[1]): inside takes names"),
            ("(inside='')", "inside takes names"),
            ("(missing=True)", "missing takes \"fail\" or \"skip\""),
            ("(missing='xfail')", "isolated(missing='xfail'): missing takes"),
            ("(leftovers=True)", "leftovers takes \"ignore\", \"warn\" or \"fail\""),
            ("(leftovers='kill')", "isolated(leftovers='kill'): leftovers takes"),
            ("(True)", "isolated(True): the only positional argument is False"),
            ("(0)", "isolated(0): the only positional argument is False"),
            ("('pid', 'net')", "isolated('pid', 'net'): the only positional argument is False"),
            ("(False, pid=True)", "isolated(False, ...): False stands alone, it contradicts pid"),
            ("(pid=True, mount=False)", "isolated(mount=False): pid needs a mount namespace"),
            ("(net=True, mount=False)", "isolated(mount=False): net needs a mount namespace"),
            ("(ipc=True, mount=False)", "isolated(mount=False): ipc needs a mount namespace"),
            ("(mount=False)", "isolated(mount=False): pid, net, ipc need a mount namespace"),
            ("(addresses='::2', net=False)", "addresses need a net namespace"),
            ("(hostname='x', uts=False)", "isolated(hostname='x', uts=False): a hostname needs"),
            (f"({SIX_OFF})", f"isolated({SIX_OFF}): no namespace is left on"),
            (f"({SIX_OFF}, user=False)", "no namespace is left on"),
        ],
    )  # fmt: skip
    def test_are_one_sentence_that_names_key_value_and_what_is_allowed(
        self, marker: str, sentence: str
    ) -> None:
        (problem,) = problems_of(cast("pytest.Item", OneMarker(f"isolated{marker}")))

        assert sentence in problem
        assert "\n" not in problem

    def test_of_one_test_are_all_found(self, collect: Collect) -> None:
        (item,) = collect(MODULE.format(module="pidd=True", cls="False", function="a=1, init=2"))

        assert [problem.partition(":")[0] for problem in problems_of(item)] == [
            "isolated(pidd=True)",
            "isolated(a=1)",
            "isolated(init=2)",
        ]

    def test_between_a_module_and_a_function_are_found(self, collect: Collect) -> None:
        (item,) = collect(MODULE.format(module="hostname='x'", cls="", function="uts=False"))

        (problem,) = problems_of(item)

        assert "a hostname needs a uts namespace" in problem

    def test_of_unknown_fixtures_name_them(self, collect: Collect) -> None:
        (item,) = collect("@isolated(inside=['srev', 'db', 'zzz'])\ndef test_it(): pass")

        with pytest.raises(MarkerProblem) as caught:
            resolve(item, MARKED, lambda _: frozenset({"server", "db"}))

        assert caught.value.problems == (
            "isolated(inside='srev'): this test knows no fixture 'srev', did you mean 'server'?",
            "isolated(inside='zzz'): this test knows no fixture 'zzz'",
        )

    def test_survive_a_repr_that_raises(self, collect: Collect) -> None:
        (item,) = collect(
            "class Odd:\n    def __repr__(self): raise RuntimeError\n"
            "@isolated(pid=Odd())\ndef test_it(): pass"
        )

        assert "pid takes True or False" in problems_of(item)[0]

    def test_survive_pickle_and_copy(self) -> None:
        problem = MarkerProblem("one", "two")

        for copied in (pickle.loads(pickle.dumps(problem)), copy.copy(problem)):
            assert (copied.problems, str(copied)) == (("one", "two"), "one\ntwo")


class TestResolveAll:
    def test_answers_in_the_order_of_the_items(self, collect: Collect) -> None:
        items = collect(
            "def test_a(): pass\n@isolated\ndef test_b(): pass\n"
            "@isolated(False)\ndef test_c(): pass\n"
        )

        found = resolve_all(items, MARKED)

        assert [request is not None for request in found] == [False, True, False]

    def test_names_every_offending_test_once_for_each_problem(self, collect: Collect) -> None:
        items = collect(
            "@isolated(nett=True)\ndef test_a(): pass\n"
            "@isolated(nett=True, pid=1)\ndef test_b(): pass\n"
            "@isolated\ndef test_c(): pass\n"
        )

        with pytest.raises(pytest.UsageError) as caught:
            resolve_all(items, MARKED)

        a, b, _ = (item.nodeid for item in items)
        assert str(caught.value).splitlines() == [
            "2 tests cannot be isolated as marked, nothing was run",
            "",
            "isolated(nett=True): unknown keyword 'nett', did you mean 'net'? (2 tests)",
            f"  {a}",
            f"  {b}",
            "",
            "isolated(pid=1): pid takes True or False (1 test)",
            f"  {b}",
        ]

    def test_stays_readable_with_hundreds_of_parameters(self, collect: Collect) -> None:
        items = collect(
            "names = [f'a::b [{n}' for n in range(300)]\n"
            "@isolated(nett=True)\n@pytest.mark.parametrize('x', names)\ndef test_many(x): pass\n"
        )

        with pytest.raises(pytest.UsageError) as caught:
            resolve_all(items, MARKED)

        lines = str(caught.value).splitlines()
        listed = [name for line in lines[4:] for name in line.strip().split("  ")]
        assert lines[3].endswith(".py::test_many, 300 times:")
        assert listed == [item.name for item in items]
        assert len(lines) < 100
        assert max(map(len, lines)) <= 100


class Node:
    """A test with one marker, in a run that has registered these."""

    def __init__(self, name: str, *registered: str, parent: Node | None = None) -> None:
        self.own_markers = [SimpleNamespace(name=name)]
        self.config = SimpleNamespace(getini=lambda key: list(registered))
        self.parent = parent


def near(name: str, *registered: str) -> bool:
    return bool(near_misses([cast("pytest.Item", Node(name, *registered))]))


class TestNearMisses:
    @pytest.mark.parametrize(
        "name",
        [
            "isolate",
            "isolates",
            "isolating",
            "isolation",
            "nsisolate",
            "nsisolated",
            "Isolated",
            "ISOLATED",
            "Isolate",
            "isolatd",
            "islated",
            "solated",
            "isolatted",
            "isolatedd",
            "isolsted",
            "osolated",
            "isloated",
            "siolated",
            "isolatde",
            "pid1",
            "PID1",
            "pytest_nsisolate",
        ],
    )
    def test_a_relative_and_a_slip_of_the_hand(self, name: str) -> None:
        assert near(name)

    @pytest.mark.parametrize(
        "name",
        [
            "isolated",
            "integration",
            "insulated",
            "violated",
            "unisolated",
            "dislocated",
            "related",
            "isolator",
            "islands",
            "isolation_level",
            "isolated_db",
            "isolate_fs",
            "db_isolation",
            "isolated2",
            "forked",
            "slow",
            "i",
            "is",
            "x",
        ],
    )
    def test_another_word_is_none(self, name: str) -> None:
        assert not near(name)

    @pytest.mark.parametrize(
        "line",
        ["isolate", "isolate: mine", "isolate(timeout=None): of pytest-isolate", " isolate : x"],
    )
    def test_what_is_registered_belongs_to_somebody(self, line: str) -> None:
        assert not near("isolate", "slow: takes its time", line)
        assert near("isolates", line)

    def test_each_test_of_a_module_is_named(self) -> None:
        module = Node("isolates")
        nodes = [Node("isolate", parent=module), Node("slow", parent=module)]
        both = cast("list[pytest.Item]", nodes)

        found = near_misses(both)

        assert list(found.values()) == [both[:1], both]


class TestReplace:
    REQUEST = IsolationRequest(frozenset({"pid", "mount", "user"}), named=frozenset({"pid"}))

    @pytest.mark.parametrize(
        ("changes", "namespaces"),
        [
            ({}, {"pid", "mount", "user"}),
            ({"namespaces": {"net"}}, {"net", "mount", "user"}),
            ({"namespaces": {"uts", "time"}}, {"uts", "time", "user"}),
            ({"user": "none"}, {"pid", "mount"}),
            ({"hostname": "x"}, {"pid", "mount", "user", "uts"}),
            ({"time": TimeOffsets(1.0)}, {"pid", "mount", "user", "time"}),
        ],
    )
    def test_adds_what_the_change_implies(
        self, changes: dict[str, object], namespaces: set[str]
    ) -> None:
        changed = self.REQUEST.replace(**changes)

        assert isinstance(changed.namespaces, frozenset)
        assert changed.namespaces == namespaces
        assert changed.named == {"pid"} & namespaces
        assert (changed.time is not None) == ("time" in namespaces)

    def test_takes_a_time_namespace_away_with_its_offsets(self) -> None:
        timed = self.REQUEST.replace(time=TimeOffsets(1.0))

        assert timed.replace(namespaces={"pid"}).time is None

    def test_refuses_unknown_names(self) -> None:
        with pytest.raises(ValueError, match="unknown namespace 'nett', did you mean 'net'"):
            self.REQUEST.replace(namespaces={"nett"})
        with pytest.raises(TypeError):
            self.REQUEST.replace(hostnam="x")
