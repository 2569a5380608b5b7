"""Trying a model on the live page, in a real browser against a real server: every editor, every kind of answer."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, Route, expect

from tests.chromium import Server, browser, context, infer, live_json, only_page, open_page, page, tiny_body
from tests.running_server import RunningServer, serving
from tests.waiting import HANG_S

__all__ = ["browser", "context", "only_page", "page"]

TIMES, MINUS = "\N{MULTIPLICATION SIGN}", "\N{MINUS SIGN}"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def columns_server() -> Iterator[RunningServer]:
    """A model named `columns`: input `image` FP32 [-1, 1, 8, 8], output `scores` FP32 [-1, 8]."""
    with serving("columns", "--name", "columns") as server:
        yield server


@pytest.fixture(scope="module")
def telling_server() -> Iterator[RunningServer]:
    """A model named `telling`: input `x` FP32 [-1, 2], outputs `word` and `facts`, text."""
    with serving("telling", "--name", "telling") as server:
        yield server


def run_shown_curl(page: Page, folder: Path | None = None) -> dict[str, Any]:
    """Run the page's curl line in a real shell and return the answer."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    line = page.locator("#try-curl").text_content() or ""
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True, timeout=HANG_S, cwd=folder)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def echo_body(*texts: str) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)}]}


def use_json(page: Page) -> None:
    page.locator("#try-kinds").get_by_label("JSON").check()


# -- JSON


def test_the_json_playground_sends_the_models_example(page: Page, tiny_server: Server) -> None:
    open_page(page, tiny_server)

    page.click("#try-send")

    expect(page.locator("#try-answer")).to_contain_text("output")
    expect(page.locator("#try-answer")).to_contain_text("4 values, L2 norm")
    expect(page.locator("#try-status")).to_contain_text("round trip")
    expect(page.locator("#try-error")).to_be_hidden()


def test_a_refusal_is_shown_in_place_in_the_servers_words(page: Page, tiny_server: Server) -> None:
    open_page(page, tiny_server)
    body = tiny_body(1, 3)
    refused = infer(tiny_server, "tiny", body)

    page.fill("#try-input", json.dumps(body))
    page.click("#try-send")

    expect(page.locator("#try-error")).to_be_visible()
    expect(page.locator("#try-error")).to_have_text(f"{refused.status_code}{refused.json()['error']}")
    expect(page.locator("#try-answer")).to_be_hidden()


def test_a_server_that_does_not_answer_is_said_in_a_sentence(page: Page, tiny_server: Server) -> None:
    open_page(page, tiny_server)
    page.route("**/infer", lambda route: route.abort())

    page.click("#try-send")

    expect(page.locator("#try-error")).to_have_text("no answerthe server does not answer")


def test_a_server_that_wants_a_key_is_given_the_one_that_is_typed(page: Page, tiny_server: Server) -> None:
    keys: list[str | None] = []

    def door(route: Route) -> None:
        keys.append(route.request.headers.get("x-api-key"))
        if keys[-1] == "secret":
            route.continue_()
        else:
            route.fulfill(status=401, json={"error": "this server needs an API key"})

    page.route("**/infer", door)
    open_page(page, tiny_server)
    expect(page.locator("#key-form")).to_be_hidden()

    page.click("#try-send")
    expect(page.locator("#try-error")).to_have_text("401this server needs an API key")
    expect(page.locator("#key")).to_be_focused()
    expect(page.locator("#try-curl")).to_contain_text('-H "X-API-Key: $API_KEY"')
    page.fill("#key", "secret")
    page.press("#key", "Enter")
    page.click("#try-send")

    expect(page.locator("#try-answer")).to_contain_text("4 values, L2 norm")
    expect(page.locator("#try-curl")).not_to_contain_text("secret")
    assert keys == [None, "secret"]


def test_the_curl_line_of_the_editor_gives_the_same_answer(page: Page, tiny_server: Server) -> None:
    open_page(page, tiny_server)
    body = tiny_body(2, 16)

    page.fill("#try-input", json.dumps(body, indent=2))

    assert run_shown_curl(page)["outputs"] == infer(tiny_server, "tiny", body).json()["outputs"]


def test_the_curl_line_is_copied(browser: Browser, tiny_server: Server) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    open_page(page, tiny_server)

    page.click("#try-copy")

    expect(page.locator("#try-copy")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == page.locator("#try-curl").text_content()
    context.close()


# -- text


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
    expect(page.locator("#try-answer svg.vector")).to_have_count(2)


def test_one_line_has_an_answer_and_nothing_to_compare(page: Page, text_server: Server) -> None:
    open_page(page, text_server)

    page.fill("#try-input", "alone")
    page.click("#try-send")

    expect(page.locator("#try-answer")).to_contain_text("FP32 [1, 8]")
    expect(page.locator("#try-similarity")).to_have_count(0)


def test_typed_markup_stays_text(page: Page, text_server: Server) -> None:
    open_page(page, text_server)

    page.fill("#try-input", "<img src=x>\n<b>bold</b>")
    page.click("#try-send")

    expect(page.locator("#try-answer")).to_contain_text("<img src=x>")
    expect(page.locator("#try-answer").locator("img, b")).to_have_count(0)


def test_the_curl_line_survives_what_a_shell_would_read(page: Page, text_server: Server) -> None:
    open_page(page, text_server)
    texts = ['it\'s "quoted"', "$HOME `id` !! \\ & ; *", "früh am Morgen 早上"]

    page.fill("#try-input", "\n".join(texts))

    assert run_shown_curl(page)["outputs"] == infer(text_server, "echo", echo_body(*texts)).json()["outputs"]


def test_a_text_model_takes_json_too(page: Page, text_server: Server) -> None:
    open_page(page, text_server)

    use_json(page)
    page.fill("#try-input", json.dumps(echo_body("one", "two", "three")))
    page.click("#try-send")

    expect(page.locator("#try-answer")).to_contain_text("FP32 [3, 8]")


# -- numbers


def test_a_small_vector_has_a_field_and_a_slider_for_each_number(page: Page, telling_server: Server) -> None:
    open_page(page, telling_server)
    sliders = page.locator("#try-editor input[type=range]")
    expect(sliders).to_have_count(2)

    page.fill("#try-number-0", "0.75")
    page.locator("#try-editor input[type=range]").nth(1).fill("-0.5")

    expect(sliders.nth(0)).to_have_value("0.75")
    expect(page.locator("#try-number-1")).to_have_value("-0.5")
    expect(page.locator("#try-curl")).to_contain_text('"data":[0.75,-0.5]')


def test_text_is_answered_as_text_and_json_in_it_indented(page: Page, telling_server: Server) -> None:
    open_page(page, telling_server)

    page.fill("#try-number-0", "0.75")
    page.fill("#try-number-1", "0.25")
    page.click("#try-send")

    said = page.locator("#try-answer .said")
    expect(said).to_have_text(["<b>much</b>", '{ "largest": 1.5 }'])
    assert said.nth(1).text_content() == '{\n  "largest": 1.5\n}'
    expect(page.locator("#try-answer b")).to_have_count(0)


def test_a_missing_number_is_not_sent(page: Page, telling_server: Server) -> None:
    open_page(page, telling_server)

    page.fill("#try-number-1", "")
    page.click("#try-send")

    expect(page.locator("#try-error")).to_have_text("not sentnumber 1 is missing")


# -- pictures


def png(pixels: Any, name: str = "picture.png") -> FilePayload:
    held = BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(held, "png")
    return {"name": name, "mimeType": "image/png", "buffer": held.getvalue()}


def stripe(column: int) -> FilePayload:
    """A black picture of the model's own size with one white column."""
    pixels = np.zeros((8, 8), np.uint8)
    pixels[:, column] = 255
    return png(pixels, "stripe.png")


def test_a_picture_is_drawn_at_the_models_size_and_answered_as_classes(page: Page, columns_server: Server) -> None:
    open_page(page, columns_server)
    page.set_input_files("#try-file", stripe(5))
    expect(page.locator("#try-did")).to_have_text(
        f"stripe.png, 8 {TIMES} 8: its middle drawn at 8 {TIMES} 8, grey, value / 255; FP32 [1, 1, 8, 8], 256 bytes"
    )

    page.click("#try-send")
    expect(page.locator("#try-answer .classes li").first).to_have_text("class 5100 %")
    expect(page.locator("#try-answer")).to_contain_text("the likeliest 5 of 8 classes; as answered: they add up to 1")

    page.select_option("#try-scale", "symmetric")
    page.click("#try-send")
    share = np.exp(2) / (np.exp(2) + 7)
    expect(page.locator("#try-answer .classes li").first).to_have_text(f"class 5{100 * share:.1f} %")
    expect(page.locator("#try-answer .classes li")).to_have_count(5)
    expect(page.locator("#try-answer")).to_contain_text("the likeliest 5 of 8 classes; softmax of the scores")


def test_what_was_computed_from_the_picture_is_what_was_said(page: Page, columns_server: Server) -> None:
    open_page(page, columns_server)
    page.set_input_files("#try-file", stripe(2))
    page.select_option("#try-scale", "symmetric")
    expect(page.locator("#try-did")).to_contain_text(f"(value / 255 {MINUS} 0.5) / 0.5; FP32 [1, 1, 8, 8]")

    page.click("#try-send")

    expect(page.locator("#try-answer .row code")).to_have_text("[-1, -1, 1, -1, -1, -1, -1, -1]")


@pytest.mark.parametrize(("fit", "answer"), [("cover", "1, 1, 1, 1, 1, 1, 1, 1"), ("contain", "0, 0, 0.5, 1, 1, 0.5, 0, 0")])
def test_a_picture_of_another_shape_is_cut_or_framed(page: Page, columns_server: Server, fit: str, answer: str) -> None:
    pixels = np.full((16, 16), 255)
    if fit == "contain":  # half as wide as high, its left and right edge grey
        pixels = pixels[:, :8].copy()
        pixels[:, :2] = pixels[:, -2:] = 127.5
    open_page(page, columns_server)
    page.set_input_files("#try-file", png(pixels))
    page.select_option("#try-fit", fit)

    page.click("#try-send")

    shown = page.locator("#try-answer .row code")
    expect(shown).to_have_text(re.compile(r"^\["))
    values = json.loads(shown.text_content() or "")
    assert values == pytest.approx([float(each) for each in answer.split(", ")], abs=0.01)


def test_a_picture_can_be_sent_before_one_is_chosen(page: Page, columns_server: Server) -> None:
    open_page(page, columns_server)

    page.click("#try-send")

    expect(page.locator("#try-answer .row-head")).to_contain_text("a test picture")


def test_what_is_no_picture_is_said_in_a_sentence(page: Page, columns_server: Server) -> None:
    open_page(page, columns_server)

    page.set_input_files("#try-file", {"name": "notes.png", "mimeType": "image/png", "buffer": b"no picture"})

    expect(page.locator("#try-did")).to_have_text("notes.png is not a picture that this browser can open")


def test_a_scale_that_is_no_number_is_not_sent(page: Page, columns_server: Server) -> None:
    open_page(page, columns_server)

    page.fill("#try-std", "0")
    page.click("#try-send")

    expect(page.locator("#try-error")).to_have_text("not sentstd is “0”; it takes one number, not 0")


def test_the_saved_picture_and_the_curl_line_give_the_same_answer(page: Page, columns_server: Server, tmp_path: Path) -> None:
    open_page(page, columns_server)
    page.set_input_files("#try-file", stripe(3))
    expect(page.locator("#try-did")).to_contain_text("stripe.png")
    with page.expect_download() as download:
        page.click("#try-save")
    download.value.save_as(tmp_path / download.value.suggested_filename)

    (output,) = run_shown_curl(page, tmp_path)["outputs"]

    assert output["data"] == [float(column == 3) for column in range(8)]


def test_a_picture_too_long_to_show_can_be_written_as_json(page: Page, columns_server: Server) -> None:
    shown = live_json(columns_server)
    shown["models"][0]["example"] = None
    page.route("**/live.json", lambda route: route.fulfill(json=shown))
    open_page(page, columns_server)

    use_json(page)

    expect(page.locator("#try-input")).to_have_value(re.compile(r'"shape": \[1, 1, 8, 8\]'))
    expect(page.locator("#try-save")).to_be_hidden()
