"""The live page, in a real browser against a real server: what it shows of the server and its models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from tests.chromium import Server, browser, context, infer, live_json, only_page, open_page, page, tiny_body
from tests.running_server import serving

__all__ = ["browser", "context", "only_page", "page"]

TIMES = "\N{MULTIPLICATION SIGN}"
NOT_MEASURED = "\N{EN DASH}"

pytestmark = pytest.mark.browser

Live = dict[str, Any]


def show_instead(page: Page, made: Callable[[], Live]) -> None:
    """Have the page read another live.json than the server's."""

    def answer(route: Route) -> None:
        route.fulfill(json=made())

    page.route("**/live.json", answer)


def named(model: Live, name: str, **changed: Any) -> Live:
    return {**copy.deepcopy(model), "name": name, **changed}


def test_the_page_shows_ready_without_an_error_or_a_policy_violation(page: Page, tiny_server: Server) -> None:
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))

    response = page.goto(tiny_server.url)

    expect(page.locator("#state")).to_have_text("ready")
    expect(page.locator("#model-name")).to_have_text("tiny")
    assert response is not None
    assert response.headers["content-security-policy"] == "default-src 'self'; frame-ancestors 'none'"
    page.wait_for_load_state("networkidle")
    assert faults == []


def test_the_page_asks_nobody_but_its_server(page: Page, tiny_server: Server) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))

    open_page(page, tiny_server)

    assert len(asked) > 5
    assert [url for url in asked if not url.startswith(f"{tiny_server.url}/")] == []


# -- the figures


def test_the_figures_move_under_load(page: Page, tiny_server: Server) -> None:
    open_page(page, tiny_server)
    before = int(live_json(tiny_server)["models"][0]["totals"]["requests"])

    for number in range(20):
        body = tiny_body(1, 16)
        body["inputs"][0]["data"] = [float(number)] * 16  # what the cache knows makes no batch
        infer(tiny_server, "tiny", body).raise_for_status()

    expect(page.locator("#total-requests")).to_have_text(f"{before + 20:,}")
    expect(page.locator("#p50")).not_to_have_text(NOT_MEASURED)
    expect(page.locator("#p99")).not_to_have_text(NOT_MEASURED)
    expect(page.locator("#batch-histogram .bar")).not_to_have_count(0)
    expect(page.locator("#release-reasons")).to_contain_text("device free")


def test_real_batches_stand_beside_the_curve(page: Page, tiny_server: Server) -> None:
    open_page(page, tiny_server)
    expect(page.locator("#cost-chart .predicted")).to_have_count(1)

    body = tiny_body(7, 16)
    body["inputs"][0]["data"] = [number / 100 for number in range(7 * 16)]  # seven rows that no cache knows
    infer(tiny_server, "tiny", body).raise_for_status()

    mark = page.locator("#cost-chart .seen[data-size='7']")
    expect(mark).to_have_count(1)
    expect(mark.locator("title")).to_contain_text("rows: 7; ")
    expect(page.locator("#cost-note")).to_contain_text(f"{TIMES} predicted, as measured at the start")


def test_the_cache_tells_what_it_saved(page: Page, text_server: Server) -> None:
    cache = {**live_json(text_server)["models"][0]["cache"], "rows": 200, "hits": 50, "saved_ms": 12_345.0, "is_on": True}
    model = {**live_json(text_server)["models"][0], "cache": cache}
    shown = {**live_json(text_server), "models": [model]}
    show_instead(page, lambda: shown)
    open_page(page, text_server)

    expect(page.locator("#cache-share")).to_have_text("25")
    expect(page.locator("#total-cache-hits")).to_have_text("50 of 200 (25 %)")
    expect(page.locator("#total-cache-saved")).to_have_text("12.3 s")
    expect(page.locator("#cache-state")).to_have_text("on")

    cache["is_on"] = False
    expect(page.locator("#cache-state")).to_have_text("off: it costs more than it saves")


def test_errors_are_listed_once_with_their_number(page: Page, tiny_server: Server) -> None:
    open_page(page, tiny_server)
    told = [infer(tiny_server, "tiny", tiny_body(1, 3)).json()["error"] for _ in range(3)]

    expect(page.locator("#last-errors .sentence").first).to_have_text(told[0])
    known = next(each for each in live_json(tiny_server)["models"][0]["last_errors"] if each["error"] == told[0])
    assert known["count"] >= 3
    expect(page.locator("#last-errors li").first).to_contain_text(f"{known['count']} times, last ")


# -- how the server is


def test_faults_of_the_server_are_said_above_everything(page: Page, tiny_server: Server) -> None:
    shown = live_json(tiny_server)
    series = shown["models"][0]["series"]
    series["requests"], series["errors"], series["faults"] = [1] * 60, [1] * 60, [0] * 60
    show_instead(page, lambda: shown)
    open_page(page, tiny_server)
    expect(page.locator("#state")).to_have_attribute("data-tone", "good")  # what a client does wrong is no fault of the server

    series["faults"] = [1] * 60

    expect(page.locator("#state")).to_have_attribute("data-tone", "bad")
    expect(page.locator("#notice")).to_have_text("60 of 120 requests of the last minute failed (50 %); see the last errors")


@pytest.mark.parametrize(
    ("server", "state", "notice"),
    [
        ({"ready": False, "draining": False}, "warming", "its models are warming up"),
        ({"ready": False, "draining": True}, "draining", "finishes what is queued and refuses new requests"),
    ],
)
def test_a_server_that_is_not_ready_says_why(
    page: Page, tiny_server: Server, server: dict[str, bool], state: str, notice: str
) -> None:
    shown = live_json(tiny_server)
    shown["server"].update(server)
    show_instead(page, lambda: shown)

    page.goto(tiny_server.url)

    expect(page.locator("#state")).to_have_text(state)
    expect(page.locator("#notice")).to_contain_text(notice)


def test_a_server_that_is_gone_is_called_unreachable_until_it_is_back(page: Page) -> None:
    with serving("dense", "--name", "tiny") as server:
        open_page(page, server)
        port = server.url.rpartition(":")[2]
        server.stop()
        expect(page.locator("#state")).to_have_text("unreachable")
        expect(page.locator("#notice")).to_contain_text(f"127.0.0.1:{port} does not answer. The figures below are of ")
        expect(page.locator("#live")).to_have_attribute("data-stale", "true")

    with serving("dense", "--name", "tiny", "--port", port):
        expect(page.locator("#state")).to_have_text("ready")
        expect(page.locator("#live")).to_have_attribute("data-stale", "false")
        expect(page.locator("#notice")).not_to_contain_text("does not answer")


def test_a_server_with_keys_shows_itself_to_those_who_have_one(page: Page) -> None:
    with serving("dense", "--name", "tiny", environment={"NOGRAD_API_KEYS": "secret"}) as server:
        page.goto(server.url)
        expect(page.locator("#state")).to_have_text("locked")
        expect(page.locator("#notice")).to_contain_text("shows its figures to those who have an API key")

        page.fill("#key", "guess")
        page.press("#key", "Enter")
        expect(page.locator("#notice")).to_have_text("This API key is unknown.")
        page.fill("#key", "secret")
        page.press("#key", "Enter")

        expect(page.locator("#state")).to_have_text("ready")
        expect(page.locator("#key-form")).to_be_hidden()
        page.click("#try-send")
        expect(page.locator("#try-answer")).to_contain_text("4 values, L2 norm")


# -- several models


def test_every_model_has_a_row_and_is_shown_when_it_is_picked(page: Page, tiny_server: Server) -> None:
    shown = live_json(tiny_server)
    model = shown["models"][0]
    other = named(model, "other", inputs=[{"name": "words", "datatype": "BYTES", "shape": [-1]}], example=None, ready=False)
    shown["models"] = [model, other, named(model, "tiny", version="2")]
    show_instead(page, lambda: shown)
    open_page(page, tiny_server)

    expect(page.locator("#models-title")).to_have_text("3 models")
    expect(page.locator("#models-body .pick")).to_have_text(["tiny", "other", "tiny, version 2"])
    expect(page.locator("#models-body .dot-state")).to_have_text(["ready", "warming", "ready"])
    expect(page.locator("#model-name")).to_have_text("tiny")

    page.locator("#models-body .pick").nth(1).press("Enter")

    expect(page.locator("#model-name")).to_have_text("other")
    expect(page.locator("#models-body .pick").nth(1)).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#try-label")).to_have_text("words, one row per line")
    page.reload()
    expect(page.locator("#model-name")).to_have_text("other")


def test_an_address_that_names_no_model_shows_the_first(page: Page, tiny_server: Server) -> None:
    for fragment in ("%", "gone%2F1", "try"):
        page.goto(f"{tiny_server.url}/#{fragment}")
        page.reload()
        expect(page.locator("#model-name")).to_have_text("tiny")


def test_models_appear_and_vanish_and_what_is_typed_stays(page: Page, tiny_server: Server) -> None:
    shown = live_json(tiny_server)
    (model,) = shown["models"]
    show_instead(page, lambda: shown)
    open_page(page, tiny_server)
    expect(page.locator("#models")).to_be_hidden()
    page.fill("#try-input", "half a request")

    shown["models"] = [named(model, "new"), model]
    expect(page.locator("#models-body .pick")).to_have_text(["new", "tiny"])
    expect(page.locator("#try-input")).to_have_value("half a request")

    shown["models"] = [named(model, "new")]
    expect(page.locator("#model-name")).to_have_text("new")
    expect(page.locator("#models")).to_be_hidden()

    shown["models"] = []
    expect(page.locator("#notice")).to_have_text("The server holds no model.")
    expect(page.locator("#live")).to_be_hidden()


# -- how it looks


def ground(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


LIGHT, DARK = "rgb(244, 245, 247)", "rgb(14, 18, 23)"


def test_colours_follow_the_system_until_the_switch_says_otherwise(browser: Browser, tiny_server: Server) -> None:
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    open_page(page, tiny_server)
    assert ground(page) == DARK
    page.emulate_media(color_scheme="light")
    assert ground(page) == LIGHT

    page.click("#theme")
    page.emulate_media(color_scheme="dark")
    assert ground(page) == LIGHT
    page.click("#theme")
    page.emulate_media(color_scheme="light")
    expect(page.locator("#theme span")).to_have_text("dark")
    page.reload()
    assert ground(page) == DARK
    page.click("#theme")
    assert ground(page) == LIGHT
    context.close()


@pytest.mark.parametrize("width", [360, 380, 700, 1600])
def test_nothing_is_cut_off_at_any_width(page: Page, text_server: Server, width: int) -> None:
    shown = live_json(text_server)
    shown["models"] += [named(shown["models"][0], f"{'another-model-with-a-long-name-' * 2}{number}") for number in range(3)]
    show_instead(page, lambda: shown)
    page.set_viewport_size({"width": width, "height": 800})
    open_page(page, text_server)

    page.fill("#try-input", "\n".join(f"{number} boats lie still in the harbour before sunrise" for number in range(6)))
    page.click("#try-send")

    expect(page.locator("#try-similarity")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_every_control_has_a_name_and_every_name_is_used_once(page: Page, tiny_server: Server) -> None:
    open_page(page, tiny_server)

    nameless = page.evaluate("""
        [...document.querySelectorAll("button, input, select, textarea, [role=img], [role=region]")]
            .filter((node) => node.checkVisibility())
            .filter((node) => !(node.ariaLabel || node.getAttribute("aria-labelledby") || node.textContent.trim()
                || [...(node.labels ?? [])].some((label) => label.textContent.trim())))
            .map((node) => node.outerHTML)
    """)
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")

    assert nameless == []
    assert len(ids) == len(set(ids))


def test_the_page_rests_while_nobody_looks(context: BrowserContext, tiny_server: Server) -> None:
    page = context.new_page()
    page.add_init_script("""
        let isHidden = false;
        Object.defineProperty(document, "hidden", { get: () => isHidden });
        window.hide = (value) => { isHidden = value; document.dispatchEvent(new Event("visibilitychange")); };
        window.setTimeout = new Proxy(window.setTimeout, { apply: (real, self, [done]) => real(done, 0) });
    """)
    page.goto(tiny_server.url)
    expect(page.locator("#state")).to_have_text("ready")
    asked: list[str] = []
    page.evaluate("hide(true)")
    page.wait_for_load_state("networkidle")
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate("Promise.all(Array.from({ length: 50 }, () => new Promise((done) => setTimeout(done))))")
    assert asked == []

    with page.expect_request("**/live.json"):
        page.evaluate("hide(false)")
    page.close()
