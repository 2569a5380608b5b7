"""LengthPolicy and the partition under it: who runs with whom when rows differ in length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd import CostCurve, LengthPolicy
from nograd.batching import DeadlineQueue, Decision, DeviceState, Waiting
from nograd.batching.admission import OVERBOOKING
from nograd.batching.grouping import cheapest_groups
from nograd.batching.simulation import SimulationOutcome, simulate
from nograd.errors import ConfigError

COST = CostCurve((1, 1000), (0.0481, 0.148), unit="tokens")
"""48 ms and 0.1 ms for each padded element."""


def waiting(length: int, deadline: float = inf, *, rows: int = 1, arrived: float = 0.0) -> Waiting:
    return Waiting(rows, arrived, deadline, length, (length,))


def decided(policy: LengthPolicy, queue: Sequence[Waiting], now: float = 0.0) -> Decision:
    return policy.decide(DeadlineQueue(queue), now, DeviceState())


def lengths(chosen: Sequence[Waiting]) -> list[int]:
    return sorted(each.length for each in chosen)


# -- the partition


def partitions(count: int) -> Iterator[list[tuple[int, int]]]:
    if count == 0:
        yield []
    for start in range(count):
        for before in partitions(start):
            yield [*before, (start, count)]


def cost_of(groups: list[tuple[int, int]], sizes: list[int], rows: list[int], overhead: float) -> float:
    return sum(overhead + sum(rows[start:end]) * sizes[end - 1] for start, end in groups)


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 4)), max_size=8),
    st.integers(0, 100),
    st.integers(1, 12),
    st.integers(1, 200),
)
def test_no_partition_is_cheaper(found: list[tuple[int, int]], overhead: int, max_rows: int, max_tokens: int) -> None:
    found.sort()
    sizes, rows = [size for size, _ in found], [count for _, count in found]

    groups = cheapest_groups(sizes, rows, overhead=overhead, max_rows=max_rows, max_tokens=max_tokens)

    def allowed(groups: list[tuple[int, int]]) -> bool:
        totals = [(end - start, sum(rows[start:end]), sizes[end - 1]) for start, end in groups]
        return all(count == 1 or (n <= max_rows and n * longest <= max_tokens) for count, n, longest in totals)

    assert allowed(groups)
    best = min(cost_of(each, sizes, rows, overhead) for each in partitions(len(found)) if allowed(each))
    assert cost_of(groups, sizes, rows, overhead) == best


# -- the policy


@pytest.mark.parametrize(
    ("waits", "take"),
    [
        ((10, 12, 10, 11), [10, 10, 11, 12]),
        ((10, 500, 12, 10, 490, 11), [10, 10, 11, 12]),
        ((500, 10, 490, 11), [490, 500]),
    ],
)
def test_the_group_of_the_oldest_runs(waits: tuple[int, ...], take: list[int]) -> None:
    decision = decided(LengthPolicy(32), [waiting(length) for length in waits])

    assert lengths(decision.take) == take
    assert decision.reason == ("device free" if len(take) == len(waits) else "lengths")


def test_only_equal_lengths_meet_where_padding_is_wrong() -> None:
    decision = decided(LengthPolicy(32, equal=True), [waiting(length) for length in (10, 12, 10, 11)])

    assert lengths(decision.take) == [10, 10]


@pytest.mark.parametrize("equal", [False, True])
def test_rows_and_padded_elements_are_capped_and_a_longer_row_runs_alone(equal: bool) -> None:
    policy = LengthPolicy(4, max_batch_tokens=300, equal=equal)

    assert lengths(decided(policy, [waiting(10) for _ in range(6)]).take) == [10] * 4
    assert lengths(decided(policy, [waiting(100) for _ in range(6)]).take) == [100] * 3
    assert lengths(decided(policy, [waiting(900), waiting(900)]).take) == [900]


def test_the_batch_shrinks_to_what_its_earliest_deadline_allows() -> None:
    """Four rows of 100 take 88 ms and the margin; two take 68."""
    queue = [waiting(100, 0.078), *(waiting(100, 9.0) for _ in range(3))]

    decision = decided(LengthPolicy(32, cost=COST), queue)

    assert decision.take[0].deadline == 0.078
    assert (len(decision.take), decision.reason) == (2, "deadline")


def test_what_cannot_be_on_time_is_told_now() -> None:
    queue = [waiting(10, 0.05), waiting(10, 9.0)]

    decision = decided(LengthPolicy(32, cost=COST), queue)

    assert ([each.deadline for each in decision.late], [each.deadline for each in decision.take]) == ([0.05], [9.0])


def test_under_load_the_group_that_serves_most_runs_and_who_gets_late_by_it_is_told() -> None:
    policy = LengthPolicy(32, cost=COST)
    policy.arrivals.per_s = 200.0
    queue = [waiting(900, 0.2), *(waiting(10, 0.22) for _ in range(30))]

    decision = decided(policy, queue)

    assert lengths(decision.take) == [10] * 30
    assert lengths(decision.late) == [900]


def test_under_load_no_lower_class_pushes_a_higher_one_aside() -> None:
    policy = LengthPolicy(32, cost=COST)
    policy.arrivals.per_s = 200.0
    low = [Waiting(1, 0.0, 0.22, 10, (10,), priority=1) for _ in range(30)]

    decision = decided(policy, [waiting(900, 0.2), *low])

    assert lengths(decision.take) == [900]


def test_a_batch_that_did_not_fit_into_memory_halves_the_padded_elements() -> None:
    policy = LengthPolicy(32)
    policy.limit(8, 100)

    assert len(decided(policy, [waiting(100) for _ in range(8)]).take) == 4


def test_a_request_that_would_be_late_is_not_let_in() -> None:
    policy = LengthPolicy(4, cost=COST)
    queue = DeadlineQueue(waiting(100, 1.0) for _ in range(40))
    busy = DeviceState(free_lanes=0, free_at=0.1)

    assert policy.admit(queue, waiting(100, 5.0), 1, 0.0, busy) is None
    assert policy.admit(queue, waiting(100, 1.0), 1, 0.95, busy) is not None
    assert policy.admit(queue, waiting(100), 1, 0.95, busy) is None


def test_after_one_was_given_up_requests_are_let_in_more_strictly() -> None:
    policy = LengthPolicy(4, cost=COST)
    policy._mean_length = 100.0
    queue = DeadlineQueue(waiting(100, 1.0) for _ in range(40))

    def waits() -> float | None:
        return policy.admit(queue, waiting(100, 1.0), 1, 0.95, DeviceState(free_lanes=0, free_at=0.1))

    lenient_s = waits()
    late = decided(policy, [waiting(100, 0.1)], now=0.1).late
    strict_s = waits()

    assert [each.slack for each in late] == [0.1]
    assert lenient_s is not None
    assert strict_s == pytest.approx(OVERBOOKING * lenient_s)


@pytest.mark.parametrize("setting", [{"max_batch_size": 0}, {"max_wait_ms": -1.0}, {"max_batch_tokens": 0}])
def test_a_setting_out_of_range_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        LengthPolicy(**setting)


# -- whatever comes

requests = st.lists(
    st.builds(
        lambda arrived, length, slack, rows: waiting(length, arrived + slack, rows=rows, arrived=arrived),
        st.integers(0, 100).map(lambda n: n / 100),
        st.integers(1, 300),
        st.one_of(st.just(inf), st.integers(1, 200).map(lambda n: n / 100)),
        st.integers(1, 3),
    ),
    min_size=1,
    max_size=30,
).map(lambda found: sorted(found, key=lambda each: each.arrived))
policies = st.builds(
    LengthPolicy,
    st.integers(3, 20),
    cost=st.sampled_from([None, COST]),
    max_batch_tokens=st.sampled_from([None, 400]),
    equal=st.booleans(),
)


def play(policy: LengthPolicy, found: list[Waiting]) -> SimulationOutcome:
    return simulate(policy, found, lambda rows, longest: 0.048 + 0.0001 * rows * longest, keep_steps=True)


@given(policies, requests)
def test_each_ends_once_and_no_batch_breaks_a_limit(policy: LengthPolicy, found: list[Waiting]) -> None:
    outcome = play(policy, found)
    ends = [*outcome.done, *outcome.late, *outcome.refused]

    assert outcome.left == []
    assert sorted(map(id, ends)) == sorted(map(id, found))
    for step in outcome.steps:
        take = step.decision.take
        assert take or step.decision.late == list(step.queue) or set(step.decision.late) == set(step.queue)
        if not take:
            continue
        rows, longest = sum(each.rows for each in take), max(each.length for each in take)
        assert rows <= policy._max_batch_size
        assert len(take) == 1 or rows * longest <= policy._max_tokens
        assert not policy._equal or len({each.shape for each in take}) == 1


@given(st.integers(3, 20).map(lambda size: LengthPolicy(size, cost=COST)), requests)
def test_nobody_in_a_batch_is_late_on_a_device_as_predicted(policy: LengthPolicy, found: list[Waiting]) -> None:
    for request, ended in play(policy, found).done.items():
        assert ended <= request.deadline


@given(policies, requests)
def test_without_deadlines_the_oldest_is_in_every_batch_and_nothing_is_dropped(
    policy: LengthPolicy, found: list[Waiting]
) -> None:
    patient = [waiting(each.length, rows=each.rows, arrived=each.arrived) for each in found]
    outcome = play(policy, patient)

    assert len(outcome.done) == len(patient)
    for step in outcome.steps:
        assert step.queue[0] in step.decision.take
