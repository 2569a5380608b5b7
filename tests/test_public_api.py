"""The public names, their signatures and the errors are what tests/public_api.txt says.

A change on purpose is written down with: python -m tests.test_public_api
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nograd
from nograd import errors
from tests.waiting import HANG_S

FILE = Path(__file__).with_name("public_api.txt")


def shown(function: Any) -> str:
    """A signature without the quotes that postponed annotations have."""
    return str(inspect.signature(function)).replace("'", "").replace('"', "")


def members(kind: type) -> Iterator[str]:
    """A public class's own methods and properties; its settings and fields are in the signature of the class."""
    for name, value in sorted(vars(kind).items()):
        if name.startswith("_"):
            continue
        if isinstance(value, property):
            yield f"    {name}: {inspect.signature(value.fget).return_annotation}"  # type: ignore[arg-type]
        elif isinstance(value, classmethod | staticmethod):
            yield f"    {type(value).__name__} {name}{shown(value.__func__)}"
        elif inspect.isfunction(value):
            yield f"    {'async ' if inspect.iscoroutinefunction(value) else ''}{name}{shown(value)}"


def described(name: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        yield f"class {name}{f'({bases})' if bases else ''}"
        if not bases:
            yield f"    __init__{shown(value)}"
        yield from members(value)
    elif callable(value) and not hasattr(value, "__args__"):
        yield f"{name}{shown(value)}"
    else:
        yield name


def public_api() -> str:
    lines = [line for name in nograd.__all__ for line in described(name, getattr(nograd, name))]
    lines.append("")
    for name in errors.__all__:
        kind = getattr(errors, name)
        bases = ", ".join(base.__name__ for base in kind.__bases__)
        lines.append(f"errors.{name}({bases})")
        if "__init__" in vars(kind):
            lines.append(f"    __init__{shown(kind.__init__)}")
    return "\n".join(lines) + "\n"


def test_the_public_api_is_what_is_written_down() -> None:
    assert public_api() == FILE.read_text("utf-8")


def test_every_public_name_can_be_asked_for_and_is_listed() -> None:
    assert sorted(nograd.__all__) == dir(nograd)
    assert all(getattr(nograd, name) is not None for name in nograd.__all__)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'nograd' has no attribute 'nothing'"):
        nograd.nothing  # noqa: B018


def test_every_error_is_listed_and_drawn_in_the_tree() -> None:
    defined = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert defined == set(errors.__all__)
    for name in errors.__all__:
        kind = getattr(errors, name)
        builtin = next((base for base in kind.__bases__ if base.__module__ == "builtins" and base is not Exception), None)
        assert (f"{name} ({builtin.__name__})" if builtin else name) in (errors.__doc__ or "")


HEAVY = ("torch", "numpy", "transformers", "uvicorn", "rich", "prometheus_client", "msgspec")


@pytest.mark.parametrize(
    "what",
    [
        "import nograd",
        "import nograd.errors",
        "import nograd.cli.application",
        "sys.argv[1:] = ['--help']; import nograd.cli.application; nograd.cli.main()",
        "sys.argv[1:] = ['serve', '--help']; import nograd.cli.application; nograd.cli.main()",
    ],
    ids=["import nograd", "import errors", "import cli", "nograd --help", "nograd serve --help"],
)
def test_what_needs_nothing_heavy_loads_nothing_heavy(what: str) -> None:
    code = f"""
import sys
try:
    {what}
except SystemExit as ended:
    assert not ended.code
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_S, check=False)

    assert (ended.returncode, ended.stderr) == (0, "[]\n")


def test_the_server_side_loads_no_torch() -> None:
    code = (
        "import sys, nograd.server.run, nograd.server.models.service, nograd.batching, nograd.text.tokenizing\n"
        "assert 'torch' not in sys.modules"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_S, check=False)

    assert (ended.returncode, ended.stderr) == (0, "")


if __name__ == "__main__":
    FILE.write_text(public_api(), "utf-8")
