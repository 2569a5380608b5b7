"""Find the fastest candidate from noisy times: rounds of paired samples; clearly slower candidates are dropped.

Pure: the race runs nothing and reads no clock. A driver requests a round, measures it, and notes the samples:

    race = Race(["eager", "onnx"], simplicity={"eager": 0, "onnx": 1})
    while (order := race.next_round()) and there_is_time():
        race.note({name: measure(name) for name in order})
    print(race.verdict())

All decisions count rounds: in how many of them was one candidate slower than another, or slower by more than 2 %? A machine
that slows down affects both of a pair. A few samples that took three times too long are a few rounds. No shape of noise is
assumed. The counts decide whether the median of the paired ratios is above 1.02 (see `sign_test`).

Possible errors and their probability. Let the best be a candidate that no other beats by more than 2 %.

- The best is dropped: this takes false evidence for one of K - 1 pairs, and each pair has an error probability of alpha /
  K. The pairs are fixed and use every round from the first on, so neither a change of the leader nor the time of stopping
  matters: alpha in total.
- A winner is declared that is more than 2 % slower than the best: this also takes false evidence, for the best and one of K
  - 1 others: alpha in total.
- The quick rule (`HOPELESS`) drops the best: under 1 %, see there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import isfinite, nan
from random import Random
from typing import Any

from nograd.errors import ConfigError
from nograd.report.figures import Figure
from nograd.tuning.contamination import RoundWatch
from nograd.tuning.sign_test import median_figure, successes_needed

__all__ = ["HOPELESS", "REFERENCE", "Race", "RaceSample", "RaceVerdict"]

REFERENCE = "reference"
"""Name of the reference, which runs in every round. All ratios are relative to it, and no candidate may have this name."""

HOPELESS = ((2, 4.0), (3, 2.0), (4, 1.5))
"""Pairs of (rounds, factor): a candidate that took `factor` times as long as the leader in every one of `rounds` rounds is
dropped.

Evidence needs a dozen rounds. For a candidate that is ten times slower, these would be most of the race's time.

The rule is safe even if other load makes one sample in five take three times as long. Three is below four, so the first
rule needs more than that. For the others, all of the best one's first three samples must be hit (0.2^3 = 0.8 %), and none
of the samples of a rival that is less than 1.5 times slower. Later rounds add no risk: a single round below the factor
disables the rule for the pair.
"""


@dataclass(frozen=True, slots=True)
class RaceSample:
    """Time of one candidate, or of the reference, in one round."""

    seconds: float
    """Wall-clock seconds per unit of work; smaller is better."""

    cpu_s: float | None = None
    """CPU seconds of the process per unit of work; None if unknown."""

    def __post_init__(self) -> None:
        if not (isfinite(self.seconds) and self.seconds > 0):
            raise ConfigError(f"a sample took {self.seconds} s; it must be above 0, finite")
        if self.cpu_s is not None and not (isfinite(self.cpu_s) and self.cpu_s >= 0):
            raise ConfigError(f"a sample used {self.cpu_s} s of CPU; it must be 0 or more, finite")


@dataclass(frozen=True, slots=True)
class RaceVerdict:
    """The winner, or the leader so far."""

    winner: str | None
    """The simplest of the candidates that are at most 2 % slower than the leader, by the median of all rounds so far. Before
    the first round: the simplest candidate. None if all were withdrawn.
    """

    tied: tuple[str, ...]
    """The other candidates within 2 % of the leader, the simplest first. They are as fast as the winner and less simple."""

    unsettled: tuple[str, ...]
    """Candidates not yet shown to be at most 2 % faster than the winner, the simplest first."""

    decided: bool
    """True if there is a winner and `unsettled` is empty: no more rounds are needed."""


class Race:
    """The rounds of a race so far, and the decisions that follow from them.

    The result depends on the samples, the set of names and the options, but not on the order of the names.

    Args:
        names: the candidates; at least one, each once.
        simplicity: a number for each candidate, smaller is simpler. Among equally fast candidates, the simplest wins.
        seed: random seed of the order within rounds.
        indifference: candidates whose times differ by at most this share count as equally fast.
        alpha: accepted probability of each of the two errors above.

    Raises:
        ConfigError: there is no candidate; a name occurs twice, is "reference" or has no simplicity; or an option is out of
            its range.
    """

    def __init__(
        self, names: Sequence[str], *, simplicity: Mapping[str, float], seed: int = 0, indifference: float = 0.02,
        alpha: float = 0.05,
    ) -> None:  # fmt: skip
        _check(names, simplicity, indifference, alpha)
        self._options = {"seed": seed, "indifference": indifference, "alpha": alpha}
        self._simplicity = {name: float(simplicity[name]) for name in sorted(names)}
        self._seed, self._limit, self._alpha = seed, 1 + indifference, alpha / len(names)
        self._events: list[dict[str, Any]] = []
        self._rounds: list[Mapping[str, RaceSample]] = []
        self._watch = RoundWatch()
        pairs = list(permutations(self._simplicity, 2))
        self._faster = dict.fromkeys(pairs, 0)  # rounds in which the first was faster than the second
        self._slower = dict.fromkeys(pairs, 0)  # rounds in which the first was slower than the second by more than 2 %
        self._dropped: dict[str, str] = {}
        self._withdrawn: dict[str, str] = {}

    @property
    def alive(self) -> tuple[str, ...]:
        """The candidates that are still measured, in the order of their names."""
        return tuple(name for name in self._simplicity if name not in self._dropped and name not in self._withdrawn)

    @property
    def dropped(self) -> Mapping[str, str]:
        """Dropped candidates, which are clearly slower, with the reason in one sentence each."""
        return dict(self._dropped)

    @property
    def withdrawn(self) -> Mapping[str, str]:
        """Withdrawn candidates, with the reason that the driver gave."""
        return dict(self._withdrawn)

    @property
    def rounds(self) -> int:
        """Number of accepted rounds."""
        return len(self._rounds)

    @property
    def discarded(self) -> int:
        """Number of rounds that were discarded because of other load on the machine."""
        return self._watch.discarded

    @property
    def is_noisy(self) -> bool:
        """True if a contaminated round was accepted because the rounds before it were contaminated as well."""
        return self._watch.is_noisy

    def next_round(self) -> list[str]:
        """Return the names to measure in the next round, in this order: the candidates that are still measured, and the
        reference.

        Further calls before the round is noted return the same order. The list is empty if the race is decided or no
        candidate is left.
        """
        if not self.alive or self.verdict().decided:
            return []
        order = [*self.alive, REFERENCE]
        Random(f"{self._seed} {self.rounds + self.discarded}").shuffle(order)  # noqa: S311  # an order, not a secret
        return order

    def note(self, samples: Mapping[str, RaceSample]) -> bool:
        """Add a round; return False if it was contaminated. A contaminated round is counted and otherwise ignored.

        Args:
            samples: one for the reference and for each candidate that is still measured. Other names are ignored, so that a
                candidate may be withdrawn in the middle of a round.

        Raises:
            ConfigError: a sample is missing.
        """
        if missing := [name for name in (*self.alive, REFERENCE) if name not in samples]:
            raise ConfigError(
                f"a round has no sample of {', '.join(missing)}; "
                "it must have one of the reference and of each remaining candidate"
            )
        kept = {name: samples[name] for name in (*self.alive, REFERENCE)}
        self._events.append({"round": {name: [sample.seconds, sample.cpu_s] for name, sample in kept.items()}})
        reference = samples[REFERENCE]
        if not self._watch.note(reference.seconds, reference.cpu_s):
            return False
        self._rounds.append(kept)
        for a, b in permutations(self.alive, 2):
            self._faster[a, b] += kept[a].seconds < kept[b].seconds
            self._slower[a, b] += kept[a].seconds > self._limit * kept[b].seconds
        self._drop()
        return True

    def withdraw(self, name: str, reason: str) -> None:
        """Remove a failed candidate from the race.

        Candidates that were dropped because of it stay dropped.

        Args:
            name: a candidate that is still measured.
            reason: the reason, in one sentence.

        Raises:
            ConfigError: the candidate was dropped or withdrawn, or is unknown.
        """
        if name not in self.alive:
            raise ConfigError(f"{name!r} cannot be withdrawn; remaining candidates: {', '.join(self.alive) or 'none'}")
        self._events.append({"withdrawn": name, "reason": reason})
        self._withdrawn[name] = reason

    def standings(self) -> dict[str, Figure]:
        """Return each candidate's time divided by the reference's: the median over the candidate's rounds, the fastest first.

        Dropped and withdrawn candidates are included; only a candidate without any round is missing. The range is that of
        `median_figure`. It is descriptive and does not affect any decision.
        """
        found = {name: figure for name in self._simplicity if (figure := self.ratio(name, REFERENCE))}
        return dict(sorted(found.items(), key=lambda item: item[1].median))

    def ratio(self, name: str, other: str) -> Figure | None:
        """Return the time of `name` divided by that of `other`: the median over their common rounds; None without such a
        round."""
        both = [taken[name].seconds / taken[other].seconds for taken in self._rounds if name in taken and other in taken]
        return median_figure(both) if both else None

    def verdict(self) -> RaceVerdict:
        """Return the winner so far: the result if the race ended now."""
        alive = sorted(self.alive, key=self._by_simplicity)
        if not alive:
            return RaceVerdict(None, (), (), decided=False)
        leader = self._leader()
        near = [name for name in alive if name == leader or (self.rounds and 2 * self._num_near(name, leader) >= self.rounds)]
        winner = near[0]
        needed = successes_needed(self.rounds, self._alpha)
        unsettled = tuple(name for name in alive if name != winner and self._num_near(winner, name) < needed)
        return RaceVerdict(winner, tuple(near[1:]), unsettled, decided=not unsettled)

    def to_json(self) -> dict[str, Any]:
        """Return the options and all events as plain numbers, strings and lists, for `from_json`."""
        return {"simplicity": dict(self._simplicity), **self._options, "events": list(self._events)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Race:
        """Return the race that `to_json` was called on. It continues with the same decisions.

        Raises:
            ConfigError: a round or an option is not valid for a race.
        """
        options = {name: data[name] for name in ("seed", "indifference", "alpha")}
        race = cls(list(data["simplicity"]), simplicity=data["simplicity"], **options)
        for event in data["events"]:
            if "round" in event:
                race.note({name: RaceSample(*sample) for name, sample in event["round"].items()})
            else:
                race.withdraw(event["withdrawn"], event["reason"])
        return race

    def _leader(self) -> str:
        """Return the candidate that beats the most others, each in most rounds; ties go to the one with the most won rounds."""
        alive = self.alive

        def key(name: str) -> tuple[int, int, tuple[float, str]]:
            wins = [self._faster[name, other] for other in alive if other != name]
            return -sum(2 * won > self.rounds for won in wins), -sum(wins), self._by_simplicity(name)

        return min(alive, key=key)

    def _by_simplicity(self, name: str) -> tuple[float, str]:
        return self._simplicity[name], name

    def _num_near(self, name: str, other: str) -> int:
        """Return the number of rounds in which the first was at most 2 % slower than the second."""
        return self.rounds - self._slower[name, other]

    def _drop(self) -> None:
        if not self.alive:  # all were withdrawn during this round
            return
        leader, needed = self._leader(), successes_needed(self.rounds, self._alpha)
        for name in self.alive:
            if name != leader and (self._slower[name, leader] >= needed or self._is_hopeless(name, leader)):
                self._dropped[name] = self._drop_reason(name, leader)

    def _is_hopeless(self, name: str, leader: str) -> bool:
        return any(
            self.rounds >= rounds and all(taken[name].seconds > factor * taken[leader].seconds for taken in self._rounds)
            for rounds, factor in HOPELESS
        )

    def _drop_reason(self, name: str, leader: str) -> str:
        found = median_figure(taken[name].seconds / taken[leader].seconds for taken in self._rounds)
        return f"{found.median:.3g}x [{found.low:.3g} .. {found.high:.3g}] the time of {leader} over {found.samples} rounds"


def _check(names: Sequence[str], simplicity: Mapping[str, float], indifference: float, alpha: float) -> None:
    if not names or len(set(names)) != len(names) or REFERENCE in names:
        raise ConfigError(f"candidates are {list(names)}; give at least one, each once, and none named {REFERENCE!r}")
    if missing := [name for name in names if not isfinite(simplicity.get(name, nan))]:
        raise ConfigError(f"simplicity is missing for {', '.join(missing)}; give a finite number for each candidate")
    if not (isfinite(indifference) and indifference >= 0):
        raise ConfigError(f"indifference is {indifference}; it must be 0 or more, finite, such as 0.02 for 2 %")
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha is {alpha}; it must be between 0 and 1")
