"""What the README and the docstrings show is run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import nograd

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
FOUND = pkgutil.walk_packages(nograd.__path__, "nograd.")
MODULES = sorted(module.name for module in FOUND if not module.name.endswith("__main__"))
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=lambda code: code.split("\n")[-2][:40])
def test_code_in_the_readme_runs(
    code: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})

    printed = capsys.readouterr().out
    for said in re.findall(r"^(?:print\(.*\)  # |# )(.+)$", code, re.MULTILINE):
        assert said in printed


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_give_what_they_say(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_every_file_and_target_that_the_readme_names_exists() -> None:
    for path in re.findall(r"\]\(([^):#]+)\)", README):
        assert (ROOT / path).exists(), path
    targets = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"make ([a-z]+)", README):
        assert re.search(rf"^{target}:", targets, re.MULTILINE), target


PAGES = sorted(
    [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.py"), *(ROOT / "src").rglob("*.py")]
)


def test_no_sample_that_users_copy_is_constant() -> None:
    constant = re.compile(r"sample=\(?\s*(?:torch|np|numpy)\.(?:zeros|ones|full|empty)\b")
    first_input = re.compile(r"\.predict(?:_\w+)?\((?:torch|np)\.(?:zeros|ones|full|empty)\b")

    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in PAGES
        for pattern in (constant, first_input)
        for match in pattern.finditer(path.read_text("utf-8"))
    ]

    assert found == []
