"""`nograd bench`: put load on a server."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from nograd.cli.help import Example, GroupedCommand
from nograd.cli.options import MEASURE, OUTPUT, Outputs, ServerUrl, choice
from nograd.cli.outputs import plan_outputs, with_old_options, write_outputs

SUMMARY = "Put load on a server; print rate and latencies."

COMMAND = GroupedCommand

LOAD = "Load"

FORMATS = ("text", "json", "html")

EXAMPLES: tuple[Example, ...] = (
    ("Measure with 1, 8 and 64 clients:", "nograd bench http://127.0.0.1:8000 --clients 1 --clients 8 --clients 64"),
    (
        "Send 500 requests per second for a minute, and write a page with plots:",
        "nograd bench http://127.0.0.1:8000 --rate 500 --duration 1m -o - -o run.html",
    ),
    ("Send your own requests, one JSON body per line:", "nograd bench http://127.0.0.1:8000 --data requests.jsonl"),
)


def bench(
    url: ServerUrl,
    *,
    clients: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N", rich_help_panel=LOAD,
            help="Closed loop: number of clients, each waiting for its response; may be repeated. Default: 16.",
        ),
    ] = None,
    rate: Annotated[
        list[float] | None,
        typer.Option(
            metavar="NUMBER", rich_help_panel=LOAD,
            help="Open loop: requests per second, sent whether or not earlier ones are answered; may be repeated.",
        ),
    ] = None,
    arrivals: Annotated[str, choice(values=("poisson", "uniform"), help="Arrivals of an open loop.", panel=LOAD)] = "poisson",
    max_connections: Annotated[
        int,
        typer.Option(
            metavar="N", help="Maximum connections of an open loop; further requests wait for one.", rich_help_panel=LOAD
        ),
    ] = 1024,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", rich_help_panel=LOAD,
            help="Requests, one JSON body per line; or texts, one per line. Default: made from the model's metadata.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed of arrivals.", rich_help_panel=LOAD)] = 0,
    duration: Annotated[
        str, typer.Option(metavar="TIME", help="Measured time of each load.", rich_help_panel=MEASURE)
    ] = "10s",
    requests: Annotated[
        int | None, typer.Option(metavar="N", help="Measured requests, instead of a time.", rich_help_panel=MEASURE)
    ] = None,
    warmup: Annotated[
        str, typer.Option(metavar="TIME", help="Time under the same load before the measurement.", rich_help_panel=MEASURE)
    ] = "1s",
    timeout: Annotated[str, typer.Option(metavar="TIME", help="Timeout of a request.", rich_help_panel=MEASURE)] = "30s",
    format: Annotated[str, choice(values=FORMATS, help="Format of the report.", panel=OUTPUT)] = "",  # noqa: A002  the option's name
    output: Outputs = None,
    json_file: Annotated[Path | None, typer.Option("--json", hidden=True)] = None,
    html_file: Annotated[Path | None, typer.Option("--html", hidden=True)] = None,
) -> None:  # fmt: skip
    """Put load on the server at URL, nograd or another of the protocol; print rate, latencies and errors.

    If no request of a load succeeds, the exit code is 1. Ctrl-C reports the measurements so far, and exits with 130.
    """
    targets = with_old_options(plan_outputs(output or [], format, FORMATS), json=json_file, html=html_file)
    from nograd.bench import Clients, Load, Plan, bench
    from nograd.bench.html import to_html
    from nograd.bench.report import WIDTH, to_text
    from nograd.core.units import seconds_of

    plan = Plan(
        seconds_of(duration, "duration"),
        seconds_of(warmup, "warmup"),
        requests,
        seconds_of(timeout, "timeout"),
        max_connections,
    )
    loads: list[Clients | Load] = [Clients(each) for each in clients or ([] if rate else [16])]
    loads += [Load(each, arrivals, seed) for each in rate or []]  # type: ignore[arg-type]  # it checks them
    # no spinner: its thread would take time from the load generator
    report = bench(url, loads, plan, data=data, on_load=lambda load: typer.echo(f"measuring {load}", err=True))
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH
    writers = {
        "text": lambda: to_text(report, columns),
        "json": lambda: json.dumps(report.to_json(), indent=1),
        "html": lambda: to_html(report),
    }
    write_outputs(targets, writers)
    raise typer.Exit(report.exit_code())
