"""Real servers of many models: from a file, side by side, loaded anew under load, and stopped while others still send."""

from __future__ import annotations

import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from nograd.conformance import conformance
from tests.bundles import WEIGHT, write_rows
from tests.running_server import RunningServer, server_of
from tests.test_serve import WAIT_S, status_once_not_ready

TOML = """
log_format = "text"
repository = true

[[models]]
model = "served_models:dense"
name = "tiny"

[[models]]
model = "served_models:dense"
name = "tiny"
version = "2"
max_batch_size = 4

[[models]]
model = "served_models:letters"
name = "echo"
load = false
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("many")
    (folder / "nograd.toml").write_text(TOML)
    (folder / "bundles").mkdir()
    write_rows(folder / "bundles" / "linear")
    with server_of(f"--config={folder / 'nograd.toml'}", f"--repository-dir={folder / 'bundles'}") as server:
        yield server


def row(value: float = 1.0) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [value] * 16}]}


def post(server: RunningServer, path: str, **more: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v2/{path}", timeout=WAIT_S, **more)


def test_a_file_may_name_all_that_is_served(many: RunningServer) -> None:
    live = httpx.get(f"{many.url}/live.json").json()["models"]
    first, second = (post(many, f"models/tiny/versions/{version}/infer", json=row()).json() for version in "12")

    assert many.greeting.splitlines()[0] == f"2 models are ready: {many.url}"
    assert "  tiny, version 2  dense on cpu, batching pad" in many.greeting
    assert [(each["name"], each["version"], each["limits"]["max_batch_size"]) for each in live] == [
        ("tiny", "1", 32), ("tiny", "2", 4),
    ]  # fmt: skip
    assert first["outputs"] == second["outputs"]


def test_models_that_are_configured_and_bundles_of_the_folder_are_loaded_on_demand(many: RunningServer) -> None:
    index = {(each["name"], each["state"]) for each in post(many, "repository/index").json()}
    assert {("tiny", "READY"), ("echo", "UNAVAILABLE"), ("linear", "UNAVAILABLE")} <= index

    for name in ("echo", "linear"):
        assert post(many, f"repository/models/{name}/load").status_code == 200
    text = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["hello"]}]}
    numbers = np.linspace(-1, 1, 32, dtype=np.float32)
    linear = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 32], "data": numbers.tolist()}]}

    assert post(many, "models/echo/infer", json=text).status_code == 200
    found = post(many, "models/linear/infer", json=linear).json()["outputs"][0]["data"]
    assert np.allclose(found, numbers @ WEIGHT, atol=1e-4)
    for name in ("echo", "linear"):
        assert post(many, f"repository/models/{name}/unload").status_code == 200
        assert post(many, f"models/{name}/infer", json=text).status_code == 404


def test_a_bundle_that_is_replaced_is_served_anew_and_a_broken_one_never_is(tmp_path: Path) -> None:
    write_rows(tmp_path / "linear")
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 32], "data": [1.0] * 32}]}
    with server_of(f"--repository-dir={tmp_path}") as server:
        assert server.greeting.splitlines()[0] == f"0 models are ready: {server.url}"
        assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200
        assert post(server, "repository/models/linear/load").status_code == 200
        good = post(server, "models/linear/infer", json=body).json()["outputs"][0]["data"]

        weights = next(path for path in (tmp_path / "linear").iterdir() if path.name.startswith("model.onnx.data"))
        kept = weights.read_bytes()
        weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        refused = post(server, "repository/models/linear/load")

        assert refused.status_code == 400
        assert weights.name in refused.json()["error"]
        assert post(server, "models/linear/infer", json=body).json()["outputs"][0]["data"] == good
        shutil.rmtree(tmp_path / "linear")
        write_rows(tmp_path / "linear")
        assert post(server, "repository/models/linear/load").status_code == 200


def test_p4_no_request_of_many_clients_fails_while_the_model_is_loaded_anew(many: RunningServer) -> None:
    expected = post(many, "models/tiny/infer", json=row(2.0)).json()["outputs"]
    done = threading.Event()
    answers: Counter[tuple[int, bool]] = Counter()

    def ask() -> None:
        with httpx.Client(timeout=WAIT_S) as client:
            while not done.is_set():
                reply = client.post(f"{many.url}/v2/models/tiny/infer", json=row(2.0))
                answers[reply.status_code, reply.status_code == 200 and reply.json()["outputs"] == expected] += 1

    with ThreadPoolExecutor(6) as pool:
        asking = [pool.submit(ask) for _ in range(6)]
        try:
            loads = [post(many, "repository/models/tiny/load").status_code for _ in range(5)]
        finally:
            done.set()
        for each in asking:
            each.result()

    assert loads == [200] * 5
    assert set(answers) == {(200, True)}
    assert answers[200, True] > 6


def test_our_own_server_passes_the_items_of_the_repository(many: RunningServer) -> None:
    report = conformance(f"{many.url}/v2/models/tiny", repository=True)

    found = {finding.check: finding.severity for finding in report.findings}
    assert report.exit_code() == 0, str(report)
    assert {name: found[name] for name in found if name.startswith("repository.")} == dict.fromkeys(
        ["repository.P1", "repository.P2-unknown", "repository.P2", "repository.P3"], "passed"
    )


def test_x1_a_lame_duck_says_that_it_is_not_ready_and_still_answers() -> None:
    """A balancer that has not heard yet sends on: no request may find the door shut."""
    with server_of("served_models:dense", "--name", "tiny", "--lame-duck", "1h") as server:
        server.process.send_signal(signal.SIGTERM)

        assert status_once_not_ready(server) == 503
        assert httpx.get(f"{server.url}/v2/health/live").status_code == 200
        assert httpx.get(f"{server.url}/v2/models/tiny/ready").status_code == 503
        assert post(server, "models/tiny/infer", json=row()).status_code == 200
        server.process.send_signal(signal.SIGTERM)  # the second one ends it
        assert server.process.wait(WAIT_S) == 0


def test_x1_a_lame_duck_ends_by_itself() -> None:
    with server_of("served_models:dense", "--name", "tiny", "--lame-duck", "200ms") as server:
        assert server.stop() == 0
        assert server.rest() == "stopped\n"
        assert "info draining grace_s=30 lame_duck_s=0.2" in server.stderr()
