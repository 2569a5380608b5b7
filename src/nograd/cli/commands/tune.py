"""`nograd tune`: find the fastest way to run a model here, and write it as a bundle."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from nograd.cli.help import Example, GroupedCommand
from nograd.cli.options import BATCHING, MODEL, OUTPUT, choice, split_lists
from nograd.runtime.exits import stop_reported

SUMMARY = "Find the fastest way to run a model here, and write a bundle."

COMMAND = GroupedCommand

SEARCH, PROOF = "Search", "Proof of the answers"

EXAMPLES: tuple[Example, ...] = (
    ("Show what would be tried, and build nothing:", "nograd tune minilm -o minilm.bundle --dry-run"),
    ("Tune the demo model for latency:", "nograd tune minilm -o minilm.bundle"),
    (
        "Tune for throughput on your own rows, in about five minutes:",
        "nograd tune mine:factory -o mine.bundle --data sample.jsonl --goal throughput --budget 5m",
    ),
    (
        "Find the highest rate at which 99 % of the responses take 20 ms:",
        "nograd tune mine:factory -o mine.zip --goal slo=20ms",
    ),
)


def tune(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A transformers folder, 'package.module:factory', or 'minilm' (the demo)."),
    ],
    *,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="BUNDLE", help="Bundle to write: a folder, or a file ending in .zip.",
            rich_help_panel=OUTPUT,
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the model in the bundle; default: from MODEL.", rich_help_panel=OUTPUT),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", rich_help_panel=MODEL,
            help="Your own rows: .jsonl, .txt, .csv, .npz or .npy; default: the sample of the model.",
        ),
    ] = None,
    goal: Annotated[
        str,
        choice(
            values=("latency", "throughput", "memory"), more=("slo=TIME",), panel=SEARCH,
            help="Property to improve; slo=20ms: the highest rate with a p99 of at most 20 ms.",
        ),
    ] = "latency",
    budget: Annotated[
        str, typer.Option(metavar="TIME", help="Approximate time of the whole search.", rich_help_panel=SEARCH)
    ] = "120s",
    backends: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", rich_help_panel=SEARCH,
            help="Backend to try in addition to eager, such as onnx; may be repeated. Default: all.",
        ),
    ] = None,
    memory: Annotated[
        str,
        typer.Option(
            metavar="SIZE", rich_help_panel=SEARCH,
            help="Memory limit per candidate process, such as 4GB. Default: half of the free memory.",
        ),
    ] = "",
    cores: Annotated[
        int | None, typer.Option(metavar="N", help="Processors to use; default: all.", rich_help_panel=SEARCH)
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Random seed of orders and arrivals.", rich_help_panel=SEARCH)
    ] = 0,
    tolerance: Annotated[
        str,
        choice(
            values=("exact", "half", "int8"), more=("LIMITS",), panel=PROOF,
            help="Allowed difference from eager's answers; LIMITS are such as cosine=0.99,agreement=0.98.",
        ),
    ] = "half",
    metric: Annotated[
        str,
        typer.Option(
            metavar="MODULE:FUNCTION", rich_help_panel=PROOF,
            help="Function of answers and records that returns a number; it decides instead of the tolerance.",
        ),
    ] = "",
    metric_drop: Annotated[
        float,
        typer.Option(metavar="NUMBER", help="Allowed drop of the metric below eager's value.", rich_help_panel=PROOF),
    ] = 0.0,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the candidates and the time; build and write nothing.", rich_help_panel=SEARCH),
    ] = False,
    accept_coupled_rows: Annotated[
        bool,
        typer.Option(
            "--accept-coupled-rows", help="Allow candidates whose rows influence each other (dynamic int8).",
            rich_help_panel=BATCHING,
        ),
    ] = False,
) -> None:  # fmt: skip
    """Build, verify and measure every way to run MODEL on this machine, and write the best one as a bundle.

    Ctrl-C writes the best one so far.
    """
    chosen = split_lists("backends", backends) if backends else None
    with stop_reported(output):
        from nograd.server.settings.model_config import name_of
        from nograd.tuning.command import print_preview, run_command, settings_of

        settings = settings_of(
            goal=goal, budget=budget, tolerance=tolerance, backends=chosen, metric=metric, metric_drop=metric_drop,
            memory=memory, cores=cores, seed=seed, accept_coupled_rows=accept_coupled_rows,
        )  # fmt: skip
        if dry_run:
            print_preview(model, data, output, settings)
            return
        tuned = run_command(
            model, data, output, settings, name=name or name_of(model), command=shlex.join(["nograd", *sys.argv[1:]])
        )
    if tuned.bundle is None:
        raise typer.Exit(1)
    typer.echo(f"serve it:  nograd serve {shlex.quote(str(tuned.bundle))}{' --trusted' if tuned.needs_trust else ''}")
