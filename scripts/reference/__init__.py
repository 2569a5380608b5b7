"""The pages of docs/reference, made from the code: every command and flag, metric, error and public name.

Write them anew after a change of the code with `make reference`; a test compares them with what the code says now.
"""

from __future__ import annotations

from pathlib import Path

from scripts.reference.commands import commands
from scripts.reference.failures import failures
from scripts.reference.metrics import metrics
from scripts.reference.names import names
from scripts.reference.schema import schema

__all__ = ["FOLDER", "pages"]

FOLDER = Path(__file__).parent.parent.parent / "docs" / "reference"


def pages() -> dict[str, str]:
    """Return the text of each page by its path below docs/reference."""
    return {
        "commands.md": commands(),
        "nograd.schema.json": schema(),
        "metrics.md": metrics(),
        "errors.md": failures(),
        **names(),
    }
