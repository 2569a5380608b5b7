"""The report as a page: its markup, its plots, and what a real browser makes of it."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd.report.figures import Figure
from nograd.report.svg import AxisScale, Box, place
from nograd.tuning import tradeoff, wording
from nograd.tuning.html import to_html
from nograd.tuning.plots import ratio_bar
from nograd.tuning.values import Candidate, Row, TuneReport
from tests.sample_reports import MARKUP, SAMPLES, alone, awkward, crowded, empty, interrupted, minilm, tiny
from tests.test_report import REPORTS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

VOID = {"meta", "link", "img", "br"}
POSITIVE = st.floats(1e-9, 1e9)


class Outline(HTMLParser):
    """Tags and attributes of a page; fails where tags are not closed in their order."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def row(name: str, lone_s: float, rate: float) -> Row:
    return Row(Candidate(name), "measured", lone_s=Figure(lone_s, lone_s, lone_s), rows_per_s=Figure(rate, rate, rate))


# Markup


@given(REPORTS)
def test_any_report_is_a_page_whose_tags_are_closed_and_whose_figures_are_numbers(report: TuneReport) -> None:
    page = Outline(to_html(report))

    numeric = {"x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height", "points"}
    values = [value for tag, attrs in page.tags for name, value in attrs.items() if name in numeric]
    assert [value for value in values if not re.fullmatch(r"[-\d., ]+", value or "")] == []


@pytest.mark.parametrize("name", SAMPLES)
def test_a_page_holds_no_script_no_address_and_no_second_use_of_a_name(name: str) -> None:
    text = to_html(SAMPLES[name]())
    page = Outline(text)

    assert {tag for tag, _ in page.tags} & {"script", "iframe", "img", "object", "base", "form"} == set()
    links = [value for _, attrs in page.tags for key, value in attrs.items() if key in ("src", "href", "style", "action")]
    assert [link for link in links if not (link or "").startswith("data:image/svg+xml,")] == []
    assert [key for _, attrs in page.tags for key in attrs if key.startswith("on")] == []
    assert "url(" not in text
    assert "@import" not in text
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_the_policy_allows_the_one_style_sheet_by_its_digest_and_nothing_else() -> None:
    text = to_html(minilm())
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    policy = next(attrs["content"] for _, attrs in Outline(text).tags if "http-equiv" in attrs)

    assert style is not None
    digest = b64encode(sha256(style[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"


def test_markup_from_outside_stays_text() -> None:
    page = Outline(to_html(awkward()))

    assert {tag for tag, _ in page.tags} & {"script", "img"} == set()
    assert MARKUP in "".join(page.words)


def test_every_column_says_that_it_is_one_and_every_row_too() -> None:
    tags = Outline(to_html(interrupted())).tags

    assert {attrs.get("scope") for tag, attrs in tags if tag == "th"} == {"col", "row"}
    tables = sum(tag == "table" for tag, _ in tags)
    assert tables == sum(tag == "caption" for tag, _ in tags) == 5


def test_every_plot_has_a_title_and_a_description_with_the_figures() -> None:
    text = to_html(minilm())
    plots = [ET.fromstring(svg) for svg in re.findall(r'<svg [^>]*class="plot.*?</svg>', text, re.DOTALL)]

    assert len(plots) == 3 + 2 * 2
    for plot in plots:
        named = {child.get("id"): child.text for child in plot if child.tag in ("title", "desc")}
        assert list(named) == (plot.get("aria-labelledby") or "").split()
        assert all(named.values())
    assert "onnx 1x2: 6.12 ms, 72.1 rows/s" in text


def test_the_verdict_is_on_the_page_in_the_words_of_the_terminal() -> None:
    for sample in (minilm(), tiny(), interrupted(), alone(), empty()):
        assert wording.verdict(sample) in "".join(Outline(to_html(sample)).words)


def test_parts_that_have_nothing_to_say_are_left_out() -> None:
    def titles(report: TuneReport) -> list[str]:
        return re.findall(r"<h2>(.*?)</h2>", to_html(report))

    assert titles(empty()) == []
    assert titles(alone()) == ["Candidates"]
    assert titles(minilm()) == [
        "Latency against throughput", "Candidates", "Not used, and why", "Same answers?", "Cost of a run", "Under load",
        "Time spent", "Machine",
    ]  # fmt: skip


def test_a_reason_that_many_share_is_said_once() -> None:
    assert to_html(crowded()).count("the budget was spent") == 1


def test_the_palette_is_that_of_the_servers_page() -> None:
    def palette(css: str) -> list[dict[str, str]]:
        roots = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[:2]
        return [dict(re.findall(r"(--[\w-]+): (.*?);", root)) for root in roots]

    ours = palette(files("nograd.report").joinpath("report.css").read_text("utf-8"))
    pages = files("nograd.server.http").joinpath("page")
    theirs = [palette(pages.joinpath(name).read_text("utf-8"))[0] for name in ("light.css", "dark.css")]

    assert len(ours) == len(theirs) == 2
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == {name: other[name] for name in mine}


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    channels = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1])
def test_text_stands_out_from_its_ground(scheme: int) -> None:
    css = files("nograd.report").joinpath("report.css").read_text("utf-8")
    colours = dict(re.findall(r"(--[\w-]+): (#\w{6});", re.findall(r":root \{(.*?)\}", css, re.DOTALL)[scheme]))
    pairs = [("ink", "card"), ("quiet", "card"), ("quiet", "sunken"), ("quiet", "ground"),
             ("accent", "card"), ("accent", "sunken"), ("good", "good-ground"), ("warn", "warn-ground"), ("bad", "bad-ground"),
             ("good", "card"), ("bad", "card")]  # fmt: skip

    for ink, ground in pairs:
        low, high = sorted(luminance(colours[f"--{name}"]) for name in (ink, ground))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground)


# Plots


def test_the_front_holds_those_that_none_beats_in_both() -> None:
    fast, busy, beaten, even = row("fast", 1, 10), row("busy", 3, 30), row("beaten", 2, 9), row("even", 1, 8)

    assert tradeoff.front([beaten, busy, even, fast]) == [fast, busy]


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=20))
def test_every_point_is_on_the_front_or_beaten_by_one_that_is(points: list[tuple[float, float]]) -> None:
    rows = [row(str(place), *point) for place, point in enumerate(points)]
    best = [tradeoff.point_of(each) for each in tradeoff.front(rows)]

    assert all(any(x <= lone and y >= rate for x, y in best) for lone, rate in points)
    assert best == sorted(best)


@given(st.lists(POSITIVE, min_size=1, max_size=9), st.booleans(), st.integers(2, 12))
def test_a_scale_keeps_its_values_inside_and_its_ticks_few(values: list[float], from_zero: bool, most: int) -> None:
    scale = AxisScale.over(values, 300, 10, from_zero=from_zero)
    ticks = scale.ticks(most)

    assert all(10 <= scale(value) <= 300 for value in values)
    assert len(ticks) <= most
    assert all(scale.low * 0.999 <= tick <= scale.high * 1.001 for tick in ticks)


def test_a_wide_range_is_drawn_logarithmically() -> None:
    scale = AxisScale.over([1, 100], 0, 100, pad=0.0)

    assert scale.is_log
    assert [scale(value) for value in (1, 10, 100)] == pytest.approx([0, 50, 100])
    assert scale.ticks(5) == [1, 3, 10, 30, 100]


def test_a_narrow_range_has_round_ticks() -> None:
    assert AxisScale(38.2, 41.9, 0, 100).ticks(5) == [39, 40, 41]


@given(st.lists(st.tuples(st.floats(0, 300), st.floats(0, 200)), max_size=25))
def test_labels_meet_neither_each_other_nor_a_point_nor_the_frame(points: list[tuple[float, float]]) -> None:
    frame, taken = Box(0, 0, 300, 200), [Box(x - 5, y - 5, x + 5, y + 5) for x, y in points]

    boxes = [label.box for label in place([("a name", x, y) for x, y in points], taken, frame, font_px=12)]

    assert all(box.within(frame) for box in boxes)
    assert not any(box.meets(mark) for box in boxes for mark in taken)
    assert not any(one.meets(other) for at, one in enumerate(boxes) for other in boxes[:at])


def test_a_lone_point_is_named_right_beside_it() -> None:
    (label,) = place([("name", 50, 50)], [], Box(0, 0, 300, 100), font_px=10)

    assert (label.box.left, label.is_far) == (57.5, False)


def test_the_winner_and_the_front_are_named_in_every_width() -> None:
    for shape in tradeoff.SHAPES:
        names = [text.text for text in ET.fromstring(tradeoff.tradeoff(minilm(), shape)).iter("text")]
        assert {"onnx 1x2", "onnx 2x1", "eager 1x2"} <= set(names)


def test_a_bar_ends_at_its_ratio_and_its_line_stands_at_one() -> None:
    bar = ET.fromstring(ratio_bar(Figure(2, 1.5, 4), 4.0, "winner"))

    assert [(e.get("x"), e.get("width")) for e in bar.iter("rect")] == [("1", "64")]
    assert [e.get("x1") for e in bar.iter("line") if e.get("class") == "one"] == ["33"]
    assert ratio_bar(None, 4.0, "winner") == ratio_bar(Figure(float("nan"), 0, 0), 4.0, "winner") == ""


# In a browser

BAD_TEXTS = """() => [...document.querySelectorAll('svg.plot')].filter(svg => svg.checkVisibility()).flatMap(svg => {
    const frame = svg.getBoundingClientRect(), scale = frame.width / svg.viewBox.baseVal.width;
    return [...svg.querySelectorAll('text')].map(text => [text, text.getBoundingClientRect()])
        .filter(([text, box]) => box.left < frame.left - 1 || box.right > frame.right + 1
            || parseFloat(getComputedStyle(text).fontSize) * scale < 10.5)
        .map(([text]) => text.textContent);
})"""
"""Texts of the plots that are shown which leave their plot or are below 10.5 pixels."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from tests.chromium import launched  # late: the other tests of this file need no playwright

    with launched() as browser:
        yield browser


@dataclass(frozen=True, slots=True)
class Viewer:
    """A page that shows report after report: reports hold no script and store nothing."""

    page: Page
    faults: list[str] = field(default_factory=list)
    """Messages of the browser since the report was opened."""

    requests: list[str] = field(default_factory=list)
    """Addresses that the browser requested since then."""

    def watch(self) -> None:
        self.page.on("console", lambda message: self.faults.append(message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open(self, file: Path) -> None:
        self.faults.clear()
        self.requests.clear()
        self.page.goto(file.as_uri())


@pytest.fixture(scope="module")
def viewer(browser: Browser) -> Iterator[Viewer]:
    context = browser.new_context()
    viewer = Viewer(context.new_page())
    viewer.watch()
    yield viewer
    context.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 820, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", SAMPLES)
def test_a_browser_shows_it_without_a_fault_a_request_or_an_overflow(
    viewer: Viewer, tmp_path: Path, name: str, scheme: Literal["light", "dark"], width: int
) -> None:
    report, file, page = SAMPLES[name](), tmp_path / "report.html", viewer.page
    file.write_text(to_html(report), "utf-8")
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)

    viewer.open(file)

    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert " ".join(page.locator(".verdict").inner_text().split()) == wording.verdict(report)
    ground = {"light": "rgb(244, 245, 247)", "dark": "rgb(14, 18, 23)"}[scheme]
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
    assert page.evaluate("[...document.querySelectorAll('svg.plot text')].every(t => !/NaN|undefined|inf/.test(t.textContent))")
    assert viewer.faults == []
    assert [url for url in viewer.requests if not url.startswith("data:")] == [file.as_uri()]


@pytest.mark.browser
def test_texts_of_a_plot_are_large_enough_and_inside_of_it_in_every_width(viewer: Viewer, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    for sample in (minilm(), tiny(), interrupted(), crowded()):
        file.write_text(to_html(sample), "utf-8")
        viewer.open(file)
        for width in (360, 700, 820, 1280):
            viewer.page.set_viewport_size({"width": width, "height": 800})
            assert viewer.page.evaluate(BAD_TEXTS) == [], (sample.model, width)


@pytest.mark.browser
def test_on_paper_it_is_light_and_as_wide_as_the_sheet(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(to_html(replace(minilm(), notes=())), "utf-8")
    a4_px = 695  # 210 mm less two margins of 13 mm, at 96 pixels an inch
    context = browser.new_context(viewport={"width": a4_px, "height": 1000}, color_scheme="dark")
    page = context.new_page()
    page.goto(file.as_uri())
    page.emulate_media(media="print", color_scheme="dark")

    assert page.evaluate("document.documentElement.scrollWidth") == a4_px
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(23, 32, 43)"
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    context.close()
