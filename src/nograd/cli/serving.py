"""`nograd serve` after option parsing: models by name, tuning before serving, notes on old spellings."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from nograd.cli.help import OLD_SPELLINGS, GroupedCommand
from nograd.cli.old_spellings import OldSpelling, note_commas
from nograd.errors import ConfigError
from nograd.runtime.stderr import QueuedStderr
from nograd.server.settings.cli_options import old_options, words_of
from nograd.server.settings.definition import settings_by_name

if TYPE_CHECKING:
    import typer

    from nograd.server.settings.model_config import ModelConfig
    from nograd.server.settings.resolution import ResolvedSettings

__all__ = [
    "GIVEN_ELSEWHERE", "ServeCommand", "local_file", "log_old_spellings", "named_models", "options_of", "tune_and_serve",
]  # fmt: skip

PLACED = frozenset(("ray", "ray_address", "replicas"))
"""Options for the place of serving; the server of a tuned bundle receives them too."""

GIVEN_ELSEWHERE = frozenset(("models", "config", "print_config", "name", "tune", "data", "goal", *PLACED))
"""Options of `nograd serve` that are not settings of a server."""


LOCAL_FILE = Path("nograd.toml")


class ServeCommand(GroupedCommand):
    """The command line of `nograd serve`. Old spellings become lines of the log, which may be JSON."""

    old_spellings = tuple(OldSpelling(*each) for each in old_options())

    def report_old_spellings(self, ctx: Any) -> None:
        """Write nothing: `log_old_spellings` does, when the log's format is known."""


def log_old_spellings(context: typer.Context, settings: ResolvedSettings) -> None:
    """Log a warning for each old spelling in the command line, the environment and the file."""
    from nograd.server.telemetry.logs import configure, event

    notes = [*context.meta.get(OLD_SPELLINGS, ()), *_notes_on_commas(options_of(context)), *settings.notes]
    if notes:
        configure(settings.config.log_format, settings.config.log_level)
    for note in notes:
        event("old_spelling", logging.WARNING, reason=note)


def _notes_on_commas(options: Mapping[str, Any]) -> list[str]:
    """Return a note for each repeated option whose value has commas."""
    lists = [each.option for name, each in settings_by_name().items() if each.is_list and "," in "".join(options.get(name, ()))]
    return list(map(note_commas, lists))


def options_of(context: typer.Context) -> dict[str, Any]:
    """Return the options that the command line sets, by parameter."""
    return {
        name: value
        for name, value in context.params.items()
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    }


def local_file(environment: Mapping[str, str], models: Sequence[str]) -> Path | None:
    """Return `nograd.toml` of the current folder if neither the command line nor the environment names models or a file."""
    from nograd.server.settings.resolution import CONFIG_VARIABLE

    is_wanted = not models and not environment.get(CONFIG_VARIABLE) and LOCAL_FILE.is_file()
    return LOCAL_FILE if is_wanted else None


def named_models(models: Sequence[str], name: str | None) -> list[ModelConfig]:
    """Return the models in the arguments; `--name` applies to a single one.

    Raises:
        ConfigError: a model is not MODEL, NAME=MODEL or NAME:VERSION=MODEL; or there is a name, and not one model.
    """
    from nograd.server.settings.model_config import parse_model

    listed = list(map(parse_model, models))
    if name is None:
        return listed
    if len(listed) != 1:
        raise ConfigError(f"name is {name!r}, for {len(listed)} models; it names a single model: write NAME=MODEL instead")
    return [replace(listed[0], name=name)]


def tune_and_serve(
    settings: ResolvedSettings, options: Mapping[str, Any], data: Path | None, budget: str, goal: str
) -> NoReturn:
    """Tune the only model, and become the server of the tuned bundle.

    Args:
        settings: settings of the server.
        options: options of the command line, by parameter.
        data: file with the sample.
        budget: time for tuning.
        goal: goal of tuning.

    Raises:
        ConfigError: there is not exactly one model, or tuning found nothing that can be served.
    """
    from nograd.server.command import check_early
    from nograd.server.run import bind
    from nograd.server.settings.model_config import name_of
    from nograd.server.telemetry.logs import configure
    from nograd.tuning.command import bundle_for, settings_of

    if len(settings.models) != 1:
        raise ConfigError(f"tune is {budget!r}, for {len(settings.models)} models; it tunes one: name it, and no other")
    (model,), config = settings.models, settings.config
    name = model.name or name_of(model.model)
    configure(config.log_format, config.log_level)
    check_early(settings)
    with bind(config.host, config.port):  # report a port that is in use before tuning takes a minute
        found = bundle_for(
            model.model, data, settings_of(goal=goal, budget=budget, accept_coupled_rows=config.accept_coupled_rows), name=name
        )
    if found.bundle is None:
        raise ConfigError(f"tuning {model.model} found nothing that can be served; the report above says why")
    _serve_instead(found.bundle, options, name=name, trusted=config.trusted or found.needs_trust)


def _serve_instead(bundle: Path, options: Mapping[str, Any], *, name: str, trusted: bool) -> NoReturn:
    """Become the server of a bundle. A process that has tuned holds torch and threads that serving does not need."""
    kept = {key: value for key, value in options.items() if key == "config" or key not in GIVEN_ELSEWHERE or key in PLACED}
    kept |= {"name": name, **({"trusted": True} if trusted else {})}
    words = [word for key, value in kept.items() for word in _words(key, value)]
    sys.stdout.flush()
    if isinstance(sys.stderr, QueuedStderr):
        sys.stderr.drain()
    os.execv(  # noqa: S606  no shell
        sys.executable, [sys.executable, "-m", "nograd", "serve", str(bundle), *words]
    )


def _words(parameter: str, value: object) -> list[str]:
    """Return an option as words of a command line."""
    if (setting := settings_by_name().get(parameter)) is not None:
        return words_of(setting, value)
    option = f"--{parameter.replace('_', '-')}"
    return [option] if value is True else [f"{option}={value}"]
