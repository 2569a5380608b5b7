"""DeadlinePolicy: what runs next, as a function of the queue, the time and the cost curve. P1 to P16: batching.md, 3.7."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd import CostCurve, DeadlinePolicy
from nograd.batching import DeadlineQueue, Decision, DeviceState, Waiting
from nograd.batching.admission import STRICT_GOALS
from nograd.batching.simulation import SimulationOutcome, simulate
from nograd.errors import ConfigError

LINE = CostCurve((1, 8), (1.0, 4.5))
"""0.5 s and 0.5 s a row."""


def waiting(rows: int = 1, deadline: float = inf, *, arrived: float = 0.0, priority: int = 0) -> Waiting:
    return Waiting(rows, arrived, deadline, priority=priority)


def decided(policy: DeadlinePolicy, queue: Sequence[Waiting], now: float = 0.0, **device: Any) -> Decision:
    return policy.decide(DeadlineQueue(queue), now, DeviceState(**device))


def sizes(chosen: Sequence[Waiting]) -> list[int]:
    return [each.rows for each in chosen]


def exact(policy: DeadlinePolicy) -> DeadlinePolicy:
    """Predict without a margin, so that tests can count in whole seconds."""
    policy.cost.scale.factor = 1.0
    return policy


# -- without deadlines


@pytest.mark.parametrize(
    ("rows", "take", "reason"),
    [
        ([1], [1], "device free"),
        ([1, 1, 1], [1, 1, 1], "device free"),
        ([1, 1, 1, 1, 1], [1, 1, 1, 1], "full"),
        ([2, 1, 2, 1], [2, 1], "device free"),
        ([4, 1], [4], "full"),
    ],
)
def test_all_that_fits_runs_at_once_oldest_first(rows: list[int], take: list[int], reason: str) -> None:
    decision = decided(DeadlinePolicy(4), [waiting(count) for count in rows])

    assert (sizes(decision.take), decision.late, decision.reason, decision.wake_at) == (take, [], reason, None)


def test_batches_are_no_larger_than_the_knee_of_the_curve() -> None:
    flat_from_four = CostCurve((1, 2, 4, 8), (1.0, 1.2, 2.0, 4.0))
    policy = DeadlinePolicy(8, cost=flat_from_four)

    decision = decided(policy, [waiting() for _ in range(8)])

    assert (len(decision.take), decision.reason, policy.chunk_rows) == (4, "full", 4)


def test_on_a_device_that_gains_nothing_by_batching_the_batch_is_one() -> None:
    policy = DeadlinePolicy(32, cost=CostCurve((1, 32), (0.01, 0.32)))

    assert len(decided(policy, [waiting() for _ in range(8)]).take) == 1


def test_alone_means_alone() -> None:
    decision = decided(DeadlinePolicy(8, alone=True), [waiting(3), waiting(1)])

    assert (sizes(decision.take), decision.reason) == ([3], "full")


def test_a_partial_batch_runs_when_its_oldest_request_has_waited_the_window() -> None:
    policy = DeadlinePolicy(8, max_wait_ms=5)
    queue = [waiting(arrived=0.000), waiting(arrived=0.004)]

    early, due = decided(policy, queue, 0.004), decided(policy, queue, 0.005)

    assert (early.take, early.wake_at) == ((), 0.005)
    assert (len(due.take), due.reason) == (2, "waited")
    assert decided(policy, queue, 0.004, draining=True).reason == "draining"
    assert decided(DeadlinePolicy(2, max_wait_ms=5), queue, 0.004).reason == "full"


def test_free_lanes_share_what_waits() -> None:
    assert len(decided(DeadlinePolicy(8), [waiting() for _ in range(6)], free_lanes=2, lanes=2).take) == 3


# -- with deadlines


def test_the_earliest_deadline_goes_first_and_limits_the_batch() -> None:
    """Three rows take 2 s, four take 2.5."""
    policy = exact(DeadlinePolicy(8, cost=LINE))

    decision = decided(policy, [waiting(deadline=9.0) for _ in range(5)] + [waiting(deadline=2.1)])

    assert decision.take[0].deadline == 2.1
    assert (len(decision.take), decision.late, decision.reason) == (3, [], "deadline")


def test_what_cannot_be_on_time_even_alone_is_told_now() -> None:
    policy = exact(DeadlinePolicy(8, cost=LINE))

    decision = decided(policy, [waiting(deadline=0.9), waiting(deadline=1.0)])

    assert [each.deadline for each in decision.late] == [0.9]
    assert [each.deadline for each in decision.take] == [1.0]


def test_without_a_curve_only_what_has_expired_is_late() -> None:
    decision = decided(DeadlinePolicy(8), [waiting(deadline=4.0), waiting(deadline=5.0)], now=5.0)

    assert ([each.deadline for each in decision.late], [each.deadline for each in decision.take]) == ([4.0], [5.0])


def busy(policy: DeadlinePolicy, per_s: float) -> DeadlinePolicy:
    """Before its first decision, which begins to count."""
    policy.arrivals.per_s = per_s
    return policy


def test_under_load_the_first_is_given_up_where_it_would_make_batches_too_small() -> None:
    """The first allows one row (1 s); the load needs batches that it does not allow."""
    queue = [waiting(deadline=1.2), *(waiting(deadline=5.0) for _ in range(8))]

    calm = decided(busy(exact(DeadlinePolicy(8, cost=LINE)), per_s=0.5), queue)
    loaded = decided(busy(exact(DeadlinePolicy(8, cost=LINE)), per_s=1.7), queue)

    assert (len(calm.take), calm.late) == (1, [])
    assert (len(loaded.take), [each.deadline for each in loaded.late]) == (8, [1.2])


def test_under_load_the_first_is_kept_where_all_others_have_looser_goals_and_can_wait() -> None:
    queue = [waiting(deadline=1.2), *(waiting(deadline=50.0) for _ in range(8))]

    decision = decided(busy(exact(DeadlinePolicy(8, cost=LINE)), per_s=1.7), queue)

    assert (len(decision.take), decision.late) == (1, [])


@pytest.mark.parametrize(("deadline", "waits"), [(20.0, None), (5.0, 2 * 4.5 / 1.5 + 1.0)])
def test_a_request_that_would_be_late_even_on_a_faster_device_is_not_let_in(deadline: float, waits: float | None) -> None:
    policy = exact(DeadlinePolicy(8, cost=LINE))
    queue = DeadlineQueue(waiting(deadline=3.0) for _ in range(16))

    wait_s = policy.admit(queue, waiting(deadline=deadline), 1, 0.0, DeviceState(free_lanes=0, free_at=1.0))

    assert wait_s == waits


def test_after_one_was_given_up_who_should_be_late_in_a_full_batch_is_not_let_in_for_a_while() -> None:
    policy = exact(DeadlinePolicy(8, cost=LINE))
    queue = DeadlineQueue(waiting(deadline=3.0) for _ in range(16))

    def waits(now: float) -> float | None:
        return policy.admit(queue, waiting(deadline=now + 10.0), 1, now, DeviceState(free_lanes=0, free_at=now + 1.0))

    before = waits(0.0)
    late = decided(policy, [waiting(deadline=0.1), waiting(deadline=30.0)]).late
    then = [waits(after) for after in (0.0, STRICT_GOALS * 0.1 - 0.01, STRICT_GOALS * 0.1)]

    assert [each.slack for each in late] == [0.1]
    assert before is None  # 1 s, 2 x 4.5 s on a faster device, 1 s to run alone
    assert then == [1 + 2 * 4.5, 1 + 2 * 4.5, None]  # and 4.5 s in a batch of 8


def test_a_request_without_a_deadline_is_always_let_in() -> None:
    queue = DeadlineQueue(waiting() for _ in range(1000))

    assert DeadlinePolicy(8, cost=LINE).admit(queue, waiting(), 1, 0.0, DeviceState(free_lanes=0, free_at=9.0)) is None


def test_where_the_device_works_in_tiles_a_loaded_one_gets_no_rest() -> None:
    """Eight rows take as long as one; nine as long as sixteen, and less per second than eight."""
    tiles = CostCurve(tuple(range(1, 17)), tuple(6.0 if rows <= 8 else 10.0 for rows in range(1, 17)))
    queue = [waiting(deadline=60.0) for _ in range(9)]

    calm, loaded = (decided(busy(exact(DeadlinePolicy(16, cost=tiles)), per_s), queue) for per_s in (0.5, 1.2))

    assert (len(calm.take), len(loaded.take), loaded.reason, loaded.late) == (9, 8, "full", [])


# -- classes


def test_a_lower_class_runs_when_no_higher_one_waits_or_fills_up_its_batch() -> None:
    policy = exact(DeadlinePolicy(4, cost=CostCurve((1, 4), (1.0, 1.3))))
    low = [waiting(priority=1, deadline=float(n)) for n in range(3, 8)]

    filled = decided(policy, [*low, waiting(deadline=9.0)])
    tight = decided(policy, [*low, waiting(deadline=1.05)])

    assert [(each.priority, each.deadline) for each in filled.take] == [(0, 9.0), (1, 3.0), (1, 4.0), (1, 5.0)]
    assert [(each.priority, each.deadline) for each in tight.take] == [(0, 1.05)]
    assert sizes(decided(policy, low).take) == [1, 1, 1, 1]


def test_no_lower_class_pushes_a_higher_one_aside() -> None:
    policy = busy(exact(DeadlinePolicy(8, cost=LINE)), per_s=1.7)
    low = [waiting(priority=1, deadline=5.0) for _ in range(8)]

    decision = decided(policy, [waiting(deadline=1.2), *low])

    assert ([each.priority for each in decision.take], decision.late) == ([0], [])


def test_a_filler_that_would_be_late_in_the_batch_is_left_out() -> None:
    policy = exact(DeadlinePolicy(8, cost=LINE))
    low = waiting(priority=1, deadline=1.1)

    assert low not in decided(policy, [low, waiting(deadline=9.0)]).take


# -- memory, settings


def test_a_batch_that_did_not_fit_into_memory_halves_the_largest() -> None:
    policy = DeadlinePolicy(8)
    policy.limit(8, 1)

    assert (len(decided(policy, [waiting() for _ in range(8)]).take), policy.chunk_rows) == (4, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_batch_size": 0}, "max_batch_size is 0; it must be at least 1"),
        ({"max_wait_ms": -3.0}, "max_wait_ms is -3.0; it must be 0 or more, finite"),
        ({"max_wait_ms": float("nan")}, "max_wait_ms is nan; it must be 0 or more, finite"),
    ],
)
def test_a_setting_out_of_range_is_refused_with_what_is_allowed(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        DeadlinePolicy(**settings)

    assert str(raised.value) == message


# -- whatever comes

times = st.integers(0, 400).map(lambda n: n / 16)
curves = st.builds(
    lambda fixed, row, size: CostCurve((1, size), (fixed + row, fixed + row * size)),
    st.integers(0, 40).map(lambda n: n / 32 + 0.01),
    st.integers(1, 40).map(lambda n: n / 64),
    st.integers(2, 12),
)
policies = st.builds(lambda curve, known: DeadlinePolicy(curve.max_size, cost=curve if known else None), curves, st.booleans())
informed = curves.map(lambda curve: DeadlinePolicy(curve.max_size, cost=curve))


def traffic(rows: int = 3, classes: int = 2) -> st.SearchStrategy[list[Waiting]]:
    one = st.builds(
        lambda arrived, count, slack, priority: Waiting(count, arrived, arrived + slack, priority=priority),
        times,
        st.integers(1, rows),
        st.one_of(st.just(inf), st.integers(1, 200).map(lambda n: n / 8)),
        st.integers(0, classes - 1),
    )
    return st.lists(one, min_size=1, max_size=40).map(lambda found: sorted(found, key=lambda each: each.arrived))


def play(policy: DeadlinePolicy, requests: list[Waiting]) -> SimulationOutcome:
    """On a device that takes exactly what the curve says."""
    fitting = [request for request in requests if request.rows <= policy.chunk_rows]
    return simulate(policy, fitting, lambda rows, _: policy.cost._seconds[rows] or 0.5, keep_steps=True)


@given(policies, traffic())
def test_p1_p16_each_request_ends_once_and_the_queue_empties(policy: DeadlinePolicy, requests: list[Waiting]) -> None:
    outcome = play(policy, requests)
    ends = [*outcome.done, *outcome.late, *outcome.refused]

    assert outcome.left == []
    assert len(ends) == len(set(ends))
    assert set(ends) == {request for request in requests if request.rows <= policy.chunk_rows}


@given(policies, traffic())
def test_p2_the_device_is_never_idle_while_something_waits_that_could_be_on_time(
    policy: DeadlinePolicy, requests: list[Waiting]
) -> None:
    for step in play(policy, requests).steps:
        if not step.decision.take:
            assert set(step.decision.late) == set(step.queue)


@given(policies, traffic())
def test_p3_no_batch_is_larger_than_the_limit(policy: DeadlinePolicy, requests: list[Waiting]) -> None:
    for step in play(policy, requests).steps:
        rows = sum(each.rows for each in step.decision.take)
        assert rows <= policy.chunk_rows


@given(policies, traffic())
def test_p4_nobody_is_left_out_for_one_who_is_less_urgent(policy: DeadlinePolicy, requests: list[Waiting]) -> None:
    """Within a class, what was taken comes before what was left; of a lower class there are only fillers."""
    for step in play(policy, requests).steps:
        chosen = {*step.decision.take, *step.decision.late}
        for priority, members in groupby(step.queue, key=lambda each: each.priority):
            found = list(members)
            if priority == step.queue[0].priority:
                left = [index for index, each in enumerate(found) if each not in chosen]
                taken = [index for index, each in enumerate(found) if each in chosen]
                assert not left or not taken or max(taken) < min(left)


@given(informed, traffic(classes=1))
def test_p5_who_is_given_up_would_have_been_late_or_made_the_batch_smaller(
    policy: DeadlinePolicy, requests: list[Waiting]
) -> None:
    for step in play(policy, requests).steps:
        for each in step.decision.late:
            alone = policy.cost._seconds[each.rows] * 1.31
            assert each.deadline < step.now + max(step.decision.predicted_s * 1.31, alone)


@given(policies, traffic(classes=1))
def test_p6_without_deadlines_nothing_is_dropped_and_batches_are_what_fits_in_order(
    policy: DeadlinePolicy, requests: list[Waiting]
) -> None:
    patient = [Waiting(each.rows, each.arrived) for each in requests]
    outcome = play(policy, patient)

    assert (outcome.late, outcome.refused) == ({}, {})
    for step in outcome.steps:
        rows = 0
        expected: list[Waiting] = []
        for each in step.queue:
            if expected and rows + each.rows > policy.chunk_rows:
                break
            expected.append(each)
            rows += each.rows
        assert list(step.decision.take) == expected


@given(informed, traffic())
def test_p7_on_a_device_that_takes_what_was_predicted_nobody_in_a_batch_is_late(
    policy: DeadlinePolicy, requests: list[Waiting]
) -> None:
    for request, ended in play(policy, requests).done.items():
        assert ended <= request.deadline


@given(policies, traffic())
def test_p12_equals_go_in_the_order_they_came_in(policy: DeadlinePolicy, requests: list[Waiting]) -> None:
    same = [replace_deadline(each, 100.0) for each in requests]
    outcome = play(policy, same)

    for priority in (0, 1):
        started = [outcome.done[each] for each in same if each in outcome.done and each.priority == priority]
        assert started == sorted(started) or any(each.rows > 1 for each in same)


def replace_deadline(request: Waiting, deadline: float) -> Waiting:
    return Waiting(1, request.arrived, deadline, priority=request.priority)


@given(curves, traffic())
def test_p13_the_same_events_give_the_same_batches(curve: CostCurve, requests: list[Waiting]) -> None:
    first, second = (play(DeadlinePolicy(curve.max_size, cost=curve), requests) for _ in range(2))

    assert [(step.now, list(step.decision.take)) for step in first.steps] == [
        (step.now, list(step.decision.take)) for step in second.steps
    ]


def reference(policy: DeadlinePolicy, queue: list[Waiting], now: float) -> tuple[list[Waiting], list[Waiting]]:
    """The rule of batching.md 3.3, of single rows in one class on one lane, by linear scans: what to run, whom to give up."""
    cost, queue = policy.cost, sorted(queue, key=lambda each: each.deadline)
    late: list[Waiting] = []
    while queue and queue[0].deadline < now + cost.seconds(1):
        late.append(queue.pop(0))
    tries = 0
    while queue:
        most = min(len(queue), cost.knee)
        fits = max(k for k in range(most + 1) if k == 0 or cost.seconds(k) <= queue[0].deadline - now)
        rates = {k: k / (cost.seconds(k) / cost.scale.factor) for k in range(1, cost.knee + 1)}
        carrying = min([k for k, rate in rates.items() if rate >= policy.arrivals.per_s], default=cost.knee)
        if fits >= most or fits >= min(carrying, most):
            return queue[:fits], late
        tries += 1
        if fits and queue[-1].slack > 1.01 * queue[0].slack and tries <= 8:
            at, rest = now + cost.seconds(fits), queue[fits:]
            blocks = [rest[start : start + cost.knee] for start in range(0, len(rest), cost.knee)]
            on_time = []
            for block in blocks:
                at += cost.seconds(len(block))
                on_time.append(at <= block[0].deadline)
            if all(on_time):
                return queue[:fits], late
        late.append(queue.pop(0))
    return [], late


@given(informed, traffic(rows=1, classes=1), st.integers(0, 60).map(lambda n: n / 7), times)
def test_p15_the_rule_is_the_naive_one(policy: DeadlinePolicy, requests: list[Waiting], per_s: float, now: float) -> None:
    policy.arrivals.per_s = per_s
    timely = [each if each.deadline < inf else Waiting(1, each.arrived, each.arrived + 30.01) for each in requests]

    decision = decided(policy, timely, now)

    assert (list(decision.take), list(decision.late)) == reference(policy, timely, now)
