"""`nograd init`: write a model, settings and a test to start from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from nograd.cli.help import Example, GroupedCommand

SUMMARY = "Write a model, settings and a test to start from."

COMMAND = GroupedCommand

EXAMPLES: tuple[Example, ...] = (("Start in a new folder:", "nograd init flowers"),)


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Folder for the files; it is made if it does not exist. Default: this one.")
    ] = Path(),
) -> None:
    """Write model.py, test_model.py, nograd.toml and its schema into DIR. They run as they are; existing files are never
    overwritten.

    After it, `nograd serve` in DIR serves the model, and `pytest` tests it.
    """
    from nograd.cli.starter import write_starter

    for path in write_starter(folder):
        typer.echo(f"written: {path}")
    enter = "" if folder == Path() else f"cd {shlex.quote(str(folder))} && "
    typer.echo(f"serve it:  {enter}nograd serve\ntest it:   {enter}pytest")
