"""Every command and flag, as the command line itself knows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from nograd.cli.application import app
from nograd.cli.help import GroupedCommand
from scripts.reference.tables import MADE, table

__all__ = ["COMMANDS", "commands", "flags"]


def _walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, with its whole name."""
    children = getattr(command, "commands", None)  # typer has groups of its own, or click's
    if children is None:
        yield name, command
        return
    for child in children:
        yield from _walk(children[child], f"{name} {child}")


_ROOT: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = dict(_walk(_ROOT, "nograd"))
"""Whole name -> the command."""


def flags(command: Any) -> dict[str, bool]:
    """Return every flag of a command, and whether it wants a value."""
    options = [parameter for parameter in command.params if _is_option(parameter) and not getattr(parameter, "hidden", False)]
    return {flag: not option.is_flag for option in options for flag in (*option.opts, *option.secondary_opts)}


def commands() -> str:
    """Return the page."""
    sections = [_section(name, command) for name, command in COMMANDS.items()]
    common = table(["option", "meaning"], ([_spelled(each), each.help or ""] for each in _ROOT.params if _is_shown(each)))
    return f"""{MADE}
# Commands

`nograd COMMAND --help` says the same. An error is one sentence on stderr, and an [exit code](errors.md).

{common}
{"".join(sections)}
## Old spellings

They still work, and write one line on stderr. Commas in a repeated option are an old spelling, too: repeat the option.

{table(["command", "old", "new"], _old_spellings())}"""


def _old_spellings() -> Iterator[list[str]]:
    for name, command in COMMANDS.items():
        if isinstance(command, GroupedCommand):
            for each in command.old_spellings:
                unit = f", a number is in {each.unit}" if each.unit else ""
                yield [f"`{name}`", f"`{each.old}`", f"`{each.new.replace('=', ' ')}`{unit}"]
        for option in command.params:
            if getattr(option, "hidden", False):
                yield [f"`{name}`", f"`{option.opts[0]} FILE`", f"`-o - -o FILE`, in the format {option.opts[0][2:]}"]


def _section(name: str, command: Any) -> str:
    arguments = [parameter for parameter in command.params if not _is_option(parameter)]
    options = [parameter for parameter in command.params if _is_option(parameter) and _is_shown(parameter)]
    usage = " ".join([name, *(_argument(each) for each in arguments), *(["[OPTIONS]"] if options else [])])
    found = [f"\n## {name}\n\n    {usage}\n\n{command.help}\n"]
    if arguments:
        found.append(f"\n{table(['argument', 'meaning'], ([f'`{_argument(each)}`', each.help or ''] for each in arguments))}")
    if options:
        rows = ([_spelled(each), _default(each), each.help or ""] for each in options)
        found.append(f"\n{table(['option', 'default', 'meaning'], rows)}")
    if command.epilog:
        shown = "\n".join(f"    {line[2:]}" if line.startswith("  ") else f"\n{line}\n" for line in command.epilog.splitlines())
        found.append(f"{shown}\n")
    return "".join(found)


def _argument(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _is_option(parameter: Any) -> bool:
    return bool(parameter.opts[0].startswith("-"))


def _is_shown(parameter: Any) -> bool:
    return not getattr(parameter, "hidden", False) and parameter.name != "help"


def _spelled(option: Any) -> str:
    value = "" if option.is_flag else f" {option.metavar or 'VALUE'}"
    return ", ".join(f"`{flag}{value}`" for flag in (*option.opts, *option.secondary_opts))


def _default(option: Any) -> str:
    if option.required:
        return "needed"
    return "" if option.default is None or option.default is False or option.default == "" else f"`{option.default}`"
