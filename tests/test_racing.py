"""Racing on a noisy machine: who is dropped, who wins, and that noise fools nobody."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.racing import EQUAL, LADDER, NOISES, Machine, Noise, race, simplicity
from nograd.errors import ConfigError
from nograd.report.figures import Figure
from nograd.tuning.racing import REFERENCE, Race, RaceSample, RaceVerdict


def among(*names: str, **options: Any) -> Race:
    """A race in which those named first are the simplest."""
    return Race(names, simplicity={name: rank for rank, name in enumerate(names)}, **options)


def run(found: Race, rounds: int = 1, **seconds: float) -> bool:
    """Note the same round several times; the reference takes 1 s unless given. Return whether the last was taken."""
    samples = {REFERENCE: RaceSample(1.0)} | {name: RaceSample(taken) for name, taken in seconds.items()}
    return [found.note(samples) for _ in range(rounds)][-1]


def test_a_round_has_all_who_are_alive_and_the_reference_in_an_order_that_changes() -> None:
    found = among("a", "b")
    orders = set()
    for index in range(60):
        order = found.next_round()
        assert order == found.next_round()
        orders.add(tuple(order))
        run(found, a=1 + index % 2, b=2 - index % 2)

    assert orders == set(permutations(["a", "b", REFERENCE]))


def test_the_order_of_a_round_depends_on_the_set_of_names_and_the_seed_alone() -> None:
    names = ["a", "b", "c", "d", "e"]
    orders = {tuple(among(*mixed, seed=1).next_round()) for mixed in permutations(names)}

    assert len(orders) == 1
    assert tuple(among(*names, seed=2).next_round()) not in orders


def test_a_candidate_four_times_as_slow_is_dropped_after_two_rounds() -> None:
    found = among("slow", "a", "b")

    run(found, slow=4.1, a=1, b=1)
    assert not found.dropped
    run(found, slow=4.3, a=1, b=1)

    assert found.dropped == {"slow": "4.2x [4.1 .. 4.3] the time of a over 2 rounds"}
    assert found.alive == ("a", "b")
    assert "slow" not in found.next_round()


@pytest.mark.parametrize(("factor", "rounds"), [(4.1, 2), (4.0, 3), (2.1, 3), (2.0, 4), (1.6, 4), (1.5, 9), (1.03, 9)])
def test_the_slower_the_sooner_dropped_and_by_evidence_of_nine_rounds_for_three_candidates(factor: float, rounds: int) -> None:
    found = among("slow", "a", "b")

    run(found, rounds - 1, slow=factor, a=1, b=1)
    assert not found.dropped
    run(found, slow=factor, a=1, b=1)

    assert list(found.dropped) == ["slow"]


def test_one_round_that_is_not_so_saves_a_candidate_from_the_quick_rule_for_good() -> None:
    found = among("unlucky", "a", "b")

    run(found, unlucky=1, a=1, b=1)
    run(found, 7, unlucky=10, a=1, b=1)
    assert not found.dropped
    run(found, 5, unlucky=10, a=1, b=1)

    assert found.dropped == {"unlucky": "10x [10 .. 10] the time of a over 13 rounds"}


def test_who_is_at_most_2_percent_slower_is_never_dropped() -> None:
    found = among("a", "b")

    run(found, 200, a=1.02, b=1)

    assert found.alive == ("a", "b")


def test_evidence_is_about_a_pair_and_counts_its_rounds_from_the_first_whoever_led_meanwhile() -> None:
    found = among("a", "b", "c")

    run(found, 3, a=1.0, b=1.1, c=1.3)  # a leads
    run(found, 5, a=1.2, b=1.1, c=1.3)  # now b
    assert not found.dropped
    run(found, a=1.2, b=1.1, c=1.3)

    assert found.dropped == {"c": "1.18x [1.18 .. 1.18] the time of b over 9 rounds"}


def test_the_leader_is_who_beats_most_others_in_most_rounds_not_who_has_the_best_mean_or_the_best_round() -> None:
    found = among("a", "b")

    run(found, 2, a=0.3, b=1)
    run(found, 3, a=1.1, b=1)

    assert found.verdict() == RaceVerdict("b", (), ("a",), decided=False)


def test_who_beats_each_other_one_in_most_rounds_leads_even_where_another_beats_more_of_them_in_all() -> None:
    found = among("b", "a", "c")

    run(found, 3, a=1, b=1.1, c=1.2)
    run(found, 2, a=1.2, b=1, c=1.1)  # over all rounds b has won 7 pairs, a 6

    assert found.verdict() == RaceVerdict("a", (), ("b", "c"), decided=False)


def test_of_those_at_most_2_percent_slower_the_simplest_wins_and_the_others_are_tied() -> None:
    found = among("slow", "simple", "fast", "odd")

    run(found, 5, slow=1.03, simple=1.015, fast=1, odd=1.01)

    verdict = found.verdict()
    assert (verdict.winner, verdict.tied) == ("simple", ("fast", "odd"))
    assert verdict == RaceVerdict(
        "simple", ("fast", "odd"), ("slow", "fast", "odd"), decided=False
    )  # five rounds prove nothing


def test_a_race_is_decided_when_the_winner_is_proven_to_be_within_2_percent_of_everybody_left() -> None:
    found = among("simple", "fast")

    run(found, 6, simple=1.02, fast=1)
    assert found.verdict() == RaceVerdict("simple", ("fast",), ("fast",), decided=False)
    run(found, simple=1.02, fast=1)  # seven of seven: (2^8 - 1) / 8 = 31.9; eight are needed for 2 / 0.05
    assert not found.verdict().decided
    run(found, simple=1.02, fast=1)

    assert found.verdict() == RaceVerdict("simple", ("fast",), (), decided=True)
    assert found.next_round() == []


def test_a_winner_can_be_proven_before_its_rivals_are_proven_slower() -> None:
    found = among("rival", "best")

    for index in range(20):
        run(found, rival=1.06 if index % 5 < 3 else 1.01, best=1)  # over 2 % slower in 60 % of the rounds, never faster
        if not found.next_round():
            break

    assert found.verdict() == RaceVerdict("best", (), (), decided=True)
    assert (found.rounds, found.alive) == (8, ("best", "rival"))


def test_a_lone_candidate_has_won_without_a_round() -> None:
    found = among("a")

    assert found.next_round() == []
    assert found.verdict() == RaceVerdict("a", (), (), decided=True)
    assert found.standings() == {}


def test_before_the_first_round_the_simplest_would_win_and_nothing_is_known() -> None:
    found = among("b", "a")

    assert found.verdict() == RaceVerdict("b", (), ("a",), decided=False)
    assert found.standings() == {}
    assert found.ratio("a", "b") is None
    assert (found.rounds, found.discarded, found.is_noisy) == (0, 0, False)


def test_standings_are_ratios_to_the_reference_of_the_same_round_also_for_the_dropped() -> None:
    found = among("slow", "a", "b")

    found.note({"slow": RaceSample(10), "a": RaceSample(1), "b": RaceSample(3), REFERENCE: RaceSample(2)})
    found.note({"slow": RaceSample(12), "a": RaceSample(1.2), "b": RaceSample(1.1), REFERENCE: RaceSample(2.2)})
    found.note({"a": RaceSample(0.8), "b": RaceSample(1.6), REFERENCE: RaceSample(2)})

    assert found.standings() == {
        "a": Figure(0.5, 0.4, 1.2 / 2.2, 3),
        "b": Figure(0.8, 0.5, 1.5, 3),
        "slow": Figure(pytest.approx(5.227, abs=1e-3), 5, 12 / 2.2, 2),  # type: ignore[arg-type]  # it compares
    }
    assert list(found.standings()) == ["a", "b", "slow"]


def test_a_contaminated_round_is_counted_and_otherwise_forgotten() -> None:
    found = among("a", "b")

    assert run(found, reference=1, a=1, b=1.01)
    assert not run(found, reference=1.4, a=9, b=1)
    assert run(found, reference=1.1, a=1, b=1.01)

    assert (found.rounds, found.discarded, found.is_noisy) == (2, 1, False)
    assert found.ratio("a", REFERENCE) == Figure(pytest.approx((1 + 1 / 1.1) / 2), 1 / 1.1, 1, 2)  # type: ignore[arg-type]  # it compares


def test_a_round_after_a_contaminated_one_has_another_order() -> None:
    found = among("a", "b", "c", "d")
    run(found, a=1, b=1, c=1, d=1)
    before = found.next_round()

    assert not run(found, a=1, b=1, c=1, d=1, reference=2)

    assert found.next_round() != before


def test_a_fourth_contaminated_round_in_a_row_is_taken_and_said() -> None:
    found = among("a", "b")

    run(found, a=1, b=1)
    assert run(found, 4, reference=2, a=2, b=2)

    assert (found.rounds, found.discarded, found.is_noisy) == (2, 3, True)


def test_a_reference_kept_from_the_cpu_contaminates_a_round() -> None:
    found = among("a", "b")
    both = {"a": RaceSample(1), "b": RaceSample(1)}

    assert found.note({**both, REFERENCE: RaceSample(1, 1)})
    assert not found.note({**both, REFERENCE: RaceSample(1, 0.7)})


def test_a_withdrawn_candidate_is_measured_no_more_and_its_rounds_still_count() -> None:
    found = among("a", "b", "c")
    run(found, 5, a=1, b=1.1, c=1.2)

    found.withdraw("a", "out of memory")
    run(found, 3, b=1.1, c=1.2)
    assert not found.dropped
    run(found, b=1.1, c=1.2)

    assert found.withdrawn == {"a": "out of memory"}
    assert found.dropped == {"c": "1.09x [1.09 .. 1.09] the time of b over 9 rounds"}
    assert found.verdict() == RaceVerdict("b", (), (), decided=True)
    assert found.standings()["a"] == Figure(1, 1, 1, 5)


def test_a_candidate_can_be_withdrawn_in_the_middle_of_a_round_that_it_was_measured_in() -> None:
    found = among("a", "b", "c")
    found.withdraw("b", "it crashed")

    assert run(found, a=1, b=0.1, c=1.1)

    assert list(found.standings()) == ["a", "c"]
    assert found.verdict().winner == "a"


def test_where_all_are_withdrawn_nobody_wins_and_nothing_is_left_to_do() -> None:
    found = among("a", "b")
    found.withdraw("a", "it crashed")
    assert found.verdict() == RaceVerdict("b", (), (), decided=True)
    found.withdraw("b", "it crashed")

    assert found.next_round() == []
    assert found.verdict() == RaceVerdict(None, (), (), decided=False)


def test_who_is_not_alive_cannot_be_withdrawn() -> None:
    found = among("a", "b")
    found.withdraw("a", "it crashed")

    for name in ("a", "x"):
        with pytest.raises(ConfigError, match=f"'{name}' cannot be withdrawn; remaining candidates: b"):
            found.withdraw(name, "again")


@pytest.mark.parametrize("missing", ["a", "b", REFERENCE])
def test_a_round_with_a_sample_missing_is_refused_and_not_noted(missing: str) -> None:
    found = among("a", "b")
    samples = {name: RaceSample(1) for name in ("a", "b", REFERENCE) if name != missing}

    with pytest.raises(ConfigError, match=f"a round has no sample of {missing}; it must have one of the reference and of each"):
        found.note(samples)

    assert found.rounds == 0
    assert found.to_json()["events"] == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RaceSample(0), "a sample took 0 s; it must be above 0, finite"),
        (lambda: RaceSample(nan), "a sample took nan s; it must be above 0, finite"),
        (lambda: RaceSample(inf), "a sample took inf s; it must be above 0, finite"),
        (lambda: RaceSample(1, -1), "a sample used -1 s of CPU; it must be 0 or more, finite"),
        (among, r"candidates are \[\]; give at least one, each once, and none named 'reference'"),
        (lambda: among("a", "a"), r"candidates are \['a', 'a'\]; give at least one, each once"),
        (lambda: among("a", REFERENCE), "none named 'reference'"),
        (lambda: Race(["a", "b"], simplicity={"a": 1}), "simplicity is missing for b; give a finite number for each candidate"),
        (lambda: Race(["a"], simplicity={"a": nan}), "simplicity is missing for a"),
        (lambda: among("a", indifference=-0.1), "indifference is -0.1; it must be 0 or more, finite, such as 0.02 for 2 %"),
        (lambda: among("a", alpha=0), "alpha is 0; it must be between 0 and 1"),
        (lambda: among("a", alpha=1), "alpha is 1; it must be between 0 and 1"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


# Properties: whatever is measured.

FACTORS = st.sampled_from([0.3, 0.9, 1.0, 1.01, 1.03, 1.2, 3.0, 12.0])
ROUNDS = st.lists(st.lists(FACTORS, min_size=5, max_size=5), max_size=25)
NAMES = ("a", "b", "c", "d")


def noted(found: Race, times: Sequence[float]) -> None:
    """Note a round of these times, the last one the reference's, for those who are alive."""
    seconds = dict(zip((*NAMES, REFERENCE), times, strict=True))
    found.note({name: RaceSample(seconds[name], seconds[name] / 2) for name in (*found.alive, REFERENCE)})


@given(ROUNDS)
def test_somebody_is_always_left_who_is_dropped_stays_dropped_and_a_verdict_makes_sense(rounds: list[list[float]]) -> None:
    found = among(*NAMES)
    for times in rounds:
        before = dict(found.dropped)
        noted(found, times)
        verdict = found.verdict()

        assert before.items() <= found.dropped.items()
        assert {*found.alive} | found.dropped.keys() == {*NAMES}
        assert verdict.winner in found.alive
        assert {*verdict.tied, *verdict.unsettled} <= {*found.alive} - {verdict.winner}
        assert verdict.decided == (not verdict.unsettled) == (not found.next_round())
    assert found.rounds + found.discarded == len(rounds)
    assert len(found.standings()) == (len(NAMES) if found.rounds else 0)


@given(ROUNDS, st.permutations(NAMES))
def test_the_order_that_candidates_are_given_in_changes_nothing(rounds: list[list[float]], mixed: list[str]) -> None:
    simple = {"a": 1, "b": 0, "c": 0, "d": 2}
    one, other = Race(NAMES, simplicity=simple), Race(mixed, simplicity=simple)
    for times in rounds:
        noted(one, times)
        noted(other, times)

    assert everything(one) == everything(other)


@given(ROUNDS, ROUNDS, st.booleans())
def test_a_race_that_was_interrupted_goes_on_as_it_would_have(
    rounds: list[list[float]], later: list[list[float]], is_withdrawn: bool
) -> None:
    found = among(*NAMES, seed=3, indifference=0.05, alpha=0.1)
    for times in rounds:
        noted(found, times)
    if is_withdrawn:
        found.withdraw(found.alive[0], "it crashed")
    again = Race.from_json(json.loads(json.dumps(found.to_json())))
    assert everything(again) == everything(found)

    for times in later:
        noted(found, times)
        noted(again, times)

    assert everything(again) == everything(found)


def everything(found: Race) -> object:
    """All that a race says."""
    return (
        found.to_json(), found.next_round(), found.alive, found.dropped, found.withdrawn, found.rounds, found.discarded,
        found.is_noisy, list(found.standings().items()), found.verdict(),
    )  # fmt: skip


# Simulated machines, 100 seeds each: the claims of the design. `python -m benchmarks.racing` prints what was measured.


@pytest.mark.parametrize("noise", NOISES)
def test_the_right_one_of_ten_wins_in_95_of_100_seeds(noise: str) -> None:
    results = [race(LADDER, NOISES[noise], seed) for seed in range(100)]

    assert sum(result.winner == "1" for result in results) >= 95
    assert sum(result.decided for result in results) >= 95


@pytest.mark.parametrize("noise", [NOISES["jitter 2 %"], Noise(0.02, bad_rounds=0.2), Noise(0.02, bad_samples=0.2)])
def test_of_equal_candidates_the_simplest_wins_and_the_others_are_tied_in_95_of_100_seeds(noise: Noise) -> None:
    results = [race(EQUAL, noise, seed, max_rounds=120) for seed in range(100)]

    assert sum(result.winner == "a" for result in results) >= 95
    assert sum(result.tied == {"b", "c", "d"} for result in results) >= 95


@pytest.mark.parametrize("noise", ["3x in 20 % of samples", "a neighbour, 20 % of the time"])
def test_the_quick_rule_throws_out_the_best_in_under_one_race_in_a_hundred(noise: str) -> None:
    thrown_out = 0
    for seed in range(1000):
        found, machine = Race(list(LADDER), simplicity=simplicity(LADDER), seed=seed), Machine(NOISES[noise], seed)
        for _ in range(6):  # evidence needs eleven rounds
            found.note(machine.round(found.next_round(), LADDER))
        thrown_out += "1" in found.dropped

    assert thrown_out < 10


def test_racing_saves_over_half_of_the_time_that_all_rounds_of_all_candidates_would_take() -> None:
    assert all(race(LADDER, noise, seed).saved > 0.5 for noise in (NOISES["jitter 5 %"], Noise(0.01)) for seed in range(10))


@settings(max_examples=10)
@given(st.permutations(list(LADDER)), st.integers(0, 5))
def test_a_simulated_race_ends_the_same_for_any_order_of_its_candidates(mixed: list[str], seed: int) -> None:
    def played(names: Sequence[str], costs: Mapping[str, float]) -> object:
        found, machine = Race(names, simplicity=simplicity(costs), seed=seed), Machine(NOISES["all at once"], seed)
        for _ in range(30):
            if order := found.next_round():
                found.note(machine.round(order, costs))
        return everything(found)

    assert played(mixed, {name: LADDER[name] for name in mixed}) == played(list(LADDER), LADDER)


def test_the_reference_stands_in_each_place_of_a_round_about_equally_often() -> None:
    places = [among("a", "b", "c", seed=seed).next_round().index(REFERENCE) for seed in range(400)]

    assert all(70 <= places.count(place) <= 130 for place in range(4))


def test_an_order_is_the_same_in_every_process() -> None:
    assert among("a", "b", "c", "d", seed=7).next_round() == [REFERENCE, "c", "b", "a", "d"]
