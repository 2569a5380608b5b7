"""Help texts that list a command's options under headings, in plain text, because rich is too slow to import for `--help`."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

__all__ = ["GroupedCommand"]

ARGUMENTS, OPTIONS = "Arguments", "Options"


class GroupedCommand(TyperCommand):
    """A command whose help lists the options of each `rich_help_panel` under its own heading."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {ARGUMENTS: [], OPTIONS: []}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                group = getattr(parameter, "rich_help_panel", None) or OPTIONS
                groups.setdefault(ARGUMENTS if parameter.param_type_name == "argument" else group, []).append(record)
        for heading, records in groups.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
