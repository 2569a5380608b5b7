"""Resolution of `nograd serve` settings from file, environment and command line. Pure functions.

Precedence: command line, environment, file, defaults.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from nograd.errors import ConfigError
from nograd.server.settings.definition import ServeConfig, settings_by_name
from nograd.server.settings.keys import example_of, key_of, note_old_keys, parse_value, read_keys
from nograd.server.settings.model_config import ModelConfig

__all__ = ["CONFIG_VARIABLE", "DEFAULT", "PREFIX", "ResolvedSettings", "read_file", "settle"]

PREFIX = "NOGRAD_"
"""Prefix of environment variables, followed by the setting's name in capitals."""

CONFIG_VARIABLE = f"{PREFIX}CONFIG"
"""Environment variable with the path of the file, used without `--config`."""

OTHERS = frozenset((CONFIG_VARIABLE, "NOGRAD_API_KEYS"))
"""Variables with the prefix that are not settings: secrets are not printed, and the file cannot contain its own path."""

ALIASES = {"OTEL_EXPORTER_OTLP_ENDPOINT": "traces"}
"""Equivalent variables of other programs, with lower precedence than nograd's."""

KEYS_FILE = "api_keys_file"

DEFAULT = "default"

MODELS = "models"

ALIKE = 0.72
"""Similarity (difflib's ratio) above which an unknown name counts as a misspelled setting: PROT for PORT has 0.75."""

KUBERNETES = "tcp://"
"""Prefix of the value that Kubernetes sets in NOGRAD_PORT for a service named nograd; ignored."""

KINDS: Mapping[type, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}

WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
"""Accepted texts for true and false."""


@dataclass(frozen=True, slots=True)
class ResolvedSettings:
    """The resolved settings of a server."""

    config: ServeConfig
    models: tuple[ModelConfig, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict)
    """Setting -> origin: a file's path, a variable's name or an option. Other settings have their default."""

    notes: tuple[str, ...] = ()
    """A note for each key or variable of an earlier version."""


def read_file(path: Path) -> Mapping[str, Any]:
    """Read the TOML of a configuration file.

    Raises:
        ConfigError: the file cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"config is {str(path)!r}; it cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # invalid TOML or UTF-8
        raise ConfigError(f"{path} is not TOML: {error}") from None


def settle(
    file: tuple[str, Mapping[str, Any]] | None,
    environment: Mapping[str, str],
    flags: Mapping[str, Any],
    models: Sequence[ModelConfig] = (),
) -> ResolvedSettings:
    """Resolve the settings.

    Args:
        file: path and content of the configuration file.
        environment: such as `os.environ`.
        flags: settings of the command line, by name.
        models: models of the command line; if there are any, they replace those of the file.

    Raises:
        ConfigError: a setting is unknown, has the wrong type, or is out of its range; the message contains its origin.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    listed: tuple[ModelConfig, ...] = ()
    notes: list[str] = []
    if file is not None:
        path, content = file
        notes += note_old_keys(content, path)
        listed = _models_of_file(path, content.get(MODELS, []))
        notes += [note for model in content.get(MODELS, []) for note in note_old_keys(model, path)]
        given = _typed(ServeConfig, {key: value for key, value in content.items() if key != MODELS}, path, (MODELS,))
        values |= given
        origins |= dict.fromkeys([*given, *([MODELS] if listed else [])], path)
    found = _of_environment(environment)
    values |= {name: value for name, (value, _) in found.items()}
    origins |= {name: variable for name, (_, variable) in found.items()}
    notes += [
        f"{variable} is an old spelling; write {PREFIX}{key_of(name).upper()}={example_of(settings_by_name()[name])}"
        for name, (_, variable) in found.items()
        if variable == PREFIX + name.upper() != PREFIX + key_of(name).upper()
    ]
    values |= flags
    origins |= {name: settings_by_name()[name].option for name in flags}
    if models:
        listed = tuple(models)
        origins[MODELS] = "the command line"
    if not values.get(KEYS_FILE, KEYS_FILE) and origins[KEYS_FILE] != (file and file[0]):  # an unset variable of a shell
        raise ConfigError(f"{origins[KEYS_FILE]} is empty; it must name a file; leave it out to serve without API keys")
    check_names(listed, origins.get(MODELS, DEFAULT))
    return ResolvedSettings(_checked(values, origins), listed, origins, tuple(dict.fromkeys(notes)))


def check_names(models: Sequence[ModelConfig], origin: str) -> None:
    """Raise ConfigError if two models have the same name and version."""
    seen: dict[tuple[str, str], ModelConfig] = {}
    for model in models:
        if model.name and (other := seen.setdefault((model.name, model.version), model)) is not model:
            raise ConfigError(
                f"{origin}: {other.model} and {model.model} are both {model.name!r}, version {model.version!r}; give one "
                "another name or version (NAME=MODEL, NAME:VERSION=MODEL; in a file name and version)"
            )


def _checked(values: Mapping[str, Any], origins: Mapping[str, str]) -> ServeConfig:
    try:
        return ServeConfig(**values)
    except ConfigError as error:
        origin = origins.get(str(error).partition(" ")[0], "--")  # the message starts with the setting's name
        if origin.startswith("--"):
            raise
        raise ConfigError(f"{origin}: {error}") from None


def _models_of_file(path: str, listed: object) -> tuple[ModelConfig, ...]:
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise ConfigError(f"{path}: models is not a list of tables; each model is a table under [[models]]")
    return tuple(_model_of_file(f"{path}: models[{at}]", each) for at, each in enumerate(listed))


def _model_of_file(where: str, content: Mapping[str, Any]) -> ModelConfig:
    given = _typed(ModelConfig, content, where)
    if "model" not in given:
        raise ConfigError(f'{where} has no model; it must name one, such as model = "minilm.bundle"')
    try:
        return ModelConfig(**given)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _typed(kind: type, content: Mapping[str, Any], where: str, more: Sequence[str] = ()) -> dict[str, Any]:
    """Return the values of a TOML table, checked against the types of a settings class."""
    hints = get_type_hints(kind)
    known = [each.name for each in fields(kind)]
    content = read_keys(content, where, frozenset(known))
    for key, value in content.items():
        if key not in known:
            raise ConfigError(f"{where} has {key!r}, which is not a setting{_nearest(key, [*map(key_of, known), *more])}")
        if not _is(hints[key], value):
            raise ConfigError(f"{where}: {key} is {_describe_value(value)}; it must be {_describe_types(hints[key])}")
    return {key: _convert_toml(hints[key], value) for key, value in content.items()}


def _nearest(key: str, known: Sequence[str]) -> str:
    close = get_close_matches(key, known, 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; the settings are {', '.join(known)}"


def _of_environment(environment: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    """Return the settings in environment variables, each with its variable. Nearly matching names raise; others are ignored."""
    hints = get_type_hints(ServeConfig)
    settings = settings_by_name()
    keys = {PREFIX + each.key.upper(): each.name for each in settings.values()}
    names = {PREFIX + name.upper(): name for name in settings}
    found: dict[str, tuple[Any, str]] = {
        name: (environment[alias], alias) for alias, name in ALIASES.items() if environment.get(alias)
    }
    for variable, text in environment.items():
        name = keys.get(variable) or names.get(variable)
        if name is None:
            if variable.startswith(PREFIX) and variable not in OTHERS:
                _refuse_similar(variable, keys)
        elif not text.startswith(KUBERNETES):
            if name in found and found[name][1] not in ALIASES:
                raise ConfigError(f"{found[name][1]} and {variable} are the same setting; set one of them")
            is_amount = variable not in names and (text or NoneType not in _options(hints[name]))
            value = parse_value(settings[name], text, variable) if is_amount else _read(hints[name], text, variable)
            found[name] = value, variable
    return found


def _refuse_similar(variable: str, keys: Mapping[str, str]) -> None:
    """Raise ConfigError if an unknown variable is a misspelled setting."""
    if close := get_close_matches(variable.removeprefix(PREFIX), [key.removeprefix(PREFIX) for key in keys], 1, ALIKE):
        raise ConfigError(f"{variable} is set, and is not a setting; did you mean {PREFIX}{close[0]}?")


# -- kinds of values


def _options(hint: Any) -> tuple[Any, ...]:
    """Return the allowed types of a setting."""
    return get_args(hint) if isinstance(hint, UnionType) else (hint,)


def _is(hint: Any, value: object) -> bool:
    return any(_is_one(option, value) for option in _options(hint))


def _is_one(option: Any, value: object) -> bool:
    if get_origin(option) is tuple:
        return isinstance(value, list) and all(_is_one(get_args(option)[0], each) for each in value)
    if option is float:
        return type(value) in (int, float)
    return type(value) is (str if option is Path else option)


def _convert_toml(hint: Any, value: Any) -> Any:
    """Convert a TOML value to the setting's type."""
    for option in _options(hint):
        if option is not NoneType and _is_one(option, value):
            return tuple(value) if get_origin(option) is tuple else option(value)
    return value


def _read(hint: Any, text: str, variable: str) -> Any:
    """Convert a variable's text to the setting's type; empty text is None if that is allowed."""
    options = _options(hint)
    if not text and NoneType in options:
        return None
    (option,) = [each for each in options if each is not NoneType]
    parse: Callable[[str], Any] = option
    if get_origin(option) is tuple:
        return tuple(each.strip() for each in text.split(",") if each.strip())
    if option is bool:
        parse = _true_or_false
    try:
        return parse(text)
    except (ValueError, KeyError):
        raise ConfigError(f"{variable} is {text!r}; it must be {_describe_types(hint)}") from None


def _true_or_false(text: str) -> bool:
    return WORDS[text.lower()]


def _describe_types(hint: Any) -> str:
    return " or ".join(
        "a list of texts" if get_origin(option) is tuple else KINDS.get(option, KINDS[str])
        for option in _options(hint)
        if option is not NoneType
    )


def _describe_value(value: object) -> str:
    return f"{str(value).lower()}" if isinstance(value, bool) else repr(value)
