"""A real browser for tests: fixtures `browser`, `context` and `page`, and calls of the live page that tests share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import httpx
import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed; run: pip install 'nograd[dev]'")

from playwright.sync_api import Browser, BrowserContext, Error, Page, ViewportSize, expect, sync_playwright

from tests.waiting import HANG_S

QUIET_CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Server(Protocol):
    """What the fixtures `tiny_server` and `text_server` yield."""

    @property
    def url(self) -> str: ...


@contextmanager
def launched() -> Iterator[Browser]:
    """Run Chromium: $CHROMIUM, the system's, or the one that playwright installed.

    A file of tests has its own: while playwright's loop is there, no other test of the process can call `asyncio.run`.
    """
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        path = os.environ.get("CHROMIUM") or shutil.which("chromium")
        try:
            browser = playwright.chromium.launch(executable_path=path, args=QUIET_CHROMIUM)
        except Error as error:
            pytest.skip(f"no Chromium; run: playwright install chromium ({error.message.splitlines()[0]})")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


VIEWPORT: ViewportSize = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """The context of a file's pages."""
    context = browser.new_context(viewport=VIEWPORT)
    yield context
    context.close()


@pytest.fixture(scope="module")
def only_page(context: BrowserContext) -> Page:
    """The page of a file's tests: a new one for each test would double their processor time (2026-12-01)."""
    return context.new_page()


@pytest.fixture
def page(only_page: Page) -> Page:
    """An empty page without routes; nothing is stored of earlier tests. A test that adds an init script uses `context`."""
    only_page.unroute_all()
    only_page.goto("about:blank")
    only_page.set_viewport_size(VIEWPORT)
    only_page.emulate_media(color_scheme="null")
    session = only_page.context.new_cdp_session(only_page)
    session.send("Storage.clearDataForOrigin", {"origin": "*", "storageTypes": "all"})
    session.detach()
    return only_page


def open_page(page: Page, server: Server) -> None:
    """Open the live page and wait until it shows the server."""
    page.goto(server.url)
    expect(page.locator("#state")).to_have_text("ready")


def infer(server: Server, model: str, body: dict[str, Any]) -> httpx.Response:
    """POST an infer request."""
    return httpx.post(f"{server.url}/v2/models/{model}/infer", json=body, timeout=HANG_S)


def live_json(server: Server) -> dict[str, Any]:
    """Return what the page is drawn from."""
    answer: dict[str, Any] = httpx.get(f"{server.url}/live.json", timeout=HANG_S).json()
    return answer


def tiny_body(*shape: int) -> dict[str, Any]:
    """Return a request to the model `tiny`."""
    data = [0.5] * (shape[0] * shape[1])
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": list(shape), "data": data}]}
