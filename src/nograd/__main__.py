"""`python -m nograd` is the `nograd` command."""

from nograd.cli.commands import main

main()
