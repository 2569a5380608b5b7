"""`nograd check`: run the deployment checklist."""

from __future__ import annotations

from typing import Annotated

import typer

from nograd.checks import FAMILIES
from nograd.cli.help import Example, GroupedCommand
from nograd.cli.old_spellings import OldSpelling
from nograd.cli.options import MODEL_HELP, OUTPUT, Device, MaxBatchSize, Outputs, Trusted, choice
from nograd.cli.outputs import plan_outputs, write_outputs
from nograd.runtime.phases import show_phases

SUMMARY = "Run the deployment checklist on a model or a server."


class CheckCommand(GroupedCommand):
    """The command line of `nograd check`."""

    old_spellings = (OldSpelling("--memory-mb", "--memory", "MB"),)


COMMAND = CheckCommand

CHECKS = "Checks"

EXAMPLES: tuple[Example, ...] = (
    ("Check a model:", "nograd check mine:factory"),
    ("Check a running server:", "nograd check http://127.0.0.1:8000"),
    (
        "Fail a CI job for warnings, and write a file for code scanning:",
        "nograd check mine:factory --strict -o - -o report.sarif",
    ),
)

FORMATS = ("text", "json", "sarif", "junit")
"""Formats of `nograd.report.finding_formats`, which `nograd check --help` need not import."""


def check(
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help=f"{MODEL_HELP} Or the URL of a running server, or of one of its models."),
    ],
    *,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also export, trace, quantize, and start and stop a server.", rich_help_panel=CHECKS),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FAMILY", help=f"Family of checks to run; may be repeated: {', '.join(FAMILIES)}.", rich_help_panel=CHECKS
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 for a warning, too.", rich_help_panel=CHECKS)
    ] = False,
    memory: Annotated[
        str,
        typer.Option(
            metavar="SIZE", rich_help_panel=CHECKS,
            help="Memory of the machine that will serve, such as 512MiB; default: that of this machine.",
        ),
    ] = "",
    format: Annotated[str, choice(values=FORMATS, help="Format of the report.", panel=OUTPUT)] = "",  # noqa: A002  the option's name
    output: Outputs = None,
    device: Device = "auto",
    trusted: Trusted = False,
    max_batch_size: MaxBatchSize = 32,
) -> None:  # fmt: skip
    """Run the deployment checklist on TARGET: findings with evidence and remedy. If one is an error, the exit code is 1."""
    from nograd.core.units import bytes_of

    targets = plan_outputs(output or [], format, FORMATS)
    memory_bytes = bytes_of(memory, "memory") if memory else None
    with show_phases() as phases:
        phases.start(f"checking {target}")
        from nograd.checks import check
        from nograd.report.finding_formats import FORMATS as WRITERS
        from nograd.runtime.threads import in_own_thread

        report = in_own_thread(lambda: check(
            target, deep=deep, max_batch_size=max_batch_size, only=only or (), trusted=trusted, device=device,
            memory_bytes=memory_bytes,
        )).result()  # fmt: skip
    write_outputs(targets, {name: lambda write=write: write(report) for name, write in WRITERS.items()})  # type: ignore[misc]
    raise typer.Exit(report.exit_code(strict=strict))
