"""`nograd schema`: print the JSON schema of nograd.toml."""

from __future__ import annotations

import json

from nograd.cli.help import Example, GroupedCommand
from nograd.cli.options import Outputs
from nograd.cli.outputs import OutputTarget, plan_outputs, write_outputs

SUMMARY = "Print the JSON schema of nograd.toml."

COMMAND = GroupedCommand

EXAMPLES: tuple[Example, ...] = (
    ("Write the schema of this version next to nograd.toml:", "nograd schema -o nograd.schema.json"),
)


def schema(*, output: Outputs = None) -> None:
    """Print the JSON schema of nograd.toml, with which editors complete and check the file.

    The first line of the file names the schema: `#:schema ./nograd.schema.json`. `nograd init` writes both.
    """
    from nograd.server.settings.schema import config_schema

    targets = [OutputTarget(each.path, "json") for each in plan_outputs(output or [], "", ("json",))]
    write_outputs(targets, {"json": lambda: json.dumps(config_schema(), indent=1)})
