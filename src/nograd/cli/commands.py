"""The `nograd` command. Heavy modules are imported only by the command that needs them, so that `nograd --help` is fast."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from nograd import __version__
from nograd.cli.help import GroupedCommand
from nograd.errors import ConfigError, ExportError, JobError, NogradError
from nograd.runtime.cores import bound_threads
from nograd.runtime.exits import INTERRUPTED, end_on_signals, hold_standard_files, leave, stop_reported
from nograd.runtime.openmp import spin_briefly
from nograd.runtime.stderr import QueuedStderr, queued_stderr
from nograd.runtime.terminal import escape_controls
from nograd.server.settings.cli_options import with_settings
from nograd.server.settings.definition import CLUSTER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nograd.server.settings.model_config import ModelConfig
    from nograd.server.settings.resolution import ResolvedSettings

__all__ = ["main"]

HELP_NAMES = {"help_option_names": ["-h", "--help"]}
"""Commands inherit it from the group."""

app = typer.Typer(
    name="nograd",
    help="A trained PyTorch model in; fast, correct, measured inference out.",
    invoke_without_command=True,
    context_settings=HELP_NAMES,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich would take longer than the rest of --help
)


TUNE = "Tune before serving"

MODEL_HELP = (
    "A bundle, a transformers folder, a .onnx, .xml, .pt2 or .pt file, 'package.module:factory', or 'minilm' (the demo)."
)


STOPPED = "stopped\n"
"""Message at Ctrl-C for a command that has no other message and wrote nothing."""


def main() -> NoReturn:
    """Run the command. An error of nograd is one sentence on stderr and exit code 2.

    If stderr cannot be written, the sentence is on stdout.
    """
    hold_standard_files()
    spin_briefly(os.environ)
    bound_threads(os.environ)
    with queued_stderr() as stderr:
        is_server = sys.argv[1:2] == ["serve"]  # handle SIGTERM from here on, before the slow imports
        with end_on_signals(_ignore) if is_server else nullcontext():
            code, sentence = _run()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is exiting already
        stderr.write(sentence)
        is_read = stderr.end()
    if sentence and not is_read:
        with suppress(OSError):
            sys.stdout.write(sentence)
            sys.stdout.flush()
    leave(code)


def _ignore(_signal: str) -> None:
    """Write nothing: there is no log yet."""


def _run() -> tuple[int, str]:
    """Return the exit code and the message."""
    try:
        app()
    except NogradError as error:
        return 1 if isinstance(error, ExportError | JobError) else 2, f"nograd: {escape_controls(str(error))}\n"
    except KeyboardInterrupt:
        return INTERRUPTED, STOPPED
    except SystemExit as ended:
        if isinstance(ended.code, str):
            return 1, f"{ended.code}\n"
        is_ctrl_c = ended.__context__ is not None and isinstance(ended.__context__.__cause__, KeyboardInterrupt)  # typer's way
        return ended.code or 0, STOPPED if is_ctrl_c else ""
    except Exception:  # noqa: BLE001  a fault of nograd: its traceback is the reason
        import traceback

        return 1, traceback.format_exc()
    return 0, ""


def _version(value: bool) -> None:  # noqa: FBT001  typer's signature
    if value:
        typer.echo(f"nograd {__version__}")
        raise typer.Exit


def _print_help(context: typer.Context) -> None:
    """Print the help of a group that is called without a command, and exit with 0."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Hold the options that come before a command."""
    _print_help(context)


@app.command(cls=GroupedCommand)
@with_settings
def serve(
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=]MODEL...", help=f"{MODEL_HELP} Several as NAME=MODEL, NAME:VERSION=MODEL."),
    ] = None,
    *,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file with settings and models; also NOGRAD_CONFIG.")
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the effective settings with their origins, and exit.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="Name in the URL (single model only); default: the bundle's name, or derived from MODEL.")
    ] = None,
    tune: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="Tune MODEL first, in about this time (60s), and serve the bundle.", rich_help_panel=TUNE
        ),
    ] = "",
    data: Annotated[Path | None, typer.Option(help="Rows to tune with, as for `nograd tune`.", rich_help_panel=TUNE)] = None,
    goal: Annotated[
        str, typer.Option(help="Goal of --tune: latency, throughput, memory, or slo=TIME.", rich_help_panel=TUNE)
    ] = "latency",
    ray: Annotated[
        bool,
        typer.Option(
            "--ray", help="Serve replicas on the Ray cluster at RAY_ADDRESS, or on a local one.", rich_help_panel=CLUSTER
        ),
    ] = False,
    ray_address: Annotated[
        str, typer.Option(help="Serve replicas on the Ray cluster at this address.", rich_help_panel=CLUSTER)
    ] = "",
    replicas: Annotated[
        str, typer.Option(help="Replicas on Ray: a number, a range such as 1-4, or auto.", rich_help_panel=CLUSTER)
    ] = "auto",
    **_settings: object,
) -> None:
    """Serve models over HTTP and gRPC: Open Inference Protocol v2, dynamic batching, caching, metrics, a live page at /.

    Every setting can also be a line of the file (max_wait_ms = 2.0) or a variable (NOGRAD_MAX_WAIT_MS=2).
    """
    from nograd.server.command import run_server, settings_of
    from nograd.server.settings.printing import to_toml

    flags = _given(context)
    given = {key: value for key, value in flags.items() if key not in NOT_SETTINGS}
    settings = settings_of(config, os.environ, given, _named(models or [], name))
    on_ray = ray or bool(ray_address)
    if "replicas" in flags and not on_ray:
        raise ConfigError(f"replicas is {replicas!r}, and there is no --ray: only a cluster has replicas; add --ray")
    if print_config:
        typer.echo(_ray_config(settings, replicas) if on_ray else to_toml(settings), nl=False)
        return
    if data is not None and not tune:
        raise ConfigError(f"data is {str(data)!r}, and there is no --tune: only tuning reads rows; add --tune 60s")
    if tune:
        _tune_and_serve(settings, flags, data, tune, goal)
    if on_ray:
        from nograd.ray.serve_command import serve_on_ray

        raise typer.Exit(serve_on_ray(settings, replicas=replicas, address=ray_address, say=typer.echo))
    if settings.config.has_workers:
        from nograd.server.workers.supervisor import run_workers

        raise typer.Exit(run_workers(settings, typer.echo))
    run_server(settings, typer.echo)


PLACED = frozenset(("ray", "ray_address", "replicas"))
"""Options for the place of serving; the server of a tuned bundle receives them too."""

NOT_SETTINGS = frozenset(("models", "config", "print_config", "name", "tune", "data", "goal", *PLACED))
"""Options of `nograd serve` that are not settings of a server."""


def _ray_config(settings: ResolvedSettings, replicas: str) -> str:
    from nograd.ray.serve_command import print_ray_config

    return print_ray_config(settings, replicas)


def _given(context: typer.Context) -> dict[str, Any]:
    """Return the options that the command line sets, by parameter."""
    return {
        name: value
        for name, value in context.params.items()
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    }


def _named(models: Sequence[str], name: str | None) -> list[ModelConfig]:
    """Return the models in the arguments; `--name` applies to a single one."""
    from nograd.server.settings.model_config import parse_model

    listed = list(map(parse_model, models))
    if name is None:
        return listed
    if len(listed) != 1:
        raise ConfigError(f"name is {name!r}, for {len(listed)} models; it names a single model: write NAME=MODEL instead")
    return [replace(listed[0], name=name)]


def _tune_and_serve(
    settings: ResolvedSettings, flags: Mapping[str, Any], data: Path | None, budget: str, goal: str
) -> NoReturn:
    """Tune the only model, and become the server of the tuned bundle."""
    from nograd.server.command import check_early
    from nograd.server.run import bind
    from nograd.server.settings.model_config import name_of
    from nograd.server.telemetry.logs import configure
    from nograd.tuning.command import bundle_for, settings_of

    if len(settings.models) != 1:
        raise ConfigError(f"tune is {budget!r}, for {len(settings.models)} models; it tunes one: name it, and no other")
    (model,), config = settings.models, settings.config
    name = model.name or name_of(model.model)
    configure(config.log_format, config.log_level)
    check_early(settings)
    with bind(config.host, config.port):  # report a port that is in use before tuning takes a minute
        found = bundle_for(
            model.model, data, settings_of(goal=goal, budget=budget, accept_coupled_rows=config.accept_coupled_rows), name=name
        )
    if found.bundle is None:
        raise ConfigError(f"tuning {model.model} found nothing that can be served; the report above says why")
    _serve_instead(found.bundle, flags, name=name, trusted=config.trusted or found.needs_trust)


def _serve_instead(bundle: Path, flags: Mapping[str, Any], *, name: str, trusted: bool) -> NoReturn:
    """Become the server of a bundle. A process that has tuned holds torch and threads that serving does not need."""
    said = {key: value for key, value in flags.items() if key == "config" or key in PLACED or key not in NOT_SETTINGS}
    said |= {"name": name, **({"trusted": True} if trusted else {})}
    options = [_as_option(key.replace("_", "-"), value) for key, value in said.items()]
    sys.stdout.flush()
    if isinstance(sys.stderr, QueuedStderr):
        sys.stderr.drain()
    os.execv(  # noqa: S606  no shell
        sys.executable, [sys.executable, "-m", "nograd", "serve", str(bundle), *options]
    )


def _as_option(name: str, value: object) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={value}"


@app.command()
def export(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    *,
    to: Annotated[str, typer.Option(help="onnx, torchscript, pt2 (AOTInductor), openvino, or an installed backend.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    precision: Annotated[str, typer.Option(help="float32, float16, bfloat16, or int8 (onnx only).")] = "float32",
    accept_coupled_rows: Annotated[
        bool,
        typer.Option("--accept-coupled-rows", help="Declare in the file that rows that influence each other may be batched."),
    ] = False,
) -> None:
    """Write MODEL as a file, and print how closely it agrees with the model; exit 1, writing nothing, where it does not."""
    from nograd.exports import export_model, files_of
    from nograd.runtime.spinner import spinner
    from nograd.runtime.threads import in_own_thread
    from nograd.sources import load

    with spinner(f"loading {model}"):
        predictor = in_own_thread(lambda: load(model)).result()
    try:
        with spinner(f"exporting to {to}"):
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
        typer.echo("the file takes the model's own inputs; what is done to items before (tokenizing) is not in it")


@app.command()
def inspect(
    bundle: Annotated[Path, typer.Argument(help="A bundle: a folder, or a .zip.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Verify BUNDLE and print what it is: how it runs, what was measured, proof, machine, files. Nothing in it is run."""
    from nograd.bundle import Bundle
    from nograd.bundle.page import page

    with Bundle.read(bundle) as found:
        typer.echo(json.dumps(found.to_json(), indent=1) if as_json else page(found))


@app.command()
def tune(
    model: Annotated[str, typer.Argument(help="A transformers folder, 'package.module:factory', or 'minilm' (the demo).")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle to write: a folder, or a file ending in .zip.")],
    data: Annotated[
        Path | None, typer.Option(help="Your own rows: .jsonl, .txt, .csv, .npz or .npy; default: what it was probed with.")
    ] = None,
    goal: Annotated[str, typer.Option(help="latency, throughput, memory, or slo=TIME such as slo=20ms.")] = "latency",
    tolerance: Annotated[
        str, typer.Option(help="How far answers may be off: exact, half, int8, or cosine=0.99,agreement=0.98.")
    ] = "half",
    budget: Annotated[str, typer.Option(help="Time for all of it, about: 120s, 5m.")] = "120s",
    backends: Annotated[str, typer.Option(help="To try beside eager, with commas: onnx,openvino,aot. Default: all.")] = "",
    metric: Annotated[
        str, typer.Option(help="'module:function' of answers and records to a number: judges instead of the tolerance.")
    ] = "",
    metric_drop: Annotated[float, typer.Option(help="How far below eager's the metric may be.")] = 0.0,
    memory: Annotated[
        str, typer.Option(help="By which a candidate's process may grow: 4GB. Default: half of what is free.")
    ] = "",
    cores: Annotated[int | None, typer.Option(help="Processors to use; default: all.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model; default: from MODEL.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed of orders and arrivals.")] = 0,
    accept_coupled_rows: Annotated[
        bool, typer.Option("--accept-coupled-rows", help="Allow candidates whose rows influence each other (dynamic int8).")
    ] = False,
) -> None:
    """Build, prove and measure every way to run MODEL here, and write the best as a bundle. Ctrl-C writes the best so far."""
    with stop_reported(output):
        from nograd.server.settings.model_config import name_of
        from nograd.tuning.command import run_command, settings_of

        settings = settings_of(
            goal=goal, budget=budget, tolerance=tolerance, backends=backends, metric=metric, metric_drop=metric_drop,
            memory=memory, cores=cores, seed=seed, accept_coupled_rows=accept_coupled_rows,
        )  # fmt: skip
        tuned = run_command(
            model, data, output, settings, name=name or name_of(model), command=shlex.join(["nograd", *sys.argv[1:]])
        )
    if tuned.bundle is None:
        raise typer.Exit(1)
    typer.echo(f"serve it:  nograd serve {shlex.quote(str(tuned.bundle))}{' --trusted' if tuned.needs_trust else ''}")


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    input: Annotated[  # noqa: A002  the name that users read
        str, typer.Argument(help=".jsonl, .txt, .csv (also .gz, .zst), .parquet, .arrow, a folder of images, or - for stdin.")
    ],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write: .jsonl, .csv, .parquet or .arrow.")],
    map: Annotated[  # noqa: A002  the option's name
        list[str] | None,
        typer.Option(metavar="INPUT=COLUMN", help="The column of an input; may be repeated. Default: by name."),
    ] = None,
    keep: Annotated[str | None, typer.Option(help="Columns to carry through, with commas. Default: all but tensors.")] = None,
    drop: Annotated[str, typer.Option(help="Columns to leave out, with commas.")] = "",
    format: Annotated[  # noqa: A002  the option's name
        str, typer.Option(help="Of INPUT: jsonl, text, csv, parquet, arrow. Default: by its name; jsonl from stdin.")
    ] = "",
    on_error: Annotated[str, typer.Option(help="A bad row: fail, or skip it and tell it in OUTPUT.errors.jsonl.")] = "fail",
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew, whatever is there.")] = False,
    memory: Annotated[str, typer.Option(help="Rows on their way take at most so much; the model comes on top.")] = "2GiB",
    max_batch_size: Annotated[int, typer.Option(help="Rows in one run, at most.")] = 32,
    commit_s: Annotated[float, typer.Option(help="Seconds of work that a crash costs, about; 0 keeps every window.")] = 1.0,
    device: Annotated[str, typer.Option(help="'auto' or a torch device.")] = "auto",
    trusted: Annotated[bool, typer.Option("--trusted", help="Open a model that holds or names code: .pt2, .pt.")] = False,
    accept_coupled_rows: Annotated[
        bool,
        typer.Option(
            "--accept-coupled-rows",
            help="Batch rows that influence each other, as in dynamic 8-bit files; default: run them alone.",
        ),
    ] = False,
    ray: Annotated[bool, typer.Option("--ray", help="Run on a Ray cluster: RAY_ADDRESS, or one of this machine.")] = False,
    ray_address: Annotated[str, typer.Option(help="The same, on the cluster at this address.")] = "",
    ray_actors: Annotated[int | None, typer.Option(help="Processes with --ray; default: as many as there is room.")] = None,
) -> None:
    """Run MODEL over every row of INPUT. Killed at any time, the same command goes on, and OUTPUT is the same to the byte."""
    from nograd.core.units import bytes_of
    from nograd.datasets.command import column_options, predict_command
    from nograd.datasets.run import PredictJob

    job = PredictJob(
        model, input, output, column_options(map or [], keep, drop), format=format, memory_bytes=bytes_of(memory, "memory"),
        max_batch_size=max_batch_size, on_error=on_error, commit_s=commit_s, restart=restart,  # type: ignore[arg-type]  # it checks
        accept_coupled_rows=accept_coupled_rows,
    )  # fmt: skip
    if ray or ray_address:
        from nograd.ray.command import predict_on_ray

        raise typer.Exit(predict_on_ray(job, device=device, trusted=trusted, actors=ray_actors, address=ray_address))
    if ray_actors is not None:
        raise ConfigError(f"ray_actors is {ray_actors}, and there is no --ray")
    raise typer.Exit(predict_command(job, device=device, trusted=trusted))


@app.command()
def check(
    target: Annotated[str, typer.Argument(help=f"{MODEL_HELP} Or the URL of a running server, or of one of its models.")],
    *,
    deep: Annotated[bool, typer.Option("--deep", help="Also export, trace, quantize, and start and stop a server.")] = False,
    format: Annotated[str, typer.Option(help="text, json, sarif or junit.")] = "text",  # noqa: A002  the option's name
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file to write; default: stdout.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 for a warning, too.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="A family of checks, such as batching; may be repeated.")] = None,
    trusted: Annotated[bool, typer.Option("--trusted", help="Open a .pt2 or .pt file: it holds a program.")] = False,
    device: Annotated[str, typer.Option(help="'auto' or a torch device.")] = "auto",
    max_batch_size: Annotated[int, typer.Option(help="Rows in one run, at most.")] = 32,
    memory_mb: Annotated[float | None, typer.Option(help="Megabytes it may have there; default: as here.")] = None,
) -> None:
    """Run the deployment checklist on TARGET: findings with evidence and what mends them; exit 1 where one is an error."""
    from nograd.checks import check
    from nograd.report.finding_formats import writer_of
    from nograd.runtime.spinner import spinner
    from nograd.runtime.threads import in_own_thread

    written = writer_of(format)
    if output is not None and not output.parent.is_dir():
        raise ConfigError(f"output is {str(output)!r}; there is no folder {str(output.parent)!r}")
    with spinner(f"checking {target}"):
        report = in_own_thread(lambda: check(
            target, deep=deep, max_batch_size=max_batch_size, only=only or (), trusted=trusted, device=device,
            memory_bytes=None if memory_mb is None else int(memory_mb * 1e6),
        )).result()  # fmt: skip
    if output is None:
        typer.echo(escape_controls(written(report)), nl=False)
    else:
        output.write_text(written(report), "utf-8")
    raise typer.Exit(report.exit_code(strict=strict))


@app.command()
def bench(
    url: Annotated[str, typer.Argument(help="A server, http://127.0.0.1:8000, or one of its models, .../v2/models/NAME.")],
    *,
    clients: Annotated[
        list[int] | None,
        typer.Option(help="Closed loop: so many clients, each waiting for its answer; may be repeated. Default: 16."),
    ] = None,
    rate: Annotated[
        list[float] | None, typer.Option(help="Open loop: requests a second, whatever becomes of them; may be repeated.")
    ] = None,
    arrivals: Annotated[str, typer.Option(help="Of an open loop: poisson or uniform.")] = "poisson",
    duration: Annotated[str, typer.Option(help="Time that is measured, for each load: 10s, 5m.")] = "10s",
    requests: Annotated[int | None, typer.Option(help="Requests that are measured, instead of a time.")] = None,
    warmup: Annotated[str, typer.Option(help="Time before, under the same load, that is not measured.")] = "1s",
    timeout: Annotated[str, typer.Option(help="Time until a request is given up.")] = "30s",
    data: Annotated[
        Path | None, typer.Option(help="Requests, a JSON body a line; or texts, a line each. Default: made of the metadata.")
    ] = None,
    max_connections: Annotated[int, typer.Option(help="Of an open loop; a request beyond waits for one.")] = 1024,
    seed: Annotated[int, typer.Option(help="Of random arrivals.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write a page with plots to this file.")] = None,
) -> None:
    """Put load on the server at URL, ours or another's; print rate, latencies and errors; exit 1 where nothing is answered."""
    from rich.console import Console

    from nograd.bench import Clients, Load, Plan, bench
    from nograd.bench.html import to_html
    from nograd.bench.report import WIDTH, notes, table
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
    typer.echo(escape_controls(report.target))
    console = Console(highlight=False)
    console.width = max(console.width, WIDTH)  # a truncated table would hide figures
    console.print(table(report.summaries))
    for note in notes(report):
        typer.echo(escape_controls(note))
    if json_file is not None:
        json_file.write_text(json.dumps(report.to_json(), indent=1) + "\n", "utf-8")
    if html_file is not None:
        html_file.write_text(to_html(report), "utf-8")
    raise typer.Exit(report.exit_code())


@app.command()
def conformance(
    url: Annotated[str, typer.Argument(help="A server, http://127.0.0.1:8000, or one of its models, .../v2/models/NAME.")],
    *,
    data: Annotated[
        Path | None,
        typer.Option(help="A request that the model answers, as JSON in the first line. Default: made of its metadata."),
    ] = None,
    repository: Annotated[bool, typer.Option("--repository", help="Also load and unload the model.")] = False,
    grpc: Annotated[str, typer.Option(metavar="HOST:PORT", help="Also examine gRPC, which the server speaks there.")] = "",
    timeout: Annotated[str, typer.Option(help="Time that one request may take.")] = "30s",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")] = None,
    junit_file: Annotated[Path | None, typer.Option("--junit", help="Write it as JUnit XML.")] = None,
) -> None:
    """Examine the server at URL, ours or another's, by the Open Inference Protocol; exit 1 where it breaks the protocol."""
    from nograd.conformance import conformance
    from nograd.core.units import seconds_of
    from nograd.report.finding_formats import to_json, to_junit

    report = conformance(url, data=data, repository=repository, grpc=grpc, timeout_s=seconds_of(timeout, "timeout"))
    typer.echo(escape_controls(str(report)), nl=False)
    if json_file is not None:
        json_file.write_text(to_json(report), "utf-8")
    if junit_file is not None:
        junit_file.write_text(to_junit(report), "utf-8")
    raise typer.Exit(report.exit_code())


cache_app = typer.Typer(help="Show or clear cached responses, of a server or in Redis.", invoke_without_command=True)
app.add_typer(cache_app, name="cache")
cache_app.callback()(_print_help)

CACHE_HELP = "A server (http://127.0.0.1:8000) or a Redis (redis://localhost:6379/0)."


@cache_app.command()
def stats(url: Annotated[str, typer.Argument(help=CACHE_HELP)]) -> None:
    """Print what is kept at URL, and what it saved."""
    from nograd.cli.cache import stats

    for line in stats(url):
        typer.echo(escape_controls(line))


@cache_app.command()
def clear(url: Annotated[str, typer.Argument(help=CACHE_HELP)]) -> None:
    """Forget what is kept at URL: of a server its memory, in Redis every answer under nograd's prefix."""
    from nograd.cli.cache import clear

    typer.echo(escape_controls(clear(url)))
