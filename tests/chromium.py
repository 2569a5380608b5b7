"""A real browser for the tests of the live page: fixtures `browser` and `page`, and what the tests do with a page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any, Protocol

import httpx
import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed; run: pip install 'nograd[dev]'")

from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium: $CHROMIUM, the system's, or the one playwright installed."""
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        path = os.environ.get("CHROMIUM") or shutil.which("chromium")
        try:
            browser = playwright.chromium.launch(executable_path=path, args=QUIET_CHROMIUM)
        except Error as error:
            pytest.skip(f"no Chromium; run: playwright install chromium ({error.message.splitlines()[0]})")
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield context.new_page()
    context.close()


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
