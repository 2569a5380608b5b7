"""The queue: always as a sorted list would be."""

from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nograd.batching import DeadlineQueue, Waiting

deadlines = st.one_of(st.just(inf), st.integers(0, 9).map(float))


class QueueAgainstList(RuleBasedStateMachine):
    """P1, P8, P12: nothing is lost or doubled, counts are right, equals stay in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = DeadlineQueue()
        self.model: list[Waiting] = []

    @rule(rows=st.integers(1, 4), deadline=deadlines, priority=st.integers(0, 2), nbytes=st.integers(0, 99))
    def add(self, rows: int, deadline: float, priority: int, nbytes: int) -> None:
        waiting = Waiting(rows, 0.0, deadline, priority=priority, nbytes=nbytes)
        position = self.queue.position(waiting)
        self.queue.add(waiting)
        self.model.append(waiting)
        self.model.sort(key=lambda each: (each.priority, each.deadline))
        assert self.queue.items[position] is waiting

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        waiting = self.model.pop(data.draw(st.integers(0, len(self.model) - 1)))
        self.queue.remove(waiting)
        assert not waiting.queued

    @rule(data=st.data())
    def take_some(self, data: st.DataObject) -> None:
        chosen = [waiting for waiting in self.model if data.draw(st.booleans())]
        self.queue.take(data.draw(st.permutations(chosen)))
        self.model = [waiting for waiting in self.model if waiting not in chosen]

    @rule(count=st.integers(0, 5))
    def take_the_first(self, count: int) -> None:
        self.queue.take(self.queue.items[:count])
        del self.model[:count]

    @invariant()
    def is_as_the_list(self) -> None:
        assert self.queue.items == self.model
        assert all(waiting.queued for waiting in self.model)
        assert self.queue.rows == sum(waiting.rows for waiting in self.model)
        assert self.queue.nbytes == sum(waiting.nbytes for waiting in self.model)
        assert len(self.queue) == len(self.model)


TestQueueAgainstList = QueueAgainstList.TestCase


@given(st.lists(deadlines))
def test_one_deadline_is_one_line(found: list[float]) -> None:
    queue = DeadlineQueue(Waiting(1, float(index), deadline) for index, deadline in enumerate(found))

    assert [(each.deadline, each.arrived) for each in queue.items] == sorted(
        (deadline, float(index)) for index, deadline in enumerate(found)
    )
