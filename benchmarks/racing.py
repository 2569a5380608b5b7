"""Races between simulated candidates of known cost on a noisy machine: how often the right one wins, and what that takes.

Simulated, so it is the same on every machine. `python -m benchmarks.racing` takes about a minute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean, median
from typing import Any

from benchmarks.common import report
from nograd.tuning.racing import REFERENCE, Race, RaceSample

SEEDS, MAX_ROUNDS, DRIFT_ROUNDS = 100, 400, 200
SHORT = 20
GOAL = 95
REFERENCE_COST = 3.0

LADDER = {f"{cost:g}": cost for cost in (1.0, 1.05, 1.08, 1.15, 1.3, 1.5, 2.0, 3.0, 5.0, 10.0)}
"""The fastest, a rival that is 5 % slower, and so on; the slower, the simpler: what is slow must not win for that."""

EQUAL = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0, "1.2": 1.2, "2": 2.0, "4": 4.0, "10": 10.0}
"""Four that are as good as each other, `a` the simplest of them; those that are slower are simpler still."""


@dataclass(frozen=True, slots=True)
class Noise:
    """What a machine does to measurements."""

    jitter: float = 0.05
    """Every sample is multiplied by a lognormal number of this sigma."""

    bad_rounds: float = 0.0
    """Share of rounds in which all takes three times as long."""

    bad_samples: float = 0.0
    """Share of samples, each for itself, that take three times as long."""

    neighbour: float = 0.0
    """Share of samples during which a neighbour, that stays for six on average, makes everything take three times as long."""

    drift: float = 1.0
    """How many times slower the machine gets, evenly over 200 rounds."""


NOISES = {
    "jitter 2 %": Noise(0.02),
    "jitter 5 %": Noise(),
    "3x in 20 % of rounds": Noise(bad_rounds=0.2),
    "3x in 20 % of samples": Noise(bad_samples=0.2),
    "a neighbour, 20 % of the time": Noise(neighbour=0.2),
    "2x slower over 200 rounds": Noise(drift=2.0),
    "all at once": Noise(bad_rounds=0.2, bad_samples=0.2, drift=2.0),
}


class Machine:
    """Gives the time of a sample of a known cost; one machine lives through one race."""

    def __init__(self, noise: Noise, seed: int) -> None:
        self._noise, self._random = noise, Random(seed)
        self._rounds, self._is_busy = 0, False

    def round(self, order: Sequence[str], costs: Mapping[str, float]) -> dict[str, RaceSample]:
        """Measure one round, in order."""
        noise, random = self._noise, self._random
        slow = 3.0 if random.random() < noise.bad_rounds else 1.0
        slow *= 1 + (noise.drift - 1) * min(self._rounds / DRIFT_ROUNDS, 1)
        self._rounds += 1
        return {name: RaceSample(slow * self._slowed() * costs.get(name, REFERENCE_COST)) for name in order}

    def _slowed(self) -> float:
        noise, random = self._noise, self._random
        if noise.neighbour:
            leaves, comes = 1 / 6, noise.neighbour / (1 - noise.neighbour) / 6
            self._is_busy ^= random.random() < (leaves if self._is_busy else comes)
        hit = self._is_busy or random.random() < noise.bad_samples
        return (3.0 if hit else 1.0) * random.lognormvariate(0, noise.jitter)


def simplicity(costs: Mapping[str, float]) -> dict[str, float]:
    """The slower, the simpler; of those equally slow the first by name."""
    return {name: float(rank) for rank, name in enumerate(sorted(costs, key=lambda name: (-costs[name], name)))}


@dataclass(frozen=True, slots=True)
class Result:
    """How one race went."""

    winner: str | None
    winner_early: str | None
    """Who would have won had the time been up after 20 rounds."""

    tied: frozenset[str]
    decided: bool
    rounds: int
    """All that were run, those thrown away among them."""

    discarded: int
    saved: float
    """Share of the seconds saved, against running all candidates in as many rounds."""

    saved_samples: float
    even_rounds: int
    """Rounds of all candidates that would have taken as many seconds."""


def race(costs: Mapping[str, float], noise: Noise, seed: int, max_rounds: int = MAX_ROUNDS) -> Result:
    """Run one race to its end, or until `max_rounds` were run."""
    found, machine = Race(list(costs), simplicity=simplicity(costs), seed=seed), Machine(noise, seed)
    orders: list[list[str]] = []
    early = found.verdict()
    while len(orders) < max_rounds and (order := found.next_round()):
        found.note(machine.round(order, costs))
        orders.append(order)
        early = found.verdict() if len(orders) <= SHORT else early
    rounds, samples = len(orders), sum(map(len, orders))
    spent = sum(costs.get(name, REFERENCE_COST) for order in orders for name in order)
    verdict, whole = found.verdict(), sum(costs.values()) + REFERENCE_COST
    return Result(
        verdict.winner, early.winner, frozenset(verdict.tied), verdict.decided, rounds, found.discarded,
        1 - spent / (rounds * whole), 1 - samples / (rounds * (len(costs) + 1)), round(spent / whole),
    )  # fmt: skip


def by_means(costs: Mapping[str, float], noise: Noise, seed: int, rounds: int) -> str:
    """Return who is fastest by plain means, all measured in turn in each round: what one would do without a race."""
    machine, order = Machine(noise, seed), [*costs, REFERENCE]
    found = [machine.round(order, costs) for _ in range(max(rounds, 1))]
    return min(costs, key=lambda name: fmean(each[name].seconds for each in found))


def rows(costs: Mapping[str, float], right: str) -> dict[str, dict[str, Any]]:
    """Return what came of all seeds under each noise."""
    found: dict[str, dict[str, Any]] = {}
    equal = {name for name in costs if costs[name] == costs[right]}
    for label, noise in NOISES.items():
        results = [race(costs, noise, seed) for seed in range(SEEDS)]
        means = [by_means(costs, noise, seed, result.even_rounds) for seed, result in enumerate(results)]
        found[label] = {
            "right": sum(result.winner == right for result in results),
            "right_early": sum(result.winner_early == right for result in results),
            "decided": sum(result.decided for result in results),
            "wrong_though_decided": sum(result.decided and result.winner != right for result in results),
            "right_by_means": sum(costs[name] == costs[right] for name in means),
            "ties_right": sum(result.tied | {result.winner} == equal for result in results),
            "rounds": [result.rounds for result in results],
            "discarded": [result.discarded for result in results],
            "saved": [result.saved for result in results],
            "saved_samples": [result.saved_samples for result in results],
        }
    return found


def table(found: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return the lines of one table."""
    return [
        [
            name, *(str(row[key]) for key in ("right", "right_early", "decided", "right_by_means", "ties_right")),
            f"{median(row['rounds']):g} [{min(row['rounds'])} .. {max(row['rounds'])}]", f"{fmean(row['discarded']):.1f}",
            f"{fmean(row['saved']):.0%}", f"{fmean(row['saved_samples']):.0%}",
        ]
        for name, row in found.items()
    ]  # fmt: skip


def main() -> None:
    head = [
        "right",
        f"after {SHORT} rounds",
        "decided",
        "right by means",
        "ties right",
        "rounds",
        "discarded",
        "time saved",
        "samples saved",
    ]
    ladder, equal = rows(LADDER, "1"), rows(EQUAL, "a")
    lines = [["ten candidates, best 5 % ahead", *head], *table(ladder)]
    lines += [["", *[""] * len(head)], ["four equal and four slower", *head], *table(equal)]
    met = all(row["right"] >= GOAL for row in (*ladder.values(), *equal.values()))
    goal = f"the right winner in {GOAL} of {SEEDS} seeds under every noise, within {MAX_ROUNDS} rounds"
    report("racing", lines, {"ladder": ladder, "equal": equal, "costs": {"ladder": LADDER, "equal": EQUAL}}, goal=goal, met=met)


if __name__ == "__main__":
    main()
