"""JSON Schema of nograd.toml, as a file that editors can load."""

from __future__ import annotations

import json

from nograd.server.settings.schema import config_schema

__all__ = ["schema"]


def schema() -> str:
    """Return the schema as JSON."""
    return json.dumps(config_schema(), indent=1) + "\n"
