"""`nograd export`: write a model as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nograd.cli.help import Example, GroupedCommand
from nograd.cli.options import OUTPUT, Model, choice
from nograd.errors import ExportError
from nograd.runtime.phases import show_phases

SUMMARY = "Write a model as an ONNX, OpenVINO or other file."

COMMAND = GroupedCommand

EXAMPLES: tuple[Example, ...] = (
    ("Write the demo model as ONNX:", "nograd export minilm --to onnx -o minilm.onnx"),
    ("Write 8-bit weights:", "nograd export mine:factory --to onnx --precision int8 -o mine.onnx"),
    ("Compile with AOTInductor:", "nograd export mine:factory --to pt2 -o mine.pt2"),
)


def export(
    model: Model,
    *,
    to: Annotated[
        str,
        choice(
            values=("onnx", "openvino", "torchscript", "pt2"), more=("NAME",), panel=OUTPUT,
            help="Kind of file; pt2 is AOTInductor, NAME is an installed backend.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write.", rich_help_panel=OUTPUT)],
    precision: Annotated[
        str,
        choice(
            values=("float32", "float16", "bfloat16", "int8"), help="Precision of the weights; int8: onnx only.", panel=OUTPUT
        ),
    ] = "float32",
    accept_coupled_rows: Annotated[
        bool,
        typer.Option(
            "--accept-coupled-rows", help="Declare in the file that rows that influence each other may be batched.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
) -> None:  # fmt: skip
    """Write MODEL as a file, and print how closely the file agrees with the model.

    If they do not agree, nothing is written, and the exit code is 1.
    """
    with show_phases() as phases:
        phases.start(f"loading {model}")
        from nograd.exports import export_model, files_of
        from nograd.runtime.threads import in_own_thread
        from nograd.sources import load

        predictor = in_own_thread(lambda: load(model)).result()
        phases.start(f"exporting to {to}")
        try:
            made = export_model(
                predictor.backend, output, to=to, precision=precision,  # type: ignore[arg-type]  # it checks it
                accept_coupled_rows=accept_coupled_rows,
            )  # fmt: skip
        except ExportError as error:
            if error.parity is not None:
                typer.echo(str(error.parity))
            raise
    typer.echo(str(made.parity))
    size = sum(file.stat().st_size for file in files_of(made.path) if file.is_file())
    typer.echo(f"{made.path}: {size / 1e6:.1f} MB; {'; '.join(made.notes)}")
    if predictor.has_preprocess:
        typer.echo("the file takes the model's own inputs; preprocessing (tokenizing) is not in it")
