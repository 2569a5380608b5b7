"""OpenAI's embeddings API, called without sockets; the published client is in test_openai_client.py."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from nograd import Backend, Predictor, TensorSpec
from nograd.core.tensors import Batch
from nograd.server.protocol.embeddings import Embeddings
from tests.fakes import GATE, Fake, Gate, Reply, Site, asgi, doubling, tensor
from tests.text_models import VECTOR, constant, counted, embedder, vectors

LOGITS = TensorSpec("logits", "float32", (2,))
IDS = TensorSpec("ids", "int64", (3,))


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    models: dict[str, Backend | Predictor] = {
        "embedder": embedder(),
        "a b/ü%": embedder(),
        "counted": counted(),
        "classifier": embedder(LOGITS, IDS),
        "both": embedder(LOGITS, VECTOR),
        "several": embedder(LOGITS, TensorSpec("pooled", "float32", (3,))),
        "half": embedder(TensorSpec("embedding", "float16", (3,))),
        "double": embedder(TensorSpec("embedding", "float64", (3,))),
        "brain": embedder(TensorSpec("embedding", "bfloat16", (3,))),
        "broken": constant(np.nan),
        "numbers": doubling(),
        "labels": embedder(IDS),
    }
    with Site(models, max_batch_size=4, max_queue_rows=16, max_body_bytes=4096) as site:
        yield site


def embed(site: Site, model: str = "embedder", given: Any = "a text", **more: Any) -> Reply:
    return site.request("POST", "/v1/embeddings", json.dumps({"model": model, "input": given, **more}).encode())


def numbers(reply: Reply) -> Any:
    assert reply.status == 200, reply.body
    return [each["embedding"] for each in reply.json["data"]]


def refusal(reply: Reply) -> dict[str, Any]:
    """What is in a refusal, whose form is checked, too."""
    assert reply.headers["content-type"] == "application/json"
    assert list(reply.json) == ["error"]
    error: dict[str, Any] = reply.json["error"]
    assert list(error) == ["message", "type", "param", "code"]
    return error


# -- answers


def test_a_text_is_answered_in_openai_s_form(site: Site) -> None:
    assert embed(site, given="four").json == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [4.0, 102.0, 1.3333334]}],
        "model": "embedder",
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
    }


@pytest.mark.parametrize("texts", [["a"], ["a", "bc", ""], [f"text {i}" for i in range(16)]], ids=len)
def test_texts_get_the_vectors_that_infer_gives_in_their_order(site: Site, texts: list[str]) -> None:
    reply = embed(site, given=texts)

    inferred = site.infer("embedder", tensor("text", "BYTES", [len(texts)], texts)).data("embedding")
    assert np.ravel(numbers(reply)).tolist() == inferred
    assert [each["index"] for each in reply.json["data"]] == list(range(len(texts)))


def test_base64_is_little_endian_float32(site: Site) -> None:
    texts = ["four", "Zürich"]

    found = [base64.b64decode(each) for each in numbers(embed(site, given=texts, encoding_format="base64"))]

    assert b"".join(found) == vectors(texts).tobytes()


@pytest.mark.parametrize(("model", "dtype"), [("half", "float16"), ("double", "float64"), ("brain", "bfloat16")])
def test_other_floats_are_answered_as_float32(site: Site, model: str, dtype: str) -> None:
    expected = vectors(["four"]).astype(dtype).astype(np.float32)

    (found,) = numbers(embed(site, model, "four", encoding_format="base64"))

    assert base64.b64decode(found) == expected.tobytes()


def test_user_and_what_is_not_known_are_ignored_and_the_own_dimensions_are_taken(site: Site) -> None:
    assert numbers(embed(site, given="four", user="me", mine=[1], dimensions=3)) == [[4.0, 102.0, 1.3333334]]


@pytest.mark.parametrize(
    ("model", "output", "found"),
    [
        ("classifier", None, [4, 102]),
        ("both", None, [4, 102, 1.3333334]),
        ("both", "logits", [4, 102]),
        ("several", "pooled", [4, 102, 1.3333334]),
    ],
)
def test_the_embedding_is_the_output_asked_for_or_the_only_vector_or_the_one_called_so(
    site: Site, model: str, output: str | None, found: list[float]
) -> None:
    assert numbers(embed(site, model, "four", output=output)) == [found]


def test_tokens_are_counted_where_the_preprocess_says_how_many(site: Site) -> None:
    assert embed(site, "counted", ["four", "seven"]).json["usage"] == {"prompt_tokens": 9, "total_tokens": 9}


def test_rows_run_together_and_each_is_kept_for_infer_and_embeddings_alike() -> None:
    model = embedder()
    with Site({"embedder": model}, cache_mb=1) as site:
        model.runs.clear()
        first = embed(site, given=["a", "bc"])
        again = embed(site, given=["bc", "a"])
        inferred = site.infer("embedder", tensor("text", "BYTES", [1], ["bc"])).data("embedding")

    assert [list(batch["text"]) for batch in model.runs] == [["a", "bc"]]
    assert numbers(again) == numbers(first)[::-1]
    assert inferred == numbers(first)[1]


def test_calls_and_refusals_are_counted_as_infer_calls_are() -> None:
    with Site({"embedder": embedder()}) as site:
        embed(site)
        embed(site, given=[])
        text = site.get("/metrics").body.decode()

    assert 'nograd_requests_total{model="embedder",status="200"} 1.0' in text
    assert 'nograd_requests_total{model="embedder",status="400"} 1.0' in text


# -- models


def test_models_that_give_embeddings_are_listed(site: Site) -> None:
    listed = site.get("/v1/models").json

    assert listed["object"] == "list"
    names = ["embedder", "a b/ü%", "counted", "classifier", "both", "several", "half", "double", "brain", "broken"]
    assert [each["id"] for each in listed["data"]] == names
    assert site.get("/v1/models/embedder").json == listed["data"][0]
    assert site.get("/v1/models/a%20b%2F%C3%BC%25").json == listed["data"][1]


def test_a_model_is_told_with_the_time_since_when_it_is_there(site: Site) -> None:
    told = Embeddings(site.service, created=12).model("embedder")

    assert told == {"id": "embedder", "object": "model", "created": 12, "owned_by": "nograd"}


@pytest.mark.parametrize("name", ["other", "numbers", "labels"])
def test_a_model_that_is_not_there_or_gives_no_embeddings_is_not_found(site: Site, name: str) -> None:
    reply = site.get(f"/v1/models/{name}")

    assert (reply.status, refusal(reply)["code"]) == (404, "model_not_found")


# -- refusals


@pytest.mark.parametrize(
    ("given", "param", "said"),
    [
        ({"input": []}, "input", "input is an empty list; give a text, or a list of texts"),
        (
            {"input": [1, 2]},
            "input",
            "input contains token ids; the models of this server tokenize texts themselves: send strings",
        ),
        (
            {"input": [[1, 2], [3]]},
            "input",
            "input contains token ids; the models of this server tokenize texts themselves: send strings",
        ),
        ({"input": ["a", None]}, "input", "input[1] is NoneType; it must be a string"),
        (
            {"dimensions": 2},
            "dimensions",
            "dimensions is 2; the vectors of model 'embedder' have 3, and a part of them may not be an embedding: "
            "omit dimensions",
        ),
        ({"output": "x"}, "output", "output is 'x'; the vectors of model 'embedder' are 'embedding'"),
        ({"model": "several"}, "output", "model 'several' returns several vectors; choose one with output: 'logits', 'pooled'"),
        (
            {"model": "numbers"},
            "model",
            "model 'numbers' returns no embeddings: they need one text input and a floating output [rows, d], but "
            "it takes 'x' float32 [rows, 2] and returns 'output' float32 [rows, 2]; call it by /v2/models",
        ),
    ],
)
def test_a_field_that_is_wrong_is_named(site: Site, given: dict[str, Any], param: str, said: str) -> None:
    reply = embed(site, **{"given": given.pop("input", "a"), **given})

    assert reply.status == 400
    assert refusal(reply) == {"message": said, "type": "invalid_request_error", "param": param, "code": None}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "the body is not a request for embeddings: Input data was truncated"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"input": "a"}', "missing required field `model`"),
        (b'{"model": "embedder"}', "missing required field `input`"),
        (b'{"model": "embedder", "input": 3}', "at `$.input`"),
        (b'{"model": "embedder", "input": "a", "encoding_format": "hex"}', "Invalid enum value 'hex' - at `$.encoding_format`"),
        (b'{"model": "embedder", "input": "a", "dimensions": "3"}', "at `$.dimensions`"),
        (b"[" * 4000, "the body is not a request for embeddings"),
        (b'{"model": "embedder", "input": "\xff"}', "the body is not a request for embeddings"),
    ],
)
def test_a_body_that_is_no_such_call_is_told(site: Site, body: bytes, said: str) -> None:
    reply = site.request("POST", "/v1/embeddings", body)

    assert reply.status == 400
    assert said in refusal(reply)["message"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/embeddings", b'{"model": "other", "input": "a"}', 404, "model_not_found"),
        ("GET", "/v1/embeddings", b"", 405, "method_not_allowed"),
        ("POST", "/v1/models", b"", 405, "method_not_allowed"),
        ("POST", "/v1/chat/completions", b"{}", 404, "not_found"),
        ("POST", "/v1/embeddings", b" " * 5000, 413, "too_large"),
        ("POST", "/v1/embeddings", json.dumps({"model": "embedder", "input": ["a"] * 17}).encode(), 413, "too_large"),
    ],
)
def test_refusals_have_openai_s_form(site: Site, method: str, path: str, body: bytes, status: int, code: str) -> None:
    reply = site.request(method, path, body)

    assert (reply.status, refusal(reply)["code"], refusal(reply)["type"]) == (status, code, "invalid_request_error")


def test_binary_tensors_have_no_place_here(site: Site) -> None:
    reply = site.request("POST", "/v1/embeddings", b"{}", headers={"Inference-Header-Content-Length": "2"})

    assert (reply.status, "contains only JSON" in refusal(reply)["message"]) == (400, True)


def test_what_json_cannot_carry_is_the_model_s_fault_and_comes_in_base64(site: Site) -> None:
    as_json, in_base64 = embed(site, "broken"), embed(site, "broken", encoding_format="base64")

    assert (as_json.status, refusal(as_json)["type"]) == (500, "server_error")
    assert np.isnan(np.frombuffer(base64.b64decode(numbers(in_base64)[0]), "<f4")).all()


def test_a_count_of_tokens_that_raises_is_the_model_s_fault(site: Site) -> None:
    reply = embed(site, "counted", "?")

    assert (reply.status, refusal(reply)["message"]) == (500, "num_tokens raised KeyError: '?'")


def gated(gate: Gate) -> Fake:
    """An embedder that keeps the text "gate" until it is let out."""
    model = embedder()
    run = model._function

    def run_gated(batch: Batch) -> Batch:
        np.sort(np.arange(200_000) * 7919 % 200_003)  # longer than a hand-over: such a model gets a thread of its own
        gate.pass_through(np.array([GATE if text == "gate" else 0 for text in batch["text"]]))
        return run(batch)

    model._function = run_gated
    return model


def behind_the_gate(**late: Any) -> tuple[Reply | None, Reply | None, list[list[str]]]:
    """Return the answers to a text that keeps the model busy and to one that waits meanwhile, and what was run."""
    gate = Gate()
    model = gated(gate)
    with Site({"embedder": model}, max_batch_size=1) as site:
        warm = len(model.runs)

        async def call(text: str, **more: Any) -> Reply | None:
            body = json.dumps({"model": "embedder", "input": text}).encode()
            return await asgi(site.app, "POST", "/v1/embeddings", body, **more)

        async def traffic() -> tuple[Reply | None, Reply | None]:
            running = asyncio.create_task(call("gate"))
            await gate.wait_entered()
            waited = await call("late", **late)
            gate.opened.set()
            return await running, waited

        answered, waited = site.run(traffic())
    return answered, waited, [list(batch["text"]) for batch in model.runs[warm:]]


def test_a_client_that_leaves_while_it_waits_never_reaches_the_model() -> None:
    answered, waited, runs = behind_the_gate(left=asyncio.sleep(0))

    assert answered is not None
    assert (answered.status, waited, runs) == (200, None, [["gate"]])


def test_a_deadline_in_a_header_is_one_here_too() -> None:
    answered, waited, runs = behind_the_gate(headers={"x-envoy-expected-rq-timeout-ms": "1"})

    assert answered is not None
    assert waited is not None
    assert (answered.status, runs) == (200, [["gate"]])
    assert waited.status in (503, 504)  # refused on arrival where its turn is known to come too late
    assert refusal(waited)["type"] == "server_error"


def test_a_model_that_is_not_ready_says_when_to_come_back() -> None:
    with Site({"embedder": embedder()}, started=False) as site:
        reply = embed(site)

    assert (reply.status, reply.headers["retry-after"], refusal(reply)["code"]) == (503, "1", "unavailable")


# -- long bodies


LONG = 70_000


@pytest.fixture(scope="module")
def long_site() -> Iterator[Site]:
    with Site({"embedder": embedder()}, max_request_rows=1000, max_text_chars=10_000) as site:
        yield site


@pytest.mark.parametrize("given", ["a" * 9_000, ["b\n\u00e9" * 30] * 900, ["", *["c" * 100] * 800]])
def test_a_long_body_has_the_same_embeddings(long_site: Site, given: str | list[str]) -> None:
    padding = " " * LONG  # long because of spaces or because of texts
    body = json.dumps({"input": given, "model": "embedder"}).encode()[:-1] + padding.encode() + b"}"
    reply = long_site.request("POST", "/v1/embeddings", body)
    assert np.array_equal(np.float32(numbers(reply)), vectors([given] if isinstance(given, str) else given))


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [
        ("[" + "1," * LONG + "1]", 400, "values that are not strings; the models of this server tokenize texts themselves"),
        ('["' + '","'.join("a" * LONG) + '"]', 413, "a request may have at most 1000 texts"),
        ('["a",' + "[]," * LONG + '"b"]', 400, "values that are not strings"),
        ('"' + "a" * 2 * LONG + '"', 413, "is a text of 140000 bytes in JSON; a text may have at most 10000 characters"),
        ('["' + "a" * LONG + '","' + '","'.join(["a"] * 1500) + '"]', 413, "has 1501 rows"),
        ('["' + "a" * LONG + '"', 400, "the body is not a request for embeddings"),
    ],
)
def test_long_bodies_that_are_no_texts_are_refused(long_site: Site, given: str, status: int, said: str) -> None:
    reply = long_site.request("POST", "/v1/embeddings", b'{"model":"embedder","input":' + given.encode() + b"}")
    assert reply.status == status, reply.body
    assert said in refusal(reply)["message"]
