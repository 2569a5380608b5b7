"""The live page, in a real browser against a real server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any, Protocol

import httpx
import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed; run: pip install 'nograd[dev]'")

from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

QUIET_CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NOT_MEASURED = "\N{EN DASH}"

pytestmark = pytest.mark.browser


class Server(Protocol):
    """What the fixtures `tiny_server` and `text_server` yield."""

    @property
    def url(self) -> str: ...


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium: $CHROMIUM, the system's, or the one playwright installed."""
    expect.set_options(timeout=15_000)
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
    page.goto(server.url)
    expect(page.locator("#state")).to_have_text("ready")


def infer(server: Server, model: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{server.url}/v2/models/{model}/infer", json=body)


def total_requests(server: Server) -> int:
    live = httpx.get(f"{server.url}/live.json").json()
    return int(live["models"][0]["totals"]["requests"])


def tiny_body(*shape: int) -> dict[str, Any]:
    data = [0.5] * (shape[0] * shape[1])
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": list(shape), "data": data}]}


def echo_body(*texts: str) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)}]}


def run_shown_curl(page: Page) -> dict[str, Any]:
    """Run the page's curl line in a real shell and return the answer."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    line = page.locator("#try-curl").text_content() or ""
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True, timeout=30)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_the_page_shows_ready_without_an_error_or_a_policy_violation(page: Page, tiny_server: Server) -> None:
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))

    response = page.goto(tiny_server.url)

    expect(page.locator("#state")).to_have_text("ready")
    expect(page.locator("#model-name")).to_have_text("tiny")
    assert response is not None
    assert "default-src 'self'" in response.headers["content-security-policy"]
    page.wait_for_load_state("networkidle")
    assert faults == []


def test_the_figures_move_under_load(page: Page, tiny_server: Server) -> None:
    open_page(page, tiny_server)
    before = total_requests(tiny_server)

    for _ in range(20):
        infer(tiny_server, "tiny", tiny_body(1, 16)).raise_for_status()

    expect(page.locator("#total-requests")).to_have_text(f"{before + 20:,}")
    expect(page.locator("#p50")).not_to_have_text(NOT_MEASURED)
    expect(page.locator("#p99")).not_to_have_text(NOT_MEASURED)
    expect(page.locator("#batch-histogram .bar")).not_to_have_count(0)


def test_the_json_playground_sends_the_models_example(page: Page, tiny_server: Server) -> None:
    open_page(page, tiny_server)

    page.click("#try-send")

    expect(page.locator("#try-answer")).to_contain_text("output")
    expect(page.locator("#try-answer")).to_contain_text("4 values, L2 norm")
    expect(page.locator("#try-status")).to_contain_text("round trip")
    expect(page.locator("#try-error")).to_be_hidden()


def test_the_text_playground_sends_a_row_per_line_and_compares_the_rows(page: Page, text_server: Server) -> None:
    open_page(page, text_server)

    page.fill("#try-input", "a boat in the harbour\n\nrevenue grew by four percent")
    page.press("#try-input", "Control+Enter")

    expect(page.locator("#try-answer")).to_contain_text("FP32 [2, 8]")
    similarity = page.locator("#try-similarity tbody")
    expect(similarity.locator("tr")).to_have_count(2)
    cells = [float(text) for text in similarity.locator("td").all_text_contents()]
    assert len(cells) == 4
    assert cells[0] == cells[3] == 1.0
    assert cells[1] == cells[2]


def test_one_line_has_an_answer_and_nothing_to_compare(page: Page, text_server: Server) -> None:
    open_page(page, text_server)

    page.fill("#try-input", "alone")
    page.click("#try-send")

    expect(page.locator("#try-answer")).to_contain_text("FP32 [1, 8]")
    expect(page.locator("#try-similarity")).to_have_count(0)


def test_a_refusal_is_shown_in_place_in_the_servers_words(page: Page, tiny_server: Server) -> None:
    open_page(page, tiny_server)
    body = tiny_body(1, 3)
    refused = infer(tiny_server, "tiny", body)

    page.fill("#try-input", json.dumps(body))
    page.click("#try-send")

    expect(page.locator("#try-error")).to_be_visible()
    expect(page.locator("#try-error")).to_have_text(f"{refused.status_code}{refused.json()['error']}")
    expect(page.locator("#try-answer")).to_be_hidden()


def test_typed_markup_stays_text(page: Page, text_server: Server) -> None:
    open_page(page, text_server)

    page.fill("#try-input", "<img src=x>\n<b>bold</b>")
    page.click("#try-send")

    expect(page.locator("#try-answer")).to_contain_text("<img src=x>")
    expect(page.locator("#try-answer").locator("img, b")).to_have_count(0)


def test_the_curl_line_of_the_editor_gives_the_same_answer(page: Page, tiny_server: Server) -> None:
    open_page(page, tiny_server)
    body = tiny_body(2, 16)

    page.fill("#try-input", json.dumps(body, indent=2))

    assert run_shown_curl(page)["outputs"] == infer(tiny_server, "tiny", body).json()["outputs"]


def test_the_curl_line_survives_what_a_shell_would_read(page: Page, text_server: Server) -> None:
    open_page(page, text_server)
    texts = ['it\'s "quoted"', "$HOME `id` !! \\ & ; *", "früh am Morgen 早上"]

    page.fill("#try-input", "\n".join(texts))

    assert run_shown_curl(page)["outputs"] == infer(text_server, "echo", echo_body(*texts)).json()["outputs"]


def test_a_server_that_is_gone_is_called_unreachable_until_it_is_back(page: Page, tiny_server: Server) -> None:
    open_page(page, tiny_server)

    page.context.set_offline(True)
    expect(page.locator("#state")).to_have_text("unreachable")
    expect(page.locator("#notice")).to_contain_text("does not answer")

    page.context.set_offline(False)
    expect(page.locator("#state")).to_have_text("ready")
    expect(page.locator("#notice")).not_to_contain_text("does not answer")


def test_nothing_is_cut_off_on_a_phone(page: Page, text_server: Server) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    open_page(page, text_server)

    page.fill("#try-input", "\n".join(f"{number} boats lie still in the harbour before sunrise" for number in range(6)))
    page.click("#try-send")

    expect(page.locator("#try-similarity")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
