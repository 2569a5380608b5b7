"""The reference lists every command, flag, metric, error and public name, as the code has them now."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import nograd
from nograd import errors
from nograd.server.protocol.statuses import status_of
from nograd.server.telemetry.metrics import Metrics
from scripts.reference import FOLDER, pages
from scripts.reference.commands import COMMANDS, flags
from scripts.reference.failures import exit_code, is_of_requests, made

ROOT = Path(__file__).parent.parent


def test_the_pages_are_what_the_code_says_now() -> None:
    written = {path.relative_to(FOLDER).as_posix(): path.read_text("utf-8") for path in FOLDER.rglob("*.*")}

    assert written == pages(), "run: make reference"


def test_every_command_and_flag_is_listed() -> None:
    page = (FOLDER / "commands.md").read_text("utf-8")

    assert len(COMMANDS) > 8
    for name, command in COMMANDS.items():
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        for flag in flags(command):
            assert re.search(rf"`{flag}[ `]", section), f"{name} {flag}"


def test_every_metric_is_listed() -> None:
    page = (FOLDER / "metrics.md").read_text("utf-8")

    for family in Metrics().registry.collect():
        assert re.search(
            rf"^\| `{family.name}(_total)?` \| {family.type} \| .* \| {re.escape(family.documentation)} \|$", page, re.MULTILINE
        )


def test_every_error_is_listed_and_the_tree_of_errors_tells_the_same_status_and_exit_code() -> None:
    page = (FOLDER / "errors.md").read_text("utf-8")
    tree = errors.__doc__ or ""

    for name in set(errors.__all__) - {"NogradError"}:
        assert f"\n| `{name}` | " in page
        line = next(line for line in tree.splitlines() if f"─ {name} " in line)
        if found := re.search(r"exit (\d)", line):
            assert exit_code(made(name)) == int(found[1])
        if found := re.search(r"HTTP (\d+)", line):
            assert is_of_requests(name)
            assert status_of(made(name)) == int(found[1])


def test_every_public_name_has_its_place() -> None:
    text = "".join(path.read_text("utf-8") for path in (FOLDER / "python").glob("*.md"))

    for name in set(nograd.__all__) - {"__version__"}:
        assert re.search(rf"^::: nograd\.[\w.]+\.{name}$", text, re.MULTILINE), name


def lines() -> list[tuple[str, str]]:
    """Every line that begins with `nograd` in a code block of the README and the documentation, by its page."""
    found = []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        blocks = re.findall(r"^(?:    |\$ )(nograd [a-z].*)$", path.read_text("utf-8").replace("\\\n", ""), re.MULTILINE)
        found += [(path.name, line) for line in blocks]
    return found


@pytest.mark.parametrize(("page", "line"), lines())
def test_a_command_that_the_documentation_shows_is_one(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    name = next((name for name in COMMANDS if words[: len(name.split())] == name.split()), None)

    assert name is not None, f"{page}: {line}"
    known = flags(COMMANDS[name])
    for word in words:
        flag = word.partition("=")[0]
        assert not flag.startswith("-") or flag in (*known, "-"), f"{page}: {name} has no {flag}"
