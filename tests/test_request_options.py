"""What a request's headers and parameters ask for: deadlines, priorities, ids, times."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import numpy as np
import pytest

from nograd import Predictor, Signature, TensorSpec
from nograd.batching import RequestTimes
from nograd.errors import ProtocolError
from nograd.server.http.request_options import NO_OPTIONS, RequestOptions, parse_options
from nograd.server.models.served import ServedModel
from nograd.server.protocol.decoding import decode
from nograd.server.protocol.request import DEFAULT_PRIORITY, PRIORITY_LEVELS, priority_of, shorter
from nograd.server.telemetry.server_timing import Timing
from tests.fakes import GATE, OUTPUT, Fake, Gate, Site, X, asgi, doubling, flat_cost, x

DEADLINE = "x-envoy-expected-rq-timeout-ms"
INFER = "/v2/models/doubling/infer"


@pytest.fixture(autouse=True)
def _flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request is cut but by the settings."""
    monkeypatch.setattr("nograd.server.models.served.measure_cost", flat_cost)


def body(*rows: list[float], **more: Any) -> bytes:
    return json.dumps({"inputs": [x(*rows)], **more}).encode()


# -- the headers themselves


def test_headers_that_ask_for_nothing_are_plain() -> None:
    assert parse_options([(b"host", b"x"), (b"user-agent", b"y")]) is NO_OPTIONS


def test_headers_say_what_a_client_takes_how_long_it_waits_and_who_it_is() -> None:
    headers = [
        (b"accept-encoding", b"gzip"), (b"x-request-id", b"a-1"), (DEADLINE.encode(), b" 1500 "),
        (b"accept-encoding", b"deflate"), (b"x-server-timing", b"1"),
    ]  # fmt: skip

    asked = parse_options(headers)

    assert asked == RequestOptions(b"gzip,deflate", b"a-1", b"1500", wants_timing=True)
    assert asked.timeout_s == 1.5
    assert asked.echoed == ((b"x-request-id", b"a-1"),)


@pytest.mark.parametrize("value", [b"", b"0", b"-5", b"1.5", b"10s", b"soon", b"9" * 13, "é".encode(), b"\xb2"])
def test_a_deadline_that_is_none_says_what_it_should_be(value: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"it is a whole number of milliseconds, 1 or more"):
        parse_options([(DEADLINE.encode(), value)]).timeout_s  # noqa: B018


@pytest.mark.parametrize("value", [b"", b"a b", b"a" * 257, "é".encode(), b"a\x00b"])
def test_an_id_that_cannot_be_sent_back_is_not(value: bytes) -> None:
    assert parse_options([(b"x-request-id", value)]).echoed == ()


def test_an_id_comes_back_with_answers_and_errors_and_is_not_the_body_s() -> None:
    headers = {"x-request-id": "7f-1"}
    with Site({"doubling": doubling()}) as site:
        replies = [
            site.request("POST", INFER, body([1, 2], id="mine"), headers=headers),
            site.request("POST", INFER, b"{", headers=headers),
            site.request("GET", "/nowhere", headers=headers),
            site.request("GET", "/v2/health/ready", headers=headers),
        ]
        without = site.request("POST", INFER, body([1, 2]))

    assert [reply.status for reply in replies] == [200, 400, 404, 200]
    assert {reply.headers["x-request-id"] for reply in replies} == {"7f-1"}
    assert replies[0].json["id"] == "mine"
    assert "x-request-id" not in without.headers


# -- deadlines


class Watched:
    """Notes the time-out and the class with which a model's requests are queued."""

    def __init__(self, model: ServedModel) -> None:
        assert model._engine is not None
        batcher = model._engine.batcher
        self.seen: list[tuple[float | None, int]] = []
        submit = batcher.submit

        def watched(
            parts: Any, reply: Any, *, timeout_s: float | None = None, priority: int = 0, spent: RequestTimes | None = None
        ) -> Any:
            self.seen.append((timeout_s, priority))
            return submit(parts, reply, timeout_s=timeout_s, priority=priority, spent=spent)

        batcher.submit = watched  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("header", "parameter", "timeout_s"),
    [(None, None, 30.0), ("2000", None, 2.0), (None, 5_000_000, 5.0), ("2000", 5_000_000, 2.0), ("9000", 5_000_000, 5.0),
     ("60000", None, 60.0), ("2000", 0, 2.0)],
)  # fmt: skip
def test_the_shorter_of_header_and_parameter_is_the_deadline_and_either_goes_before_the_server_s(
    header: str | None, parameter: int | None, timeout_s: float
) -> None:
    more = {} if parameter is None else {"parameters": {"timeout": parameter}}
    with Site({"doubling": doubling()}) as site:
        watched = Watched(site.service.model("doubling"))
        headers = {} if header is None else {DEADLINE: header}
        assert site.request("POST", INFER, body([1, 2], **more), headers=headers).data() == [2, 4]

    assert watched.seen == [(timeout_s, DEFAULT_PRIORITY - 1)]


def test_a_deadline_that_is_none_is_a_400_and_counted() -> None:
    with Site({"doubling": doubling()}) as site:
        reply = site.request("POST", INFER, body([1, 2]), headers={DEADLINE: "soon"})
        failed = site.get("/v2/models/stats").json["model_stats"][0]["inference_stats"]["fail"]["count"]

    assert reply.status == 400
    assert reply.error == f"{DEADLINE} is 'soon'; it is a whole number of milliseconds, 1 or more"
    assert failed == 1


def test_a_deadline_that_passes_while_the_model_is_busy_is_a_504() -> None:
    gate = Gate()
    with Site({"doubling": gate.model()}, max_batch_size=1) as site:

        async def story() -> Any:
            busy = asyncio.ensure_future(asgi(site.app, "POST", INFER, body([GATE, 0])))
            await gate.wait_entered()
            late = await asgi(site.app, "POST", INFER, body([1, 2]), headers={DEADLINE: "1"})
            gate.opened.set()
            await busy
            return late

        reply = site.run(story())

    assert reply.status in (503, 504)  # refused on arrival where its turn is known to come too late


def test_the_shorter_of_two_of_which_either_may_be_none() -> None:
    assert [shorter(a, b) for a in (None, 1.0) for b in (None, 2.0)] == [None, 2.0, 1.0, 1.0]


# -- priorities


def test_priorities_count_from_one_and_none_is_in_the_middle() -> None:
    assert [priority_of(given) for given in range(PRIORITY_LEVELS + 1)] == [DEFAULT_PRIORITY - 1, 0, 1, 2, 3, 4]


@pytest.mark.parametrize("given", [-1, PRIORITY_LEVELS + 1, 1.0, "1", True])
def test_a_priority_that_is_none_says_what_there_is(given: Any) -> None:
    with pytest.raises(ProtocolError, match=re.escape(f"parameters.priority is {given!r}; it must be from 1 (highest) to 5")):
        priority_of(given)


@pytest.mark.parametrize("binary", [False, True])
def test_both_ways_of_reading_a_body_know_the_priority(binary: bool) -> None:
    parameters = {"priority": 1, "timeout": 2_000_000, **({"binary_data_output": False} if binary else {})}

    request = decode(body([1, 2], parameters=parameters), [X])

    assert (request.priority, request.timeout_s) == (0, 2.0)


@pytest.mark.parametrize("cache_mb", [0, 1])
def test_what_waits_goes_by_priority(cache_mb: float) -> None:
    gate = Gate()
    model = gate.model()
    with Site({"doubling": model}, max_batch_size=1, cache_mb=cache_mb) as site:
        warm = len(model.runs)

        async def story() -> None:
            busy = asyncio.ensure_future(asgi(site.app, "POST", INFER, body([GATE, 0])))
            await gate.wait_entered()
            waiting = [
                asyncio.ensure_future(asgi(site.app, "POST", INFER, body([float(given), 0], parameters={"priority": given})))
                for given in (5, 4, 0, 2, 1)
            ]
            while site.service.model("doubling").snapshot()["queue_rows"] < 5:  # noqa: ASYNC110  no event tells of it
                await asyncio.sleep(0)
            gate.opened.set()
            await asyncio.gather(busy, *waiting)

        site.run(story())

    assert [float(run["x"][0, 0]) for run in model.runs[warm:]] == [GATE, 1, 2, 0, 4, 5]


def test_a_priority_that_is_none_is_a_400() -> None:
    with Site({"doubling": doubling()}) as site:
        reply = site.infer("doubling", x([1, 2]), parameters={"priority": 9})

    assert (reply.status, reply.error) == (
        400, "parameters.priority is 9; it must be from 1 (highest) to 5 (lowest); 0 or none means 3",
    )  # fmt: skip


# -- where the time went


class Clock:
    """Each look at it is a second later."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def test_times_are_told_in_milliseconds() -> None:
    timing = Timing(Clock())
    timing.decoded()
    timing.outputs()
    timing.encoded()
    timing.spent = RequestTimes(queue_s=0.5, input_s=0.25, infer_s=0.125, output_s=0.0625, batch_rows=4)
    timing.prepare_s, timing.rows, timing.hits = 0.001, 3, 1

    assert timing.header() == (
        b"decode;dur=1000.000, prepare;dur=1.000, queue;dur=500.000, join;dur=250.000, run;dur=125.000, part;dur=62.500, "
        b'encode;dur=1000.000, total;dur=3000.000, batch;desc="4 rows", cache;desc="1 of 3 rows"'
    )


def times(reply: Any) -> tuple[dict[str, float], dict[str, str]]:
    """Durations and descriptions of a Server-Timing header."""
    found = reply.headers["server-timing"]
    durations = {name: float(value) for name, value in re.findall(r"(\w+);dur=([\d.]+)", found)}
    return durations, dict(re.findall(r'(\w+);desc="([^"]*)"', found))


def test_whoever_asks_is_told_where_the_time_went_and_nobody_else() -> None:
    with Site({"doubling": doubling()}) as site:
        without = site.request("POST", INFER, body([1, 2]))
        durations, told = times(site.request("POST", INFER, body([1, 2], [3, 4]), headers={"x-server-timing": "1"}))

    assert "server-timing" not in without.headers
    assert list(durations) == ["decode", "prepare", "queue", "join", "run", "part", "encode", "total"]
    assert sum(value for name, value in durations.items() if name != "total") <= durations["total"] + 0.01
    assert told == {"batch": "2 rows"}


def test_rows_that_were_kept_are_told_and_have_no_run() -> None:
    with Site({"doubling": doubling()}, cache_mb=1) as site:
        ask = {"x-server-timing": "1"}
        first, again, part = (
            times(site.request("POST", INFER, body(*given), headers=ask))
            for given in ([[1.0, 2.0]], [[1.0, 2.0]], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        )

    assert first[1] == {"batch": "1 rows", "cache": "0 of 1 rows"}
    assert again[1] == {"cache": "1 of 1 rows"}
    assert (again[0]["queue"], again[0]["run"]) == (0, 0)
    assert part[1] == {"batch": "2 rows", "cache": "1 of 3 rows"}


@pytest.mark.parametrize("cache_mb", [0, 1])
def test_preparing_items_is_told_too(cache_mb: float) -> None:
    predictor = Predictor(
        Fake(lambda batch: {"output": batch["x"]}, Signature((X,), (OUTPUT,))),
        preprocess=lambda text: {"x": np.array([len(text), 1], np.float32)},
        item=TensorSpec("text", "bytes"),
        sample="hello",
    )
    text = json.dumps({"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["hi"]}]}).encode()
    with Site({"length": predictor}, cache_mb=cache_mb) as site:
        reply = site.request("POST", "/v2/models/length/infer", text, headers={"x-server-timing": "1"})

    assert times(reply)[0]["prepare"] > 0
