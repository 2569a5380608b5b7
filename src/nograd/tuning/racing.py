"""Which candidate is fastest, told from noisy times: rounds of paired samples, and candidates dropped beyond doubt.

Pure: it runs nothing and reads no clock. A driver asks for a round, measures it, and notes what it found:

    race = Race(["eager", "onnx"], simplicity={"eager": 0, "onnx": 1})
    while (order := race.next_round()) and there_is_time():
        race.note({name: measure(name) for name in order})
    print(race.verdict())

All decisions count rounds: in how many of them was one candidate slower than another, or slower by more than 2 %? A machine
that slows down meets both of a pair, a few samples that took three times too long are a few rounds, and no shape of noise is
assumed. What is asked of the counts is whether the median of the paired ratios is above 1.02, or not (see `signs`).

What may go wrong, and how often. Let the best be a candidate than which no other is more than 2 % faster.

- The best is dropped: it takes false evidence for one of K - 1 pairs, and each is given alpha / K. The pairs are fixed and use
  every round from the first on, so it does not matter who leads when, or when one looks or stops: alpha in all.
- A winner is declared that is more than 2 % slower than the best: false evidence again, for the best and one of K - 1
  others: alpha in all.
- The quick rule (`HOPELESS`) drops the best: see there; under 1 %.
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

__all__ = ["HOPELESS", "REFERENCE", "Race", "Sample", "Verdict"]

REFERENCE = "reference"
"""The name of what is run in every round, and that all ratios are relative to. No candidate may have it."""

HOPELESS = ((2, 4.0), (3, 2.0), (4, 1.5))
"""After so many rounds, a candidate that took so many times as long as the leader in each of them is dropped at once.

Evidence needs a dozen rounds; for a candidate that is ten times slower these would be most of all the time that a race takes.
Why it does not throw out the best where a neighbour makes one sample in five three times as long: three times is not four, so
the first rule needs more than that; by the others all of the best one's first three samples must be hit (0.2^3 = 0.8 %), and
none of those of a rival that is itself less than 1.5 times slower. Later rounds cannot be unlucky any more: one round that is
not so, ever, and the rule never applies to the pair."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one candidate, or the reference, took in one round."""

    seconds: float
    """By the wall clock, per unit of work; smaller is better."""

    cpu_s: float | None = None
    """CPU seconds that its process used meanwhile, per unit of work, where known."""

    def __post_init__(self) -> None:
        if not (isfinite(self.seconds) and self.seconds > 0):
            raise ConfigError(f"a sample took {self.seconds} s; it must be above 0, finite")
        if self.cpu_s is not None and not (isfinite(self.cpu_s) and self.cpu_s >= 0):
            raise ConfigError(f"a sample used {self.cpu_s} s of CPU; it must be 0 or more, finite")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who won, or leads so far."""

    winner: str | None
    """The simplest of those that are, by the median of all rounds so far, at most 2 % slower than the leader. Before the first
    round: the simplest. None where all were withdrawn."""

    tied: tuple[str, ...]
    """The others of those: as good as the winner, and less simple. The simplest first."""

    unsettled: tuple[str, ...]
    """Those of which it is not proven that the winner is at most 2 % slower than they are. The simplest first."""

    decided: bool
    """There is a winner, and nothing is unsettled: no more rounds are needed."""


class Race:
    """The rounds of a race so far, and what follows from them.

    The result depends on the samples, the set of names and the options; not on the order that names are given in.

    Args:
        names: the candidates; one at least, each once.
        simplicity: a number for each candidate, smaller is simpler: of those that are equally fast the simplest wins.
        seed: of the order within rounds.
        indifference: candidates whose times differ by this share are as good as each other.
        alpha: how often one accepts to be wrong, for each of the two ways above.

    Raises:
        ConfigError: there is no candidate, one is named twice or "reference" or has no simplicity, or an option is out of its
            range.
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
        self._rounds: list[Mapping[str, Sample]] = []
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
        """Why candidates that are slower beyond doubt were dropped, one sentence each."""
        return dict(self._dropped)

    @property
    def withdrawn(self) -> Mapping[str, str]:
        """Why candidates were withdrawn, as the driver said."""
        return dict(self._withdrawn)

    @property
    def rounds(self) -> int:
        """Rounds that were taken."""
        return len(self._rounds)

    @property
    def discarded(self) -> int:
        """Rounds that were thrown away because something else kept the machine busy."""
        return self._watch.discarded

    @property
    def is_noisy(self) -> bool:
        """A round was taken though it was contaminated, because those before it were as well."""
        return self._watch.is_noisy

    def next_round(self) -> list[str]:
        """Return what to measure in the next round, in this order: who is alive, and the reference.

        Asked again before the round is noted, it answers the same. Empty: the race is decided, or nobody is left.
        """
        if not self.alive or self.verdict().decided:
            return []
        order = [*self.alive, REFERENCE]
        Random(f"{self._seed} {self.rounds + self.discarded}").shuffle(order)  # noqa: S311  # an order, not a secret
        return order

    def note(self, samples: Mapping[str, Sample]) -> bool:
        """Take in a round; return False where it was contaminated: it is counted, and otherwise forgotten.

        Args:
            samples: one for the reference and for each candidate that is alive. Others are not looked at, so that a candidate
                may be withdrawn in the middle of a round.

        Raises:
            ConfigError: a sample is missing.
        """
        if missing := [name for name in (*self.alive, REFERENCE) if name not in samples]:
            raise ConfigError(
                f"a round has no sample of {', '.join(missing)}; it must have one of the reference and of all who are alive"
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
        """Take a candidate out of the race, because it failed.

        Those that were dropped because of it stay dropped.

        Args:
            name: one that is alive.
            reason: why, in one sentence.

        Raises:
            ConfigError: it is not alive.
        """
        if name not in self.alive:
            raise ConfigError(f"{name!r} cannot be withdrawn; alive are: {', '.join(self.alive) or 'none'}")
        self._events.append({"withdrawn": name, "reason": reason})
        self._withdrawn[name] = reason

    def standings(self) -> dict[str, Figure]:
        """Return each candidate's time divided by the reference's, the median over the rounds it was in; the fastest first.

        Also of those that were dropped or withdrawn; only a candidate that was in no round is missing. The range is that of
        `median_figure`: it describes, and has no part in any decision.
        """
        found = {name: figure for name in self._simplicity if (figure := self.ratio(name, REFERENCE))}
        return dict(sorted(found.items(), key=lambda item: item[1].median))

    def ratio(self, name: str, other: str) -> Figure | None:
        """Return one's time divided by the other's, the median over the rounds that both were in; None: there is no such."""
        both = [taken[name].seconds / taken[other].seconds for taken in self._rounds if name in taken and other in taken]
        return median_figure(both) if both else None

    def verdict(self) -> Verdict:
        """Return who won, or would win if the race ended now."""
        alive = sorted(self.alive, key=self._by_simplicity)
        if not alive:
            return Verdict(None, (), (), decided=False)
        leader = self._leader()
        near = [name for name in alive if name == leader or (self.rounds and 2 * self._num_near(name, leader) >= self.rounds)]
        winner = near[0]
        needed = successes_needed(self.rounds, self._alpha)
        unsettled = tuple(name for name in alive if name != winner and self._num_near(winner, name) < needed)
        return Verdict(winner, tuple(near[1:]), unsettled, decided=not unsettled)

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists, for `from_json`: the options, and all that was noted."""
        return {"simplicity": dict(self._simplicity), **self._options, "events": list(self._events)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Race:
        """Return the race that `to_json` was called on: it goes on as that would have.

        Raises:
            ConfigError: a round or an option is not what a race can have.
        """
        options = {name: data[name] for name in ("seed", "indifference", "alpha")}
        race = cls(list(data["simplicity"]), simplicity=data["simplicity"], **options)
        for event in data["events"]:
            if "round" in event:
                race.note({name: Sample(*sample) for name, sample in event["round"].items()})
            else:
                race.withdraw(event["withdrawn"], event["reason"])
        return race

    def _leader(self) -> str:
        """Return who is faster than most others of those alive, each told by most rounds; then by most rounds in all."""
        alive = self.alive

        def key(name: str) -> tuple[int, int, tuple[float, str]]:
            wins = [self._faster[name, other] for other in alive if other != name]
            return -sum(2 * won > self.rounds for won in wins), -sum(wins), self._by_simplicity(name)

        return min(alive, key=key)

    def _by_simplicity(self, name: str) -> tuple[float, str]:
        return self._simplicity[name], name

    def _num_near(self, name: str, other: str) -> int:
        """Return in how many rounds the first was at most 2 % slower than the second."""
        return self.rounds - self._slower[name, other]

    def _drop(self) -> None:
        if not self.alive:  # all were withdrawn during this round
            return
        leader, needed = self._leader(), successes_needed(self.rounds, self._alpha)
        for name in self.alive:
            if name != leader and (self._slower[name, leader] >= needed or self._is_hopeless(name, leader)):
                self._dropped[name] = self._why(name, leader)

    def _is_hopeless(self, name: str, leader: str) -> bool:
        return any(
            self.rounds >= rounds and all(taken[name].seconds > factor * taken[leader].seconds for taken in self._rounds)
            for rounds, factor in HOPELESS
        )

    def _why(self, name: str, leader: str) -> str:
        found = median_figure(taken[name].seconds / taken[leader].seconds for taken in self._rounds)
        return f"{found.median:.3g}x [{found.low:.3g} .. {found.high:.3g}] the time of {leader} over {found.samples} rounds"


def _check(names: Sequence[str], simplicity: Mapping[str, float], indifference: float, alpha: float) -> None:
    if not names or len(set(names)) != len(names) or REFERENCE in names:
        raise ConfigError(f"candidates are {list(names)}; give one at least, each once, none called {REFERENCE!r}")
    if missing := [name for name in names if not isfinite(simplicity.get(name, nan))]:
        raise ConfigError(f"simplicity is missing for {', '.join(missing)}; give a finite number for each candidate")
    if not (isfinite(indifference) and indifference >= 0):
        raise ConfigError(f"indifference is {indifference}; it must be 0 or more, finite, such as 0.02 for 2 %")
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha is {alpha}; it must be between 0 and 1")
