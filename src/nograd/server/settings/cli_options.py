"""Command-line options for the settings of a server, derived from the fields of `ServeConfig`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import typer

from nograd.core.units import amount_text
from nograd.server.settings.definition import Setting, settings_by_name
from nograd.server.settings.keys import parse_value

__all__ = ["completion_of", "old_options", "read_options", "with_settings", "words_of"]

PLACEHOLDERS = {int: "N", float: "NUMBER", str: "TEXT"}

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
    kind, default = setting.type, setting.default
    if setting.is_list:
        kind, default = list[str] | None, None
    elif setting.unit:
        kind, default = str | None, None if default is None else amount_text(default, setting.unit)
    option = typer.Option(
        *_names(setting), help=setting.help, metavar=_placeholder(setting), rich_help_panel=setting.group,
        autocompletion=completion_of(setting.choices) if setting.choices else None,
    )  # fmt: skip
    return inspect.Parameter(setting.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def _names(setting: Setting) -> tuple[str, ...]:
    return (f"{setting.option}/--no-{setting.option[2:]}",) if setting.type is bool else (setting.option,)


def _placeholder(setting: Setting) -> str | None:
    return "|".join(setting.choices) or setting.metavar or PLACEHOLDERS.get(setting.type, "N")


def completion_of(values: Sequence[str]) -> Callable[[str], list[str]]:
    """Return a function with which the shell completes these values."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def read_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of fields from those of options.

    Args:
        given: options of the command line, by field.

    Raises:
        ConfigError: a value is not an amount.
    """
    settings = settings_by_name()
    return {name: parse_value(settings[name], value, settings[name].key) for name, value in given.items()}


def words_of(setting: Setting, value: Any) -> list[str]:
    """Return an option as words of a command line.

    >>> words_of(settings_by_name()["timeout_s"], "30s"), words_of(settings_by_name()["trusted"], False)
    (['--timeout=30s'], ['--no-trusted'])
    """
    if isinstance(value, bool):
        return [setting.option if value else f"--no-{setting.option[2:]}"]
    return [f"{setting.option}={each}" for each in (value if isinstance(value, list | tuple) else [value])]


def old_options() -> list[tuple[str, str, str]]:
    """Return the options of earlier versions, whose names hold the unit: the old name, the option, and the unit."""
    renamed = (each for each in settings_by_name().values() if each.key != each.name)
    return [(f"--{each.name.replace('_', '-')}", each.option, each.unit) for each in renamed]
