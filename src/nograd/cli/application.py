"""The command line `nograd`: its commands, in groups."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from nograd import __version__
from nograd.cli.commands import bench, cache, check, conformance, export, init, inspect, predict, schema, serve, tune
from nograd.cli.help import CommandGroup, examples_text, help_without_command

__all__ = ["app"]

RUN, PREPARE, EXAMINE, MAINTAIN = "Run a model", "Prepare a model", "Examine a model or a server", "Maintain"
"""Headings of the commands in `nograd --help`."""

app = typer.Typer(
    name="nograd",
    cls=CommandGroup,
    help="A trained PyTorch model in; fast, correct, measured inference out. `nograd COMMAND --help` describes a command.",
    epilog=examples_text(
        [
            ("Serve the demo model, and open http://127.0.0.1:8000/:", "nograd serve minilm"),
            ("Embed the lines of a file:", "nograd predict minilm lines.txt -o vectors.parquet"),
        ]
    ),
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},  # commands inherit it
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich adds 0.16 s of CPU to the 0.25 s of --help (2026-12-01)
)


def _print_version(value: bool) -> None:  # noqa: FBT001  typer's signature
    if value:
        typer.echo(f"nograd {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    *,
    version: Annotated[  # noqa: ARG001  its callback prints it
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Hold the options that come before a command. Without a command, print the help and exit with 0."""
    help_without_command(context)


def _add(module: Any, panel: str) -> None:
    """Add the command of a module: its function has the module's name, its help is the docstring."""
    name = module.__name__.rpartition(".")[2]
    app.command(
        name, cls=module.COMMAND, short_help=module.SUMMARY, epilog=examples_text(module.EXAMPLES), rich_help_panel=panel
    )(getattr(module, name))


for _module, _panel in (
    (serve, RUN), (predict, RUN), (init, PREPARE), (export, PREPARE), (tune, PREPARE), (inspect, PREPARE), (check, EXAMINE),
    (bench, EXAMINE), (conformance, EXAMINE), (schema, MAINTAIN),
):  # fmt: skip
    _add(_module, _panel)
app.add_typer(cache.app, name="cache", short_help=cache.SUMMARY, rich_help_panel=MAINTAIN)
