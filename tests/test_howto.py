"""The Python of the first page, the tutorial and the how-to pages runs, and prints what it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.redis_server import redis_server

pytestmark = pytest.mark.filterwarnings("ignore:8-bit integers take")  # tiny models may be slower; this says so

DOCS = Path(__file__).parent.parent / "docs"
PAGES = (DOCS / "index.md", DOCS / "tutorial.md", *sorted((DOCS / "howto").glob("*.md")))
BLOCKS = [
    (f"{page.stem}-{number}", code)
    for page in PAGES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL), start=1)
]
REDIS = "redis://localhost:6379/0"


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server.patient_url


def said(code: str) -> list[str]:
    """Return what the comments behind calls of `print` promise, in their order."""
    return re.findall(r"^ *print\(.*\)  # (.+)$", code, re.MULTILINE)


@pytest.mark.parametrize(("name", "code"), BLOCKS, ids=[name for name, _ in BLOCKS])
def test_code_of_a_page_runs(
    name: str,
    code: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if REDIS in code:
        code = code.replace(REDIS, request.getfixturevalue("redis_url"))

    exec(compile(code, f"{name}.py", "exec"), {"__name__": "page"})

    printed = iter(capsys.readouterr().out.splitlines())
    for promised in said(code):
        assert promised in printed


WITHOUT_CODE = ("command-line",)
"""Pages of commands only; the options of their commands are checked by test_reference."""


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem not in WITHOUT_CODE], ids=lambda page: page.stem)
def test_a_page_has_code_that_runs(page: Path) -> None:
    assert any(name.startswith(f"{page.stem}-") and said(code) for name, code in BLOCKS)
