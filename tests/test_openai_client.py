"""The published client of OpenAI's API, `openai`, against real servers."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from nograd import CostCurve, load
from tests.fakes import Site
from tests.running_server import RunningServer
from tests.text_models import embedder, vectors

openai = pytest.importorskip("openai", reason="openai is not installed; run: pip install 'nograd[dev]'")

WAIT_S = 60.0
TEXTS = ["hello", "Zürich", "a text that is longer than the others"]


def settings(server: RunningServer) -> dict[str, Any]:
    return {"base_url": f"{server.url}/v1", "api_key": "none", "timeout": WAIT_S, "max_retries": 0}


@pytest.fixture(scope="module")
def client(text_server: RunningServer) -> Iterator[Any]:
    with openai.OpenAI(**settings(text_server)) as client:
        yield client


def infer_body(texts: list[str]) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": texts}]}


def array_of(reply: httpx.Response) -> Any:
    """Return the output in an answer of /v2, float32 `[rows, d]`."""
    (output,) = reply.json()["outputs"]
    return np.array(output["data"], np.float32).reshape(output["shape"])


def inferred(server: RunningServer, texts: list[str]) -> Any:
    """Return the answer of /v2, float32 `[rows, d]`."""
    return array_of(httpx.post(f"{server.url}/v2/models/echo/infer", json=infer_body(texts), timeout=WAIT_S))


def numbers(embedding: Any) -> Any:
    """What the client hands out: numbers, unless base64 was asked for by name."""
    return np.frombuffer(base64.b64decode(embedding), "<f4") if isinstance(embedding, str) else embedding


@pytest.mark.parametrize("form", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}], ids=str)
def test_vectors_are_infer_s_bit_for_bit(client: Any, text_server: RunningServer, form: dict[str, str]) -> None:
    answer = client.embeddings.create(model="echo", input=TEXTS, **form)

    found = np.array([numbers(each.embedding) for each in answer.data], np.float32)
    assert found.tobytes() == inferred(text_server, TEXTS).tobytes()
    assert ([each.index for each in answer.data], answer.model, answer.object) == ([0, 1, 2], "echo", "list")


def test_one_text_and_what_the_client_knows_beside_it(client: Any) -> None:
    answer = client.embeddings.create(model="echo", input="hello", user="me", dimensions=8, extra_body={"output": "embedding"})

    assert [len(each.embedding) for each in answer.data] == [8]
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (0, 0)


def test_many_calls_at_once_from_asyncio_get_their_own_answers(text_server: RunningServer) -> None:
    texts = [f"text {number}" for number in range(64)]

    async def main() -> list[Any]:
        async with openai.AsyncOpenAI(**settings(text_server)) as client:
            calls = [client.embeddings.create(model="echo", input=text) for text in texts]
            return [answer.data[0].embedding for answer in await asyncio.gather(*calls)]

    np.testing.assert_allclose(asyncio.run(main()), inferred(text_server, texts), rtol=1e-5, atol=1e-6)


def test_minilm_embeds_and_counts_tokens() -> None:
    texts = ["A man is eating food.", "A man eats something.", "word " * 1000]
    predictor = load("minilm")
    predictor.cost = CostCurve((20, 640), (0.006, 0.15), "tokens")  # a known curve is not measured

    async def main(site: Site) -> tuple[Any, Any]:
        here = httpx.AsyncClient(transport=httpx.ASGITransport(site.app))
        async with openai.AsyncOpenAI(base_url="http://here/v1", api_key="none", http_client=here) as client:
            answer = await client.embeddings.create(model="minilm", input=texts)
            reply = await here.post("http://here/v2/models/minilm/infer", json=infer_body(texts))
        return answer, array_of(reply)

    with Site({"minilm": predictor}) as site:
        answer, expected = site.run(main(site))

    found = np.array([each.embedding for each in answer.data], np.float32)
    np.testing.assert_array_equal(found, expected)
    assert found.shape == (3, 384)
    assert found[0] @ found[1] > 2 * found[0] @ found[2]
    assert answer.usage.total_tokens == 8 + 7 + 256  # with [CLS] and [SEP]; the last is cut


def test_models(client: Any) -> None:
    (model,) = client.models.list().data

    assert (model.id, model.owned_by) == ("echo", "nograd")
    assert client.models.retrieve("echo") == model


def test_errors_are_the_client_s_kinds_with_our_sentence(client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model 'other'; served here: 'echo'") as unknown:
        client.embeddings.create(model="other", input="hello")
    with pytest.raises(openai.BadRequestError, match="input contains token ids") as ids:
        client.embeddings.create(model="echo", input=[1, 2, 3])
    with pytest.raises(openai.BadRequestError, match="dimensions is 4; the vectors of model 'echo' have 8"):
        client.embeddings.create(model="echo", input="hello", dimensions=4)
    with pytest.raises(openai.NotFoundError, match="there is nothing at /v1/chat/completions"):
        client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "hello"}])

    assert (unknown.value.code, unknown.value.param, unknown.value.type) == (
        "model_not_found",
        "model",
        "invalid_request_error",
    )
    assert (ids.value.code, ids.value.param) == (None, "input")


def test_a_refusal_for_the_moment_is_tried_again_when_the_server_said(monkeypatch: pytest.MonkeyPatch) -> None:
    waited_s: list[float] = []
    with Site({"embedder": embedder()}, started=False) as site:

        async def sleep(seconds: float) -> None:
            waited_s.append(seconds)
            await site.service.start()

        async def main() -> Any:
            here = httpx.AsyncClient(transport=httpx.ASGITransport(site.app))
            options = {"base_url": "http://here/v1", "api_key": "none", "http_client": here}
            async with openai.AsyncOpenAI(**options) as client:
                with pytest.raises(openai.InternalServerError, match="is not ready"):
                    await client.with_options(max_retries=0).embeddings.create(model="embedder", input="four")
                monkeypatch.setattr("anyio.sleep", sleep)
                return await client.embeddings.create(model="embedder", input="four")

        answer = site.run(main())
        site.run(site.service.stop())

    assert waited_s == [1.0]
    assert answer.data[0].embedding == vectors(["four"])[0].tolist()
