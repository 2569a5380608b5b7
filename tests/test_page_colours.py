"""The live page's colours: text stands out from its ground, and marks from theirs (WCAG 2.2, AA)."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from tests.test_html import luminance

TEXT = [
    *((ink, ground) for ink in ("ink", "quiet", "accent", "good", "warn", "bad") for ground in ("card", "sunken")),
    ("ink", "ground"), ("quiet", "ground"), ("accent", "ground"), ("on-accent", "accent"),
    ("good", "good-ground"), ("warn", "warn-ground"), ("bad", "bad-ground"),
]  # fmt: skip

MARKS = [(mark, "card") for mark in ("soft", "p50", "p95", "p99", "batch", "bad")]


def colours(name: str) -> dict[str, str]:
    css = files("nograd.server.http").joinpath("page", name).read_text("utf-8")
    return dict(re.findall(r"--([\w-]+): (#\w{6});", css))


@pytest.mark.parametrize("name", ["light.css", "dark.css"])
@pytest.mark.parametrize(("pairs", "least"), [(TEXT, 4.5), (MARKS, 3.0)], ids=["text", "marks"])
def test_what_is_read_stands_out_from_its_ground(name: str, pairs: list[tuple[str, str]], least: float) -> None:
    known = colours(name)

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(known[one]), luminance(known[other])))
        return (high + 0.05) / (low + 0.05)

    assert {pair: contrast(*pair) for pair in pairs if contrast(*pair) < least} == {}


def test_dark_has_every_colour_of_light() -> None:
    assert set(colours("light.css")) == set(colours("dark.css"))
