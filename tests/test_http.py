"""The ASGI application, called without sockets. Letters and numbers as in the protocol's acceptance checklist."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from nograd import Signature, __version__
from nograd.core.tensors import Batch
from tests.fakes import GATE, OUTPUT, Fake, Gate, Reply, Site, X, asgi, doubling, flat_cost, tensor, x

INFER = "/v2/models/doubling/infer"

EXTENSIONS = ["binary_tensor_data", "statistics", "model_configuration", "schedule_policy"]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    models = {"doubling": doubling(), "a b/ü%": doubling()}
    with Site(models, max_batch_size=4, max_queue_rows=16, max_body_bytes=4096) as site:
        yield site


def infer_body(*rows: list[float], **more: Any) -> bytes:
    return json.dumps({"inputs": [x(*rows)], **more}).encode()


# -- what is there


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True, "live": True}),
        ("/v2", {"name": "nograd", "version": __version__, "extensions": EXTENSIONS}),
        ("/v2/", {"name": "nograd", "version": __version__, "extensions": EXTENSIONS}),
        ("/v2/models/doubling/ready", {"name": "doubling", "ready": True}),
        ("/v2/models/doubling/versions/1/ready", {"name": "doubling", "ready": True}),
        ("/v2/models/a%20b%2F%C3%BC%25/ready", {"name": "a b/ü%", "ready": True}),
    ],
)
def test_r1_to_r4_and_m1_health_and_metadata(site: Site, path: str, answer: dict[str, Any]) -> None:
    reply = site.get(path)

    assert (reply.status, reply.headers["content-type"], reply.json) == (200, "application/json", answer)


@pytest.mark.parametrize("path", ["/v2/models/doubling", "/v2/models/doubling/versions/1"])
def test_m2_model_metadata_has_the_batch_dimension(site: Site, path: str) -> None:
    assert site.get(path).json == {
        "name": "doubling",
        "versions": ["1"],
        "platform": "pytorch_fake",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "output", "datatype": "FP32", "shape": [-1, 2]}],
    }


@pytest.mark.parametrize("path", [INFER, "/v2/models/doubling/versions/1/infer", "/v2/models/a%20b%2F%C3%BC%25/infer"])
def test_m4_m5_infer_with_and_without_version_and_by_a_percent_encoded_name(site: Site, path: str) -> None:
    reply = site.request("POST", path, infer_body([1, 2], [3, 4], id="mine"))

    assert reply.data() == [2, 4, 6, 8]
    assert reply.json["id"] == "mine"
    assert reply.headers["content-length"] == str(len(reply.body))


@pytest.mark.parametrize("content_type", [None, "application/json", "application/json; charset=utf-8", "text/plain", ""])
def test_i14_any_content_type_is_read_as_json(site: Site, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}

    assert site.request("POST", INFER, infer_body([1, 2]), headers=headers).data() == [2, 4]


def test_a_body_in_many_pieces_is_one_body(site: Site) -> None:
    body = infer_body([1, 2])

    assert site.request("POST", INFER, [body[i : i + 1] for i in range(len(body))]).data() == [2, 4]


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/health/live", "/v2/models/doubling", "/live.json", "/metrics", "/", "/page/page.css"]
)
def test_head_is_get_without_its_body(site: Site, path: str) -> None:
    head, get = site.request("HEAD", path), site.get(path)

    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert int(head.headers["content-length"]) > 0


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/page/page.css", "text/css"),
        ("/page/main.js", "text/javascript"),
        ("/page/icon.svg", "image/svg+xml"),
    ],
)
def test_the_page_comes_with_headers_that_keep_others_out(site: Site, path: str, kind: str) -> None:
    reply = site.get(path)

    assert reply.headers["content-type"].startswith(kind)
    assert reply.headers["content-security-policy"].startswith("default-src 'self'")
    assert reply.headers["x-content-type-options"] == "nosniff"


# -- what is refused


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/nothing", 404, "/nothing"),
        ("GET", "/v2/nothing", 404, "/v2/nothing"),
        ("GET", "/v2/models", 404, "/v2/models"),
        ("GET", "/v2/models/other", 404, "there is no model 'other'; served here: 'doubling'"),
        ("GET", "/v2/models/DOUBLING", 404, "there is no model 'DOUBLING'"),
        ("GET", "/v2/models/%FF", 404, "there is no model"),
        ("GET", "/v2/models/other/ready", 404, "there is no model 'other'"),
        ("POST", "/v2/models/other/infer", 404, "there is no model 'other'"),
        ("GET", "/v2/models/doubling/versions/2", 404, "model 'doubling' has no version '2'; served here: '1'"),
        ("POST", "/v2/models/doubling/versions/2/infer", 404, "has no version '2'"),
        ("GET", "/v2/models/doubling/nothing", 404, "/v2/models/doubling/nothing"),
        ("GET", "/v2/models/doubling/versions", 404, "/v2/models/doubling/versions"),
        ("GET", "/page.html", 404, "/page.html"),
        ("GET", "/../../etc/passwd", 404, "nothing"),
        ("POST", "/v2/health/live", 405, "takes GET or HEAD, not POST"),
        ("DELETE", "/v2", 405, "takes GET or HEAD, not DELETE"),
        ("PUT", "/v2/models/doubling", 405, "takes GET or HEAD, not PUT"),
        ("GET", INFER, 405, "takes POST, not GET"),
        ("HEAD", "/v2/models/doubling/versions/1/infer", 405, "takes POST, not HEAD"),
        ("POST", "/metrics", 405, "takes GET or HEAD, not POST"),
        ("POST", "/", 405, "takes GET or HEAD, not POST"),
    ],
)
def test_r5_r6_m3_what_is_not_there_is_said_in_json(site: Site, method: str, path: str, status: int, said: str) -> None:
    reply = site.request(method, path)

    assert reply.status == status
    if method != "HEAD":
        assert said in reply.error
    if status == 405:
        assert reply.headers["allow"] == ("POST" if path.endswith("infer") else "GET, HEAD")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not an inference request"),
        (infer_body([1, 2])[:-9], "not an inference request"),
        (json.dumps({"inputs": [tensor("x", "FP32", [1, 2], [1, 2, 3])]}).encode(), "so 2 elements; its data has 3"),
        (
            json.dumps({"inputs": [tensor("x", "FP32", [1, 1], [1])]}).encode(),
            "is float32 [1, 1]; the model takes float32 [rows, 2]",
        ),
        (infer_body([1, 2], outputs=[{"name": "y"}]), "unknown output 'y'; the model returns 'output'"),
    ],
)
def test_a_request_that_is_not_the_models_is_a_400(site: Site, body: bytes, said: str) -> None:
    reply = site.request("POST", INFER, body)

    assert reply.status == 400
    assert said in reply.error


def test_a_compression_that_is_not_known_is_a_501_that_says_what_to_do(site: Site) -> None:
    reply = site.request("POST", INFER, infer_body([1, 2]), headers={"Content-Encoding": "br"})

    assert (reply.status, "send gzip, deflate, or an uncompressed body" in reply.error) == (501, True)


@pytest.mark.parametrize("encoding", ["identity", "Identity", ""])
def test_a_body_that_is_not_compressed_may_say_so(site: Site, encoding: str) -> None:
    assert site.request("POST", INFER, infer_body([1, 2]), headers={"content-encoding": encoding}).status == 200


def test_i13_a_body_that_announces_too_much_is_refused_unread(site: Site) -> None:
    reply = site.request("POST", INFER, headers={"content-length": "4097"})

    assert (reply.status, reply.error) == (413, "the body has 4097 bytes; the limit of this server is 4096 (--max-body-bytes)")


@pytest.mark.parametrize("pieces", [[b" " * 4097], [b" " * 5000, b""], [b" " * 2048] * 3], ids=["one", "one and more", "three"])
def test_i13_a_body_that_turns_out_too_long_is_refused(site: Site, pieces: list[bytes]) -> None:
    reply = site.request("POST", INFER, pieces)

    assert (reply.status, reply.error) == (
        413,
        "the body has more than 4096 bytes, the limit of this server (--max-body-bytes)",
    )


def test_more_rows_than_the_queue_holds_are_too_large(site: Site) -> None:
    reply = site.request("POST", INFER, infer_body(*[[1.0, 2.0]] * 17))

    assert (reply.status, "17 rows" in reply.error) == (413, True)


def test_a_model_that_raises_is_a_500_that_names_the_error() -> None:
    def raising(batch: Batch) -> Batch:
        if batch["x"].any():
            raise ValueError("no such row")
        return {"output": batch["x"]}

    with Site({"raising": Fake(raising, Signature((X,), (OUTPUT,)))}) as site:
        reply = site.infer("raising", x([1, 2]))
        fine = site.infer("raising", x([0, 0]))

    assert (reply.status, reply.error) == (500, "the model raised ValueError: no such row")
    assert fine.status == 200


def test_a_fault_of_the_server_is_told_without_its_text_and_logged_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[dict[str, Any]] = []

    def broken() -> bytes:
        raise KeyError("a secret")

    with Site({"doubling": doubling()}) as site:
        monkeypatch.setattr(site.service, "metrics_text", broken)

        async def call() -> Reply | None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
            return await asgi(site.app, "GET", "/metrics")

        reply = site.run(call())

    assert reply is not None
    assert (reply.status, reply.error) == (500, "the server failed on this request: KeyError")
    assert (logged[0]["message"], repr(logged[0]["exception"])) == ("GET /metrics failed", "KeyError('a secret')")


# -- overload and time-outs


def test_a_full_queue_is_a_503_that_says_when_to_come_back_and_a_late_answer_a_504(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nograd.server.models.served.measure_cost", flat_cost)  # a busy machine must not refuse it at once
    gate = Gate()
    with Site({"gated": gate.model()}, max_batch_size=1, max_queue_rows=2) as site:

        async def traffic() -> tuple[Reply | None, Reply | None, Reply | None, list[Reply | None]]:
            def send(*row: float, **more: Any) -> asyncio.Task[Reply | None]:
                return asyncio.create_task(asgi(site.app, "POST", "/v2/models/gated/infer", infer_body(list(row), **more)))

            running = send(GATE, 0)
            await gate.wait_entered()
            late = await send(1, 2, parameters={"timeout": 200_000})
            waiting = [send(3, 4), send(5, 6)]
            await asyncio.sleep(0)
            refused = await send(7, 8)
            ready = await asgi(site.app, "GET", "/v2/health/ready")
            gate.opened.set()
            return late, refused, ready, [await task for task in (running, *waiting)]

        late, refused, ready, answered = site.run(traffic())

    assert late is not None
    assert refused is not None
    assert (late.status, late.error) == (504, "no answer within 0.2 s; give more time, or send less at once")
    assert (refused.status, "the queue has 2 of at most 2 rows; try again in" in refused.error) == (503, True)
    assert int(refused.headers["retry-after"]) >= 1
    assert ready is not None
    assert ready.status == 200
    assert [reply and reply.data() for reply in answered] == [[2 * GATE, 0], [6, 8], [10, 12]]


# -- the application's life


def test_ready_turns_false_before_the_server_stops_and_live_stays() -> None:
    with Site({"doubling": doubling()}) as site:
        site.service.drain()
        replies = {path: site.get(path) for path in ("/v2/health/ready", "/v2/health/live", "/v2/models/doubling/ready")}
        refused = site.infer("doubling", x([1, 2]))

    assert {path: reply.status for path, reply in replies.items()} == {
        "/v2/health/ready": 503, "/v2/health/live": 200, "/v2/models/doubling/ready": 503,
    }  # fmt: skip
    assert replies["/v2/health/ready"].json == {"ready": False, "live": True}
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert "not ready" in refused.error


def test_any_asgi_server_starts_and_stops_the_models_by_lifespan() -> None:
    events = iter(["lifespan.startup", "lifespan.shutdown"])
    told: list[Any] = []
    ready: list[bool] = []

    async def receive() -> dict[str, Any]:
        ready.append(fresh.service.ready)
        return {"type": next(events)}

    async def send(message: Any) -> None:
        told.append(message["type"])

    with Site({"doubling": doubling()}, started=False) as fresh:
        fresh.run(fresh.app({"type": "lifespan"}, receive, send))

    assert told == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert ready == [False, True]
    assert not fresh.service.ready


def test_a_model_that_cannot_start_is_told_to_the_asgi_server() -> None:
    def broken(batch: Batch) -> Batch:
        raise ValueError("no weights")

    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    with Site({"broken": Fake(broken, Signature((X,), (OUTPUT,)))}, started=False) as site:
        site.run(site.app({"type": "lifespan"}, receive, send))

    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert "no weights" in sent[0]["message"]
