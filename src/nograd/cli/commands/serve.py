"""`nograd serve`: serve models over HTTP and gRPC."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from nograd.cli.help import Example
from nograd.cli.options import MODEL_HELP, choice
from nograd.cli.serving import (
    GIVEN_ELSEWHERE,
    ServeCommand,
    local_file,
    log_old_spellings,
    named_models,
    options_of,
    tune_and_serve,
)
from nograd.errors import ConfigError
from nograd.server.settings.cli_options import read_options, with_settings
from nograd.server.settings.definition import CLUSTER, MODEL

SUMMARY = "Serve models over HTTP and gRPC."

COMMAND = ServeCommand

TUNE = "Tune before serving"

EXAMPLES: tuple[Example, ...] = (
    ("Serve the demo model on http://127.0.0.1:8000:", "nograd serve minilm"),
    ("Serve a model of your own, a function in mine.py that returns it:", "nograd serve mine:factory --port 9000"),
    ("Serve two models under names of your choice:", "nograd serve words=minilm clicks=clicks.bundle --max-wait 2ms"),
    ("Tune a model in about a minute, then serve the result:", "nograd serve mine:factory --tune 60s --goal throughput"),
    ("Serve the models and settings of a file:", "nograd serve --config nograd.toml"),
)


@with_settings
def serve(
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[[NAME=]MODEL]...", help=f"{MODEL_HELP} Several as NAME=MODEL, NAME:VERSION=MODEL."),
    ] = None,
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", rich_help_panel=MODEL,
            help="TOML file with settings and models; also NOGRAD_CONFIG. Without MODEL, default: nograd.toml, if it exists.",
        ),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the effective settings with their origins, and exit.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", rich_help_panel=MODEL,
            help="Name in the URL (single model only); default: the bundle's name, or derived from MODEL.",
        ),
    ] = None,
    tune: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="Tune MODEL first, in about this time (60s), and serve the bundle.", rich_help_panel=TUNE
        ),
    ] = "",
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Rows to tune with, as for `nograd tune`.", rich_help_panel=TUNE)
    ] = None,
    goal: Annotated[
        str, choice(values=("latency", "throughput", "memory"), more=("slo=TIME",), help="Goal of --tune.", panel=TUNE)
    ] = "latency",
    ray: Annotated[
        bool,
        typer.Option(
            "--ray", help="Serve replicas on the Ray cluster at RAY_ADDRESS, or on a local one.", rich_help_panel=CLUSTER
        ),
    ] = False,
    ray_address: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="Serve replicas on the Ray cluster at this address.", rich_help_panel=CLUSTER),
    ] = "",
    replicas: Annotated[
        str, typer.Option(metavar="N|MIN-MAX|auto", help="Replicas on Ray, such as 4 or 1-4.", rich_help_panel=CLUSTER)
    ] = "auto",
    **_settings: object,
) -> None:  # fmt: skip
    """Serve models over HTTP and gRPC: Open Inference Protocol v2, dynamic batching, caching, metrics, a live page at /.

    Every setting can also be a line of the file (max_wait = "2ms") or a variable (NOGRAD_MAX_WAIT=2ms).
    """
    from nograd.server.command import settings_of
    from nograd.server.settings.printing import to_toml

    options = options_of(context)
    if config is None and (config := local_file(os.environ, models or [])) is not None:
        options["config"] = config
    given = read_options({key: value for key, value in options.items() if key not in GIVEN_ELSEWHERE})
    settings = settings_of(config, os.environ, given, named_models(models or [], name))
    on_ray = ray or bool(ray_address)
    if "replicas" in options and not on_ray:
        raise ConfigError(f"replicas is {replicas!r}, and there is no --ray: only a cluster has replicas; add --ray")
    if print_config and on_ray:
        from nograd.ray.serve_command import print_ray_config

        typer.echo(print_ray_config(settings, replicas), nl=False)
        return
    if print_config:
        typer.echo(to_toml(settings), nl=False)
        return
    if data is not None and not tune:
        raise ConfigError(f"data is {str(data)!r}, and there is no --tune: only tuning reads rows; add --tune 60s")
    log_old_spellings(context, settings)
    if tune:
        tune_and_serve(settings, options, data, tune, goal)
    if on_ray:
        from nograd.ray.serve_command import serve_on_ray

        raise typer.Exit(serve_on_ray(settings, replicas=replicas, address=ray_address, say=typer.echo))
    if settings.config.has_workers:
        from nograd.server.workers.supervisor import run_workers

        raise typer.Exit(run_workers(settings, typer.echo))
    from nograd.server.command import run_server

    run_server(settings, typer.echo)
