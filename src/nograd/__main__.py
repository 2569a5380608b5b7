"""`python -m nograd` is the `nograd` command."""

from nograd.cli import main

main()
