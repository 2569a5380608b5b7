"""`nograd predict`: run a model over a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nograd.cli.help import Example, GroupedCommand
from nograd.cli.old_spellings import OldSpelling
from nograd.cli.options import CLUSTER, OUTPUT, CoupledRows, Device, MaxBatchSize, Model, Trusted, choice, split_lists
from nograd.errors import ConfigError

SUMMARY = "Run a model over every row of a data set."


class PredictCommand(GroupedCommand):
    """The command line of `nograd predict`."""

    old_spellings = (OldSpelling("--commit-s", "--commit-every", "s"), OldSpelling("--format", "--input-format"))


COMMAND = PredictCommand

INPUT, RESUME = "Input", "Faults and resuming"

EXAMPLES: tuple[Example, ...] = (
    ("Embed the lines of a text file:", "nograd predict minilm lines.txt -o vectors.parquet"),
    (
        "Name the column of an input, and keep one more column:",
        "nograd predict mine:factory rows.csv -o out.jsonl --map x=features --keep id",
    ),
    (
        "Skip bad rows, and list them in out.jsonl.errors.jsonl:",
        "nograd predict mine:factory rows.jsonl -o out.jsonl --on-error skip",
    ),
    ("Show the columns of input and output, and write nothing:", "nograd predict minilm rows.csv -o out.parquet --dry-run"),
    ("Read standard input:", "zcat rows.jsonl.gz | nograd predict minilm - -o out.jsonl"),
)


def predict(
    model: Model,
    input: Annotated[  # noqa: A002  the name that users read
        str,
        typer.Argument(
            metavar="INPUT", help=".jsonl, .txt, .csv (also .gz, .zst), .parquet, .arrow, a folder of images, or - for stdin."
        ),
    ],
    *,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help="File to write: .jsonl, .csv, .parquet or .arrow.", rich_help_panel=OUTPUT
        ),
    ],
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN", help="Column to carry through; may be repeated. Default: all but tensors.", rich_help_panel=OUTPUT
        ),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Column to leave out; may be repeated.", rich_help_panel=OUTPUT),
    ] = None,
    map: Annotated[  # noqa: A002  the option's name
        list[str] | None,
        typer.Option(
            metavar="INPUT=COLUMN", help="Column of an input; may be repeated. Default: by name.", rich_help_panel=INPUT
        ),
    ] = None,
    input_format: Annotated[
        str,
        choice(
            values=("jsonl", "text", "csv", "parquet", "arrow"), panel=INPUT,
            help="Format of INPUT. Default: by file extension; jsonl from stdin.",
        ),
    ] = "",
    on_error: Annotated[
        str, choice(values=("fail", "skip"), help="Action at a bad row; skip lists it in FILE.errors.jsonl.", panel=RESUME)
    ] = "fail",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Read the first rows, run one batch and print the columns; write nothing.", rich_help_panel=OUTPUT
        ),
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Replace existing output instead of resuming.", rich_help_panel=RESUME)
    ] = False,
    commit_every: Annotated[
        str,
        typer.Option(
            metavar="TIME", rich_help_panel=RESUME,
            help="Commit interval: how much work a crash can lose (0: commit every window).",
        ),
    ] = "1s",
    device: Device = "auto",
    trusted: Trusted = False,
    max_batch_size: MaxBatchSize = 32,
    memory: Annotated[
        str,
        typer.Option(
            metavar="SIZE", help="Memory limit for in-flight rows, excluding the model.", rich_help_panel="Batching"
        ),
    ] = "2GiB",
    accept_coupled_rows: CoupledRows = False,
    ray: Annotated[
        bool,
        typer.Option("--ray", help="Run on the Ray cluster at RAY_ADDRESS, or on a local one.", rich_help_panel=CLUSTER),
    ] = False,
    ray_address: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Run on the Ray cluster at this address.", rich_help_panel=CLUSTER)
    ] = "",
    ray_actors: Annotated[
        int | None,
        typer.Option(metavar="N", help="Processes on Ray; default: as many as there is room for.", rich_help_panel=CLUSTER),
    ] = None,
) -> None:  # fmt: skip
    """Run MODEL over every row of INPUT, in order. If the run is killed, rerun the command to resume.

    The output is the same to the byte, however often the run was resumed.
    """
    from nograd.core.units import bytes_of, seconds_of
    from nograd.datasets.command import column_options, predict_command, preview_command
    from nograd.datasets.run import PredictJob

    columns = column_options(map or [], None if keep is None else split_lists("keep", keep), split_lists("drop", drop or []))
    job = PredictJob(
        model, input, output, columns, format=input_format, memory_bytes=bytes_of(memory, "memory"),
        max_batch_size=max_batch_size, on_error=on_error,  # type: ignore[arg-type]  # it checks
        commit_s=seconds_of(commit_every, "commit_every"), restart=restart, accept_coupled_rows=accept_coupled_rows,
    )  # fmt: skip
    if dry_run:
        preview_command(job, device=device, trusted=trusted)
        return
    if ray or ray_address:
        from nograd.ray.command import predict_on_ray

        raise typer.Exit(predict_on_ray(job, device=device, trusted=trusted, actors=ray_actors, address=ray_address))
    if ray_actors is not None:
        raise ConfigError(f"ray_actors is {ray_actors}, and there is no --ray")
    raise typer.Exit(predict_command(job, device=device, trusted=trusted))
