"""`nograd cache`: show or clear cached responses."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from nograd.cli.help import CommandGroup, GroupedCommand, examples_text, help_without_command
from nograd.cli.options import OUTPUT, Outputs, choice
from nograd.cli.outputs import plan_outputs, write_outputs
from nograd.runtime.terminal import escape_controls

SUMMARY = "Show or clear cached responses."

FORMATS = ("text", "json")

EXAMPLES = (
    ("Show the cache of a server:", "nograd cache stats http://127.0.0.1:8000"),
    ("Clear the cache that servers share in Redis:", "nograd cache clear redis://localhost:6379/0"),
)

app = typer.Typer(
    help="Show or clear cached responses, of a server or in Redis.",
    cls=CommandGroup,
    epilog=examples_text(EXAMPLES),
    invoke_without_command=True,
    rich_markup_mode=None,
)

Url = Annotated[
    str,
    typer.Argument(metavar="URL", help="A server (http://127.0.0.1:8000) or a Redis (redis://localhost:6379/0)."),
]


app.callback()(help_without_command)


@app.command(cls=GroupedCommand, short_help="Print the cache's size and savings.", epilog=examples_text(EXAMPLES[:1]))
def stats(
    url: Url,
    *,
    format: Annotated[str, choice(values=FORMATS, help="Format of the report.", panel=OUTPUT)] = "",  # noqa: A002  the option's name
    output: Outputs = None,
) -> None:
    """Print the size of the cache at URL, its hits, and the device time that it saved."""
    targets = plan_outputs(output or [], format, FORMATS)
    from nograd.cli.cached_responses import figures, lines

    found = figures(url)
    write_outputs(targets, {"text": lambda: "\n".join(lines(found)), "json": lambda: json.dumps(found, indent=1)})


@app.command(cls=GroupedCommand, short_help="Remove all cached responses.", epilog=examples_text(EXAMPLES[1:]))
def clear(url: Url) -> None:
    """Remove the cached responses at URL: those in a server's memory, or in Redis all under nograd's prefix."""
    from nograd.cli.cached_responses import clear

    typer.echo(escape_controls(clear(url)))
