"""Timing of backends: more rounds for short runs, and a preferred backend that only a clear gain replaces."""

from __future__ import annotations

import pytest

from nograd.backends.timing import fastest, in_turn_s


class Clock:
    """A clock that only runs move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.runs: list[str] = []

    def __call__(self) -> float:
        return self.now

    def run(self, name: str, seconds: float) -> None:
        self.runs.append(name)
        self.now += seconds


@pytest.mark.parametrize(("budget_s", "rounds"), [(0.0, 3), (0.9, 3), (2.6, 9), (100.0, 30)])
def test_short_runs_are_repeated_until_the_budget_is_spent(budget_s: float, rounds: int) -> None:
    clock = Clock()

    found = in_turn_s(
        {"a": lambda: clock.run("a", 0.125), "b": lambda: clock.run("b", 0.1875)}, rounds=3, budget_s=budget_s, clock=clock
    )

    assert found == {"a": 0.125, "b": 0.1875}
    assert (clock.runs.count("a"), clock.runs.count("b")) == (rounds + 1, rounds + 1)  # one of each is not measured


def test_a_hopeless_run_stops_after_two_rounds_with_a_budget_too() -> None:
    clock = Clock()

    in_turn_s({"a": lambda: clock.run("a", 0.1), "b": lambda: clock.run("b", 1.0)}, rounds=3, budget_s=3.0, clock=clock)

    assert clock.runs.count("b") == 3


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({"eager": 1.0, "onnx": 1.0}, "eager"),
        ({"eager": 1.0, "onnx": 0.95}, "eager"),
        ({"eager": 1.0, "onnx": 0.85}, "onnx"),
        ({"onnx": 0.85, "eager": 1.0, "openvino": 0.5}, "openvino"),
        ({"onnx": 2.0, "eager": 1.0}, "eager"),
    ],
)
def test_only_a_clear_gain_replaces_the_preferred_one(seconds: dict[str, float], chosen: str) -> None:
    assert fastest(seconds, "eager") == chosen
