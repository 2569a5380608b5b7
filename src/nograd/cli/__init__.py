"""The `nograd` command. `commands/` declares the commands, one file each; the work is done in the packages that they import."""

from nograd.cli.entry import main

__all__ = ["main"]
