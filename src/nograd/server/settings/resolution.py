"""Settings of `nograd serve` from a file, the environment and the command line, put together and checked. Pure functions.

What the command line says goes before the environment, that before the file, and that before what nobody has to say.
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
from nograd.server.settings.config import ServeConfig
from nograd.server.settings.model_config import ModelConfig

__all__ = ["CONFIG_VARIABLE", "DEFAULT", "PREFIX", "Settings", "read_file", "settle"]

PREFIX = "NOGRAD_"
"""Of environment variables; behind it the setting's name in capitals."""

CONFIG_VARIABLE = f"{PREFIX}CONFIG"
"""Environment variable with the path of the file, where `--config` does not say it."""

OTHERS = frozenset((CONFIG_VARIABLE, "NOGRAD_API_KEYS"))
"""Variables that begin so and are no settings: a secret is not printed, and a file cannot say where the file is."""

ALIASES = {"OTEL_EXPORTER_OTLP_ENDPOINT": "traces"}
"""Variables of others that say the same; ours go before."""

KEYS_FILE = "api_keys_file"

DEFAULT = "default"

MODELS = "models"

ALIKE = 0.72
"""How much (difflib's ratio) a name must be like a setting's to be taken for a slip: PROT for PORT is 0.75."""

KUBERNETES = "tcp://"
"""So begins what Kubernetes puts into NOGRAD_PORT where a service is named nograd; it is not meant for us."""

KINDS: Mapping[type, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}

WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
"""What may be said for true and false where there is only text."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a server is to do."""

    config: ServeConfig
    models: tuple[ModelConfig, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict)
    """Setting -> who said so: a file's path, a variable's name or an option; what is not in it is `default`."""


def read_file(path: Path) -> Mapping[str, Any]:
    """Return a configuration file's TOML.

    Raises:
        ConfigError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"config is {str(path)!r}; it cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # TOML's own, and text that is no UTF-8
        raise ConfigError(f"{path} is no TOML: {error}") from None


def settle(
    file: tuple[str, Mapping[str, Any]] | None,
    environment: Mapping[str, str],
    flags: Mapping[str, Any],
    models: Sequence[ModelConfig] = (),
) -> Settings:
    """Return the settings that apply.

    Args:
        file: path and content of the configuration file.
        environment: as `os.environ`.
        flags: what the command line says, by the setting's name.
        models: of the command line; where there are any, those of the file are not served.

    Raises:
        ConfigError: a setting is not known, of another kind than it must be, or out of its range; says where it is.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    listed: tuple[ModelConfig, ...] = ()
    if file is not None:
        path, content = file
        listed = _models_of_file(path, content.get(MODELS, []))
        told = _typed(ServeConfig, {key: value for key, value in content.items() if key != MODELS}, path, (MODELS,))
        values |= told
        origins |= dict.fromkeys([*told, *([MODELS] if listed else [])], path)
    told = _of_environment(environment)
    values |= told
    origins |= {name: PREFIX + name.upper() for name in told}
    values |= flags
    origins |= {name: f"--{name.replace('_', '-')}" for name in flags}
    if models:
        listed = tuple(models)
        origins[MODELS] = "the command line"
    if not values.get(KEYS_FILE, KEYS_FILE) and origins[KEYS_FILE] != (file and file[0]):  # an unset variable of a shell
        raise ConfigError(f"{origins[KEYS_FILE]} is empty; it must name a file; leave it out to serve without API keys")
    check_names(listed, origins.get(MODELS, DEFAULT))
    return Settings(_checked(values, origins), listed, origins)


def check_names(models: Sequence[ModelConfig], origin: str) -> None:
    """Raise ConfigError where two models have one name and version."""
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
        origin = origins.get(str(error).partition(" ")[0], "--")  # a refusal begins with the setting's name
        if origin.startswith("--"):
            raise
        raise ConfigError(f"{origin}: {error}") from None


def _models_of_file(path: str, listed: object) -> tuple[ModelConfig, ...]:
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise ConfigError(f"{path}: models is not a list of tables; each model is a table under [[models]]")
    return tuple(_model_of_file(f"{path}: models[{at}]", each) for at, each in enumerate(listed))


def _model_of_file(where: str, content: Mapping[str, Any]) -> ModelConfig:
    told = _typed(ModelConfig, content, where)
    if "model" not in told:
        raise ConfigError(f'{where} has no model; it must name one, such as model = "minilm.bundle"')
    try:
        return ModelConfig(**told)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _typed(kind: type, content: Mapping[str, Any], where: str, more: Sequence[str] = ()) -> dict[str, Any]:
    """Return a TOML table's values, each of the kind that a settings class wants."""
    hints = get_type_hints(kind)
    known = [each.name for each in fields(kind)]
    for key, value in content.items():
        if key not in known:
            raise ConfigError(f"{where} has {key!r}, which is no setting{_nearest(key, [*known, *more])}")
        if not _is(hints[key], value):
            raise ConfigError(f"{where}: {key} is {_shown(value)}; it must be {_wanted(hints[key])}")
    return {key: _taken(hints[key], value) for key, value in content.items()}


def _nearest(key: str, known: Sequence[str]) -> str:
    close = get_close_matches(key, known, 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(known)}"


def _of_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what variables say; one that is nearly a setting's is a slip, any other somebody else's."""
    hints = get_type_hints(ServeConfig)
    known = {PREFIX + each.name.upper(): each.name for each in fields(ServeConfig)}
    found: dict[str, Any] = {name: environment[alias] for alias, name in ALIASES.items() if environment.get(alias)}
    for variable, text in environment.items():
        if variable in known:
            if not text.startswith(KUBERNETES):
                found[known[variable]] = _read(hints[known[variable]], text, variable)
        elif variable.startswith(PREFIX) and variable not in OTHERS:
            names = [name.upper() for name in known.values()]
            if close := get_close_matches(variable.removeprefix(PREFIX), names, 1, ALIKE):
                raise ConfigError(f"{variable} is set, and no setting; did you mean {PREFIX}{close[0]}?")
    return found


# -- kinds of values


def _options(hint: Any) -> tuple[Any, ...]:
    """Return the kinds that a setting may be of."""
    return get_args(hint) if isinstance(hint, UnionType) else (hint,)


def _is(hint: Any, value: object) -> bool:
    return any(_is_one(option, value) for option in _options(hint))


def _is_one(option: Any, value: object) -> bool:
    if get_origin(option) is tuple:
        return isinstance(value, list) and all(_is_one(get_args(option)[0], each) for each in value)
    if option is float:
        return type(value) in (int, float)
    return type(value) is (str if option is Path else option)


def _taken(hint: Any, value: Any) -> Any:
    """Return a TOML value as the setting has it."""
    for option in _options(hint):
        if option is not NoneType and _is_one(option, value):
            return tuple(value) if get_origin(option) is tuple else option(value)
    return value


def _read(hint: Any, text: str, variable: str) -> Any:
    """Return a variable's text as the setting has it; empty is None where the setting may be that."""
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
        raise ConfigError(f"{variable} is {text!r}; it must be {_wanted(hint)}") from None


def _true_or_false(text: str) -> bool:
    return WORDS[text.lower()]


def _wanted(hint: Any) -> str:
    return " or ".join(
        "a list of texts" if get_origin(option) is tuple else KINDS.get(option, KINDS[str])
        for option in _options(hint)
        if option is not NoneType
    )


def _shown(value: object) -> str:
    return f"{str(value).lower()}" if isinstance(value, bool) else repr(value)
