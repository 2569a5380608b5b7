"""The documentation builds without a warning, and the site can be read where there is no network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.chromium import browser, page

pytest.importorskip("mkdocs", reason="mkdocs is not installed; run: pip install 'nograd[dev]'")
pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed; run: pip install 'nograd[dev]'")

from playwright.sync_api import Page, expect

__all__ = ["browser", "page"]  # fixtures

ROOT = Path(__file__).parent.parent

FETCHED = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "modulepreload", "manifest"}
"""Kinds of links that a browser follows by itself."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    ended = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return folder


class Assets(HTMLParser):
    """Gathers what a browser fetches by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "src" in given:
            self.found.append(given["src"])
        if tag == "link" and FETCHED & set(given.get("rel", "").split()):
            self.found.append(given["href"])


def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for each in pages:
        html = each.read_text("utf-8")
        assets = Assets()
        assets.feed(html)
        assert assets.found, each
        assert [asset for asset in assets.found if re.match(r"(\w+:)?//", asset)] == [], each
        assert 'class="mermaid"' not in html, "the theme would fetch mermaid for it"


def test_no_stylesheet_fetches_anything_from_elsewhere(site: Path) -> None:
    sheets = list(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        assert re.findall(r"(?:url\(|@import )\s*[\"']?(?:\w+:)?//[^\s)]*", sheet.read_text("utf-8")) == []


def test_every_source_page_is_built_and_the_reference_has_its_signatures(site: Path) -> None:
    sources = [path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")]
    for source in sources:
        assert (site / source.parent / ("" if source.name == "index" else source.name) / "index.html").is_file(), source

    predictor = (site / "reference" / "python" / "predictor" / "index.html").read_text("utf-8")
    for anchor in ("Predictor", "Predictor.predict", "Predictor.predict_proba", "Predictor.gradients"):
        assert f'id="nograd.predictors.predictor.{anchor}"' in predictor
    assert "&gt;&gt;&gt; " in predictor, "an example in a docstring is a block of code"
    assert "<blockquote>" not in predictor


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the library's name
        """Say nothing."""


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.browser
def test_a_browser_asks_nobody_else(address: str, page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))

    for path in ("/", "/tutorial/", "/reference/python/predictor/"):
        page.goto(f"{address}{path}")
        expect(page.locator("h1")).to_be_visible()

    assert len(asked) > 3
    assert [url for url in asked if not url.startswith((f"{address}/", "data:", "blob:"))] == []
