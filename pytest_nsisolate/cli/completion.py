# SPDX-License-Identifier: MIT
"""``nsisolate completion SHELL``: a script for bash, zsh or fish, made from the parser itself.

What the parser knows is all there is to complete: commands, their options, the choices of an option
and of a word. After ``--`` comes a command with arguments of its own, which the shell completes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from shlex import quote
from typing import Final

HELP: Final = "print a script that completes this command in a shell"

_EPILOG: Final = """\
bash: eval "$(nsisolate completion bash)" in ~/.bashrc;
zsh: eval "$(nsisolate completion zsh)" in ~/.zshrc, after compinit;
fish: nsisolate completion fish > ~/.config/fish/completions/nsisolate.fish
"""

#: Of an option whose value is a folder.
_FOLDER: Final = "DIR"


@dataclass(frozen=True, slots=True)
class Option:
    """One option, under one of its names.

    :param value: it takes one.
    :param choices: those that its value is one of; empty: any.
    """

    name: str
    help: str
    value: bool = False
    folder: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the command line.

    :param words: what its first word is one of.
    :param runs: after ``--`` it takes another command with its arguments.
    """

    name: str
    help: str
    options: tuple[Option, ...]
    words: tuple[str, ...] = ()
    runs: bool = False


def add_arguments(parser: argparse.ArgumentParser, whole: argparse.ArgumentParser) -> None:
    """The shell; the script completes the whole parser."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("shell", choices=SHELLS, help="for which shell")
    parser.set_defaults(whole=whole)


def main(arguments: argparse.Namespace) -> int:
    """Print the script."""
    sys.stdout.write(SHELLS[arguments.shell](arguments.whole))
    return 0


def options_of(parser: argparse.ArgumentParser) -> Iterator[Option]:
    """The options of this parser, not those of its commands."""
    for action in parser._actions:
        for name in action.option_strings:
            choices = tuple(map(str, action.choices or ()))
            folder = action.metavar == _FOLDER
            yield Option(name, action.help or "", action.nargs != 0, folder, choices)


def commands_of(parser: argparse.ArgumentParser) -> Iterator[Command]:
    """The commands of this parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                places = [place for place in command._actions if not place.option_strings]
                words = (str(word) for place in places for word in place.choices or ())
                runs = any(place.nargs == argparse.REMAINDER for place in places)
                options = tuple(options_of(command))
                yield Command(name, helps[name], options, tuple(words), runs)


# bash ---------------------------------------------------------------------------------------------

_BASH: Final = """\
# bash completion of nsisolate
_nsisolate() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} command=${{COMP_WORDS[1]}} i
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W {first} -- "$cur")
        return
    fi
    case $command in {running})
        for ((i = 2; i < COMP_CWORD; i++)); do
            [[ ${{COMP_WORDS[i]}} == -- ]] || continue
            if declare -F _command_offset >/dev/null; then
                _command_offset $((i + 1))
            elif ((COMP_CWORD == i + 1)); then
                mapfile -t COMPREPLY < <(compgen -c -- "$cur")
            else
                mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            fi
            return
        done
    esac
    case $command:${{COMP_WORDS[COMP_CWORD - 1]}} in
{values}
    esac
    case $command in
{commands}
    esac
}}
complete -F _nsisolate nsisolate
"""


def _bash(parser: argparse.ArgumentParser) -> str:
    commands = list(commands_of(parser))
    values, words = [], []
    for command in commands:
        for option in filter(lambda option: option.value, command.options):
            found = f"-W {_quoted(option.choices)}" if option.choices else "-d"
            reply = f'mapfile -t COMPREPLY < <(compgen {found} -- "$cur");'
            reply = f"{reply} " if option.choices or option.folder else ""
            values.append(f"    {command.name}:{option.name}) {reply}return ;;")
        known = [*command.words, *(option.name for option in command.options)]
        known += ["--"] if command.runs else []
        reply = f'mapfile -t COMPREPLY < <(compgen -W {_quoted(known)} -- "$cur")'
        words.append(f"    {command.name}) {reply} ;;")
    first = [command.name for command in commands] + [o.name for o in options_of(parser)]
    return _BASH.format(
        first=_quoted(first),
        running=_running(commands),
        values="\n".join(values),
        commands="\n".join(words),
    )


def _running(commands: list[Command]) -> str:
    """A pattern for those that take another command."""
    return " | ".join(command.name for command in commands if command.runs) or "''"


def _quoted(words: tuple[str, ...] | list[str]) -> str:
    return quote(" ".join(words))


# zsh ----------------------------------------------------------------------------------------------

_ZSH: Final = """\
#compdef nsisolate
_nsisolate() {{
    if ((CURRENT == 2)); then
        local -a commands=(
{commands}
        )
        _describe command commands
        _arguments -S \\
{options}
        return
    fi
    local command=$words[2]
    local -i end=$words[(i)--]
    case $command in {running})
        if ((end < CURRENT)); then
            words=("${{(@)words[end + 1, -1]}}")
            ((CURRENT -= end))
            _normal
            return
        fi
    esac
    shift words
    ((CURRENT--))
    case $command in
{arguments}
    esac
}}
if [[ $funcstack[1] == _nsisolate ]]; then
    _nsisolate "$@"
else
    compdef _nsisolate nsisolate
fi
"""


def _zsh(parser: argparse.ArgumentParser) -> str:
    commands = list(commands_of(parser))
    cases = []
    for command in commands:
        specs = [_spec(option) for option in command.options]
        if command.words:
            specs.append(f"1:word:({' '.join(command.words)})")
        quoted = " \\\n".join(f"            {quote(spec)}" for spec in specs)
        cases.append(f"    {command.name})\n        _arguments -S \\\n{quoted}\n        ;;")
    described = (f"{command.name}:{_escaped(command.help)}" for command in commands)
    return _ZSH.format(
        commands="\n".join(f"            {quote(text)}" for text in described),
        running=_running(commands),
        options=" \\\n".join(f"            {quote(_spec(o))}" for o in options_of(parser)),
        arguments="\n".join(cases),
    )


def _spec(option: Option) -> str:
    spec = f"{option.name}[{_escaped(option.help)}]"
    if not option.value:
        return spec
    values = f"({' '.join(option.choices)})" if option.choices else "_files -/"
    return f"{spec}:value:{values if option.choices or option.folder else ' '}"


def _escaped(text: str) -> str:
    return "".join(f"\\{sign}" if sign in "[]:\\" else sign for sign in text)


# fish ---------------------------------------------------------------------------------------------


def _fish(parser: argparse.ArgumentParser) -> str:
    lines = ["# fish completion of nsisolate", "complete -c nsisolate -f"]
    alone = "complete -c nsisolate -n __fish_use_subcommand"
    lines += [_fish_option(alone, option) for option in options_of(parser)]
    for command in commands_of(parser):
        lines.append(f"{alone} -a {command.name} -d {quote(command.help)}")
        seen = quote(f"__fish_seen_subcommand_from {command.name}")
        here = f"complete -c nsisolate -n {seen}"
        lines += [_fish_option(here, option) for option in command.options]
        if command.words:
            lines.append(f"{here} -a {_quoted(command.words)}")
        if command.runs:
            after = quote(
                f"__fish_seen_subcommand_from {command.name}; and contains -- -- (commandline -opc)"
            )
            lines.append(f"complete -c nsisolate -n {after} -F -a '(__fish_complete_command)'")
    return "\n".join(lines) + "\n"


def _fish_option(start: str, option: Option) -> str:
    kind = "-l" if option.name.startswith("--") else "-s"
    line = f"{start} {kind} {option.name.lstrip('-')} -d {quote(option.help)}"
    if option.choices:
        return f"{line} -x -a {_quoted(option.choices)}"
    if option.folder:
        return f"{line} -x -a '(__fish_complete_directories)'"
    return f"{line} -x" if option.value else line


#: By its name, what makes the script of a shell.
SHELLS: Final[dict[str, Callable[[argparse.ArgumentParser], str]]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
