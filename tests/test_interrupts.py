"""User code that raises what usually ends a program fails one request; Ctrl-C and signal handlers still end it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from nograd import BatchPredictor, DynamicBatcher, Predictor
from nograd.errors import ItemError, ModelError, ModelLoadError
from nograd.runtime.interrupts import is_interrupt
from nograd.sources import load
from tests.fakes import Fake, Site, doubling, tensor
from tests.predicting import predict
from tests.torch_models import Returns

KINDS: tuple[type[BaseException], ...] = (SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError)


class OwnError(BaseException):
    """A user's own."""


def kinds() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", [*KINDS, OwnError])


def failing(kind: type[BaseException], stage: str) -> Predictor:
    """Doubles numbers that come as text; 13 makes a stage raise."""

    def preprocess(text: str) -> Any:
        if stage == "preprocess" and text == "13":
            raise kind
        return np.full(2, float(text), np.float32)

    def postprocess(row: Any) -> float:
        if stage == "postprocess" and row[0] == 26:
            raise kind
        return float(row[0])

    def run(batch: Any) -> Any:
        if stage == "the model" and (batch["x"] == 13).any():
            raise kind
        return {"output": batch["x"] * 2}

    backend = Fake(run, doubling().signature)
    return Predictor(backend, preprocess=preprocess, postprocess=postprocess, sample=["1", "2"])


@pytest.fixture
def _default_ctrl_c() -> Iterator[None]:
    """Python's own handler: what a shell runs in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# -- which it is


def caught(work: Callable[[], object]) -> BaseException:
    try:
        work()
    except BaseException as error:  # noqa: BLE001  it is what the test looks at
        return error
    raise AssertionError("nothing was raised")


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    for _ in range(100_000):  # Python runs the handler between two instructions
        pass


@pytest.mark.usefixtures("_default_ctrl_c")
def test_ctrl_c_is_an_interrupt() -> None:
    assert is_interrupt(caught(lambda: send(signal.SIGINT)))


@kinds()
def test_what_a_statement_raises_is_no_interrupt(kind: type[BaseException]) -> None:
    def raising() -> None:
        raise kind

    assert not is_interrupt(caught(raising))


@pytest.mark.usefixtures("_default_ctrl_c")
def test_ctrl_c_that_user_code_raises_again_is_an_interrupt() -> None:
    def cleaning_up() -> None:
        try:
            send(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise error from None

    assert is_interrupt(caught(cleaning_up))


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, OwnError])
def test_what_a_signal_handler_raises_is_an_interrupt(kind: type[BaseException]) -> None:
    def handler(_number: int, _frame: FrameType | None) -> None:
        raise kind

    before = signal.signal(signal.SIGTERM, handler)
    try:
        assert is_interrupt(caught(lambda: send(signal.SIGTERM)))
    finally:
        signal.signal(signal.SIGTERM, before)


# -- every front


@kinds()
@pytest.mark.parametrize("stage", ["preprocess", "the model", "postprocess"])
def test_over_http_that_request_gets_an_error_and_the_next_its_answer(kind: type[BaseException], stage: str) -> None:
    with Site({"m": failing(kind, stage)}) as site:
        failed, good = (site.infer("m", tensor("text", "BYTES", [1], [text])) for text in ("13", "2"))

    assert failed.status == (400 if stage == "preprocess" else 500)
    assert f"{stage} raised {kind.__name__}" in failed.error
    assert good.data("answer") == [4.0]


@pytest.mark.parametrize("stage", ["preprocess", "the model", "postprocess"])
def test_over_grpc_that_call_gets_an_error_and_the_next_its_answer(stage: str) -> None:
    pytest.importorskip("grpc", reason="grpcio is not installed; run: pip install 'nograd[grpc]'")
    from tests.grpc_site import GrpcSite, raw_request

    with GrpcSite({"m": failing(SystemExit, stage)}) as site:  # type: ignore[dict-item]
        requests = [raw_request("m", {"text": np.array([text], dtype=object)}) for text in ("13", "2")]
        _, sentence = site.refusal(requests[0])
        good = site.run(site.call(requests[1]))

    assert f"{stage} raised SystemExit" in sentence
    assert np.frombuffer(good.raw_output_contents[0]) == [4.0]


@kinds()
@pytest.mark.parametrize("stage", ["preprocess", "the model", "postprocess"])
def test_a_dynamic_batcher_fails_that_request_only(kind: type[BaseException], stage: str) -> None:
    async def both() -> tuple[Any, Any]:
        async with DynamicBatcher(failing(kind, stage)) as batcher:
            return await asyncio.gather(batcher.predict(["13"]), batcher.predict(["2"]), return_exceptions=True)

    failed, good = asyncio.run(both())

    assert isinstance(failed, ItemError if stage == "preprocess" else ModelError)
    assert good == [4.0]


@kinds()
@pytest.mark.parametrize("stage", ["preprocess", "the model", "postprocess"])
def test_a_batch_predictor_answers_the_items_before(kind: type[BaseException], stage: str) -> None:
    answers = BatchPredictor(failing(kind, stage), max_batch_size=4).predict(["1", "2", "13"])

    assert [next(answers), next(answers)] == [2.0, 4.0]
    with pytest.raises((ItemError, ModelError), match=f"{stage} raised {kind.__name__}"):
        next(answers)


@kinds()
@pytest.mark.parametrize("stage", ["preprocess", "the model", "postprocess"])
def test_nograd_predict_skips_that_row_only(kind: type[BaseException], stage: str, tmp_path: Path) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("1\n13\n2\n")

    summary = predict(failing(kind, stage), source, output, on_error="skip")

    assert (summary.rows, summary.bad) == (2, 1)
    assert [json.loads(line)["answer"] for line in output.read_text().splitlines()] == [2.0, 4.0]
    assert f"{stage} raised {kind.__name__}" in (tmp_path / "out.jsonl.errors.jsonl").read_text()


@kinds()
def test_a_torch_module_that_raises_it_fails_that_call_only(kind: type[BaseException]) -> None:
    import torch

    def forward(x: Any) -> Any:
        if (x == 13).any():
            raise kind
        return x * 2

    predictor = Predictor(Returns(forward), sample=torch.rand(2, 4))

    with pytest.raises(ModelError, match=f"the model raised {kind.__name__}"):
        predictor.predict(torch.full((1, 4), 13.0))
    assert predictor.predict(torch.ones(1, 4)).tolist() == [[2.0] * 4]


@pytest.mark.parametrize("text", ["raise SystemExit('no device')", "def model(): raise KeyboardInterrupt"])
def test_a_factory_that_raises_it_is_a_model_that_cannot_be_loaded(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"ends_{len(text)}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ModelLoadError, match=r"raised (SystemExit|KeyboardInterrupt)"):
        load(f"ends_{len(text)}:model")


@pytest.mark.usefixtures("_default_ctrl_c")
def test_ctrl_c_while_postprocess_runs_ends_the_script() -> None:
    def postprocess(_row: Any) -> None:
        send(signal.SIGINT)

    predictor = Predictor(doubling(), postprocess=postprocess)

    with pytest.raises(KeyboardInterrupt):
        list(BatchPredictor(predictor).predict([np.zeros(2, np.float32)]))
