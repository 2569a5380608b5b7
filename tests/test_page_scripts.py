"""The live page's pure modules, each called in a real browser: values in, values out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from tests.chromium import Server, browser

__all__ = ["browser"]

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def scripts(browser: Browser, tiny_server: Server) -> Iterator[Page]:
    page = browser.new_page()
    page.goto(tiny_server.url)
    yield page
    page.close()


def call(page: Page, module: str, function: str, *arguments: Any) -> Any:
    """Return what an exported function of one of the page's modules returns."""
    return page.evaluate(
        """async ([module, name, given]) => {
            const made = (await import(new URL(`page/${module}.js`, document.baseURI).href))[name](...given);
            return ArrayBuffer.isView(made) ? [...made] : JSON.parse(JSON.stringify(made));
        }""",
        [module, function, list(arguments)],
    )


CURVE = {"sizes": [2, 4, 8], "ms": [10.0, 14.0, 30.0]}


@pytest.mark.parametrize(("size", "ms"), [(1, 10), (2, 10), (3, 12), (4, 14), (6, 22), (8, 30), (16, 60)])
def test_a_cost_is_read_off_the_curve_as_the_server_reads_it(scripts: Page, size: int, ms: float) -> None:
    assert call(scripts, "cost", "predicted", CURVE, size) == ms


def test_real_times_are_told_as_a_share_of_what_was_predicted(scripts: Page) -> None:
    runs = [{"size": 2, "count": 1, "p50_ms": 100}, {"size": 4, "count": 3, "p50_ms": 21}, {"size": 8, "count": 1, "p50_ms": 3}]

    assert call(scripts, "cost", "realShare", CURVE, runs) == 1.5
    assert call(scripts, "cost", "realShare", CURVE, []) is None


@pytest.mark.parametrize(
    ("shape", "datatype", "editors"),
    [
        ([-1], "BYTES", ["text", "json"]),
        ([-1, 1], "BYTES", ["text", "json"]),
        ([-1, 3], "BYTES", ["json"]),
        ([-1, 3, 224, 224], "FP32", ["picture", "json"]),
        ([-1, 224, 224, 3], "UINT8", ["picture", "json"]),
        ([-1, 1, -1, -1], "BF16", ["picture", "json"]),
        ([-1, 4, 224, 224], "FP32", ["json"]),
        ([-1, 3, 4, 4], "FP32", ["json"]),
        ([-1, 3, 224, 224], "INT64", ["json"]),
        ([-1, 4], "FP32", ["numbers", "json"]),
        ([-1, 12], "INT64", ["numbers", "json"]),
        ([-1, 13], "FP32", ["json"]),
        ([-1, -1], "INT64", ["json"]),
        ([-1, 4], "BOOL", ["json"]),
    ],
)
def test_the_editor_suits_the_input(scripts: Page, shape: list[int], datatype: str, editors: list[str]) -> None:
    inputs = [{"name": "x", "shape": shape, "datatype": datatype}]

    assert call(scripts, "kinds", "editorsFor", {"inputs": inputs}) == editors
    assert call(scripts, "kinds", "editorsFor", {"inputs": inputs * 2}) == ["json"]


@pytest.mark.parametrize(
    ("name", "datatype", "rows", "is_text", "reading"),
    [
        ("answer", "BYTES", [["a"]], False, "text"),
        ("output", "INT64", [[1, 2]], False, "values"),
        ("logits", "FP32", [[3.0] * 8], True, "classes"),
        ("sentence_embedding", "FP32", [[3.0] * 8], False, "vector"),
        ("output", "FP32", [[0.6, 0.8]], False, "vector"),
        ("output", "FP32", [[3.0] * 8], True, "vector"),
        ("output", "FP32", [[3.0, 1.0]], True, "classes"),
        ("output", "FP32", [[3.0] * 8], False, "classes"),
        ("output", "FP32", [[3.0]], False, "values"),
    ],
)
def test_an_output_is_read_as_what_it_is(
    scripts: Page, name: str, datatype: str, rows: list[list[Any]], is_text: bool, reading: str
) -> None:
    output = {"name": name, "datatype": datatype, "shape": [len(rows), len(rows[0])]}

    assert call(scripts, "kinds", "reading", output, rows, is_text) == reading


def test_scores_become_probabilities_and_probabilities_stay(scripts: Page) -> None:
    scores = [1000.0, 1001.0, 998.0]
    softmax = np.exp(np.array(scores) - 1001) / np.exp(np.array(scores) - 1001).sum()

    assert call(scripts, "kinds", "probabilities", scores)["shares"] == pytest.approx(softmax.tolist())
    assert call(scripts, "kinds", "probabilities", [0.25, 0.75])["shares"] == [0.25, 0.75]
    assert call(scripts, "kinds", "topOf", [0.1, 0.7, 0.2], 2) == [[1, 0.7], [2, 0.2]]


RGBA = [255, 0, 51, 255, 0, 102, 255, 255]
"""Two pixels."""


@pytest.mark.parametrize(("channels_first", "order"), [(True, [1, 0, 0, 0.4, 0.2, 1]), (False, [1, 0, 0.2, 0, 0.4, 1])])
def test_pixels_become_a_tensor_in_the_models_order(scripts: Page, channels_first: bool, order: list[float]) -> None:
    layout = {"channels": 3, "channelsFirst": channels_first}

    assert call(scripts, "pixels", "toTensor", RGBA, layout, [0], [1]) == pytest.approx(order)
    scaled = call(scripts, "pixels", "toTensor", RGBA, layout, [0.5, 0.25, 0], [0.5, 0.25, 2])
    by_channel = np.array(order).reshape((3, 2) if channels_first else (2, 3))
    axis = (3, 1) if channels_first else (1, 3)
    expected = (by_channel - np.array([0.5, 0.25, 0]).reshape(axis)) / np.array([0.5, 0.25, 2]).reshape(axis)
    assert scaled == pytest.approx(expected.ravel().tolist())


def test_one_channel_is_luminance(scripts: Page) -> None:
    grey = call(scripts, "pixels", "toTensor", RGBA, {"channels": 1, "channelsFirst": True}, [0], [1])

    assert grey == pytest.approx([0.299 + 0.114 * 0.2, 0.587 * 0.4 + 0.114])


NUMBERS = [
    0.0, 1.0, -1.0, 0.1, 1 / 3, 2.0**-14, 2.0**-15, 3e-8, 1e-9, 1.0009765625 - 2**-11, 2048.5, 2049, 65504, 65519, 65520, -7e4,
]  # fmt: skip


@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [("FP32", np.float32), ("FP64", np.float64), ("FP16", np.float16), ("BF16", ml_dtypes.bfloat16)],
)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_numbers_are_encoded_bit_for_bit_as_numpy_does(scripts: Page, datatype: str, dtype: Any) -> None:
    numbers = np.array(NUMBERS, np.float32)

    assert bytes(call(scripts, "pixels", "encode", numbers.tolist(), datatype)) == numbers.astype(dtype).tobytes()


def test_bytes_are_rounded_and_kept_within_their_range(scripts: Page) -> None:
    assert call(scripts, "pixels", "encode", [-3, 0.4, 254.6, 300], "UINT8") == [0, 0, 255, 255]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0.5", [0.5]), ("1, 2,3", [1, 2, 3]), ("1 2 3", [1, 2, 3]), ("1, 2", None), ("a", None), ("", None)],
)
def test_typed_numbers_are_one_for_all_or_one_for_each(scripts: Page, text: str, numbers: list[float] | None) -> None:
    assert call(scripts, "pixels", "typedNumbers", text, 3) == numbers


@pytest.mark.parametrize(
    ("most", "least", "ticks"),
    [
        (0, 4, [0, 1, 2, 3, 4]),
        (37, 4, [0, 10, 20, 30, 40]),
        (0.3, 1e-3, [0, 0.1, 0.2, 0.3]),
        (1000, 4, [0, 200, 400, 600, 800, 1000]),
    ],
)
def test_axes_have_round_ticks(scripts: Page, most: float, least: float, ticks: list[float]) -> None:
    scale = call(scripts, "scales", "linearScale", most, {"least": least})

    assert scale["ticks"] == ticks


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (0.0001, "<0.1 %"), (0.066, "6.6 %"), (0.5, "50 %"), (1, "100 %"), (None, "\N{EN DASH}")]
)
def test_shares_are_told_in_percent(scripts: Page, share: float | None, text: str) -> None:
    assert call(scripts, "format", "percent", share) == text


def model(**changed: Any) -> dict[str, Any]:
    series = {"requests": [10] * 60, "errors": [0] * 60, "faults": [0] * 60}
    limits = {"max_queue_rows": 100, "timeout_s": 2.0}
    return {"name": "m", "series": series, "limits": limits, "queue_rows": 0, "latency": {"p99_ms": 10.0}, **changed}


def test_the_server_is_well_or_says_what_is_not_the_worst_first(scripts: Page) -> None:
    def ills(*models: dict[str, Any], **server: bool) -> list[list[str]]:
        found: list[list[str]] = call(
            scripts, "health", "ailments", {"server": {"ready": True, "draining": False, **server}, "models": models}
        )
        return found

    assert ills(model()) == []
    assert ills(model(latency={"p99_ms": None})) == []
    assert [tone for tone, _ in ills(model(queue_rows=60))] == ["warn"]
    assert [tone for tone, _ in ills(model(latency={"p99_ms": 1200.0}, queue_rows=95))] == ["bad", "warn"]
    assert ills(model(), ready=False)[0][0] == "warn"
    (one,) = ills(model(), model(name="slow", latency={"p99_ms": 1900.0}))
    assert one == ["bad", "slow: p99 is 1,900 ms, and requests are given up after 2 s"]
