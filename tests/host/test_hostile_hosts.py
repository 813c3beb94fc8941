# SPDX-License-Identifier: MIT
"""Hosts as people meet them: on each the doctor's report, and a marked test that is run there.

The doctor's reports are a page of the documentation, ``docs/hosts.md``, which is written here:

    NSISOLATE_UPDATE_DOCS=1 pytest -n 0 tests/host/test_hostile_hosts.py
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.containers import CONTAINERS
from tests.hosts import HOSTS, NEEDS_HOSTS
from tests.support import ON_THE_HOST, Result, inner_environment, run_suite, write_files

pytestmark = [NEEDS_HOSTS, ON_THE_HOST]

PAGE: Final = Path(__file__).parents[2] / "docs" / "hosts.md"
PREFIXES: Final = {**HOSTS, **CONTAINERS}

SUITE: Final = {
    "conftest.py": """
        from pathlib import Path
        from pytest_nsisolate.cli import doctor
        from pytest_nsisolate.host import facts

        def pytest_configure(config):
            # As where nothing tells which engine it is: the remedies for each.
            facts.place = lambda: None
            # Whether an account has a range of ids is this machine's.
            doctor._range = lambda check: doctor.Line("range", "", "ok", optional=True)
            (config.rootpath / "doctor").write_text(str(doctor.consult()))
    """,
    "test_it.py": """
        import os
        import pytest
        from journal import note

        @pytest.mark.isolated
        def test_marked():
            assert os.getpid() == 1
            note("marked")

        @pytest.mark.isolated(missing="skip")
        def test_lenient():
            assert os.getpid() == 1
            note("lenient")

        @pytest.mark.isolated(pid=True)
        def test_pid():
            assert os.readlink("/proc/self") == "1"
            note("pid")
    """,
}


@dataclass(frozen=True)
class Expected:
    """A host, what it stands for, and what becomes of a test with the default set.

    :param refusal: step and errno; None where everything can be had.
    :param said: words of the refusal's cause and of its remedy.
    :param pid: a test that asks for ``pid=True`` alone passes.
    """

    name: str
    title: str
    what: str
    refusal: tuple[str, str] | None = None
    said: tuple[str, ...] = ()
    pid: bool = False

    @property
    def passes(self) -> bool:
        return self.refusal is None

    def __str__(self) -> str:
        return self.name


NEWUSER: Final = ("unshare(CLONE_NEWUSER)", "EPERM")
SECCOMP: Final = ("a seccomp filter", "--security-opt seccomp=unconfined", "seccompProfile:")
MASKED: Final = ("is masked", "--security-opt systempaths=unconfined", "procMount: Unmasked")

EXPECTED: Final = (
    Expected("ordinary-user", "An ordinary user", "A machine that refuses nothing, no root."),
    Expected(
        *("no-sys-admin", "Uid 0 without CAP_SYS_ADMIN"),
        "It can have a user namespace like anybody else, and everything in it.",
    ),
    Expected(
        *("no-setfcap", "Uid 0 without CAP_SETFCAP"),
        "Since Linux 5.12 uid 0 is not mapped into a user namespace without it."
        " Root does without one, because nobody has named it.",
    ),
    Expected(
        *("docker", "Docker, as root"),
        "The default profile, capabilities and masks; GitLab's docker executor, container jobs of"
        " GitHub Actions and CircleCI's docker executor are the same.",
        *(NEWUSER, SECCOMP),
    ),
    Expected(
        *("docker-user", "Docker, as an ordinary user"),
        "`docker run --user 1000`, or `USER` in the Dockerfile.",
        *(NEWUSER, SECCOMP),
    ),
    Expected(
        *("docker-sys-admin", "Docker with --cap-add SYS_ADMIN, as root"),
        "That opens the profile, and the masks stay."
        " Without a user namespace `/proc` can be mounted, but `lo` not be brought up.",
        ("mount sysfs", "EPERM"),
        MASKED,
        pid=True,
    ),
    Expected(
        *("docker-sys-admin-user", "Docker with --cap-add SYS_ADMIN, as an ordinary user"),
        "The profile is open, but the capability is not this user's.",
        *(("mount sysfs", "EPERM"), MASKED),
    ),
    Expected(
        *(
            "docker-sys-admin-unmasked",
            "Docker with --cap-add SYS_ADMIN and systempaths=unconfined",
        ),
        "The filter stays, opened for the capability, which `--user 1000` does not hold itself.",
    ),
    Expected(
        *("docker-no-seccomp", "Docker with seccomp=unconfined alone"),
        "What is behind the filter: the masked `/proc` and `/sys`.",
        *(("mount sysfs", "EPERM"), MASKED),
    ),
    Expected(
        *("docker-unconfined", "Docker as the remedy says, as root"),
        "Neither filter nor masks, and still only the default capabilities.",
    ),
    Expected(
        *("docker-unconfined-user", "Docker as the remedy says, as an ordinary user"),
        "The same with `--user 1000`.",
    ),
    Expected(
        *("kubernetes-restricted", "Kubernetes, restricted"),
        "The pod security standard: no_new_privs, no capability, RuntimeDefault, not root.",
        *(NEWUSER, SECCOMP),
    ),
    Expected(
        *("kubernetes-unconfined", "Kubernetes as the remedy says"),
        "`seccompProfile` and `procMount` changed; still no_new_privs, no capability, not root.",
    ),
    Expected(
        *("apparmor", "Ubuntu 23.10 and newer"),
        "AppArmor grants the user namespace and denies what is done in it;"
        " GitHub's ubuntu-24.04 runners are the same.",
        ("write setgroups", "EACCES"),
        ("AppArmor", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
    ),
    Expected(
        *("mount-denied-user", "A security module that forbids mounting"),
        "As AppArmor's docker-default and SELinux do; here it is a filter with their EACCES.",
        *(("make / private", "EACCES"), ("apparmor=unconfined", "label=disable")),
    ),
    Expected(
        *("no-net", "user.max_net_namespaces = 0", "A limit takes one namespace away."),
        *(("unshare(CLONE_NEWNET)", "ENOSPC"), ("sysctl -w user.max_net_namespaces=16384",)),
        pid=True,
    ),
    Expected(
        *("no-user", "user.max_user_namespaces = 0", "For an ordinary user this is all of them."),
        *(("unshare(CLONE_NEWUSER)", "ENOSPC"), ("sysctl -w user.max_user_namespaces=16384",)),
    ),
    Expected(
        *(
            "read-only-proc-user",
            "A read-only /proc, as an ordinary user",
            "The id map cannot be written.",
        ),
        *(("write setgroups", "EROFS"), ("mount -o remount,rw /proc",)),
    ),
    Expected(
        *("masked-proc", "A masked /proc, as root"),
        "Root does without the user namespace, because nobody has named it.",
        pid=True,
    ),
    Expected(
        *("masked-sys", "A masked /sys, as root"),
        "Root does without the user namespace here, too.",
    ),
    Expected(
        *("masked-proc-user", "A masked /proc, as an ordinary user"),
        "As lxcfs does it; nothing is run with a stale `/proc` instead.",
        *(("mount proc", "EPERM"), MASKED),
    ),
    Expected(
        *("chroot", "A chroot", "schroot, mock, sbuild."),
        *(NEWUSER, ("in a chroot", "pivot_root")),
    ),
    Expected(
        *("unmapped", "A user namespace without an id map"),
        "`unshare --user` alone: everybody is nobody in it.",
        *(NEWUSER, ("are not mapped", "unshare --map-current-user")),
    ),
    Expected(
        *("no-pidfd-user", "No pidfd_open(2)"),
        "A kernel before 5.3, gVisor, or a filter that does not know the call.",
        *(("pidfd_open", "ENOSYS"), ("Linux 5.3 or newer",)),
    ),
    Expected("no-new-privs", "no_new_privs", "It takes nothing that is needed."),
    Expected(
        *("few-processes", "ulimit -u 1", "No other process may be started."),
        *(("fork", "EAGAIN"), ("RLIMIT_NPROC = 1 (ulimit -u)",)),
    ),
    Expected("sigchld-ignored", "SIGCHLD ignored", "As a supervisor may leave it to its children."),
    Expected("pid-1", "The runner is PID 1", "Of a container, without an init."),
    Expected(
        *("too-deep", "Thirty-two user namespaces deep"),
        "The kernel makes no more; root does without, because nobody has named it.",
        pid=True,
    ),
    Expected("nested", "Three sandboxes deep", "Each with a user, a PID and a network namespace."),
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not tmp_path: its parents are for root alone."""
    path = Path(tempfile.mkdtemp(prefix="nsi-"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


def neutral(report: str) -> str:
    """Without what is this machine's: versions, paths, and the limits, which depend on both.

    And without what tells who has made these hosts: in root's the tests of an ordinary user own
    ``/proc/sys``, which is then protected.
    """
    report = re.sub(r"Linux [\d.]+, Python [\d.]+", "Linux VERSION, Python VERSION", report)
    report = re.sub(r"^security label: .*\n", "", report, flags=re.MULTILINE)
    report = re.sub(r"^  (limits|faults|tty|reach|range) .*\n", "", report, flags=re.MULTILINE)
    report = re.sub(r"^  mount +make /proc/sys read-only .*\n", "", report, flags=re.MULTILINE)
    report = report.replace("(/proc/sys)", "(/proc)")
    limits = "write pid_max|mkdir cgroup|join the cgroup|find a cgroup"
    ranges = "find a range|find new.idmap|new.idmap"
    report = re.sub(rf"^(?:{limits}|{ranges}).*\n(?:  .*\n)+\n", "", report, flags=re.MULTILINE)
    but = "(some limits|a range of ids| and )+"
    report = re.sub(rf"Everything works, but for {but}\.", "Everything works.", report)
    rows = re.findall(r"^  (.{9})  (\S.*?)  +(\S.*)$", report, re.MULTILINE)
    width = max((len(call) for _, call, _ in rows), default=0)
    report = re.sub(
        r"^  (.{9})  (\S.*?)  +(\S.*)$",
        lambda row: f"  {row[1]}  {row[2]:<{width}}  {row[3]}",
        report,
        flags=re.MULTILINE,
    )
    report = report.replace(os.path.realpath(sys.executable), "/usr/bin/python3")
    report = re.sub(r"\(label here: .*\)$", "(label here: ...)", report, flags=re.MULTILINE)
    report = re.sub(r"the kernel \([\d.]+\)", "the kernel (VERSION)", report)
    return re.sub(r"\(covered: (/[^,)]+), [^)]*\)", r"(covered: \1, ...)", report).rstrip()


def section(host: Expected, report: str, result: Result) -> str:
    """What the page says of a host."""
    if host.name == "few-processes":
        # This one has no user of its own: it is that of the tests, or nobody.
        report = re.sub(r"\buid \d+,", "uid 65534,", report)
    if host.passes:
        outcome = "A test with the default set passes."
    else:
        head = neutral(result.failure("test_marked").splitlines()[0])
        outcome = f"A test with the default set is an error, `{head}`."
        smaller = "passes" if host.pid else "is one, too"
        outcome += f"\nOne with `isolated(pid=True)` {smaller}."
    block = f"```text\n{neutral(report)}\n```"
    return f"## {host.title}\n\n{host.what}\n{outcome}\n\n{block}\n"


def sections(page: str) -> dict[str, str]:
    """Title to section."""
    found = re.split(r"^(?=## )", page, flags=re.MULTILINE)[1:]
    return {text.splitlines()[0].removeprefix("## "): text.rstrip() + "\n" for text in found}


def compare_with_page(title: str, text: str) -> None:
    """The page says this of the host, or is made to say so."""
    page = PAGE.read_text("utf-8")
    known = sections(page)
    if os.environ.get("NSISOLATE_UPDATE_DOCS") == "1":
        known[title] = text
        ordered = [known[title] for title in TITLES if title in known]
        introduction = page.partition("## ")[0]
        PAGE.write_text(introduction + "\n".join(ordered), encoding="utf-8")
        return
    stale = "docs/hosts.md is stale; NSISOLATE_UPDATE_DOCS=1 writes it"
    assert known.get(title) == text, stale


LIMITS: Final = "Every user.max_*_namespaces = 0"
DESCRIPTORS: Final = "ulimit -n 6"
TITLES: Final = (*(host.title for host in EXPECTED), DESCRIPTORS, LIMITS)


def test_the_page_has_these_hosts_and_no_others() -> None:
    """In the order in which they stand here."""
    assert tuple(sections(PAGE.read_text("utf-8"))) == TITLES


def another_user_reaches(folder: Path) -> bool:
    """Whether who is held to RLIMIT_NPROC can import what an inner run does."""
    *prefix, _, _ = HOSTS["few-processes"]  # without prlimit
    script = "import pytest_nsisolate.plugin, parity_recording, prctl"
    command = [*prefix, sys.executable, "-c", script]
    environment = inner_environment(folder)
    return subprocess.run(command, env=environment, stderr=-3, check=False).returncode == 0


@pytest.mark.parametrize("host", EXPECTED, ids=str)
def test_a_host(host: Expected, folder: Path) -> None:
    """The doctor says what a run then meets: a pass, or a refusal with step, errno and remedy."""
    if host.name == "docker-sys-admin" and os.geteuid() != 0:
        pytest.skip("only root can make this host")
    if host.name == "few-processes" and not another_user_reaches(folder):
        pytest.skip("this Python, or this checkout, is out of the reach of other users")

    result = run_suite(write_files(folder, SUITE), prefix=PREFIXES[host.name], cache=False)

    report = (folder / "doctor").read_text("utf-8")
    passed = {"test_marked", "test_lenient", "test_pid"}
    if host.refusal is not None:
        passed = {"test_pid"} if host.pid else set()
        step, errno = host.refusal
        assert f"  {step} " in report, report
        head = result.failure("test_marked").splitlines()[0]
        assert head.startswith(f"isolation refused: {step}"), result.text
        assert f": {errno}, " in head
        for words in host.said:
            assert words in report, report
            assert words in result.failure("test_marked"), result.text
        assert result.of("test_lenient")[0]["outcome"] == "skipped", result.text
        assert result.stdout.count("nsisolate: ") >= 2, result.text
        counted = re.findall(r"^nsisolate: (\d) tests? refused: ", result.stdout, re.MULTILINE)
        assert sum(map(int, counted)) == (2 if host.pid else 3), result.text
    assert result.passed() == passed, result.text
    # Not a line of a refused test has run.
    assert {line.split()[1] for line in result.journal} == {n.removeprefix("test_") for n in passed}
    compare_with_page(host.title, section(host, report, result))


def test_few_descriptors(folder: Path) -> None:
    """The doctor begins, and is told; pytest needs more, and so does each test, wherever it is."""
    command = [sys.executable, "-m", "pytest_nsisolate", "doctor"]
    done = subprocess.run(
        [*HOSTS["hardly-any-descriptor"], *command],
        env=inner_environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    remedy = "raise the limit (ulimit -n), or find what leaves files open"
    assert f"remedy: {remedy}" in done.stdout

    result = run_suite(
        write_files(folder, SUITE), prefix=HOSTS["few-descriptors-user"], cache=False
    )
    for name in ("test_marked", "test_pid"):
        refused = result.failure(name)
        assert re.match(r"isolation refused: .*: EMFILE, ", refused), result.text
        assert f"remedy: {remedy}" in refused
    assert (result.passed(), result.journal) == (set(), [])

    what = (
        "pytest itself needs more.\n"
        "With `ulimit -n 20` it runs, and a marked test is an error with the same cause and remedy,"
        " at the step that found no descriptor left."
    )
    block = f"```text\n{neutral(done.stdout)}\n```"
    compare_with_page(DESCRIPTORS, f"## {DESCRIPTORS}\n\n{what}\n\n{block}\n")


EACH_LIMIT: Final = """
import contextlib, io, json, pathlib, sys
import pytest
from pytest_nsisolate.cli import doctor
from pytest_nsisolate.host import facts
from pytest_nsisolate.kernel.namespaces import NAMESPACES

facts.place = lambda: None

class Seen:
    def __init__(self): self.texts = []
    def pytest_runtest_logreport(self, report):
        if report.failed: self.texts.append(str(report.longrepr))

found = {}
for name in NAMESPACES:
    limit = pathlib.Path("/proc/sys", facts.limit_name(name).replace(".", "/"))
    before = limit.read_text()
    limit.write_text("0")
    seen = Seen()
    with contextlib.redirect_stdout(io.StringIO()):
        status = pytest.main([*sys.argv[1:], f"test_it.py::test_{name}"], plugins=[seen])
    found[name] = [int(status), seen.texts, json.loads(doctor.consult().as_json())]
    limit.write_text(before)
print(json.dumps(found))
"""

ONE_EACH: Final = "import pytest\n" + "".join(
    f"@pytest.mark.isolated({keyword})\ndef test_{name}(): raise SystemExit\n"
    for name, keyword in {
        **{name: f"{name}=True" for name in ("pid", "mount", "net", "uts", "ipc", "cgroup")},
        "user": "uts=True, user=True",
        "time": "time=5",
    }.items()
)


def test_each_limit(folder: Path) -> None:
    """``user.max_*_namespaces`` = 0, one after the other, in a user namespace of their own."""
    write_files(folder, {"test_it.py": ONE_EACH})
    arguments = ("-p", "nsisolate", "-p", "no:cacheprovider", "-q")
    done = subprocess.run(
        [*HOSTS["root"], sys.executable, "-c", EACH_LIMIT, *arguments],
        cwd=folder,
        env=inner_environment(folder),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = ["| limit | the first call that fails | remedy |", "|---|---|---|"]
    for name, (status, texts, report) in json.loads(done.stdout).items():
        (text,) = texts
        step = f"unshare(CLONE_NEW{'NS' if name == 'mount' else name.upper()})"
        limit = f"user.max_{'mnt' if name == 'mount' else name}_namespaces"
        remedy = f"sudo sysctl -w {limit}=16384"
        assert status == 1
        assert f"isolation refused: {step} for the {name} namespace: ENOSPC" in text
        assert f"({limit} = 0)" in text
        assert f"remedy: {remedy}" in text
        (refused,) = (
            row for row in report["steps"] if row["call"] == step and row["namespace"] == name
        )
        assert (refused["result"], refused["errno"]) == ("refused", "ENOSPC")
        assert refused["remedies"] == [remedy]
        rows.append(f"| `{limit} = 0` | `{step}`: ENOSPC | `{remedy}` |")
    what = "A namespace is refused, and with it what needs one; root does without user namespaces."
    compare_with_page(LIMITS, f"## {LIMITS}\n\n{what}\n\n" + "\n".join(rows) + "\n")


def test_nothing_is_skipped_where_it_must_work(folder: Path) -> None:
    """``NSISOLATE_MUST_WORK=1`` has the last word over marker and option."""
    result = run_suite(
        write_files(folder, SUITE),
        "--nsisolate-missing=skip",
        prefix=HOSTS["no-net"],
        env={"NSISOLATE_MUST_WORK": "1"},
    )

    assert result.phases("test_marked")[0] == "setup failed", result.text
    assert result.phases("test_lenient")[0] == "setup failed"
    assert result.passed() == {"test_pid"}


DEEP: Final = """
import os
import subprocess
import sys
import pytest
from journal import note

@pytest.mark.isolated
def test_deep():
    depth = int(os.environ["DEPTH"])
    note(f"{depth} {os.getpid()}")
    if depth < 3:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "nsisolate", __file__]
        command += ["-p", "no:cacheprovider"]
        subprocess.run(command, env={**os.environ, "DEPTH": str(depth + 1)}, check=True)
"""


def test_the_plugin_inside_itself(folder: Path) -> None:
    """An isolated test runs pytest, whose isolated test runs pytest: three deep, each PID 1."""
    write_files(folder, {"test_it.py": DEEP})

    result = run_suite(folder, prefix=HOSTS["ordinary-user"], env={"DEPTH": "1"})

    assert result.passed() == {"test_deep"}, result.text
    assert result.journal == ["child 1 1", "child 2 1", "child 3 1"]


def test_the_machinery_fits_into_a_small_limit_of_descriptors(folder: Path) -> None:
    """Too few of them are an error that names the limit, and not a hang or an internal error."""
    result = run_suite(write_files(folder, SUITE), prefix=HOSTS["few-descriptors"])

    assert "no file descriptor is left" in result.failure("test_marked"), result.text
    assert "ulimit -n" in result.failure("test_marked")
    assert "INTERNALERROR" not in result.stdout + result.stderr
