"""Help texts in plain text: options under headings, examples, and lines that fit the terminal. Rich is too slow to import."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from nograd.cli.old_spellings import OldSpelling, modernize

__all__ = ["CommandGroup", "Example", "GroupedCommand", "examples_text", "help_without_command", "option_record"]

ARGUMENTS, OPTIONS, COMMANDS, EXAMPLES = "Arguments", "Options", "Commands", "Examples"

MAX_WIDTH, MIN_WIDTH = 100, 30
"""Columns of a help text, at most and at least."""

OLD_SPELLINGS = "nograd.old_spellings"
"""Key of a context's `meta` under which the notes on old spellings are."""

Example = tuple[str, str]
"""What an example does, and its command line."""


def examples_text(examples: Iterable[Example]) -> str:
    """Return the epilog of a command.

    >>> print(examples_text([("Serve the demo model:", "nograd serve minilm")]))
    Serve the demo model:
      nograd serve minilm
    """
    return "\n".join(f"{about}\n  {command}" for about, command in examples)


def help_without_command(context: typer.Context) -> None:
    """Print the help of a group that is called without a command, and exit with 0."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


def option_record(parameter: Any) -> tuple[str, str] | None:
    """Return the two columns of an option or argument in a help text; None if it is hidden.

    The first column holds names and placeholder, the second the help text with default or `required`.
    """
    if getattr(parameter, "hidden", False):
        return None
    if parameter.param_type_name == "argument":
        return _placeholder(parameter), _meaning(parameter)
    names = ", ".join(sorted(parameter.opts, key=len))
    if parameter.secondary_opts:
        names += " / " + ", ".join(parameter.secondary_opts)
    return names if parameter.is_flag else f"{names} {_placeholder(parameter)}", _meaning(parameter)


def _placeholder(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _meaning(parameter: Any) -> str:
    default = "" if getattr(parameter, "is_flag", False) or callable(parameter.default) else parameter.default
    notes = ["required"] if parameter.required else [f"default: {default}"] if _is_shown(default) else []
    return " ".join([parameter.help or "", *(f"[{note}]" for note in notes)])


def _is_shown(default: object) -> bool:
    """Return whether a default says something; the help text explains an empty one."""
    return default is not None and default != "" and not isinstance(default, list | tuple)


class _Fitting:
    """Mixin of commands and groups: the help fits the terminal, and the epilog is a list of examples."""

    epilog: str | None

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.width = max(min(shutil.get_terminal_size().columns, MAX_WIDTH), MIN_WIDTH)
        super().format_help(ctx, formatter)  # type: ignore[misc]  # of TyperCommand or TyperGroup

    def format_epilog(self, _ctx: Any, formatter: Any) -> None:
        if not self.epilog:
            return
        with formatter.section(EXAMPLES):
            for line in self.epilog.splitlines():
                for part in _broken(line, formatter.width - 2):
                    formatter.write(f"  {part}\n")


def _broken(line: str, width: int) -> list[str]:
    """Return a line in parts that fit: a command line breaks before its options, as a shell reads it."""
    if not line.startswith("  "):
        return textwrap.wrap(line, width)
    if len(line) <= width:
        return [line]
    first, *options = line.replace(" -", "\n-").split("\n")
    parts = [first]
    for option in options:
        if len(parts[-1]) + len(option) + 3 <= width:
            parts[-1] += f" {option}"
        else:
            parts.append(f"    {option}")
    return [f"{part} \\" for part in parts[:-1]] + parts[-1:]


class GroupedCommand(_Fitting, TyperCommand):
    """A command whose help lists the options of each `rich_help_panel` under its own heading.

    It also takes the old spellings of its options, and reports them once on stderr.
    """

    old_spellings: Sequence[OldSpelling] = ()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        arguments, ctx.meta[OLD_SPELLINGS] = modernize(args, self.old_spellings)
        return list(super().parse_args(ctx, arguments))

    def invoke(self, ctx: Any) -> Any:
        self.report_old_spellings(ctx)
        return super().invoke(ctx)

    def report_old_spellings(self, ctx: Any) -> None:
        """Write a line on stderr for each old spelling in the command line."""
        for note in ctx.meta.get(OLD_SPELLINGS, ()):
            typer.echo(f"nograd: {note}", err=True)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = (each for each in self.get_params(ctx) if each.param_type_name == "argument")
        return ["[OPTIONS]", *map(_placeholder, arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {ARGUMENTS: []}
        for parameter in self.get_params(ctx):
            if record := option_record(parameter):
                group = getattr(parameter, "rich_help_panel", None) or OPTIONS
                groups.setdefault(ARGUMENTS if parameter.param_type_name == "argument" else group, []).append(record)
        groups[OPTIONS] = groups.pop(OPTIONS, [])  # last: only --help and what belongs to no group
        _write_groups(groups, formatter)


class CommandGroup(_Fitting, TyperGroup):
    """A group of commands whose help lists the commands of each `rich_help_panel` under its own heading."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            if not command.hidden:
                group = getattr(command, "rich_help_panel", None) or COMMANDS
                groups.setdefault(group, []).append((name, command.short_help or command.help or ""))
        groups[OPTIONS] = list(filter(None, map(option_record, self.get_params(ctx))))
        _write_groups(groups, formatter)


def _write_groups(groups: dict[str, list[tuple[str, str]]], formatter: Any) -> None:
    for heading, records in groups.items():
        if records:
            with formatter.section(heading):
                formatter.write_dl(records)
