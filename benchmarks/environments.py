# SPDX-License-Identifier: MIT
"""A virtual environment for each contender, made once and kept until its recipe changes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from contenders import OURS, PYTEST, Contender

if TYPE_CHECKING:
    from collections.abc import Iterable

REPOSITORY = Path(__file__).resolve().parent.parent


class UnavailableError(Exception):
    """A contender cannot be measured here; the text says why."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The Python of one environment, and what its pytest needs on the command line.

    ``autoload`` is False where all contenders share the running environment: there each loads
    only its own plugin, by ``-p``.
    """

    python: Path
    autoload: bool = True


def source_digest(source: Path) -> str:
    """A digest of what would be installed from ``source``, so that a stale install is noticed."""
    digest = hashlib.sha256()
    files = [source / "pyproject.toml", *sorted((source / OURS).rglob("*.py"))]
    for path in files:
        if path.is_file():
            digest.update(str(path.relative_to(source)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Environments:
    """Where the environments are kept and what they are made of.

    ``root`` None: the running interpreter serves everyone, nothing is installed.
    ``together``: packages of all contenders. One environment has them all, and each contender
    loads its own plugin only, so that nothing else differs.
    """

    root: Path | None
    base_python: str = sys.executable
    pytest: str = PYTEST
    source: Path = REPOSITORY
    extra: tuple[str, ...] = ()
    together: tuple[str, ...] = ()

    def interpreter(self, contender: Contender) -> Interpreter:
        """The environment of this contender, made if needed.

        Raises UnavailableError if it cannot be had.
        """
        if self.root is None:
            return self._here(contender)
        whose = "all" if self.together else contender.environment
        name = "-".join((whose, "pytest", self.pytest, *self.extra))
        folder = self.root / name
        recipe = self._recipe(contender)
        stamp = folder / "nsibench.json"
        if not stamp.is_file() or json.loads(stamp.read_text(encoding="utf-8")) != recipe:
            print(f"making {folder} ...", file=sys.stderr, flush=True)
            self.root.mkdir(parents=True, exist_ok=True)
            # Whichever folder it is, it keeps itself out of the repository.
            (self.root / ".gitignore").write_text("*\n", encoding="utf-8")
            self._make(folder, contender)
            stamp.write_text(json.dumps(recipe), encoding="utf-8")
        return Interpreter(folder / "bin" / "python", autoload=not self.together)

    def _here(self, contender: Contender) -> Interpreter:
        package = contender.module.partition(".")[0]
        if package and importlib.util.find_spec(package) is None:
            raise UnavailableError(f"{package} is not installed in {sys.prefix}")
        return Interpreter(Path(sys.executable), autoload=False)

    def _recipe(self, contender: Contender) -> dict[str, object]:
        ours = OURS in (self.together or contender.requirements)
        return {
            "python": self.base_python,
            "packages": self._packages(contender),
            "source": source_digest(self.source) if ours else "",
        }

    def _packages(self, contender: Contender) -> list[str]:
        wanted = self.together or contender.requirements
        named = [str(self.source) if name == OURS else name for name in wanted]
        return [f"pytest=={self.pytest}", *self.extra, *named]

    def _make(self, folder: Path, contender: Contender) -> None:
        python = str(folder / "bin" / "python")
        self._run([self.base_python, "-m", "venv", "--clear", str(folder)], contender)
        self._run([python, "-m", "pip", "install", "-q", *self._packages(contender)], contender)

    @staticmethod
    def _run(command: Iterable[str], contender: Contender) -> None:
        done = subprocess.run(list(command), capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
            raise UnavailableError(f"no environment for {contender.key}: " + " / ".join(last))
