"""Many models, several versions, and their loading and unloading: protocol.md, items P1 to P5, G9, M3."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nograd import CostCurve, Predictor, Signature
from nograd.errors import ConfigError, ModelLoadError, UnavailableError
from nograd.server.http.short_path import ShortPathProtocol
from nograd.server.models.repository import bundles_in
from nograd.server.settings.definition import ServeConfig
from nograd.server.settings.model_config import ModelConfig
from tests.fakes import GATE, OUTPUT, Fake, Gate, Reply, Site, X, asgi, doubling, flat_cost, x
from tests.test_short_path import Wire, infer_body, post

INDEX = "/v2/repository/index"


class Shelf:
    """Models by how often they were opened: the n-th opening of one gives `x` times n. Closings are counted."""

    def __init__(self) -> None:
        self.opened: Counter[str] = Counter()
        self.closed: Counter[str] = Counter()
        self.fails: Exception | None = None
        self.fails_warm = False

    def open(self, model: ModelConfig, _config: ServeConfig) -> Predictor:
        if self.fails is not None:
            raise self.fails
        self.opened[model.model] += 1
        return Predictor(self._times(model.model, self.opened[model.model], fails=self.fails_warm))

    def _times(self, name: str, factor: int, *, fails: bool) -> Fake:
        def run(batch: Any) -> Any:
            if fails:
                raise ValueError("broken weights")
            return {"output": batch["x"] * np.float32(factor)}

        made = Fake(run, Signature((X,), (OUTPUT,)))
        made.close = lambda: self.closed.update([name])  # type: ignore[method-assign]
        return made


@pytest.fixture(autouse=True)
def _quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is run once when it is warmed, and not measured."""

    def run_once(predictor: Predictor, part: Any, max_batch_size: int) -> CostCurve:
        predictor.run(part)
        return flat_cost(predictor, part, max_batch_size)

    monkeypatch.setattr("nograd.server.models.served.measure_cost", run_once)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def site(shelf: Shelf) -> Iterator[Site]:
    known = (ModelConfig("a.bundle", "a"), ModelConfig("b1.bundle", "b"), ModelConfig("b2.bundle", "b", "2"))
    with Site({"given": doubling()}, known=known, opened=shelf.open, repository=True) as site:
        yield site


def call(site: Site, path: str, body: bytes = b"") -> Reply:
    return site.request("POST", f"/v2/repository/{path}", body)


def load(site: Site, name: str) -> None:
    assert call(site, f"models/{name}/load").status == 200


def states(site: Site, body: bytes = b"") -> list[tuple[str, str, str]]:
    return [(each["name"], each["version"], each["state"]) for each in call(site, "index", body).json]


FACTORIES = """
import nograd
from tests.fakes import Fake, OUTPUT, X
from nograd import Signature
import {helper}

def run(batch):
    return {{"output": {helper}.scaled(batch["x"])}}

def one():
    return nograd.Predictor(Fake(run, Signature((X,), (OUTPUT,))))

two = one
"""


def test_p2_a_load_runs_the_edited_code_and_other_models_keep_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    helper, factory = tmp_path / "served_helper.py", tmp_path / "served_factory.py"
    factory.write_text(FACTORIES.format(helper="served_helper"))
    helper.write_text("def scaled(x): return x * 2")
    known = tuple(ModelConfig(f"served_factory:{name}", name) for name in ("one", "two"))
    with Site({}, known=known, repository=True) as site:

        def answers() -> list[list[float]]:
            return [site.infer(name, x([1, 2])).json["outputs"][0]["data"] for name in ("one", "two")]

        for name in ("one", "two"):
            load(site, name)
        assert answers() == [[2, 4], [2, 4]]

        helper.write_text("def scaled(x): return x * 3")
        load(site, "one")
        assert answers() == [[3, 6], [2, 4]]

        helper.write_text("def scaled(x): return x *")
        reply = call(site, "models/one/load")
        assert reply.status >= 400
        assert "importing served_factory raised SyntaxError" in reply.json["error"]
        assert answers() == [[3, 6], [2, 4]]

        helper.write_text("def scaled(x): return x * 5")
        load(site, "two")
        assert answers() == [[3, 6], [5, 10]]
    for name in ("served_helper", "served_factory"):
        sys.modules.pop(name)


# -- P5: off


def test_p5_the_extension_is_off_unless_it_is_turned_on() -> None:
    with Site({"doubling": doubling()}) as site:
        replies = [call(site, path) for path in ("index", "models/doubling/load", "models/doubling/unload")]
        extensions = site.get("/v2").json["extensions"]

        assert [reply.status for reply in replies] == [501, 501, 501]
        assert "nograd serve --repository" in replies[0].error
        assert "model_repository" not in extensions
        assert site.infer("doubling", x([1, 2])).data() == [2.0, 4.0]


def test_p5_turned_on_it_is_announced(site: Site) -> None:
    assert "model_repository" in site.get("/v2").json["extensions"]


# -- P1: index


def test_p1_the_index_lists_what_is_served_and_what_could_be(site: Site) -> None:
    expected = [("given", "1", "READY"), ("a", "1", "UNAVAILABLE"), ("b", "1", "UNAVAILABLE"), ("b", "2", "UNAVAILABLE")]

    assert states(site) == states(site, b"{}") == states(site, b'{"ready": false}') == expected
    assert states(site, b'{"ready": true}') == expected[:1]
    assert call(site, "any-name/index").json == call(site, "index").json


@pytest.mark.parametrize("body", [b'{"ready": "x"}', b"[]", b"{", b'{"ready": 1}'])
def test_p1_an_index_request_that_is_none_is_refused(site: Site, body: bytes) -> None:
    reply = call(site, "index", body)

    assert reply.status == 400
    assert "the body does not fit this call" in reply.error


def test_p1_a_model_that_does_not_answer_is_not_ready(site: Site) -> None:
    site.service.model("given").drain()

    assert states(site)[0] == ("given", "1", "UNAVAILABLE")


# -- P2: load


def test_p2_a_loaded_model_answers_and_its_metadata_has_all_versions(site: Site) -> None:
    load(site, "b")

    assert site.infer("b", x([1, 2])).data() == [1.0, 2.0]
    assert site.get("/v2/models/b").json["versions"] == ["1", "2"]
    assert states(site, b'{"ready": true}') == [("given", "1", "READY"), ("b", "1", "READY"), ("b", "2", "READY")]
    assert site.get("/v2/models/b/versions/2/ready").status == 200


def test_p2_a_load_of_what_is_loaded_takes_its_place_and_the_old_one_is_closed(site: Site, shelf: Shelf) -> None:
    load(site, "a")
    load(site, "a")
    site.run(asyncio.sleep(0))

    assert site.infer("a", x([1, 2])).data() == [2.0, 4.0]
    load(site, "a")
    assert site.infer("a", x([1, 2])).data() == [3.0, 6.0]
    site.run(site.service.repository.stop())
    assert shelf.closed == {"a.bundle": 2}


@pytest.mark.parametrize(
    ("failing", "status", "said"),
    [
        (ModelLoadError("a.bundle: weights.onnx was changed"), 400, "weights.onnx was changed"),
        (RuntimeError("no memory"), 400, "model 'a' could not be loaded: RuntimeError: no memory"),
    ],
)
def test_p2_a_load_that_fails_is_told_and_what_answered_before_still_does(
    site: Site, shelf: Shelf, failing: Exception, status: int, said: str
) -> None:
    load(site, "a")
    shelf.fails = failing
    reply = call(site, "models/a/load")

    assert (reply.status, said in reply.error) == (status, True)
    assert site.infer("a", x([1, 2])).data() == [1.0, 2.0]
    (entry,) = [each for each in call(site, "index").json if each["name"] == "a"]
    assert entry["state"] == "READY"
    assert said.rpartition(": ")[2] in entry["reason"]
    shelf.fails = None
    load(site, "a")
    assert [each["reason"] for each in call(site, "index").json if each["name"] == "a"] == [""]


def test_p2_a_model_that_cannot_be_warmed_is_not_served_and_is_closed(site: Site, shelf: Shelf) -> None:
    shelf.fails_warm = True
    reply = call(site, "models/a/load")

    assert (reply.status, reply.error) == (400, "model 'a' could not be loaded: ValueError: broken weights")
    assert site.infer("a", x([1, 2])).status == 404
    assert shelf.closed == {"a.bundle": 1}


def test_p2_of_several_versions_all_are_loaded_or_none(site: Site, shelf: Shelf) -> None:
    opened = shelf.open

    def second_fails(model: ModelConfig, config: ServeConfig) -> Predictor:
        if model.version == "2":
            raise ModelLoadError("b2.bundle is no bundle")
        return opened(model, config)

    site.service.repository._load = lambda model: second_fails(model, site.service.config)
    reply = call(site, "models/b/load")

    assert (reply.status, reply.error) == (400, "b2.bundle is no bundle")
    assert site.infer("b", x([1, 2])).status == 404
    assert shelf.closed == {"b1.bundle": 1}


def test_p2_a_model_that_is_not_there_cannot_be_loaded(site: Site) -> None:
    reply = call(site, "models/missing/load")

    assert reply.status == 404
    assert reply.error == "there is no model 'missing' to load; models that can be loaded: 'a', 'b'"


def test_p2_what_a_program_has_given_only_it_could_load_anew(site: Site) -> None:
    reply = call(site, "models/given/load")

    assert (reply.status, "passed to the server by a program" in reply.error) == (400, True)


@pytest.mark.parametrize("name", ["config", "file:1/model.onnx"])
@pytest.mark.parametrize("what", ["load", "unload"])
def test_p2_what_a_client_sends_along_is_never_loaded(site: Site, shelf: Shelf, name: str, what: str) -> None:
    reply = call(site, f"models/a/{what}", json.dumps({"parameters": {name: "eA=="}}).encode())

    assert (reply.status, name in reply.error) == (400, True)
    assert not shelf.opened


def test_names_in_a_path_are_percent_encoded(shelf: Shelf) -> None:
    with Site({}, known=[ModelConfig("m", "a b/ü")], opened=shelf.open, repository=True) as site:
        load(site, "a%20b%2F%C3%BC")

        assert site.infer("a%20b%2F%C3%BC", x([1, 2])).data() == [1.0, 2.0]


@pytest.mark.parametrize("path", ["", "models", "models/a", "models/a/start", "models//load", "x/y/index", "models/a/load/"])
def test_other_paths_of_the_repository_are_not_there(site: Site, path: str) -> None:
    assert call(site, path).status == 404


def test_its_calls_are_posts(site: Site) -> None:
    reply = site.get(INDEX)

    assert (reply.status, reply.headers["allow"]) == (405, "POST")


# -- P3: unload


def test_p3_an_unloaded_model_is_gone_and_can_be_loaded_again(site: Site, shelf: Shelf) -> None:
    load(site, "b")
    assert call(site, "models/b/unload", b'{"parameters": {"unload_dependents": true}}').status == 200

    assert shelf.closed == {"b1.bundle": 1, "b2.bundle": 1}
    assert site.infer("b", x([1, 2])).status == 404
    assert site.get("/v2/models/b").status == site.get("/v2/models/b/ready").status == 404
    assert [each["reason"] for each in call(site, "index").json if each["name"] == "b"] == ["unloaded", "unloaded"]
    assert site.get("/v2/health/ready").status == 200
    load(site, "b")
    assert site.infer("b", x([1, 2])).data() == [2.0, 4.0]


def test_p3_what_a_program_has_given_can_be_unloaded(site: Site) -> None:
    assert call(site, "models/given/unload").status == 200
    assert site.infer("given", x([1, 2])).status == 404


def test_p3_a_model_that_is_not_loaded_cannot_be_unloaded(site: Site) -> None:
    reply = call(site, "models/a/unload")

    assert (reply.status, reply.error) == (404, "model 'a' is not loaded; loaded are: 'given'")


def test_p3_what_a_model_has_accepted_it_answers_before_it_goes(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nograd.batching.batcher._is_quick", lambda *_: False)
    gate = Gate()
    with Site({"gated": gate.model()}, max_batch_size=1, repository=True) as site:

        async def talk() -> tuple[Any, Any, Any, bool]:
            body = json.dumps({"inputs": [x([GATE, 0])]}).encode()
            first = asyncio.create_task(asgi(site.app, "POST", "/v2/models/gated/infer", body))
            await gate.wait_entered()
            second = asyncio.create_task(asgi(site.app, "POST", "/v2/models/gated/infer", body.replace(b"42", b"3")))
            await asyncio.sleep(0)
            unload = asyncio.create_task(asgi(site.app, "POST", "/v2/repository/models/gated/unload"))
            while "gated" in [model.name for model in site.service.models]:  # noqa: ASYNC110  no event tells of it
                await asyncio.sleep(0)
            third = await asgi(site.app, "POST", "/v2/models/gated/infer", body)
            is_waiting = not unload.done()
            gate.opened.set()
            return await first, await second, third, is_waiting and (await unload).status == 200  # type: ignore[union-attr]

        first, second, third, is_good = site.run(talk())

    assert is_good
    assert [first.data(), second.data()] == [[2 * GATE, 0.0], [6.0, 0.0]]
    assert third.status == 404


# -- P4: reload under load


def test_p4_no_request_fails_while_its_model_is_loaded_anew(shelf: Shelf) -> None:
    """Requests over HTTP/1.1 connections, on both ways through the server; each answer is one of a model that was there."""
    with Site({}, known=[ModelConfig("m", "m")], opened=shelf.open, repository=True) as site:
        load(site, "m")

        async def ask(done: asyncio.Event) -> list[float]:
            found: list[float] = []
            is_last = False
            while not is_last:
                is_last = done.is_set()
                wire = Wire(site, ShortPathProtocol)
                wire.protocol.data_received(post(infer_body([1, 2]), "/v2/models/m/infer"))
                said = await wire.transport.answers()
                found.append(json.loads(said.partition(b"\r\n\r\n")[2])["outputs"][0]["data"][0])
                reply = await asgi(site.app, "POST", "/v2/models/m/infer", json.dumps({"inputs": [x([1, 2])]}).encode())
                assert reply is not None
                found.append(reply.data()[0])
            return found

        async def talk() -> list[list[float]]:
            done = asyncio.Event()
            asking = [asyncio.create_task(ask(done)) for _ in range(8)]
            for _ in range(20):
                await site.service.repository.load("m")
            done.set()
            return list(await asyncio.gather(*asking))

        found = site.run(talk())

    assert all(each == sorted(each) for each in found)  # once it has met the new model, a client never meets the old one
    assert {value for each in found for value in each} >= {1.0, 21.0}


@pytest.mark.parametrize(
    ("change", "head", "end"),
    [("load", b"HTTP/1.1 200 ", b'"data":[2.0,4.0]}]}'), ("unload", b"HTTP/1.1 404 ", b'; served here: none"}')],
)
def test_a_request_meets_the_model_that_is_there_when_its_body_has_come(
    shelf: Shelf, change: str, head: bytes, end: bytes
) -> None:
    with Site({}, known=[ModelConfig("m", "m")], opened=shelf.open, repository=True) as site:
        load(site, "m")

        async def talk() -> bytes:
            wire = Wire(site, ShortPathProtocol)
            whole = post(infer_body([1, 2]), "/v2/models/m/infer")
            wire.protocol.data_received(whole[:-10])
            await getattr(site.service.repository, change)("m")
            wire.protocol.data_received(whole[-10:])
            return await wire.transport.answers()

        said = site.run(talk())

    assert said.startswith(head)
    assert said.endswith(end)


def test_two_loads_at_once_come_one_after_the_other(shelf: Shelf) -> None:
    with Site({}, known=[ModelConfig("m", "m")], opened=shelf.open, repository=True) as site:

        async def talk() -> None:
            await asyncio.gather(*(site.service.repository.load("m") for _ in range(3)))
            await site.service.repository.stop()

        site.run(talk())

    assert (shelf.opened["m"], shelf.closed["m"]) == (3, 2)


def test_a_server_that_stops_loads_nothing_any_more(shelf: Shelf) -> None:
    with Site({}, known=[ModelConfig("m", "m")], opened=shelf.open, repository=True) as site:
        site.run(site.service.stop())
        with pytest.raises(UnavailableError, match="stopping"):
            site.run(site.service.repository.load("m"))


def test_a_load_that_a_stop_overtakes_leaves_no_model_behind(shelf: Shelf) -> None:
    with Site({}, known=[ModelConfig("m", "m")], opened=shelf.open, repository=True) as site:

        async def talk() -> None:
            loading = asyncio.create_task(site.service.repository.load("m"))
            while not shelf.opened:  # noqa: ASYNC110  no event tells of it
                await asyncio.sleep(0)
            await site.service.stop()
            with pytest.raises(UnavailableError):
                await loading

        site.run(talk())

    assert shelf.closed == {"m": 1}


def test_a_load_that_is_given_up_leaves_no_model_behind(shelf: Shelf) -> None:
    with Site({}, known=[ModelConfig("m", "m")], opened=shelf.open, repository=True) as site:

        async def talk() -> None:
            loading = asyncio.create_task(site.service.repository.load("m"))
            while not shelf.opened:  # noqa: ASYNC110  no event tells of it
                await asyncio.sleep(0)
            loading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await loading

        site.run(talk())

        assert [each[2] for each in states(site)] == ["UNAVAILABLE"]
        load(site, "m")


# -- versions side by side


@pytest.fixture
def versions() -> Iterator[Site]:
    with Site({"one": doubling()}, started=False) as site:
        for version, factor in (("1", 1.0), ("2", 10.0)):
            site.service.add("m", Predictor(_times(factor)), version)
        site.run(site.service.start())
        yield site
        site.run(site.service.stop())


def _times(factor: float) -> Fake:
    return Fake(lambda batch: {"output": batch["x"] * np.float32(factor)}, Signature((X,), (OUTPUT,)))


def test_versions_answer_side_by_side_and_without_one_the_newest_does(versions: Site) -> None:
    newest, first, second = (versions.infer(name, x([1, 2])) for name in ("m", "m/versions/1", "m/versions/2"))

    assert [reply.data() for reply in (newest, first, second)] == [[10.0, 20.0], [1.0, 2.0], [10.0, 20.0]]
    assert [reply.json["model_version"] for reply in (newest, first, second)] == ["2", "1", "2"]
    assert versions.infer("m/versions/3", x([1, 2])).error == "model 'm' has no version '3'; served here: '1', '2'"


def test_where_the_newest_does_not_answer_the_next_one_does(versions: Site) -> None:
    versions.service.model("m", "2").drain()

    assert versions.infer("m", x([1, 2])).data() == [1.0, 2.0]
    assert versions.infer("m/versions/2", x([1, 2])).status == 503
    assert versions.get("/v2/models/m/ready").status == 200
    assert versions.get("/v2/models/m/versions/2/ready").status == 503


def test_statistics_and_configuration_are_by_version(versions: Site) -> None:
    versions.infer("m/versions/1", x([1, 2]))
    found = versions.get("/v2/models/m/stats").json["model_stats"]

    assert [(each["version"], each["inference_count"]) for each in found] == [("1", 1), ("2", 0)]
    assert len(versions.get("/v2/models/m/versions/1/stats").json["model_stats"]) == 1
    assert len(versions.get("/v2/models/stats").json["model_stats"]) == 3
    assert versions.get("/v2/models/m/versions/1/config").json["version_policy"] == {"specific": {"versions": [1]}}


def test_the_live_page_shows_every_version_and_metrics_count_a_name_once(versions: Site) -> None:
    for version in ("1", "2", "2"):
        versions.infer(f"m/versions/{version}", x([1, 2]))
    metrics = versions.get("/metrics").body.decode()

    shown = [(each["name"], each["version"]) for each in versions.get("/live.json").json["models"]]
    assert shown == [("one", "1"), ("m", "1"), ("m", "2")]
    assert 'nograd_requests_total{model="m",status="200"} 3.0' in metrics
    assert metrics.count('nograd_model_ready{model="m"}') == 1


def test_the_description_has_each_model_once_and_all_versions(versions: Site) -> None:
    found = versions.get("/openapi.json").json["paths"]

    assert [path for path in found if path.startswith("/v2/models/m")] == ["/v2/models/m/infer"]
    (_, parameter) = found["/v2/models/{model}/versions/{version}/ready"]["get"]["parameters"]
    assert set(parameter["examples"]) == {"1", "2"}


def test_two_models_of_one_name_and_version_are_refused() -> None:
    site = Site({"m": doubling()}, started=False)
    with site, pytest.raises(ConfigError, match="is 'm', version '1', as another model is"):
        site.service.add("m", Predictor(doubling()))


def test_a_model_has_its_own_limits(shelf: Shelf) -> None:
    known = [ModelConfig("m", "m", max_batch_size=2, timeout_s=5.0, cache=False), ModelConfig("n", "n")]
    with Site({}, known=known, opened=shelf.open, repository=True, max_batch_size=8, cache_mb=8) as site:
        for name in ("m", "n"):
            load(site, name)
        shown = {each["name"]: each for each in site.get("/live.json").json["models"]}

        assert [(shown[name]["limits"]["max_batch_size"], shown[name]["limits"]["timeout_s"]) for name in "mn"] == [
            (2, 5),
            (8, 30),
        ]
        assert "cache = false" in site.service.model("m").cache_told()


# -- a folder of bundles


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Looks like bundles: `bundles_in` opens none."""
    for path in ("words", "faces/1", "faces/10", "faces/9", "faces/draft", "notes/empty"):
        (tmp_path / path).mkdir(parents=True)
        if path != "notes/empty":
            (tmp_path / path / "bundle.json").write_text("{}")
    (tmp_path / "packed.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    (tmp_path / "readme.txt").write_text("not a bundle")
    return tmp_path


def test_a_folders_bundles_are_found_by_name_and_by_number(folder: Path) -> None:
    found = {name: list(versions) for name, versions in bundles_in(folder).items()}

    assert found == {"faces": ["1", "9", "10"], "packed": ["1"], "words": ["1"]}


def test_what_comes_into_the_folder_later_can_be_loaded_and_nothing_outside(folder: Path, shelf: Shelf) -> None:
    with Site({}, opened=shelf.open, repository_dir=str(folder / "faces")) as site:
        assert [each["name"] for each in call(site, "index").json] == ["1", "10", "9", "draft"]
        shutil.copytree(folder / "words", folder / "faces" / "words")
        load(site, "words")
        for outside in ("..", "..%2Fwords", "%2Fetc"):
            assert call(site, f"models/{outside}/load").status == 404

        assert site.infer("words", x([1, 2])).data() == [1.0, 2.0]
        assert shelf.opened == {str(folder / "faces" / "words"): 1}


# -- gRPC says the same


def test_g9_grpc_lists_loads_and_unloads(shelf: Shelf) -> None:
    pytest.importorskip("grpc", reason="grpcio is not installed; run: pip install 'nograd[grpc]'")
    from nograd.server.grpc import messages
    from tests.grpc_site import GrpcSite

    def tell(site: GrpcSite, what: str, **fields: Any) -> Any:
        request, answer = (getattr(messages, f"Repository{what}{end}") for end in ("Request", "Response"))
        body = request(**fields).SerializeToString()
        return answer.FromString(site.run(site.bytes_call(body, f"/{messages.SERVICE}/Repository{what}")))

    with GrpcSite({}, known=[ModelConfig("m", "m")], opened=shelf.open, repository=True) as site:
        assert [(each.name, each.state) for each in tell(site, "Index").models] == [("m", "UNAVAILABLE")]
        tell(site, "ModelLoad", model_name="m")
        assert [(each.name, each.version, each.state) for each in tell(site, "Index", ready=True).models] == [
            ("m", "1", "READY")
        ]
        assert site.infer("m", x([1, 2])).data() == [1.0, 2.0]
        tell(site, "ModelUnload", model_name="m")
        assert not tell(site, "Index", ready=True).models
        for what, fields, code in (
            ("ModelLoad", {"model_name": "nobody"}, "NOT_FOUND"),
            ("ModelUnload", {"model_name": "m"}, "NOT_FOUND"),
            ("ModelLoad", {"model_name": "m", "parameters": {"config": {"string_param": "{}"}}}, "INVALID_ARGUMENT"),
        ):
            with pytest.raises(Exception) as refused:  # noqa: PT011  grpc's own
                tell(site, what, **fields)
            assert refused.value.code().name == code  # type: ignore[attr-defined]


def test_g9_off_it_is_unimplemented_over_grpc() -> None:
    pytest.importorskip("grpc", reason="grpcio is not installed; run: pip install 'nograd[grpc]'")
    from nograd.server.grpc.messages import SERVICE
    from tests.grpc_site import GrpcSite

    with GrpcSite({"m": doubling()}) as site:
        for what in ("Index", "ModelLoad", "ModelUnload"):
            with pytest.raises(Exception) as refused:  # noqa: PT011  grpc's own
                site.run(site.bytes_call(b"", f"/{SERVICE}/Repository{what}"))
            assert refused.value.code().name == "UNIMPLEMENTED"  # type: ignore[attr-defined]


# -- keys


def test_the_repository_needs_a_key_where_the_server_does(monkeypatch: pytest.MonkeyPatch, shelf: Shelf) -> None:
    monkeypatch.setenv("NOGRAD_API_KEYS", "s3cret-0123456789")
    with Site({}, known=[ModelConfig("m", "m")], opened=shelf.open, repository=True) as site:
        assert [call(site, path).status for path in ("index", "models/m/load", "models/m/unload")] == [401, 401, 401]
        key = {"x-api-key": "s3cret-0123456789"}
        assert site.request("POST", "/v2/repository/models/m/load", headers=key).status == 200
