"""`nograd tune` after option parsing: convert the users' texts, show progress on stderr, print the report on stdout."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nograd.core.units import bytes_of, seconds_of
from nograd.errors import ConfigError
from nograd.runtime.cores import usable_processors
from nograd.runtime.phases import show_phases
from nograd.tuning.api import Tuned, run_tuning
from nograd.tuning.candidates import parse_tolerance
from nograd.tuning.loading import check_files, load_on_cpu
from nograd.tuning.tuner import TuneSettings
from nograd.tuning.values import Goal

__all__ = ["bundle_for", "metric_of", "print_preview", "run_command", "settings_of"]


def metric_of(name: str) -> Callable[[list[Any], list[dict[str, Any]]], float]:
    """Return the function that `module:function` names.

    Raises:
        ConfigError: there is no such function.
    """
    module_name, _, function_name = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as for models: a user's own file is found in the current folder
    try:
        found = getattr(importlib.import_module(module_name), function_name, None)
    except Exception as error:  # importing runs the user's code
        raise ConfigError(f"metric is {name!r}; importing {module_name} raised {type(error).__name__}: {error}") from error
    if not callable(found):
        raise ConfigError(f"metric is {name!r}; it must be 'module:function', a function of answers and records")
    return found  # type: ignore[no-any-return]


def run_command(model: str, data: Path | None, output: Path, settings: TuneSettings, *, name: str, command: str = "") -> Tuned:
    """Tune as `nograd tune` does: show progress on stderr and print the report on stdout.

    Args:
        model: a name as `nograd.load` takes it.
        data: file with the sample.
        output: path of the bundle to write.
        settings: all other settings.
        name: name of the model in the report.
        command: command line that reproduces the report.
    """
    with show_phases() as phases:

        def tell(phase: str, text: str) -> None:
            if phase == "building":
                phases.start(phase)
                phases.note(text)
            elif phase != "loading":
                phases.start(phase, text)

        phases.start(f"loading {model}")
        tuned = run_tuning(output, model, data, settings, name=name, tell=tell, command=command)
    sys.stdout.write(f"{tuned}\n")
    if tuned.bundle is not None:
        sys.stdout.write(f"\nwritten: {tuned.bundle}\n")
    sys.stdout.flush()
    return tuned


def settings_of(  # noqa: PLR0913
    *, goal: str, budget: str, tolerance: str = "half", backends: tuple[str, ...] | None = None, metric: str = "",
    metric_drop: float = 0.0, memory: str = "", cores: int | None = None, seed: int = 0, accept_coupled_rows: bool = False,
) -> TuneSettings:  # fmt: skip
    """Return the settings that a user wrote.

    Raises:
        ConfigError: a setting is out of its range.
    """
    return TuneSettings(
        Goal.parse(goal), parse_tolerance(tolerance), tolerance, budget_s=seconds_of(budget, "budget"),
        backends=backends, metric=metric_of(metric) if metric else None, metric_drop=metric_drop,
        memory_bytes=bytes_of(memory, "memory") if memory else None, seed=seed,
        cores=usable_processors() if cores is None else cores, accept_coupled_rows=accept_coupled_rows,
    )  # fmt: skip


def bundle_for(model: str, data: Path | None, settings: TuneSettings, *, name: str) -> Tuned:
    """Return the tuned bundle `NAME.bundle` of a model in the current folder. Reuse an existing one if it is valid, else tune.

    An existing bundle is valid if it was made from the same weights and code, for the same goal, on this machine.

    Args:
        model: a name as `nograd.load` takes it.
        data: file with the sample.
        settings: settings for tuning, if the bundle has to be made.
        name: name of the model.
    """
    target = Path(f"{name}.bundle")
    stale = _why_stale(target, model, str(settings.goal))
    if not stale:
        sys.stderr.write(f"using {target}, which was made from this model on this machine; remove it to tune again\n")
        return Tuned.there(target)
    sys.stderr.write(f"tuning {model} for {settings.goal}, about {settings.budget_s:.0f} s: {stale}\n")
    return run_command(model, data, target, settings, name=name)


def _why_stale(target: Path, model: str, goal: str) -> str:
    """Return the reason why the bundle has to be made; empty if the existing one is valid."""
    from nograd.bundle import Bundle, is_bundle

    if not is_bundle(target):
        return f"{target} does not exist"
    with Bundle.read(target) as bundle:
        settings, differences = bundle.settings, bundle.differences()
    if settings.goal != goal:
        return f"{target} was made for {settings.goal}"
    if differences:
        return f"{target} was made on another machine ({differences[0]})"
    if settings.fingerprint != load_on_cpu(model).fingerprint().text:
        return f"{target} was made from another model"
    return ""


def print_preview(model: str, data: Path | None, output: Path, settings: TuneSettings) -> None:
    """Print what `nograd tune` would do, as for `--dry-run`. Nothing is built or written.

    Args:
        model: a name as `nograd.load` takes it.
        data: file with the sample.
        output: the bundle that tuning would write.
        settings: all other settings.
    """
    from nograd.tuning.preview import preview

    with show_phases() as phases:
        check_files(output, data)
        phases.start(f"loading {model}")
        found = preview(load_on_cpu(model), data, output, settings)
    sys.stdout.write(f"{found}\n")
    sys.stdout.flush()
