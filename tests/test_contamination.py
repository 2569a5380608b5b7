"""Rounds in which something else kept the machine busy: told by the reference, thrown away, at most three in a row."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest

from nograd.tuning.contamination import RoundWatch


def taken(times: Iterable[float], watch: RoundWatch | None = None) -> list[bool]:
    watch = watch or RoundWatch()
    return [watch.note(seconds) for seconds in times]


def test_a_round_whose_reference_took_over_1_3_times_as_long_as_usual_is_thrown_away() -> None:
    watch = RoundWatch()

    assert taken([1.0, 1.3, 1.0, 1.301, 3.0, 1.2], watch) == [True, True, True, False, False, True]
    assert watch.discarded == 2
    assert not watch.is_noisy


def test_the_first_round_is_taken_and_one_quiet_round_is_enough_to_tell_those_after_it() -> None:
    assert taken([3.0, 3.0, 1.0, 3.0, 3.0, 1.0]) == [True, True, True, False, False, True]


def test_usual_is_the_second_smallest_of_six_or_more_so_one_lucky_round_does_not_condemn_for_long() -> None:
    assert taken([1.0, 1.0, 1.0, 1.0, 0.5, 1.0, 1.0]) == [True] * 7
    assert taken([1.0, 1.0, 1.0, 0.5, 1.0, 1.0]) == [True, True, True, True, False, True]  # of five, the smallest


def test_usual_is_the_fourth_smallest_of_the_last_twenty() -> None:
    assert taken([1.0] * 17 + [0.5] * 3 + [1.0]) == [True] * 21
    assert taken([1.0] * 16 + [0.5] * 4 + [1.0]) == [True] * 20 + [False]
    assert taken([0.5] * 4 + [0.65] * 20 + [1.0])[-1] is False
    assert taken([0.5] * 4 + [0.65] * 20 + [0.84])[-1] is True  # 0.84 is under 1.3 x 0.65, and 0.5 was too long ago


def test_a_fourth_bad_round_in_a_row_is_taken_and_said() -> None:
    watch = RoundWatch()

    assert taken([1.0] * 10 + [2.0] * 4, watch) == [True] * 10 + [False] * 3 + [True]
    assert (watch.discarded, watch.is_noisy) == (3, True)


def test_a_machine_that_stays_slower_costs_three_rounds_and_no_more() -> None:
    watch = RoundWatch()

    assert taken([1.0] * 30 + [2.0] * 30, watch) == [True] * 30 + [False] * 3 + [True] * 27


def test_bad_rounds_that_were_taken_are_forgotten_after_one_quiet_round() -> None:
    assert taken([1.0] * 10 + [3.0] * 4 + [1.0, 3.0]) == [True] * 10 + [False] * 3 + [True, True, False]


def test_a_machine_that_gets_twice_as_slow_over_200_rounds_loses_none() -> None:
    assert all(taken(1 + i / 200 for i in range(200)))


@pytest.mark.parametrize("seed", range(5))
def test_of_rounds_that_are_hit_threefold_one_in_five_nearly_all_are_found_and_no_other(seed: int) -> None:
    random = Random(seed)
    hit = [False, *(random.random() < 0.2 for _ in range(299))]

    kept = taken((3.0 if bad else 1.0) * random.lognormvariate(0, 0.05) for bad in hit)

    assert all(good for good, bad in zip(kept, hit, strict=True) if not bad)
    assert sum(good for good, bad in zip(kept, hit, strict=True) if bad) <= 2  # a fourth in a row


def test_a_reference_that_was_kept_from_the_cpu_is_found_where_the_machine_got_faster_meanwhile() -> None:
    watch = RoundWatch()

    assert [watch.note(1.0, 1.0) for _ in range(5)] == [True] * 5
    assert watch.note(0.9, 0.9)
    assert not watch.note(0.9, 0.69)
    assert watch.note(0.9, 0.7)


def test_a_cpu_time_that_is_missing_or_zero_is_no_evidence() -> None:
    watch = RoundWatch()

    assert [watch.note(1.0, cpu_s) for cpu_s in (1.0, None, 0.0, 1.0)] == [True] * 4
