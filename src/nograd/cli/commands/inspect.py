"""`nograd inspect`: verify a bundle and describe it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from nograd.cli.help import Example, GroupedCommand
from nograd.cli.old_spellings import OldSpelling
from nograd.cli.options import OUTPUT, Outputs, choice
from nograd.cli.outputs import plan_outputs, write_outputs

SUMMARY = "Verify a bundle and describe it."


class InspectCommand(GroupedCommand):
    """The command line of `nograd inspect`."""

    old_spellings = (OldSpelling("--json", "--format=json", is_flag=True),)


COMMAND = InspectCommand

EXAMPLES: tuple[Example, ...] = (
    ("Describe a bundle:", "nograd inspect minilm.bundle"),
    ("The same for programs:", "nograd inspect minilm.zip --format json"),
)

FORMATS = ("text", "json")


def inspect(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle: a folder, or a .zip.")],
    *,
    format: Annotated[str, choice(values=FORMATS, help="Format of the report.", panel=OUTPUT)] = "",  # noqa: A002  the option's name
    output: Outputs = None,
) -> None:
    """Verify BUNDLE and describe it: how it runs, measurements, proof of its answers, machine, files. Nothing in it is run."""
    targets = plan_outputs(output or [], format, FORMATS)
    from nograd.bundle import Bundle
    from nograd.bundle.page import page

    with Bundle.read(bundle) as found:
        write_outputs(targets, {"text": lambda: page(found), "json": lambda: json.dumps(found.to_json(), indent=1)})
