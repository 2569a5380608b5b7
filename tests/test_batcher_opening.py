"""A DynamicBatcher that opens itself, learns an unknown model from its first request, and ends with its event loop."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nograd import DynamicBatcher, Predictor, measure_cost
from nograd.backends.first_inputs import backend_from_inputs
from nograd.core.inputs import one_row
from nograd.errors import ConfigError, DeadlineError, ModelError, NogradError, OverloadedError, SignatureError, UnavailableError
from tests.fakes import doubling
from tests.waiting import HANG_S

torch.manual_seed(0)
WIDE, SQUARE = nn.Linear(16, 4).eval(), nn.Linear(6, 6).eval()


class Gated(nn.Module):
    """A linear model that waits in each call until the test lets it pass."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.entered, self.passing = threading.Event(), threading.Event()

    def __deepcopy__(self, memo: dict[int, Any]) -> Gated:
        return self

    def forward(self, x: Tensor) -> Tensor:
        self.entered.set()
        assert self.passing.wait(HANG_S)
        found: Tensor = self.linear(x)
        return found


class Named(nn.Module):
    """Two inputs by name, two outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(50, 8), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, scale: Tensor) -> dict[str, Tensor]:
        pooled = self.table(input_ids).mean(1) * scale.unsqueeze(-1)
        return {"logits": self.head(pooled), "pooled": pooled}


class LastState(nn.Module):
    """A recurrent model that accepts `[tokens, 5]` as well as `[rows, tokens, 5]`."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 7, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.lstm(x)[0]
        return found


def direct(model: nn.Module, inputs: Any) -> Any:
    """What plain torch answers."""
    with torch.inference_mode():
        return model(**inputs) if isinstance(inputs, dict) else model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def same(found: Any, right: Any) -> bool:
    if isinstance(right, dict):
        return found.keys() == right.keys() and all(same(found[name], leaf) for name, leaf in right.items())
    return bool(found.shape == right.shape and torch.allclose(torch.as_tensor(found), right, rtol=1e-5, atol=1e-6))


async def ended(work: Coroutine[Any, Any, Any]) -> Any:
    """The answer, or the error."""
    try:
        return await work
    except NogradError as error:
        return error


async def entered(model: Gated) -> None:
    assert await asyncio.to_thread(model.entered.wait, 30)


def device_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("nograd-device")]


def wait_no_device_thread() -> None:
    """A batcher is part of a cycle; a thread that has just handed over an answer may still hold it during a collection."""
    for _ in range(3000):
        gc.collect()
        for thread in threading.enumerate():
            if thread.name.startswith("nograd-device"):
                thread.join(0.01)
        if not device_threads():
            return
    raise AssertionError(device_threads())


# -- learning


@pytest.mark.parametrize(
    "given",
    [
        lambda: WIDE,
        lambda: Predictor(WIDE),
        lambda: Predictor(WIDE, sample=torch.zeros(2, 16)),
        lambda: Predictor(WIDE, sample=torch.zeros(2, 16)).backend,
    ],
    ids=["module", "predictor", "predictor with a sample", "backend"],
)
def test_concurrent_first_requests_share_batches_and_get_the_models_answers(given: Callable[[], Any]) -> None:
    x = torch.randn(40, 16)

    async def story() -> tuple[Tensor, int]:
        batcher = DynamicBatcher(given(), max_batch_size=32)
        found = await asyncio.gather(*(batcher.predict(x[i : i + 1]) for i in range(40)))
        await batcher.close()
        return torch.cat(found), batcher.statistics().batches

    found, batches = asyncio.run(story())
    assert same(found, direct(WIDE, x))
    assert batches == 2


def test_a_predictor_that_predicted_without_a_sample_is_probed_too() -> None:
    predictor = Predictor(WIDE)
    predictor.predict(torch.zeros(1, 16))
    assert not predictor.is_probed

    async def story() -> int:
        async with DynamicBatcher(predictor) as batcher:
            await asyncio.gather(*(batcher.predict(torch.zeros(1, 16)) for _ in range(10)))
        return batcher.statistics().batches

    assert asyncio.run(story()) == 1
    assert predictor.is_probed


def test_the_former_name_of_the_first_argument_and_the_device_work() -> None:
    async def story(batcher: DynamicBatcher) -> Any:
        async with batcher:
            return await batcher.predict(torch.ones(1, 16))

    predictor = Predictor(WIDE, sample=torch.zeros(2, 16))
    for batcher in (
        DynamicBatcher(predictor=predictor),
        DynamicBatcher(WIDE, torch.device("cpu"), max_batch_size=32, max_wait_ms=1.0),
        DynamicBatcher(model=WIDE, device="cpu"),
    ):
        assert same(asyncio.run(story(batcher)), direct(WIDE, torch.ones(1, 16)))


def test_a_bad_first_request_fails_alone_and_the_next_one_teaches() -> None:
    async def story() -> list[Any]:
        async with DynamicBatcher(WIDE) as batcher:
            inputs = (torch.zeros(1, 3), torch.zeros(1, 16), torch.zeros(2, 16), torch.zeros(1, 5))
            return await asyncio.gather(*(ended(batcher.predict(each)) for each in inputs))

    bad, good, two, late = asyncio.run(story())
    assert isinstance(bad, SignatureError)
    assert "the model cannot run" in str(bad)
    assert same(good, direct(WIDE, torch.zeros(1, 16)))
    assert same(two, direct(WIDE, torch.zeros(2, 16)))
    assert isinstance(late, SignatureError)


def test_a_cancelled_first_request_still_teaches_the_others() -> None:
    model = Gated().eval()

    async def story() -> Any:
        async with DynamicBatcher(model) as batcher:
            first = asyncio.create_task(batcher.predict(torch.ones(1, 4)))
            await entered(model)
            second = asyncio.create_task(batcher.predict(torch.ones(1, 4)))
            await asyncio.sleep(0)
            first.cancel()
            model.passing.set()
            await asyncio.wait([first])
            assert first.cancelled()
            return await second

    assert same(asyncio.run(story()), direct(model.linear, torch.ones(1, 4)))


def test_time_spent_on_learning_counts_against_the_timeout() -> None:
    model = Gated().eval()

    async def story() -> tuple[Any, Any]:
        async with DynamicBatcher(model) as batcher:
            first = asyncio.create_task(batcher.predict(torch.ones(1, 4)))
            await entered(model)
            late = await ended(batcher.predict(torch.ones(1, 4), timeout_s=0.001))
            model.passing.set()
            return await first, late

    answer, late = asyncio.run(story())
    assert same(answer, direct(model.linear, torch.ones(1, 4)))
    assert isinstance(late, DeadlineError)
    assert str(late) == "no answer within 0.001 s; give more time, or send less at once"


@pytest.mark.parametrize(("setting", "message"), [({"timeout_s": -1}, "timeout_s is -1"), ({"priority": -2}, "priority is -2")])
def test_a_wrong_request_does_not_teach(setting: dict[str, Any], message: str) -> None:
    async def story() -> None:
        batcher = DynamicBatcher(WIDE)
        with pytest.raises(ConfigError, match=message):
            await batcher.predict(torch.zeros(1, 16), **setting)
        await batcher.close()

    asyncio.run(story())


def test_requests_that_wait_for_the_model_are_bounded_like_the_queue() -> None:
    model = Gated().eval()

    async def story() -> list[Any]:
        async with DynamicBatcher(model, max_queue_rows=2) as batcher:
            work = [asyncio.create_task(ended(batcher.predict(torch.ones(1, 4)))) for _ in range(3)]
            await entered(model)
            model.passing.set()
            return await asyncio.gather(*work)

    *answered, refused = asyncio.run(story())
    assert all(same(each, direct(model.linear, torch.ones(1, 4))) for each in answered)
    assert isinstance(refused, OverloadedError)


def test_closing_while_the_model_is_learned_answers_what_was_accepted() -> None:
    model = Gated().eval()

    async def story() -> list[Any]:
        batcher = DynamicBatcher(model)
        work = [asyncio.create_task(batcher.predict(torch.ones(1, 4))) for _ in range(3)]
        await entered(model)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        assert isinstance(await ended(batcher.predict(torch.ones(1, 4))), UnavailableError)
        model.passing.set()
        await closing
        return [task.result() for task in work]

    assert all(same(each, direct(model.linear, torch.ones(1, 4))) for each in asyncio.run(story()))


def test_after_the_grace_of_closing_the_wait_for_the_model_ends() -> None:
    model = Gated().eval()

    async def story() -> list[Any]:
        batcher = DynamicBatcher(model)
        work = [asyncio.create_task(ended(batcher.predict(torch.ones(1, 4)))) for _ in range(2)]
        await entered(model)
        await batcher.close(grace_s=0.0)
        found = await asyncio.gather(*work)
        model.passing.set()
        return found

    assert [str(error) for error in asyncio.run(story())] == [
        "the batcher was closed before the model was known (grace 0 s)"
    ] * 2


def test_the_event_loop_is_free_while_the_model_is_learned() -> None:
    model = Gated().eval()

    async def story() -> Any:
        async with DynamicBatcher(model) as batcher:
            first = asyncio.create_task(batcher.predict(torch.ones(1, 4)))
            await entered(model)
            await asyncio.sleep(0)  # the loop turns although the model is inside
            assert not first.done()
            model.passing.set()
            return await first

    assert same(asyncio.run(story()), direct(model.linear, torch.ones(1, 4)))


def test_items_teach_a_predictor_with_preprocess() -> None:
    def prepared(item: str) -> Any:
        return np.full(16, float(len(item)), np.float32)

    async def story() -> list[Any]:
        async with DynamicBatcher(Predictor(WIDE, preprocess=prepared)) as batcher:
            return list(await asyncio.gather(batcher.predict(["a", "bb"]), batcher.predict("ccc")))

    several, one = asyncio.run(story())
    right = direct(WIDE, torch.stack([torch.full((16,), float(n)) for n in (1, 2, 3)]))
    assert same(torch.from_numpy(np.stack([*several, one])), right)


# -- rows without the batch dimension

ONE_ROW = {
    "linear": (WIDE, torch.randn(16)),
    "linear, as wide as deep": (SQUARE, torch.randn(6)),
    "convolution": (nn.Conv2d(3, 3, 3).eval(), torch.randn(3, 8, 8)),
    "recurrent": (LastState().eval(), torch.randn(4, 5)),
    "several by name": (Named().eval(), {"input_ids": torch.randint(1, 50, (5,)), "scale": torch.tensor(2.0)}),
    "several in order": (nn.Bilinear(3, 4, 5).eval(), (torch.randn(3), torch.randn(4))),
}


def unsqueezed(inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return {name: value[None] for name, value in inputs.items()}
    return tuple(value[None] for value in inputs) if isinstance(inputs, tuple) else inputs[None]


def squeezed(outputs: Any) -> Any:
    return {name: leaf[0] for name, leaf in outputs.items()} if isinstance(outputs, dict) else outputs[0]


@pytest.mark.parametrize("kind", ONE_ROW)
@pytest.mark.parametrize("row_first", [True, False], ids=["row first", "batch first"])
def test_a_row_without_the_batch_dimension_gets_an_answer_without_it(kind: str, row_first: bool) -> None:
    model, row = ONE_ROW[kind]
    batch = unsqueezed(row)
    right = direct(model, batch)

    async def story() -> tuple[Any, Any]:
        async with DynamicBatcher(model) as batcher:
            if row_first:
                return await batcher.predict(row), await batcher.predict(batch)
            whole = await batcher.predict(batch)
            return await batcher.predict(row), whole

    of_row, of_batch = asyncio.run(story())
    assert same(of_batch, right)
    assert same(of_row, squeezed(right))


def test_rows_and_batches_share_a_run_and_lists_and_arrays_are_rows_too() -> None:
    x = torch.randn(4, 16)

    async def story() -> tuple[list[Any], int]:
        async with DynamicBatcher(Predictor(WIDE, sample=x)) as batcher:
            inputs = (x[0], x[1:3], x[3].numpy(), x[0].tolist(), x[1:2].numpy())
            found = await asyncio.gather(*map(batcher.predict, inputs))
        return list(found), batcher.statistics().batches

    found, batches = asyncio.run(story())
    right = direct(WIDE, x)
    assert batches == 1
    assert [type(each) for each in found] == [Tensor, Tensor, np.ndarray, np.ndarray, np.ndarray]
    for each, wanted in zip(found, (right[0], right[1:3], right[3], right[0], right[1:2]), strict=True):
        assert same(torch.as_tensor(each), wanted)


def test_postprocess_makes_one_answer_of_one_row() -> None:
    predictor = Predictor(WIDE, sample=torch.zeros(2, 16), postprocess=lambda row: int(row.argmax()))

    async def story() -> tuple[Any, Any]:
        async with DynamicBatcher(predictor) as batcher:
            return await batcher.predict(torch.ones(16)), await batcher.predict(torch.ones(2, 16))

    right = int(direct(WIDE, torch.ones(16)).argmax())
    assert asyncio.run(story()) == (right, [right, right])


@pytest.mark.parametrize(
    "inputs",
    [torch.zeros(1, 1, 16), torch.zeros(3), torch.zeros(16, dtype=torch.int64), torch.tensor(1.0)],
    ids=["two more", "row too short", "integers", "single number"],
)
def test_what_is_neither_batch_nor_row_gets_the_error_of_a_batch(inputs: Tensor) -> None:
    predictor = Predictor(WIDE, sample=torch.zeros(2, 16))

    async def story() -> str:
        async with DynamicBatcher(predictor) as batcher:
            return str(await ended(batcher.predict(inputs)))

    with pytest.raises(SignatureError) as error:
        predictor.prepare(inputs)
    assert asyncio.run(story()) == str(error.value)


class MinusMean(nn.Module):
    """Rows depend on their neighbours."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class FirstTwo(nn.Module):
    """With two dimensions it does something else than with three."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear(x)
        return found.cumsum(0) if x.ndim == 2 else found


@pytest.mark.parametrize(
    ("model", "inputs", "batching", "rank"),
    [
        (WIDE, torch.randn(5, 16), "pad", 2),
        (WIDE, torch.randn(16), "pad", 2),
        (SQUARE, torch.randn(6), "pad", 2),
        (nn.ReLU(), torch.randn(6), "pad", 1),
        (nn.Softmax(-1), torch.randn(6), "pad", 2),
        (MinusMean(), torch.randn(3, 4), "alone", 2),
        (FirstTwo(), torch.randn(3, 4), "alone", 2),
        (LastState().eval(), torch.randn(2, 4, 5), "pad", 3),
    ],
    ids=["batch", "row", "square row", "elementwise", "softmax", "coupled", "rank decides", "recurrent batch"],
)
def test_the_first_inputs_decide_the_rank_and_never_change_the_answer(
    model: nn.Module, inputs: Tensor, batching: str, rank: int
) -> None:
    backend, sample = backend_from_inputs(model, inputs)

    (spec,) = backend.signature.inputs
    assert len(spec.shape) + 1 == rank == sample.ndim
    assert (backend.signature.batching == "alone") == (batching == "alone")
    answer = torch.from_numpy(backend.run({spec.name: sample.numpy()})["output"])
    assert same(answer if sample is inputs else answer[0], direct(model, inputs))


def test_inputs_that_fit_in_neither_reading_get_the_error_of_the_first() -> None:
    with pytest.raises(SignatureError, match=r"the model cannot run input float32 \[3\]"):
        backend_from_inputs(WIDE, torch.zeros(3))
    with pytest.raises(SignatureError, match="unknown input 'y'"):
        backend_from_inputs(WIDE, {"y": torch.zeros(16)})


# -- event loops


def test_a_batcher_reopens_in_a_second_event_loop_when_the_first_is_closed() -> None:
    batcher = DynamicBatcher(WIDE)
    for round_ in range(3):
        x = torch.full((2, 16), float(round_))
        assert same(asyncio.run(batcher.predict(x)), direct(WIDE, x))
        assert batcher.statistics().requests == 1
    assert len(device_threads()) == 1
    del batcher
    wait_no_device_thread()


def test_a_batcher_whose_loop_ended_while_it_learned_learns_in_the_next() -> None:
    model = Gated().eval()
    batcher = DynamicBatcher(model)

    async def leaves() -> None:
        asyncio.create_task(batcher.predict(torch.ones(1, 4)))  # noqa: RUF006  forgotten on purpose
        await entered(model)

    asyncio.run(leaves())
    model.passing.set()
    assert same(asyncio.run(batcher.predict(torch.ones(1, 4))), direct(model.linear, torch.ones(1, 4)))


def test_a_second_event_loop_that_runs_at_the_same_time_is_refused() -> None:
    async def story() -> None:
        async with DynamicBatcher(Predictor(doubling())) as batcher:
            other = await asyncio.to_thread(asyncio.run, ended(batcher.predict([[1, 2]])))
            assert isinstance(other, UnavailableError)
            assert str(other) == "this batcher is open in another event loop; make one batcher for each event loop"
            assert (await batcher.predict([[1, 2]])).tolist() == [[2, 4]]

    asyncio.run(story())


@pytest.mark.parametrize("inline", [True, False])
def test_a_closed_batcher_stays_closed_in_every_loop(inline: bool) -> None:
    batcher = DynamicBatcher(doubling(), inline=inline)

    async def story() -> None:
        await batcher.predict([[1, 2]])
        await batcher.close()

    asyncio.run(story())
    with pytest.raises(UnavailableError, match="closed"):
        asyncio.run(batcher.predict([[1, 2]]))


def test_closing_a_batcher_that_never_opened_closes_it() -> None:
    async def story() -> None:
        batcher = DynamicBatcher(WIDE)
        await batcher.close()
        with pytest.raises(UnavailableError, match="closed"):
            await batcher.predict(torch.zeros(1, 16))
        with pytest.raises(UnavailableError, match="this batcher is closed; make a new one"):
            await batcher.__aenter__()

    asyncio.run(story())


@pytest.mark.parametrize("make", [lambda: WIDE, lambda: doubling()], ids=["module", "backend"])  # noqa: PLW0108
def test_the_threads_of_a_forgotten_batcher_end(make: Callable[[], Any]) -> None:
    model = make()
    x = np.ones((1, 16 if model is WIDE else 2), np.float32)

    async def forgets() -> None:
        await DynamicBatcher(model).predict(x)

    asyncio.run(forgets())
    wait_no_device_thread()


def test_a_forgotten_batcher_is_silent_when_its_loop_and_the_process_end() -> None:
    code = """
import asyncio, time
import numpy as np
from nograd import Backend, DynamicBatcher, Signature, TensorSpec

class Slow(Backend):
    name, device, lanes = "slow", "cpu", 1
    signature = Signature((TensorSpec("x", "float32", (2,)),), (TensorSpec("y", "float32", (2,)),))
    def run(self, batch):
        time.sleep(0.05 * (batch["x"][0, 0] == 2))
        return {"y": batch["x"]}

idle, busy, waiting = DynamicBatcher(Slow()), DynamicBatcher(Slow()), DynamicBatcher(Slow(), max_wait_ms=60_000)

async def main():
    await idle.predict(np.ones((1, 2), np.float32))
    for batcher, value in ((busy, 2), (busy, 2), (waiting, 1), (idle, 1)):
        asyncio.create_task(batcher.predict(np.full((1, 2), value, np.float32), timeout_s=60.0))
    await asyncio.sleep(0.01)

asyncio.run(main(), debug=True)
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code], capture_output=True, text=True, timeout=HANG_S, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# -- wrong uses


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("minilm", {}, "model is str; a DynamicBatcher takes a torch.nn.Module, a nograd.Predictor or a nograd Backend"),
        (None, {}, "model is NoneType; a DynamicBatcher takes"),
        (nn.Linear, {}, "model is type; a DynamicBatcher takes"),
        (WIDE, {"max_queue_rows": 0}, "max_queue_rows is 0; it must be at least 1"),
        (WIDE, {"max_batch_size": 0}, "max_batch_size is 0; it must be at least 1"),
        (WIDE, {"max_wait_ms": -1.0}, "max_wait_ms is -1.0; it must be 0 or more, finite"),
        (WIDE, {"cost": 3}, "cost is int; it must be a nograd.CostCurve"),
    ],
)
def test_a_wrong_use_raises_a_one_sentence_error_at_once(model: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        DynamicBatcher(model, **settings)
    assert str(error.value).startswith(message)


def test_parts_need_a_model_that_is_known() -> None:
    async def story() -> None:
        batcher = DynamicBatcher(WIDE)
        assert (batcher.inline, batcher.running(), batcher.seconds_per_row, batcher.predicted_wait_s()) == (False, [], 0, 0)
        assert not batcher.statistics().requests
        with pytest.raises(NogradError, match="the model's inputs are not known yet"):
            await batcher.run([{"input": np.zeros((1, 16), np.float32)}])
        await batcher.predict(torch.zeros(1, 16))
        (found,) = await batcher.run([{"input": np.zeros((1, 16), np.float32)}])
        assert same(torch.from_numpy(found["output"]), direct(WIDE, torch.zeros(1, 16)))
        assert batcher.seconds_per_row > 0
        await batcher.close()

    asyncio.run(story())


def test_a_predictor_that_was_probed_elsewhere_opens_with_its_first_parts() -> None:
    predictor = Predictor(WIDE)

    async def story() -> None:
        batcher = DynamicBatcher(predictor)
        predictor.learn(torch.zeros(2, 16))
        (found,) = await batcher.run([predictor.check(torch.zeros(1, 16).numpy())])
        assert found["output"].shape == (1, 4)
        await batcher.close()

    asyncio.run(story())


def test_a_measured_quick_model_runs_in_the_event_loop() -> None:
    predictor = Predictor(doubling())

    async def story() -> bool:
        async with DynamicBatcher(
            predictor, cost=measure_cost(predictor, max_batch_size=4, budget_s=0.1), inline=True
        ) as batcher:
            assert (await batcher.predict(np.ones((1, 2), np.float32))).tolist() == [[2, 2]]
            assert not device_threads()
            return batcher.inline

    assert asyncio.run(story())


def test_an_error_of_the_model_concerns_its_own_request() -> None:
    model = Named().eval()

    async def story() -> list[Any]:
        async with DynamicBatcher(model) as batcher:
            ids = [torch.tensor([[1, 2, 3]]), torch.tensor([[1, 2, 4999]])]
            return await asyncio.gather(*(ended(batcher.predict({"input_ids": each, "scale": torch.ones(1)})) for each in ids))

    good, bad = asyncio.run(story())
    assert same(good, direct(model, {"input_ids": torch.tensor([[1, 2, 3]]), "scale": torch.ones(1)}))
    assert isinstance(bad, ModelError | SignatureError)


def test_a_row_is_the_batch_of_one_that_one_row_makes() -> None:
    assert one_row(torch.zeros(3)).shape == (1, 3)
