"""The published client of the protocol for asyncio, `tritonclient.http.aio`, against real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import numpy as np
import pytest

from nograd import __version__
from tests.running_server import RunningServer

triton = pytest.importorskip("tritonclient.http.aio", reason="tritonclient is not installed; run: pip install 'nograd[dev]'")
utils = pytest.importorskip("tritonclient.utils")

T = TypeVar("T")

ROWS = np.arange(48, dtype=np.float32).reshape(3, 16)
TEXTS = np.array(["hello", "Zürich", "x"], dtype=object)


def run(server: RunningServer, work: Callable[[Any], Awaitable[T]]) -> T:
    """Return what `work` returns for a client of the server."""

    async def main() -> T:
        async with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
            return await work(client)

    return asyncio.run(main())


def given(name: str, array: Any, *, binary: bool = True) -> Any:
    found = triton.InferInput(name, list(array.shape), utils.np_to_triton_dtype(array.dtype))
    found.set_data_from_numpy(array, binary_data=binary)
    return found


def test_health_and_metadata(tiny_server: RunningServer) -> None:
    async def work(client: Any) -> list[Any]:
        return [
            await client.is_server_live(),
            await client.is_server_ready(),
            await client.is_model_ready("tiny"),
            await client.is_model_ready("other"),
            (await client.get_server_metadata())["version"],
            (await client.get_model_metadata("tiny"))["inputs"],
        ]

    inputs = [{"name": "x", "datatype": "FP32", "shape": [-1, 16]}]
    assert run(tiny_server, work) == [True, True, True, False, __version__, inputs]


@pytest.mark.parametrize("sent", [True, False], ids=["sent in binary", "sent as JSON"])
@pytest.mark.parametrize("got", [True, False], ids=["answered in binary", "answered as JSON"])
def test_binary_and_json_are_the_same_numbers(tiny_server: RunningServer, sent: bool, got: bool) -> None:
    async def work(client: Any) -> list[bytes]:
        wanted = [triton.InferRequestedOutput("output", binary_data=got)]
        answers = [
            await client.infer("tiny", [given("x", ROWS)]),
            await client.infer("tiny", [given("x", ROWS, binary=sent)], outputs=wanted, request_id="mine"),
        ]
        assert answers[1].get_response()["id"] == "mine"
        return [answer.as_numpy("output").tobytes() for answer in answers]

    plain, found = run(tiny_server, work)
    assert len(found) == 48
    assert found == plain


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_both_ways(text_server: RunningServer, algorithm: str) -> None:
    compression = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}

    async def work(client: Any) -> list[Any]:
        calls = [client.infer("echo", [given("text", TEXTS)], **more) for more in ({}, compression)]
        return [(await call).as_numpy("embedding") for call in calls]

    plain, found = run(text_server, work)
    assert found.shape == (3, 8)
    np.testing.assert_array_equal(found, plain)


def test_calls_at_once_get_their_own_answers(tiny_server: RunningServer) -> None:
    async def work(client: Any) -> list[Any]:
        calls = [client.infer("tiny", [given("x", ROWS[i % 3 :][:1])]) for i in range(64)]
        answers = await asyncio.gather(client.infer("tiny", [given("x", ROWS)]), *calls)
        return [answer.as_numpy("output") for answer in answers]

    whole, *found = run(tiny_server, work)
    np.testing.assert_allclose(np.concatenate(found), [whole[i % 3] for i in range(64)], rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "array", "status", "said"),
    [
        ("other", ROWS, "404", "there is no model 'other'; served here: 'tiny'"),
        ("tiny", ROWS[:, :15], "400", "input 'x' is float32 [3, 15]; the model takes float32 [rows, 16]"),
    ],
)
def test_errors_come_with_their_status_and_sentence(
    tiny_server: RunningServer, model: str, array: Any, status: str, said: str
) -> None:
    async def work(client: Any) -> Any:
        with pytest.raises(utils.InferenceServerException) as raised:
            await client.infer(model, [given("x", array)])
        return raised.value

    error = run(tiny_server, work)
    assert error.status() == status
    assert said in error.message()
