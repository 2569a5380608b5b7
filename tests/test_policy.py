"""What runs next: WindowPolicy as a function of the queue and the time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd import Decision, WindowPolicy
from nograd.batching.policy import LOOK_AHEAD, DeviceState, Waiting
from nograd.errors import ConfigError
from nograd.tensors import Batching

FREE = DeviceState()
DRAINING = DeviceState(draining=True)


def waiting(rows: int = 1, length: int = 1, arrived: float = 0.0) -> Waiting:
    return Waiting(rows, arrived, length=length, shape=(length,))


def of_lengths(*lengths: int) -> list[Waiting]:
    return [waiting(length=length) for length in lengths]


queues = st.lists(st.builds(waiting, st.integers(1, 6), st.integers(1, 300), st.floats(0, 1)), min_size=1, max_size=80)
policies = st.builds(
    WindowPolicy, st.integers(1, 40), st.sampled_from([0.0, 250.0]), st.sampled_from(["pad", "equal_lengths", "alone"])
)
devices = st.builds(DeviceState, st.integers(1, 2), st.booleans())


@pytest.mark.parametrize(
    ("rows", "take", "reason"),
    [
        ([1], (0,), "device free"),
        ([1, 1, 1], (0, 1, 2), "device free"),
        ([1, 1, 1, 1], (0, 1, 2, 3), "full"),
        ([1, 1, 1, 1, 1], (0, 1, 2, 3), "full"),
        ([2, 1, 2, 1], (0, 1), "device free"),
        ([4, 1], (0,), "full"),
        ([9, 1], (0,), "full"),
    ],
)
def test_without_a_window_all_that_fits_runs_at_once_oldest_first(rows: list[int], take: tuple[int, ...], reason: str) -> None:
    decision = WindowPolicy(max_batch_size=4).decide([waiting(n) for n in rows], 5.0, FREE)

    assert (decision.take, decision.reason, decision.wake_at) == (take, reason, None)


def test_a_partial_batch_runs_when_its_oldest_request_has_waited_the_window() -> None:
    policy = WindowPolicy(max_batch_size=8, max_wait_ms=5)
    queue = [waiting(arrived=0.000), waiting(arrived=0.004)]

    assert policy.decide(queue, 0.004, FREE) == Decision(wake_at=0.005)
    assert policy.decide(queue, 0.005, FREE) == Decision((0, 1), "waited")


def test_a_full_batch_does_not_wait_for_its_window() -> None:
    assert WindowPolicy(2, max_wait_ms=5).decide([waiting(), waiting()], 0.0, FREE) == Decision((0, 1), "full")


def test_a_draining_batcher_does_not_wait_for_company_that_will_not_come() -> None:
    assert WindowPolicy(8, max_wait_ms=5).decide([waiting()], 0.0, DRAINING) == Decision((0,), "draining")


@pytest.mark.parametrize(
    ("batching", "lengths", "take"),
    [
        ("pad", (10, 12, 10, 11), (0, 1, 2, 3)),
        ("pad", (10, 500, 12, 10, 490, 11, 10), (0, 2, 3, 5, 6)),
        ("pad", (500, 10, 490, 11), (0, 2)),
        ("equal_lengths", (10, 12, 10, 11), (0, 2)),
        ("equal_lengths", (7,), (0,)),
        ("alone", (10, 10, 10), (0,)),
    ],
)
def test_rows_meet_only_where_padding_is_right_and_worth_it(
    batching: Batching, lengths: tuple[int, ...], take: tuple[int, ...]
) -> None:
    assert WindowPolicy(32, batching=batching).decide(of_lengths(*lengths), 0.0, FREE).take == take


@given(policies, queues, st.floats(1, 2), devices)
def test_a_decision_is_a_set_that_holds_the_oldest_and_fits_or_a_time_to_come(
    policy: WindowPolicy, queue: list[Waiting], now: float, device: DeviceState
) -> None:
    decision = policy.decide(queue, now, device)

    if not decision.take:
        assert decision.wake_at is not None
        assert decision.wake_at > now
        return
    assert decision.wake_at is None
    assert list(decision.take) == sorted(set(decision.take))
    assert decision.take[0] == 0
    assert decision.take[-1] < len(queue)
    rows = sum(queue[position].rows for position in decision.take)
    assert rows <= policy.max_batch_size or len(decision.take) == 1
    assert (decision.reason == "full") == (rows >= policy.max_batch_size or policy.batching == "alone")
    if policy.batching != "pad":
        assert {queue[position].shape for position in decision.take} == {queue[0].shape}
    if policy.batching == "alone":
        assert decision.take == (0,)


@given(policies, queues, st.floats(1, 2), devices)
def test_the_same_queue_at_the_same_time_gets_the_same_decision(
    policy: WindowPolicy, queue: list[Waiting], now: float, device: DeviceState
) -> None:
    assert policy.decide(queue, now, device) == policy.decide(tuple(queue), now, device)


@given(queues, devices)
def test_without_a_window_something_always_runs(queue: list[Waiting], device: DeviceState) -> None:
    assert WindowPolicy(8).decide(queue, 0.0, device).take


@given(policies, queues, st.floats(1, 2))
def test_once_the_window_is_over_the_batch_runs_with_the_time_that_was_promised(
    policy: WindowPolicy, queue: list[Waiting], now: float
) -> None:
    decision = policy.decide(queue, now, FREE)
    if decision.wake_at is not None:
        assert decision.wake_at == queue[0].arrived + policy.max_wait_s
        assert policy.decide(queue, decision.wake_at, FREE).take


@given(st.integers(2, 40))
def test_equal_rows_run_in_the_order_they_came_in(size: int) -> None:
    take = WindowPolicy(size).decide(of_lengths(*[5] * 80), 0.0, FREE).take

    assert take == tuple(range(min(size, LOOK_AHEAD)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_batch_size": 0}, "max_batch_size is 0; it must be at least 1"),
        ({"max_wait_ms": -3.0}, "max_wait_ms is -3.0; it must be 0 or more, finite"),
        ({"max_wait_ms": float("nan")}, "max_wait_ms is nan; it must be 0 or more, finite"),
        ({"max_wait_ms": float("inf")}, "max_wait_ms is inf; it must be 0 or more, finite"),
    ],
)
def test_a_setting_out_of_range_is_refused_with_what_is_allowed(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        WindowPolicy(**settings)  # type: ignore[arg-type]

    assert str(raised.value) == message
