"""`--format` and `-o` of commands that print a report: which formats go where, decided before the work begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from nograd.errors import ConfigError
from nograd.runtime.terminal import escape_controls

__all__ = ["STDOUT", "OutputTarget", "plan_outputs", "with_old_options", "write_outputs"]

STDOUT = Path("-")

TEXT = "text"

SUFFIXES = {".txt": TEXT, ".json": "json", ".html": "html", ".sarif": "sarif", ".xml": "junit"}
"""Suffix of a file -> its format."""


@dataclass(frozen=True, slots=True)
class OutputTarget:
    """One copy of a report."""

    path: Path
    """`STDOUT`, or a file that is replaced."""

    format: str


def plan_outputs(outputs: Sequence[Path], format: str, formats: Sequence[str]) -> tuple[OutputTarget, ...]:  # noqa: A002  the option's name
    """Return where the report goes.

    Args:
        outputs: values of `-o`; `-` is stdout; none: stdout.
        format: value of `--format`; empty: by each file's suffix, and text for other files.
        formats: formats of the command.

    Raises:
        ConfigError: the format is unknown, or a file's folder does not exist.
    """
    if format and format not in formats:
        raise ConfigError(f"format is {format!r}; it must be one of {', '.join(formats)}")
    for path in outputs:
        if not path.parent.is_dir():
            raise ConfigError(f"output is {str(path)!r}; there is no folder {str(path.parent)!r}")
        if path.is_dir():
            raise ConfigError(f"output is {str(path)!r}, a folder; it must be a file, or - for stdout")
    return tuple(OutputTarget(path, format or _format_of(path, formats)) for path in outputs or (STDOUT,))


def _format_of(path: Path, formats: Sequence[str]) -> str:
    found = SUFFIXES.get(path.suffix.lower(), TEXT)
    return found if found in formats else TEXT


def write_outputs(targets: Sequence[OutputTarget], writers: Mapping[str, Callable[[], str]]) -> None:
    """Write the report to each target. Control characters from other programs are escaped on stdout."""
    for target in targets:
        text = writers[target.format]()
        text = text if text.endswith("\n") else f"{text}\n"
        if target.path == STDOUT:
            typer.echo(escape_controls(text), nl=False)
        else:
            target.path.write_text(text, "utf-8")


def with_old_options(targets: Sequence[OutputTarget], **files: Path | None) -> tuple[OutputTarget, ...]:
    """Return the targets with those of options of earlier versions, such as `--json FILE`; write a note for each on stderr.

    Args:
        targets: targets of `-o`.
        files: format, which is also the old option's name -> file; None: not given.
    """
    found = list(targets)
    for format, path in files.items():  # noqa: A001  the option's name
        if path is not None:
            typer.echo(f"nograd: --{format} is an old spelling; write -o - -o {path.with_suffix(_suffix_of(format))}", err=True)
            found.append(OutputTarget(path, format))
    return tuple(found)


def _suffix_of(format: str) -> str:  # noqa: A002  the option's name
    return next(suffix for suffix, name in SUFFIXES.items() if name == format)
