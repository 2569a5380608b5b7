"""Command-line options for the settings of a server, derived from the fields of `ServeConfig`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from nograd.server.settings.definition import Setting, settings_by_name

__all__ = ["with_settings"]

Command = TypeVar("Command", bound=Callable[..., Any])


def with_settings(command: Command) -> Command:
    """Add one option per server setting to a command, before its own keyword parameters.

    Args:
        command: takes the settings as `**settings`.
    """
    signature = inspect.signature(command, eval_str=True)
    own = list(signature.parameters.values())
    positional = [each for each in own if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    keyword = [each for each in own if each.kind is inspect.Parameter.KEYWORD_ONLY]
    parameters = [*positional, *map(_option, settings_by_name().values()), *keyword]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def _option(setting: Setting) -> inspect.Parameter:
    metavar = "|".join(setting.choices) or setting.metavar or None
    option = typer.Option(help=setting.help, metavar=metavar, rich_help_panel=setting.group)
    return inspect.Parameter(
        setting.name, inspect.Parameter.KEYWORD_ONLY, default=setting.default, annotation=Annotated[setting.type, option]
    )
