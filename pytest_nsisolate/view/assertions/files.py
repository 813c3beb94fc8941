# SPDX-License-Identifier: MIT
"""Assertions on what a test has changed among its files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from pytest_nsisolate.kernel.originals import os, re
from pytest_nsisolate.view.assertions.failures import failure
from pytest_nsisolate.view.files import FileEntry, Files, lines
from pytest_nsisolate.view.readings import Readings

#: One pattern, or several.
Patterns: TypeAlias = "str | os.PathLike[str] | Iterable[str | os.PathLike[str]]"

_MOST_DIFFS: Final = 3
_TOO_MANY: Final = "not all of them were looked at: too many, or not readable"
_MOST_LINES: Final = 20


class FileAssertions(Readings):
    """What may be asserted of files; each needs ``root="overlay"``."""

    __slots__ = ()

    def assert_files(
        self,
        *,
        created: Patterns = (),
        modified: Patterns = (),
        deleted: Patterns = (),
        ignoring: Patterns = (),
    ) -> Files:
        """Files were created, modified and deleted like that, and no others.

        Patterns are paths with ``*`` and ``?``, which match within one name, and ``**``, which
        matches across directories. Each has to match something. One that matches a directory covers
        what is in it, and directories on the way to what was created need not be named.

        :param ignoring: what may happen or not.
        :returns: everything that has happened.
        """
        __tracebackhide__ = True
        files = self.files
        wanted = {"created": created, "modified": modified, "deleted": deleted}
        ignored = [_compiled(pattern) for pattern in _several(ignoring)]
        problems = [] if files.complete else [_TOO_MANY]
        shown: list[str] = []
        for word, patterns in wanted.items():
            entries: tuple[FileEntry, ...] = getattr(files, word)
            compiled = {pattern: _compiled(pattern) for pattern in _several(patterns)}
            matched = {p: [e for e in entries if c.match(e.path)] for p, c in compiled.items()}
            problems += [
                f"nothing was {word} like {p}" for p, found in matched.items() if not found
            ]
            meant = {entry.path for found in matched.values() for entry in found}
            for entry in entries:
                on_the_way = entry.kind == "directory" and any(
                    path.startswith(f"{entry.path}/") for path in meant
                )
                if not (on_the_way or entry.path in meant or _is_in(entry, ignored)):
                    problems.append(f"{entry.path} was {word}")
                    if word == "modified" and len(shown) < _MOST_DIFFS:
                        shown.append(files.diff(entry.path))
        if problems:
            said = [f"{word} {', '.join(_several(w)) or 'nothing'}" for word, w in wanted.items()]
            diffs = [line for diff in shown for line in diff.splitlines()[:_MOST_LINES]]
            raise failure(
                "files were not changed as expected",
                expected="; ".join(said),
                seen="; ".join(problems[:_MOST_LINES]),
                text="\n".join([*lines(files), *diffs]),
            )
        return files

    def assert_unchanged(self, *paths: str | os.PathLike[str]) -> None:
        """Nothing was created, modified or deleted there, nor below.

        :param paths: patterns, as of :meth:`assert_files`; without any, the whole root.
        """
        __tracebackhide__ = True
        files = self.files
        patterns = [_compiled(os.fspath(path)) for path in paths or ("/",)]

        def there(entries: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
            return tuple(entry for entry in entries if _is_in(entry, patterns))

        changed = Files(there(files.created), there(files.modified), there(files.deleted))
        if changed or not files.complete:
            where = ", ".join(os.fspath(path) for path in paths) or "/"
            diffs = [files.diff(entry.path) for entry in changed.modified[:_MOST_DIFFS]]
            shown = [line for diff in diffs for line in diff.splitlines()[:_MOST_LINES]]
            raise failure(
                f"something was changed in {where}",
                expected="no change there",
                seen="these files" if files.complete else _TOO_MANY,
                text="\n".join([*lines(changed), *shown]),
            )


def _several(patterns: Patterns) -> list[str]:
    if isinstance(patterns, str | os.PathLike):
        patterns = [patterns]
    return [os.fspath(pattern) for pattern in patterns]


def _compiled(pattern: str) -> re.Pattern[str]:
    """It matches a path, and what is below."""
    if not pattern.startswith(("/", "**")):
        raise ValueError(f"patterns are absolute paths, or begin with **: not {pattern!r}")
    parts = re.split(r"(\*\*|\*|\?)", pattern.rstrip("/"))
    meaning = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile(
        "".join(meaning.get(part) or re.escape(part) for part in parts) + r"(/.*)?\Z", re.DOTALL
    )


def _is_in(entry: FileEntry, patterns: list[re.Pattern[str]]) -> bool:
    return any(pattern.match(entry.path) for pattern in patterns)
