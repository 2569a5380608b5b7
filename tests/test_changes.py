"""A module that is not what it was is told from one that is; and a predictor that remembers never answers for the old one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from nograd import CachedPredictor, Predictor
from nograd.backends import modules
from nograd.backends.changes import MOST_SETTINGS, ChangeWatch
from nograd.runtime.fingerprint import Fingerprint, of_value
from tests.waiting import HANG_S


class Model(nn.Module):
    """Settings of each kind, and a note of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(40, 3)
        self.extra = nn.Sequential()
        self.temperature = 1.0
        self.settings = {"factor": 1.0}
        self.config = SimpleNamespace(offset=0.0)
        self.last: Any = None
        self.num_runs: Any = 0
        self.vocabulary: dict[str, int] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.num_runs += 1
        self.last = self.linear(x)
        found: torch.Tensor = self.extra(self.last) / self.temperature * self.settings["factor"] + self.config.offset
        return found


def through_numpy(model: Model) -> None:
    model.linear.weight.detach().numpy()[:] *= 3.0


def through_data(model: Model) -> None:
    model.linear.weight.data.mul_(3.0)


def by_an_average(model: Model) -> None:
    for parameter in model.parameters():
        parameter.data.copy_(0.9 * parameter.data + 0.1 * torch.ones_like(parameter))


def in_place(model: Model) -> None:
    with torch.no_grad():
        model.linear.bias.add_(1)


def replaced(model: Model) -> None:
    model.linear = nn.Linear(40, 3)


def a_first_child(model: Model) -> None:
    model.extra.append(nn.Tanh())


def a_setting(model: Model) -> None:
    model.temperature = 2.0


def an_entry(model: Model) -> None:
    model.settings["factor"] = 3.0


def a_configuration(model: Model) -> None:
    model.config.offset = 1.0


def a_hook(model: Model) -> None:
    model.linear.register_forward_hook(lambda _, args, output: output + args[0].sum())


def a_hook_before(model: Model) -> None:
    model.linear.register_forward_pre_hook(lambda _, args: (args[0] + 1,))


def another_forward(model: Model) -> None:
    model.forward = lambda x: x[:, :3] * 7  # type: ignore[method-assign]


CHANGES: list[Callable[[Model], None]] = [
    in_place, through_data, through_numpy, by_an_average, replaced, a_first_child, a_setting, an_entry, a_configuration, a_hook,
    a_hook_before, another_forward,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_never_answers_with_an_old_value(change: Callable[[Model], None]) -> None:
    model = Model().eval()
    predictor = CachedPredictor(Predictor(model, sample=torch.zeros(2, 40)))
    x = torch.ones(1, 40)
    before = predictor.predict(x)
    assert torch.equal(predictor.predict(x), before)
    assert predictor.cache.statistics().hits == 1  # its own notes are no change
    change(model)
    after = predictor.predict(x)
    assert not torch.equal(after, before)
    assert torch.equal(after, model(x).detach())


def test_a_setting_that_comes_and_goes_is_not_taken_for_the_one_that_was() -> None:
    """Values are compared by identity: the old one must stay alive, or a new one may get its place in memory."""
    model = Model()
    watch = ChangeWatch(model)
    for number in range(100):
        model.temperature = float(number + 2)
        assert watch.changed()


def test_what_a_run_changes_is_its_own_note_and_what_changed_before_it_is_still_told() -> None:
    model = Model()
    watch = ChangeWatch(model)
    for _ in range(2):
        with watch.running():
            model(torch.zeros(1, 40))
        assert not watch.changed()
    model.temperature = 2.0
    with watch.running():
        model(torch.zeros(1, 40))
        model.first_seen_here = 1  # type: ignore[assignment]
    assert watch.changed()
    model.temperature = 1.0
    watch = ChangeWatch(model)
    with watch.running():
        model.temperature = 3.0
    model.temperature = 4.0
    assert not watch.changed()  # it is a note now
    model.linear.weight.data.zero_()
    assert watch.changed()


def test_of_a_large_table_only_the_size_is_looked_at() -> None:
    model = Model()
    model.vocabulary.update((str(number), number) for number in range(MOST_SETTINGS + 1))
    watch = ChangeWatch(model)
    model.vocabulary["0"] = -1
    assert not watch.changed()
    model.vocabulary["new"] = 1
    assert watch.changed()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(0), torch.tensor(1.0), torch.ones(3, dtype=torch.bfloat16), torch.ones(4, 4).t()[1:],
        torch.ones(2, 2).to_sparse(), torch.ones(3, dtype=torch.complex64).conj(), torch.ones(3, device="meta"),
        torch.ones(5, dtype=torch.bool),
    ],
)  # fmt: skip
def test_buffers_of_any_kind_can_be_watched(tensor: torch.Tensor) -> None:
    model = nn.Module()
    model.register_buffer("buffer", tensor)
    watch = ChangeWatch(model)
    assert not watch.changed()
    model.register_buffer("buffer", torch.ones(7))
    assert watch.changed()


def a_first_buffer(model: Model) -> None:
    model.extra.register_buffer("mean", torch.zeros(2))


def a_deleted_setting(model: Model) -> None:
    del model.temperature


def another_setting_of_equal_value(model: Model) -> None:
    model.settings["factor"] = True


def other_memory(model: Model) -> None:
    model.linear.weight.data = model.linear.weight.data.clone()


@pytest.mark.parametrize("change", [a_first_buffer, a_deleted_setting, another_setting_of_equal_value, other_memory])
def test_a_change_of_what_a_module_holds_is_noticed(change: Callable[[Model], None]) -> None:
    model = Model()
    watch = ChangeWatch(model)
    assert not watch.changed()
    change(model)
    assert watch.changed()


def test_threads_that_ask_first_all_get_the_same_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Fingerprint] = []
    everybody = threading.Barrier(4)

    def slowly(*values: Any) -> Fingerprint:
        asking.wait(HANG_S)
        read.append(of_value(*values))
        return read[-1]

    asking = threading.Event()
    monkeypatch.setattr(modules, "of_value", slowly)
    model = nn.Linear(4, 3)
    backend = Predictor(model, sample=torch.zeros(2, 4)).backend
    found: list[Fingerprint] = []

    def ask() -> None:
        everybody.wait(HANG_S)
        found.append(backend.fingerprint())

    for _ in range(2):  # at first, and after a change
        asking.clear()
        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        everybody.wait(HANG_S)
        asking.set()
        for thread in threads:
            thread.join()
        model.weight.data.add_(1)
    assert len(read) == 2
    assert found == [read[0]] * 3 + [read[1]] * 3
    assert read[0] != read[1]
