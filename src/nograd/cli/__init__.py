"""The `nograd` command."""

from nograd.cli.commands import main

__all__ = ["main"]
