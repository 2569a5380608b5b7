"""The server's cache: by row, never wrong, never in the way."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nograd import Predictor, Signature, TensorSpec
from nograd.caching import Cache, CacheStatistics, MemoryCache, encode
from nograd.caching.flight import SingleFlight
from nograd.caching.governor import WINDOW
from nograd.core.tensors import Batch
from nograd.errors import ConfigError
from nograd.runtime.fingerprint import Fingerprint
from nograd.server.call import Call
from nograd.server.models.caching import ModelCache
from nograd.server.protocol.binary import BinaryAnswer
from nograd.server.settings.definition import ServeConfig
from tests.fakes import GATE, OUTPUT, Fake, Gate, Site, X, doubling, x
from tests.redis_server import RedisServer, redis_server
from tests.running_server import serving


def f32(values: Any) -> Any:
    """An array of float32."""
    return np.array(values, np.float32)


def shown(site: Site, model: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = site.get("/live.json").json["models"][model]["cache"]
    return found


def data(reply: Any) -> Any:
    assert reply.status == 200, reply.body
    return reply.json["outputs"][0]["data"]


def run_rows(backend: Fake, skip: int) -> list[list[float]]:
    return [row.tolist() for batch in backend.runs[skip:] for row in batch["x"]]


def test_rows_that_are_known_are_not_run() -> None:
    backend = doubling()
    with Site({"doubling": backend}, cache_mb=1) as site:
        warm = len(backend.runs)
        assert data(site.infer("doubling", x([1, 2], [3, 4], [1, 2]))) == [2, 4, 6, 8, 2, 4]
        assert data(site.infer("doubling", x([3, 4], [5, 6]))) == [6, 8, 10, 12]
        assert data(site.infer("doubling", x([5, 6]))) == [10, 12]
        assert run_rows(backend, warm) == [[1, 2], [3, 4], [5, 6]]
        found = shown(site)
        assert (found["rows"], found["hits"], found["misses"], found["memory_hits"]) == (6, 3, 3, 2)
        assert found["entries"] == 3
        assert found["saved_ms"] > 0
        assert found["redis"] is None
        metrics = site.get("/metrics").body.decode()
        assert 'nograd_cache_rows_total{model="doubling",outcome="hit"} 3.0' in metrics
        assert 'nograd_cache_rows_total{model="doubling",outcome="miss"} 3.0' in metrics
        assert 'nograd_cache_on{model="doubling"} 1.0' in metrics
        assert f"nograd_cache_bytes {found['bytes']:.1f}" in metrics


def test_outputs_are_chosen_after_the_cache() -> None:
    backend = Fake(
        lambda batch: {"a": batch["x"], "b": -batch["x"]},
        Signature((X,), (TensorSpec("a", "float32", (2,)), TensorSpec("b", "float32", (2,)))),
    )
    with Site({"two": backend}, cache_mb=1) as site:
        for names in (["a"], ["b"], ["b", "a"], []):
            reply = site.infer("two", x([1, 2]), outputs=[{"name": name} for name in names])
            found = {output["name"]: output["data"] for output in reply.json["outputs"]}
            expected = {"a": [1, 2], "b": [-1, -2]}
            assert found == {name: expected[name] for name in names or ["a", "b"]}
        assert shown(site)["misses"] == 1


def test_a_stampede_of_equal_requests_is_one_row_of_the_model() -> None:
    gate = Gate()
    backend = gate.model()
    with Site({"gated": backend}, cache_mb=1, max_queue_rows=4) as site:
        warm = len(backend.runs)

        async def stampede() -> list[bytes | BinaryAnswer]:
            model = site.service.model("gated")
            body = json.dumps({"id": "1", "inputs": [x([GATE, 1])]}).encode()
            tasks = [asyncio.ensure_future(model.infer(Call(None, "http", "POST", "/"), body)) for _ in range(1000)]
            await gate.wait_entered()
            gate.opened.set()
            return await asyncio.gather(*tasks)

        answers = site.run(stampede())
        assert len(set(answers)) == 1
        assert run_rows(backend, warm) == [[GATE, 1]]
        assert shown(site)["hits"] == 999


def test_models_of_one_server_share_the_memory_and_no_answer() -> None:
    tripling = Fake(lambda batch: {"output": batch["x"] * 3}, Signature((X,), (OUTPUT,)))
    with Site({"doubling": doubling(), "tripling": tripling}, cache_mb=1) as site:
        for _ in range(2):
            assert data(site.infer("doubling", x([1, 2]))) == [2, 4]
            assert data(site.infer("tripling", x([1, 2]))) == [3, 6]
        assert shown(site, 0)["entries"] == shown(site, 1)["entries"] == 2


def test_a_model_that_remembers_or_answers_with_text_is_not_cached() -> None:
    counter = itertools.count()
    stateful = Fake(
        lambda batch: {"output": np.full_like(batch["x"], next(counter))},
        Signature((X,), (OUTPUT,), "alone", "the same input gave two different answers", repeatable=False),
    )
    with Site({"stateful": stateful}, cache_mb=1) as site:
        assert data(site.infer("stateful", x([1, 2]))) != data(site.infer("stateful", x([1, 2])))
        assert shown(site) is None


def test_errors_are_not_kept() -> None:
    fails = [False]

    def run(batch: Batch) -> Batch:
        if fails[0]:
            raise ValueError("poison")
        return {"output": batch["x"]}

    with Site({"m": Fake(run, Signature((X,), (OUTPUT,)))}, cache_mb=1) as site:
        fails[0] = True
        assert site.infer("m", x([1, 2])).status == 500
        fails[0] = False
        assert data(site.infer("m", x([1, 2]))) == [1, 2]


class Letters:
    """Preprocess that says what it does: one text to the numbers of its letters."""

    item = TensorSpec("text", "bytes")

    def __init__(self) -> None:
        self.calls: list[str] = []

    def fingerprint(self) -> str:
        return "letters 1"

    def __call__(self, text: str) -> dict[str, Any]:
        self.calls.append(text)
        if text == "moment":
            raise RuntimeError("the disk was busy")
        if not text.isalpha():
            raise ValueError(f"{text!r} holds what is no letter")
        return {"x": f32([ord(text[0]), ord(text[-1])])}


def text_body(*texts: str) -> dict[str, Any]:
    return {"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)}


def test_known_text_is_not_prepared_again_and_bad_text_is_refused_from_memory() -> None:
    letters = Letters()
    with Site({"m": Predictor(doubling(), preprocess=letters, sample=["ab"])}, cache_mb=1) as site:
        letters.calls.clear()
        for _ in range(2):
            assert data(site.infer("m", text_body("ab", "cd"))) == [194, 196, 198, 200]
        assert letters.calls == ["ab", "cd"]
        letters.calls.clear()
        replies = [site.infer("m", text_body("ab", "c1")) for _ in range(3)]
        replies.append(site.infer("m", text_body("c1")))
        assert [reply.status for reply in replies] == [400] * 4
        assert [reply.error for reply in replies] == [
            "item 1: preprocess raised ValueError: 'c1' holds what is no letter"
        ] * 3 + ["item 0: preprocess raised ValueError: 'c1' holds what is no letter"]
        assert letters.calls == ["c1"]
        assert shown(site)["refused"] == 3
        for _ in range(2):
            assert site.infer("m", text_body("moment")).status == 400
        assert letters.calls == ["c1", "moment", "moment"]


def test_requests_that_wait_for_the_same_bad_text_are_each_told_where_they_have_it() -> None:
    with Site({"m": Predictor(doubling(), preprocess=Letters(), sample=["ab"])}, cache_mb=1) as site:
        model = site.service.model("m")
        bodies = [json.dumps({"inputs": [text_body(*texts)]}).encode() for texts in (["c1"], ["ab", "c1"], ["ab", "cd", "c1"])]

        async def together() -> list[Any]:
            return list(
                await asyncio.gather(
                    *(model.infer(Call(None, "http", "POST", "/"), body) for body in bodies), return_exceptions=True
                )
            )

        told = [f"item {index}: preprocess raised ValueError: 'c1' holds what is no letter" for index in range(3)]
        assert list(map(str, site.run(together()))) == told


class Full(Cache):
    """Knows everything already."""

    def put_many(self, items: Any, ttl_s: float | None = None) -> None:
        raise AssertionError(f"{len(items)} values were put")

    def statistics(self) -> CacheStatistics:
        return CacheStatistics()

    def clear(self) -> None:
        """There is nothing."""


class Untouched:
    """A batcher that has nothing to do."""

    seconds_per_row = 5e-3

    def submit(self, parts: Any, *_: Any, **__: Any) -> Any:
        raise AssertionError(f"{len(parts)} parts were run")


def test_rows_that_redis_knows_are_worth_looking_up() -> None:
    backend = doubling()
    backend.fingerprint = lambda: Fingerprint("doubling 1")  # type: ignore[method-assign]
    known = encode({"output": f32([[2, 4]])})

    class Knowing(Full):
        def get_many(self, keys: Any) -> list[bytes | None]:
            return [known] * len(keys)

    def part(number: int) -> list[Batch]:
        return [{"x": f32([[number, 0]])}]

    async def main() -> None:
        flights = SingleFlight(MemoryCache(), Knowing())
        cache = ModelCache(Predictor(backend), flights, Untouched(), clock=itertools.count(0, 1e-5).__next__)  # type: ignore[arg-type]
        for number in range(2 * WINDOW):
            assert cache.takes(1)
            (answer,) = await cache.run(None, part(number), 1.0)
            assert answer["output"].tolist() == [[2, 4]]
        found = cache.snapshot()
        assert (found["rows"], found["hits"], found["memory_hits"], found["is_on"]) == (2 * WINDOW, 2 * WINDOW, 0, True)
        assert found["saved_ms"] == pytest.approx(2 * WINDOW * 5)
        await flights.close()

    asyncio.run(main())


def test_what_failed_was_no_hit() -> None:
    def run(batch: Batch) -> Batch:
        if (batch["x"] < 0).any():
            raise ValueError("poison")
        return {"output": batch["x"]}

    with Site({"m": Fake(run, Signature((X,), (OUTPUT,)))}, cache_mb=1) as site:
        assert site.infer("m", x([1, 2])).status == 200
        model = site.service.model("m")
        body = json.dumps({"inputs": [x([-1, 2])]}).encode()

        async def together() -> None:
            await asyncio.gather(
                *(model.infer(Call(None, "http", "POST", "/"), body) for _ in range(3)), return_exceptions=True
            )

        site.run(together())
        assert (shown(site)["rows"], shown(site)["hits"]) == (4, 0)


def test_any_other_preprocess_runs_every_time() -> None:
    """It may read the clock or a data base: only what it made is known."""
    offset = [0.0]
    predictor = Predictor(
        doubling(),
        preprocess=lambda row: {"x": f32(row) + offset[0]},
        sample=[[1, 2]],
        item=TensorSpec("row", "float32", (2,)),
    )
    row = {"name": "row", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
    with Site({"m": predictor}, cache_mb=1) as site:
        assert data(site.infer("m", row)) == data(site.infer("m", row)) == [2, 4]
        offset[0] = 1.0
        assert data(site.infer("m", row)) == [4, 6]
        assert (shown(site)["misses"], shown(site)["hits"]) == (2, 1)


def test_clear() -> None:
    with Site({"doubling": doubling()}, cache_mb=1) as site:
        site.infer("doubling", x([1, 2], [3, 4]))
        assert site.request("POST", "/cache/clear", b"").json == {"cleared": 2, "kept_in": ""}
        assert shown(site)["entries"] == 0
        assert site.get("/cache/clear").status == 405
        assert data(site.infer("doubling", x([1, 2]))) == [2, 4]
    with Site({"doubling": doubling()}, cache_mb=0) as site:
        assert site.request("POST", "/cache/clear", b"").json == {"cleared": 0, "kept_in": ""}


def test_a_quick_model_whose_traffic_never_repeats_is_left_alone() -> None:
    with Site({"doubling": doubling()}, cache_mb=1) as site:
        rows = [[float(number), 0.0] for number in range(1024)]
        for start in range(0, 1024, 32):
            assert site.infer("doubling", x(*rows[start : start + 32])).status == 200
        assert shown(site)["is_on"] is False
        before = shown(site)["rows"]
        assert data(site.infer("doubling", x([1, 0]))) == [2, 0]
        assert shown(site)["rows"] == before
        assert shown(site)["skipped"] > 0
        assert 'nograd_cache_on{model="doubling"} 0.0' in site.get("/metrics").body.decode()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"cache_mb": -1}, "cache_mb is -1; it must be 0 or more"),
        ({"cache_ttl_s": 0}, "cache_ttl_s is 0; it must be above 0"),
        ({"cache_mb": 0, "cache_url": "redis://localhost"}, "cache_url is set and cache_mb is 0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ServeConfig(**settings)


# -- Redis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


def model(seed: int) -> Predictor:
    torch.manual_seed(seed)
    return Predictor(nn.Linear(2, 2), sample=torch.zeros(2, 2))


def ask(predictor: Predictor, url: str, *rows: list[float]) -> tuple[Any, dict[str, Any]]:
    body = {"name": predictor.signature.inputs[0].name, "datatype": "FP32", "shape": [len(rows), 2], "data": list(rows)}
    with Site({"m": predictor}, cache_mb=1, cache_url=url) as site:
        return data(site.infer("m", body)), shown(site)


def test_a_restarted_server_finds_its_answers_and_a_changed_model_none(server: RedisServer) -> None:
    first, _ = ask(model(0), server.patient_url, [1, 2], [3, 4])
    again, found = ask(model(0), server.patient_url, [3, 4], [1, 2])
    assert again == first[2:] + first[:2]
    assert (found["hits"], found["misses"], found["redis"]["hits"]) == (2, 0, 2)
    other, found = ask(model(1), server.patient_url, [1, 2], [3, 4])
    assert other != first
    assert (found["hits"], found["misses"]) == (0, 2)
    assert other == pytest.approx(model(1).predict([[1, 2], [3, 4]]).ravel().tolist())


def test_a_model_whose_fingerprint_is_its_own_sends_nothing_to_redis(server: RedisServer) -> None:
    found = ask(Predictor(doubling()), server.patient_url, [1, 2])
    assert found[0] == [2, 4]
    with server.client() as client:
        assert client.dbsize() == 0


def test_a_backend_may_say_what_it_is(server: RedisServer) -> None:
    backend = doubling()
    backend.fingerprint = lambda: Fingerprint("doubling 1")  # type: ignore[method-assign]
    ask(Predictor(backend), server.patient_url, [1, 2])
    assert ask(Predictor(backend), server.patient_url, [1, 2])[1]["misses"] == 0


@pytest.mark.parametrize("harm", ["kill", "freeze"])
def test_requests_are_answered_whatever_becomes_of_redis(server: RedisServer, harm: str) -> None:
    body = {"name": "input", "datatype": "FP32", "shape": [1, 2], "data": [0, 0]}
    predictor = model(0)
    with Site({"m": predictor}, cache_mb=1, cache_url=server.url) as site:
        for number in range(40):
            if number == 20:
                getattr(server, harm)()
            body["data"] = [number, 1]
            expected = predictor.predict([[number, 1]]).ravel().tolist()
            assert data(site.infer("m", body)) == pytest.approx(expected)
        assert shown(site)["redis"]["failures"] >= 1
        assert shown(site)["redis"]["last_error"]


def test_the_command_line(server: RedisServer) -> None:
    import subprocess
    import sys

    import httpx

    def nograd(*words: str) -> str:
        return subprocess.run([sys.executable, "-m", "nograd", *words], capture_output=True, text=True, check=True).stdout

    with serving("tiny", "--cache-url", server.patient_url) as running:
        name = httpx.get(f"{running.url}/live.json").json()["models"][0]
        url = f"{running.url}/v2/models/{name['name']}/infer"
        for _ in range(3):
            assert httpx.post(url, json=name["example"]).status_code == 200
        said = nograd("cache", "stats", running.url)
        assert "3 rows looked up, 2 known (66.7%)" in said
        assert "memory: 1 answers of all models" in said
        assert "Redis: 0 of 1 found, 0 calls failed" in said
        assert nograd("cache", "clear", running.url) == (
            f"1 answers forgotten; redis://127.0.0.1:{server.port}/0 keeps its own: clear that URL, too\n"
        )
    assert "1 response, 0.0 MB of keys and values" in nograd("cache", "stats", server.url)
    assert nograd("cache", "clear", server.url) == "1 answers forgotten\n"
    assert "0 responses" in nograd("cache", "stats", server.url)
    server.kill()
    done = subprocess.run(
        [sys.executable, "-m", "nograd", "cache", "stats", "localhost:8000"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("nograd: the URL has no scheme; give a server's, http://127.0.0.1:8000, or a Redis'")
    done = subprocess.run(
        [sys.executable, "-m", "nograd", "cache", "stats", server.url], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"nograd: cache {server.url} does not answer")
