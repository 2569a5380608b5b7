"""The documentation builds without a warning, and the site can be read where there is no network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.chromium import browser, context, only_page, page

pytest.importorskip("mkdocs", reason="mkdocs is not installed; run: pip install 'nograd[dev]'")
pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed; run: pip install 'nograd[dev]'")

from playwright.sync_api import Page, expect

__all__ = ["browser", "context", "only_page", "page"]  # fixtures

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
        assert (site / source).with_suffix(".html").is_file(), source

    predictor = (site / "reference" / "python" / "predictor.html").read_text("utf-8")
    for anchor in ("Predictor", "Predictor.predict", "Predictor.predict_proba", "Predictor.gradients"):
        assert f'id="nograd.predictors.predictor.{anchor}"' in predictor
    assert "&gt;&gt;&gt; " in predictor, "an example in a docstring is a block of code"
    assert "<blockquote>" not in predictor


def test_the_pages_show_the_version_of_the_project(site: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]

    for name in ("index.html", "reference/commands.html"):
        assert f"nograd {version}" in (site / name).read_text("utf-8"), name


def test_the_changelog_is_a_page_whose_links_lead_to_pages(site: Path) -> None:
    html = (site / "changelog.html").read_text("utf-8")
    links = re.findall(r'href="(adr/[^"#]+|\w+\.html)', html)

    assert "Unreleased" in html
    assert "adr/0032-connections.html" in links
    assert [link for link in links if not (site / link).is_file()] == []


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
def test_a_browser_sends_requests_to_this_site_only(address: str, page: Page) -> None:
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))

    for path in ("/", "/tutorial.html", "/reference/python/predictor.html"):
        page.goto(f"{address}{path}")
        expect(page.locator("h1")).to_be_visible()

    assert len(requested) > 3
    assert [url for url in requested if not url.startswith((f"{address}/", "data:", "blob:"))] == []


@pytest.mark.browser
def test_pages_links_and_search_work_from_a_file_system(site: Path, page: Page) -> None:
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))

    page.goto((site / "index.html").as_uri())
    page.locator("article").get_by_role("link", name="Tutorial").click()
    expect(page.locator("h1")).to_contain_text("Tutorial")
    page.locator(".md-search__input").first.fill("Retry-After")
    expect(page.locator(".md-search-result__link").first).to_be_visible()

    assert [url for url in requested if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.browser
def test_a_reader_switches_between_system_light_and_dark_colors(site: Path, page: Page) -> None:
    page.goto((site / "index.html").as_uri())
    shown = []
    for title in ("Colors of the system; switch to light", "Light; switch to dark", "Dark; switch to the colors of the system"):
        label = page.locator(f'label[title="{title}"]')
        expect(label).to_be_visible()
        shown.append(page.locator("body").get_attribute("data-md-color-scheme"))
        label.click()

    expect(page.locator('label[title="Colors of the system; switch to light"]')).to_be_visible()
    assert shown[1:] == ["default", "slate"]
