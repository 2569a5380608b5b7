"""`nograd conformance`: examine a server by the Open Inference Protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nograd.cli.help import Example, GroupedCommand
from nograd.cli.options import OUTPUT, Outputs, ServerUrl, choice
from nograd.cli.outputs import plan_outputs, with_old_options, write_outputs

SUMMARY = "Examine a server by the Open Inference Protocol."

COMMAND = GroupedCommand

EXAMINE = "Examination"

FORMATS = ("text", "json", "junit")

EXAMPLES: tuple[Example, ...] = (
    ("Examine a server over HTTP:", "nograd conformance http://127.0.0.1:8000"),
    (
        "Also examine gRPC and the model repository:",
        "nograd conformance http://127.0.0.1:8000 --grpc 127.0.0.1:8001 --repository",
    ),
    ("Write a file for CI in addition to the text:", "nograd conformance http://127.0.0.1:8000 -o - -o report.xml"),
)


def conformance(
    url: ServerUrl,
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", rich_help_panel=EXAMINE,
            help="A request that the model accepts, as JSON in the first line. Default: made from its metadata.",
        ),
    ] = None,
    repository: Annotated[
        bool, typer.Option("--repository", help="Also load and unload the model.", rich_help_panel=EXAMINE)
    ] = False,
    grpc: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Also examine gRPC at this address.", rich_help_panel=EXAMINE)
    ] = "",
    timeout: Annotated[str, typer.Option(metavar="TIME", help="Timeout of a request.", rich_help_panel=EXAMINE)] = "30s",
    format: Annotated[str, choice(values=FORMATS, help="Format of the report.", panel=OUTPUT)] = "",  # noqa: A002  the option's name
    output: Outputs = None,
    json_file: Annotated[Path | None, typer.Option("--json", hidden=True)] = None,
    junit_file: Annotated[Path | None, typer.Option("--junit", hidden=True)] = None,
) -> None:  # fmt: skip
    """Examine the server at URL, nograd or another, by the Open Inference Protocol.

    If the server violates the protocol, the exit code is 1.
    """
    targets = with_old_options(plan_outputs(output or [], format, FORMATS), json=json_file, junit=junit_file)
    from nograd.conformance import conformance
    from nograd.core.units import seconds_of
    from nograd.report.finding_formats import to_json, to_junit

    report = conformance(url, data=data, repository=repository, grpc=grpc, timeout_s=seconds_of(timeout, "timeout"))
    writers = {"text": lambda: str(report), "json": lambda: to_json(report), "junit": lambda: to_junit(report)}
    write_outputs(targets, writers)
    raise typer.Exit(report.exit_code())
