"""Options and arguments that several commands share, and helpers that declare options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from nograd.cli.old_spellings import note_commas
from nograd.errors import ConfigError
from nograd.server.settings.cli_options import completion_of

__all__ = [
    "BATCHING", "CLUSTER", "CODE", "MEASURE", "MODEL", "MODEL_HELP", "OUTPUT", "CoupledRows", "Device", "MaxBatchSize", "Model",
    "Outputs", "ServerUrl", "Trusted", "choice", "split_lists",
]  # fmt: skip

MODEL, BATCHING, CLUSTER, OUTPUT, MEASURE, CODE = "Model", "Batching", "Cluster", "Output", "Measurement", "Trust"
"""Headings of option groups, in addition to those of `nograd serve`."""

MODEL_HELP = (
    "A bundle, a transformers folder, a .onnx, .xml, .pt2 or .pt file, 'package.module:factory', or 'minilm' (the demo)."
)


def choice(*declarations: str, values: Sequence[str], help: str, more: Sequence[str] = (), panel: str | None = None) -> Any:  # noqa: A002
    """Declare an option with a set of values, which help shows and the shell completes. The command checks the value itself.

    Args:
        declarations: names of the option; none: from the parameter.
        values: values that the shell completes.
        help: help text.
        more: further values that help shows, such as `slo=TIME`.
        panel: heading in the help text.
    """
    return typer.Option(
        *declarations,
        help=help,
        metavar="|".join((*values, *more)),
        rich_help_panel=panel,
        autocompletion=completion_of(values),
    )


def split_lists(name: str, values: Sequence[str]) -> tuple[str, ...]:
    """Return the values of a repeated option; commas still separate values, with a note on stderr.

    Raises:
        ConfigError: a value is empty.
    """
    if any("," in value for value in values):
        typer.echo(f"nograd: {note_commas(f'--{name}')}", err=True)
    found = tuple(part.strip() for value in values for part in value.split(","))
    if not all(found):
        raise ConfigError(f"{name} is {','.join(values)!r}; it must not hold an empty name")
    return found


Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]

Device = Annotated[
    str,
    typer.Option(
        metavar="DEVICE", help="Torch device, such as cuda:0; auto takes the first GPU, or the CPU.", rich_help_panel=MODEL
    ),
]

Trusted = Annotated[
    bool,
    typer.Option("--trusted", help="Open model files that can run code: .pt2, .pt, some bundles.", rich_help_panel=MODEL),
]

CoupledRows = Annotated[
    bool,
    typer.Option(
        "--accept-coupled-rows",
        help="Batch rows that influence each other, as in dynamic 8-bit files; default: run them alone.",
        rich_help_panel=BATCHING,
    ),
]

MaxBatchSize = Annotated[int, typer.Option(metavar="ROWS", help="Maximum rows in one run.", rich_help_panel=BATCHING)]

ServerUrl = Annotated[
    str,
    typer.Argument(metavar="URL", help="A server (http://127.0.0.1:8000), or one of its models (.../v2/models/NAME)."),
]

Outputs = Annotated[
    list[Path] | None,
    typer.Option(
        "--output", "-o", metavar="FILE", rich_help_panel=OUTPUT,
        help="Write the report to FILE, in the format of --format or of the file's suffix; may be repeated, - is stdout. "
        "Default: stdout.",
    ),
]  # fmt: skip
